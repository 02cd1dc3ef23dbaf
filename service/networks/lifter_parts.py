"""A lifter taken apart where its frames meet: what it makes of each frame by itself, and of a window of such frames."""

from __future__ import annotations

from torch import Tensor, nn

from .lifter import Lifter


class FramePart(nn.Module):
    """(frames, joints, channels) to (frames, joints, width)."""

    def __init__(self, lifter: Lifter) -> None:
        super().__init__()
        self.lifter = lifter

    def forward(self, frames: Tensor) -> Tensor:
        return self.lifter.frame_features(frames)


class WindowPart(nn.Module):
    """(windows, frames, joints, width + channels), a frame's features before its channels, to the lifter's answer."""

    def __init__(self, lifter: Lifter) -> None:
        super().__init__()
        self.lifter = lifter

    def forward(self, windows: Tensor) -> Tensor:
        width = self.lifter.options.width
        poses = self.lifter.poses(windows[..., :width])
        fitted: Tensor = poses if self.lifter.fitting is None else self.lifter.fitting(poses, windows[..., width:])
        return fitted


def parts_of(module: nn.Module) -> tuple[FramePart, WindowPart] | None:
    """Both parts of a lifter of windows; None of any other network, and of a lifter of lone frames."""
    if not isinstance(module, Lifter) or module.options.frames == 1:
        return None
    return FramePart(module), WindowPart(module)
