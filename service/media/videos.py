"""A clip's file to a stream of upright frames with their own times. It knows no network, no HTTP, no people.

Constant memory: one frame is held, and what the decoder needs. Times are seconds from the first frame; sizes are pixels
of the upright frame. Pixels are taken as square; high dynamic range comes out as the ordinary one.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from service.errors import TooLarge, UnknownKind, Unreadable
from service.geometry.planes import AnyPicture, as_array
from service.media.pictures import Pixels, beginning, upright

from .decoded import PlanesOf
from .tones import tone_table

# Named to FFmpeg, which would guess otherwise: a text that it takes for a playlist makes it open what the text names.
_DEMUXERS = {"mp4": "mov", "matroska": "matroska", "avi": "avi", "gif": "gif"}
KINDS = ("mp4", "quicktime", "webm", "matroska", "avi", "gif")
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
# What else may stand beside them in a file that is written in pieces, or told of itself.
_MORE_MP4_BOXES = {b"moof", b"mfra", b"sidx", b"ssix", b"styp", b"prft", b"emsg", b"pdin", b"meta", b"udta", b"uuid"}
_PHOTO_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"}
_MAX_MP4_BOXES = 100_000  # a strange file may hold nothing but empty ones; two a fragment are usual
_SEGMENT = b"\x18\x53\x80\x67"
_DEFAULT_RATE = 30.0  # as for sequences, where neither rate nor times are told


@dataclass(frozen=True)
class ClipLimits:
    """What is read at all: pixels of a frame, frames, seconds."""

    max_pixels: int
    max_frames: int
    max_seconds: float


@dataclass(frozen=True)
class Frame:
    """One frame.

    index: counted from 0.
    time_s: seconds since the first frame; rises strictly.
    picture: upright; (height, width, 3) uint8 RGB, or planes.
    """

    index: int
    time_s: float
    picture: AnyPicture

    @property
    def pixels(self) -> Pixels:
        """(height, width, 3) uint8, RGB, upright; of planes made each time."""
        return as_array(self.picture)


class Clip:
    """An opened clip: its facts, and its frames by iterating, once. Close it, or use it in a `with`.

    width, height: pixels, upright.
    rate: frames a second on average, as the file states it; 30 where it does not.
    frames: how many there are, or None where the file does not tell reliably.
    duration: seconds, or None.

    Not to be iterated by two threads at once; which thread does may change. Another one may close it: that waits for
    the frame being decoded, and the iteration then ends.
    """

    def __init__(self, file: BinaryIO, kind: str, limits: ClipLimits, threads: int) -> None:
        self._file = file
        self._limits = limits
        self._busy, self._closed = threading.Lock(), False
        self._cut_off = _promised_bytes(kind, file) > _size(file)
        self._container = _open(kind, file)
        try:
            self._stream = _video_stream(self._container)
            stream, context = self._stream, self._stream.codec_context
            self._check_pixels(context.width, context.height)
            context.thread_count = threads
            context.thread_type = "AUTO" if threads > 1 else "NONE"
            # A stream may grow midway, and the decoder would set the memory aside before we see it (with its padding).
            context.options = {"max_pixels": str(4 * limits.max_pixels + 65536)}
            # One for all frames: it keeps its tables, and brings no threads of its own.
            self._reformatter = VideoReformatter()
            self._planes = PlanesOf(self._reformatter)

            rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
            # FFmpeg's average is too high for AVIs with skipped frames, its guess for GIFs.
            self.rate = min(rates, default=_DEFAULT_RATE)
            self.frames = stream.frames if kind == "mp4" and stream.frames else None
            self.duration = _duration_s(self._container, stream)
            if self.frames is not None and self.frames > limits.max_frames:
                self._too_many_frames(str(self.frames))
            if self.duration is not None and self.duration > limits.max_seconds:
                self._too_long(self.duration)

            # The first frame knows what the header may not: the true size, and how it is turned.
            self._decoded = self._decode()
            self._first = next(self._decoded, None)
            if self._first is None:
                raise Unreadable("`clip` has a video track without frames", field="clip", limit="a whole clip")
            self._stored = (self._first.width, self._first.height)
            self._check_pixels(*self._stored)
            self._orientation = _orientation(self._first)
            self._tones = tone_table(int(self._first.color_trc))
            self.width, self.height = self._stored if self._orientation < 5 else self._stored[::-1]
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives decoder and file back. May be called again."""
        with self._busy:
            self._closed = True
            self._container.close()
            self._file.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yields each frame as it is decoded.

        Raises:
            TooLarge: at the frame that passes a limit; the ones before it were yielded.
            Unreadable: where the rest is broken or cut off, or changes its size; names the last whole frame.
        """
        frames = self._frames()
        while True:
            with self._busy:
                frame = None if self._closed else next(frames, None)
            if frame is None:
                return
            yield frame
            del frame  # the next one may not find this one in memory

    def _frames(self) -> Iterator[Frame]:
        frame, self._first = self._first, None
        index, time_s, start = 0, 0.0, None
        while frame is not None:
            if (frame.width, frame.height) != self._stored:
                stored, size = f"{self._stored[0]} x {self._stored[1]}", f"{frame.width} x {frame.height}"
                self._broken(index, f"its frames change from {stored} to {size} pixels")
            if index >= self._limits.max_frames:
                self._too_many_frames(f"more than {self._limits.max_frames}")
            stamp = _time_s(frame, self._stream)
            if start is None:
                start = stamp
            if index > 0:
                since = -1.0 if stamp is None or start is None else stamp - start
                # Times rise strictly: a missing or repeated one is replaced by the next in step.
                time_s = since if since > time_s else time_s + 1 / self.rate
            if time_s > self._limits.max_seconds:
                self._too_long(time_s)
            yield Frame(index, time_s, self._picture(frame))
            index += 1
            frame = self._next(index)
        if self._cut_off:
            self._broken(index, "the file is shorter than it says")

    def _next(self, index: int) -> av.VideoFrame | None:
        try:
            return next(self._decoded, None)
        except Unreadable:
            self._broken(index, "the rest cannot be decoded")

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Decoded frames in order of showing. What a broken packet leaves inside the decoder still comes out."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise av.error.InvalidDataError(0, "a packet is cut off")
                yield from packet.decode()
        except FFmpegError as error:
            with suppress(FFmpegError):
                yield from self._stream.codec_context.decode(None)
            raise Unreadable(
                "`clip` has a video track that cannot be decoded", field="clip", limit="a whole clip"
            ) from error

    def _picture(self, frame: av.VideoFrame) -> AnyPicture:
        if self._tones is None and (planes := self._planes(frame, self._orientation)) is not None:
            return planes
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        shown = upright(np.ascontiguousarray(rgb, np.uint8), self._orientation)
        return shown if self._tones is None else np.asarray(cv2.LUT(shown, self._tones), np.uint8)

    def _broken(self, index: int, why: str) -> NoReturn:
        raise Unreadable(f"`clip` is broken after frame {index - 1}: {why}", field="clip", limit="a whole clip")

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > (limit := self._limits.max_pixels):
            message = (
                f"`clip` has frames of {width} x {height} pixels, {width * height} in all; at most {limit} are read"
            )
            raise TooLarge(message, field="clip", limit=limit)

    def _too_many_frames(self, frames: str) -> NoReturn:
        limit = self._limits.max_frames
        raise TooLarge(f"`clip` has {frames} frames; at most {limit} are read", field="clip", limit=limit)

    def _too_long(self, seconds: float) -> NoReturn:
        limit = self._limits.max_seconds
        raise TooLarge(f"`clip` lasts {seconds:.2f} s; at most {limit:g} s are read", field="clip", limit=limit)


def open_clip(path: str | Path, limits: ClipLimits, *, threads: int = 1) -> Clip:
    """Opens a clip, reads its header, and decodes its first frame.

    Args:
        threads: how many the decoder may use.

    Raises:
        Unreadable: empty, broken before the first frame, or without a video track.
        UnknownKind: none of KINDS, or in a codec that is not there.
        TooLarge: over a limit already by its header.
        OSError: there is no such file.
    """
    file = Path(path).open("rb")  # noqa: SIM115 - the clip closes it
    try:
        kind = _kind_of(file.read(64))
        return Clip(file, kind, limits, threads)
    except BaseException:
        file.close()
        raise


def _kind_of(head: bytes) -> str:
    if not head:
        raise Unreadable("`clip` is empty: 0 bytes came", field="clip", limit="a whole clip")
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[4:8] in _MP4_BOXES and not (head[4:8] == b"ftyp" and head[8:12] in _PHOTO_BRANDS):
        return "mp4"
    raise UnknownKind(f"`clip` is none of {', '.join(KINDS)}; got {beginning(head)}", field="clip", limit=list(KINDS))


def _open(kind: str, file: BinaryIO) -> av.container.InputContainer:
    file.seek(0)
    try:
        return av.open(file, "r", format=_DEMUXERS[kind], metadata_errors="replace")
    except (FFmpegError, ValueError) as error:
        raise Unreadable(
            f"`clip` begins as {kind}, but is broken or cut off", field="clip", limit="a whole clip"
        ) from error


def _video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    """The first track that moves: a cover picture is a video track, too."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise Unreadable("`clip` has no video track", field="clip", limit="a whole clip")
    if streams[0].codec_context is None:
        raise UnknownKind("`clip` is in a codec that is not read here", field="clip")
    return streams[0]


def _duration_s(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _time_s(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> float | None:
    stamp = frame.pts if frame.pts is not None else frame.dts
    base = frame.time_base or stream.time_base
    return float(stamp * base) if stamp is not None and base else None


def _orientation(frame: av.VideoFrame) -> int:
    """EXIF's number for how the frame's display matrix turns it: four rotations, each also mirrored."""
    side_data: Any = frame.side_data
    try:
        matrix = bytes(side_data["DISPLAYMATRIX"])
    except KeyError:
        return 1
    # Rows of FFmpeg's matrix: where stored x and stored y point when shown.
    xx, xy, _, yx, yy = struct.unpack("=5i", matrix[:20])
    if abs(xx) + abs(yy) >= abs(xy) + abs(yx):
        return {(1, 1): 1, (-1, 1): 2, (-1, -1): 3, (1, -1): 4}[1 if xx >= 0 else -1, 1 if yy >= 0 else -1]
    return {(1, 1): 5, (1, -1): 6, (-1, -1): 7, (-1, 1): 8}[1 if xy >= 0 else -1, 1 if yx >= 0 else -1]


# ---- Is the file as long as it says? Decoders end quietly where Matroska, AVI, GIF or fragmented MP4 is cut off.


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _promised_bytes(kind: str, file: BinaryIO) -> int:
    """How long the file must be by its own outermost structure; 0 where it does not tell (live recordings)."""
    size = _size(file)
    if kind == "gif":
        file.seek(max(0, size - 64))
        return 0 if b";" in file.read().rstrip(b"\0")[-1:] else size + 1
    file.seek(0)
    head = file.read(4096)
    if kind == "avi":
        length = int.from_bytes(head[4:8], "little")
        return 0 if length in (0, 0xFFFFFFFF) else length + 8
    if kind == "matroska":
        at = head.find(_SEGMENT) + len(_SEGMENT)
        if at < len(_SEGMENT) or at >= len(head) or not head[at]:
            return 0
        width = 9 - head[at].bit_length()  # leading zeros of the first byte tell how many follow
        length = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
        return 0 if length == (1 << 7 * width) - 1 else at + width + length
    at = 0
    for _ in range(_MAX_MP4_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        box = file.read(16)
        if box[4:8] not in _MP4_BOXES | _MORE_MP4_BOXES:
            break  # bytes behind the film are no promise
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        at += length
    return at
