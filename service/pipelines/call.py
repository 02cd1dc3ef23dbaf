"""Who asks, how urgently, and until when; and how every pipeline sends rows to a queue on a call's behalf."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.batching.batcher import Batcher
from service.batching.policy import Class
from service.errors import Unknown
from service.geometry.cameras import Camera, assumed_camera, exif_camera, given_camera

__all__ = ["Call", "CameraOptions", "Class", "choose_camera", "run_rows"]


@dataclass(frozen=True)
class Call:
    """One request. `caller` is whose share its rows count in (a key, else an address).

    deadline: on the clock of the event loop, seconds; nothing is computed for this call after it.
    spent_ms: milliseconds by stage (decode, person, pose, lift, queue), added up as the call passes through.
    """

    caller: str
    klass: Class
    deadline: float
    spent_ms: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True)
class CameraOptions:
    """A camera as far as the request gives one: focal length in pixels or a field of view in degrees, and the lens."""

    focal_px: float | None = None
    field_of_view: float | None = None
    center: tuple[float, float] | None = None
    distortion: tuple[float, ...] | None = None


def choose_camera(width: int, height: int, options: CameraOptions, focal_35mm: float | None = None) -> Camera:
    """The camera from the request, else from EXIF, else assumed; its `source` says which."""
    if options != CameraOptions():
        return given_camera(width, height, options.focal_px, options.field_of_view, options.center, options.distortion)
    if focal_35mm is not None:
        return exif_camera(width, height, focal_35mm)
    return assumed_camera(width, height)


async def run_rows(batcher: Batcher, rows: Sequence[Any], call: Call) -> list[Any]:
    """The rows' answers, in order, through the queue; adds the wait and the work to the call's times."""
    started = time.perf_counter()
    answers, queued_s = await batcher.submit(rows, caller=call.caller, klass=call.klass, deadline=call.deadline)
    spent_ms = 1000 * (time.perf_counter() - started - queued_s)
    call.spent_ms["queue"] += 1000 * queued_s
    call.spent_ms[batcher.engine.role] += max(spent_ms, 0.0)
    return answers


def check_models(asked: Mapping[str, str], loaded: Mapping[str, str]) -> None:
    """Refuses a model that is not loaded, by name.

    Args:
        asked: role to name or name@version, from a request.
        loaded: role to name@version.
    """
    for role, name in asked.items():
        label = loaded.get(role)
        if label is None or name not in (label, label.split("@")[0]):
            there = ", ".join(f"{r} {m}" for r, m in loaded.items())
            raise Unknown(
                f"`models.{role}` is {name!r}, which is not loaded; loaded are {there}", field=f"models.{role}"
            )
