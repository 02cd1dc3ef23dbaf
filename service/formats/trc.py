"""TRC, OpenSim's marker trajectories: tab-separated text, one person a file.

Millimetres, y up. The format has one rate, so frames are brought to an even grid; an unknown joint is an empty field.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from service.geometry.skeletons import H36M17

from .recording import RecordedPerson, Recording, whole_clip

MARKERS = H36M17.joints
RATES = ["DataRate", "CameraRate"]
ORIGINALS = ["OrigDataRate", "OrigDataStartFrame", "OrigNumFrames"]


def chunks(recording: Recording, person: RecordedPerson, name: str) -> Iterator[bytes]:
    """The file `name`, line by line. Frames count from 1; `Time` is (frame - 1) / DataRate.

    Source: OpenSim's documentation, "Marker (.trc) Files".
    """
    grid, joints = whole_clip(recording, person)
    rate, count = _plain(recording.rate), len(grid)
    axes = [f"{axis}{n}" for n in range(1, len(MARKERS) + 1) for axis in "XYZ"]
    heading = [
        ["PathFileType", "4", "(X/Y/Z)", name],
        [*RATES, "NumFrames", "NumMarkers", "Units", *ORIGINALS],
        [rate, rate, str(count), str(len(MARKERS)), "mm", rate, "1", str(count)],
        ["Frame#", "Time", *(word for marker in MARKERS for word in (marker, "", ""))],
        ["", "", *axes],
        [],
    ]
    yield "".join("\t".join(line) + "\n" for line in heading).encode("ascii", "replace")
    for n, row in enumerate(joints.reshape(count, 3 * len(MARKERS)) * 1000):
        numbers = ["" if np.isnan(number) else f"{number:.3f}" for number in row]
        yield ("\t".join([str(n + 1), f"{n / recording.rate:.6f}", *numbers]) + "\n").encode("ascii")


def _plain(rate: float) -> str:
    """The rate with what digits it has: 30, 29.97, 29.97002997."""
    return f"{rate:.8f}".rstrip("0").rstrip(".")
