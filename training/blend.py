"""Weights between a run's and those that it started from (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
models"): a run that learns from new photos keeps what its start knew of others.

Knows names and arrays, no network but how its attention's names end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.networks import ATTENTION

from .start import Arrays, read_start

GATE = "2.conv.weight"  # an attention's last weights: at 0 its gates are the same for every picture


def read_between(run: Path, towards: Path, share: float) -> Arrays:
    """The averaged weights of two checkpoints, or of the runs that hold them, `share` of `run`'s.

    `towards` is what `python -m training pose RECIPE --run TOWARDS --hours 0` writes: the run's recipe before a step.

    Raises:
        ValueError: see `between`.
    """
    start, trained = (read_start(str(path / "latest.pt" if path.is_dir() else path), path) for path in (towards, run))
    return between(start, trained, share)


def between(start: Arrays, trained: Arrays, share: float) -> Arrays:
    """`start` and `trained` mixed weight by weight, statistics too; whole numbers are those of `trained`.

    Where an attention's gates were constant at the start, nothing was heard of its first steps: those are taken from
    `trained` as they are, which changes nothing at `share` 0.

    Args:
        share: of `trained`, 0..1.

    Raises:
        ValueError: `share` is out of its range, or the two are not of one network.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` must be 0 to 1, got {share:g}")
    strange = sorted(n for n in start.keys() | trained.keys() if _shape(start, n) != _shape(trained, n))
    if strange:
        raise ValueError(
            f"weights are mixed within one network; `{strange[0]}` is {_shape(start, strange[0])} at the start "
            f"and {_shape(trained, strange[0])} in the run"
        )
    unheard = _unheard(start)
    return {
        name: value if value.dtype.kind != "f" or name in unheard else (1 - share) * start[name] + share * value
        for name, value in trained.items()
    }


def _shape(arrays: Arrays, name: str) -> str:
    return str(np.shape(arrays[name])) if name in arrays else "missing"


def _unheard(start: Arrays) -> set[str]:
    """Names of the weights before a gate that is constant."""
    shut = [name.removesuffix(GATE) for name in start if name.endswith(GATE) and ATTENTION in name]
    shut = [stem for stem in shut if not start[stem + GATE].any()]
    return {name for stem in shut for name in start if name.startswith(stem) and not name.startswith(f"{stem}2.")}
