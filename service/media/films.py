"""Pictures with their times to an MP4, one after another: H.264 where the build has it, else MPEG-4. Knows no people.

Pictures are (height, width, 3) uint8 RGB, all of one size; times are seconds. Constant memory.
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from types import TracebackType
from typing import Any, BinaryIO, Self

import av
import numpy as np
from av.error import FFmpegError

from service.errors import OutOfRange
from service.media.pictures import Pixels

# Divides 24, 25, 30, 50, 60 and NTSC's 30000/1001; MPEG-4 takes no more than 16 bits.
TICKS_A_SECOND = 60_000
CODECS = {
    "libx264": {"preset": "veryfast", "crf": "21"},
    "mpeg4": {"qscale": "4"},
}


def codec() -> str:
    """The first of CODECS that this build can encode with."""
    for name in CODECS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    raise OutOfRange("`format` mp4 needs a video encoder, and this build has none", field="format", limit=list(CODECS))


class Film:
    """An MP4 being written to a file that can be written and sought. Close it, or use it in a `with`."""

    def __init__(self, file: BinaryIO, rate: float) -> None:
        """rate: nominal frames a second; the pictures' own times are what is written."""
        self._container = av.open(file, "w", format="mp4")
        name = codec()
        self._rate = Fraction(rate).limit_denominator(1001)
        self._stream: Any = self._container.add_stream(name, rate=self._rate, options=CODECS[name])
        self._stream.codec_context.thread_count = 1  # its caller runs in a pool of our own
        self._last = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(whole=kind is None)

    def add(self, picture: Pixels, time_s: float) -> None:
        """One more picture. Odd sides are made even by repeating the last row or column, as the codecs want."""
        height, width = picture.shape[:2]
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self._last < 0:
            self._stream.width, self._stream.height, self._stream.pix_fmt = even.shape[1], even.shape[0], "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, TICKS_A_SECOND)
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        # Rising, whatever rounds.
        self._last = max(round(time_s * TICKS_A_SECOND), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS_A_SECOND)
        self._container.mux(self._stream.encode(frame))

    def close(self, whole: bool = True) -> None:
        """Writes the rest and the index. whole: False where the film is given up and nobody will read it."""
        if not whole:
            with suppress(OSError, ValueError, FFmpegError):  # its file may be gone
                self._container.close()
            return
        if self._last >= 0:
            self._container.mux(self._stream.encode(None))
        self._container.close()
