"""A lifter of windows in two parts: what it makes of each frame, remembered by what the frame holds, and of windows.

A stream's window is the one before it with its oldest frames gone and the newest behind; windows of a clip share nearly
half of their frames. The spatial blocks know one frame at a time: of one that was seen before they need not run again,
which is a quarter of a window's work. What is remembered is what was computed, to the last digit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Infer

Array = NDArray[np.float32]
Build = Callable[[Any, Array, Sequence[int]], Infer]

# Frames that are computed in one run: a stream's window brings one to four new ones, a window of its own 27.
FRAME_RUNS = (2, 4, 8, 16, 27, 108)
PADDING = 8  # frames that are computed for nobody rather than in a run of their own: between two, others take the core


def remembering_infer(
    parts: tuple[Any, Any],
    builds: tuple[Build, Build],
    example: Array,
    sizes: Sequence[int],
    most: int,
) -> Infer:
    """A lifter's forward pass over windows (n, frames, joints, channels) in two parts.

    Args:
        parts: its modules of frames (n, joints, channels) and of windows of what these give, channels behind it
            (`service.networks.lifter_parts`).
        builds: make a pass of each by a runtime, from one example and the batch sizes that will be asked for.
        example: (1, frames, joints, channels) one window.
        sizes: batch sizes of windows, no other.
        most: frames that are remembered; those that were not needed for longest give way.
    """
    of_frames = builds[0](parts[0], example[:, 0], FRAME_RUNS)
    for count in FRAME_RUNS:  # no caller meets a first time
        of_frames(np.repeat(example[:, 0], count, axis=0))
    memory = FrameMemory(lambda frames: of_frames(frames)[0], FRAME_RUNS, most)

    def joined(windows: Array) -> Array:
        features = memory(windows.reshape(-1, *windows.shape[2:]))
        return np.concatenate([features.reshape(*windows.shape[:3], -1), windows], axis=-1)

    of_windows = builds[1](parts[1], joined(example), sizes)
    return lambda windows: of_windows(joined(windows))


class FrameMemory:
    """Features of frames, kept by the frames' own bytes. Any thread."""

    def __init__(self, compute: Callable[[Array], Array], runs: Sequence[int], most: int) -> None:
        """compute: features of as many frames as one of `runs` says; most: how many frames are kept."""
        self._compute, self._runs, self._most = compute, runs, most
        self._kept: OrderedDict[bytes, Array] = OrderedDict()  # the longest unused first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, frames: Array) -> Array:
        """(n, joints, channels) to (n, joints, width)."""
        content, length = frames.tobytes(), frames[0].nbytes
        keys = [content[first : first + length] for first in range(0, len(content), length)]
        known: dict[bytes, Array] = {}
        with self._lock:
            for key in keys:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    known[key] = self._kept[key]
        new = {key: index for index, key in enumerate(keys) if key not in known}
        if new:
            computed = dict(zip(new, self._computed(frames[[*new.values()]]), strict=True))
            known |= computed
            with self._lock:
                self._kept |= computed
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return np.stack([known[key] for key in keys])

    def _computed(self, frames: Array) -> list[Array]:
        features: list[Array] = []
        while len(features) < len(frames):
            left = len(frames) - len(features)
            padded = [run for run in self._runs if left <= run <= left + PADDING]
            count = min(padded, default=None) or max(run for run in self._runs if run <= left)
            part = frames[len(features) : len(features) + count]
            spare = np.repeat(part[:1], count - len(part), axis=0)
            # Copies: a row of the whole would keep all others alive.
            features += [row.copy() for row in self._compute(np.concatenate([part, spare]))[: len(part)]]
        return features
