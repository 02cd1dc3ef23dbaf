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
    return CropBatch(values, values + 1, values + 2, values % 2 == 0)


# Python 3.12 and newer warn of a fork beside torch's threads.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_prepare_the_same_batches_as_the_run_itself_and_can_begin_anywhere() -> None:
    alone, others = Ahead(make, 0), Ahead(make, 1)
    for number in (7, 8, 9, 2):
        ours, theirs = alone(number), others(number)
        assert isinstance(theirs, CropBatch)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert torch.equal(ours.pixels, torch.from_numpy(make(number).pixels))


def uneven(number: int) -> tuple[Any, Any]:
    return np.full(3 + 5 * number, number, np.uint8), torch.full((2,), float(number))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_batches_of_any_size_come_in_their_order_and_stay_as_they_were() -> None:
    ahead = Ahead(uneven, 2)
    batches = [ahead(number) for number in range(12)]
    ahead.close()
    for number, (values, others) in enumerate(batches):
        assert values.tolist() == [number] * (3 + 5 * number)
        assert others.tolist() == [number] * 2


def failing(number: int) -> tuple[Any]:
    if number == 2:
        raise ValueError("picture 2 is missing")
    return (np.zeros(1),)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_goes_wrong_in_a_process_is_raised_where_the_batch_is_asked_for() -> None:
    ahead = Ahead(failing, 1)
    ahead(0), ahead(1)
    with pytest.raises(ValueError, match="picture 2 is missing"):
        ahead(2)
    ahead.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_was_killed_is_told() -> None:
    ahead = Ahead(make, 1)
    ahead(0)
    ahead._others[0]._process.kill()
    with pytest.raises(RuntimeError, match="ended with"):
        for number in range(1, 9):
            ahead(number)
    ahead.close()
