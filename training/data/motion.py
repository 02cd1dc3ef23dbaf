"""Motion packs: sequences of 3D joints in the h36m17 order, metres, z up, at a known rate. Knows no cameras.

A pack is one npz with `joints` (hip-relative), `root`, `seq_start`, `seq_kind`, `seq_subject`, `fps`, `up`, `units`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """joints: (frames, 17, 3) world metres, z up; sequence i is frames starts[i] : starts[i + 1]."""

    joints: Array
    starts: NDArray[np.int64]
    kinds: NDArray[np.str_]
    rate: float

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


def read_motion(path: Path) -> Motion:
    """Reads a pack; a file of another form is a ValueError that names the key."""
    with np.load(path, allow_pickle=False) as pack:
        missing = {"joints", "root", "seq_start", "seq_kind", "fps", "up", "units"} - set(pack.files)
        if missing:
            raise ValueError(f"{path} is no motion pack: it lacks {', '.join(sorted(missing))}")
        if str(pack["up"]) != "z" or str(pack["units"]) != "metre":
            raise ValueError(f"{path}: `up` and `units` must be z and metre, got {pack['up']} and {pack['units']}")
        joints = pack["joints"].astype(np.float32) + pack["root"].astype(np.float32)[:, None]
        return Motion(joints, pack["seq_start"].astype(np.int64), pack["seq_kind"], float(pack["fps"]))
