"""Batches by number: the same from this process and from others, from any number on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from training.data.ahead import Ahead
from training.data.crops import CropBatch


def make(number: int) -> CropBatch[Any]:
    values = np.random.default_rng(number).normal(size=(2, 3)).astype(np.float32)
    return CropBatch(values, values + 1, values + 2)


# Python 3.12 and newer warn of a fork beside torch's threads.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_prepare_the_same_batches_as_the_run_itself_and_can_begin_anywhere() -> None:
    alone, others = Ahead(make, 0), Ahead(make, 1)
    for number in (7, 8, 9, 2):
        ours, theirs = alone(number), others(number)
        assert isinstance(theirs, CropBatch)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert torch.equal(ours.pixels, torch.from_numpy(make(number).pixels))
