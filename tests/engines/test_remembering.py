"""Lifters that remember frames: the same answers, for less work."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from service.engines.engine import Infer
from service.engines.openvino_engine import openvino_available, openvino_infer
from service.engines.remembering import FRAME_RUNS, FrameMemory, remembering_infer
from service.engines.torch_engine import torch_infer
from service.networks.lifter import Lifter, create_lifter
from service.networks.lifter_parts import FramePart, parts_of

Array = NDArray[np.float32]

FRAMES = 5
OURS = {"frames": FRAMES, "channels": 6, "head": "sequence", "spatial": True, "temporal": True}
OURS |= {"unknown_token": True, "fitted": True}
PUBLISHED = {"frames": FRAMES}  # two channels, the middle frame's pose alone


def seeded(options: dict[str, Any]) -> Lifter:
    torch.manual_seed(0)
    lifter = create_lifter(**options).eval()
    for values in lifter.parameters():
        values.data += 0.02 * torch.randn_like(values)  # biases and places are zeros at first
    return lifter


def windows_of(lifter: Lifter, count: int, seed: int = 0) -> Array:
    channels = np.random.default_rng(seed).normal(size=(count, FRAMES, 17, lifter.options.channels))
    return channels.astype(np.float32)


class Counted:
    """A runtime that counts the frames and the windows it computes."""

    def __init__(self) -> None:
        self.frames, self.windows = 0, 0
        self.runs: list[int] = []

    def __call__(self, part: nn.Module, example: Array, sizes: Sequence[int]) -> Infer:
        run = torch_infer(part, "cpu", "f32", 1)

        def infer(inputs: Array) -> list[NDArray[Any]]:
            assert len(inputs) in sizes
            if isinstance(part, FramePart):
                self.frames += len(np.unique(inputs, axis=0))  # what fills a run up is a frame again
                self.runs.append(len(inputs))
            else:
                self.windows += len(inputs)
            return run(inputs)

        return infer

    def forget(self) -> None:
        self.frames, self.windows, self.runs = 0, 0, []


def parts(lifter: Lifter) -> tuple[nn.Module, nn.Module]:
    both = parts_of(lifter)
    assert both is not None
    return both


def remembering(lifter: Lifter, most: int = 1000) -> tuple[Infer, Counted]:
    counted = Counted()
    infer = remembering_infer(parts(lifter), (counted, counted), windows_of(lifter, 1, seed=99), range(1, 41), most)
    counted.forget()  # what was warmed
    return infer, counted


@pytest.mark.parametrize("options", [OURS, PUBLISHED], ids=["ours", "published"])
def test_a_remembering_lifter_answers_what_the_lifter_answers(options: dict[str, Any]) -> None:
    lifter = seeded(options)
    infer, _ = remembering(lifter)
    for seed in (0, 1, 0):
        windows = windows_of(lifter, 3, seed)
        with torch.no_grad():
            wanted = lifter(torch.from_numpy(windows)).numpy()
        np.testing.assert_allclose(infer(windows)[0], wanted, atol=1e-5)


def test_of_a_frame_that_was_seen_nothing_is_computed_again() -> None:
    lifter = seeded(OURS)
    infer, counted = remembering(lifter)
    sequence = windows_of(lifter, 4).reshape(-1, 17, 6)
    for first in range(len(sequence) - FRAMES + 1):
        infer(sequence[None, first : first + FRAMES])
    assert counted.frames == len(sequence)
    assert counted.windows == len(sequence) - FRAMES + 1


def test_a_frame_that_stands_twice_in_a_batch_is_computed_once() -> None:
    lifter = seeded(OURS)
    infer, counted = remembering(lifter)
    windows = np.repeat(windows_of(lifter, 1)[:, :1], FRAMES, axis=1)
    answers = infer(np.concatenate([windows, windows]))[0]
    assert counted.frames == 1
    np.testing.assert_array_equal(answers[0], answers[1])


def test_a_frame_that_differs_in_the_last_digit_is_another() -> None:
    lifter = seeded(OURS)
    infer, counted = remembering(lifter)
    windows = windows_of(lifter, 1)
    infer(windows)
    changed = windows.copy()
    changed[0, 2, 3, 0] = np.nextafter(changed[0, 2, 3, 0], np.float32(9))
    infer(changed)
    assert counted.frames == FRAMES + 1


def doubled() -> tuple[FrameMemory, list[int], int]:
    """A memory of four frames whose features are twice the frames, and the sizes of its runs."""
    runs: list[int] = []

    def compute(frames: Array) -> Array:
        runs.append(len(frames))
        return 2 * frames

    return FrameMemory(compute, (1, 3), 4), runs, 4


def numbers(*values: float) -> Array:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_what_was_not_needed_for_longest_is_forgotten_first() -> None:
    memory, runs, most = doubled()
    memory(numbers(1, 2, 3, 4))
    memory(numbers(1))
    assert runs == [3, 1] and len(memory) == most
    memory(numbers(5))  # instead of 2
    memory(numbers(1, 3, 4, 5))
    assert runs == [3, 1, 1]
    memory(numbers(2))
    assert runs == [3, 1, 1, 1] and len(memory) == most


def test_more_frames_at_once_than_are_kept_have_their_answers() -> None:
    memory, runs, most = doubled()
    values = [*range(10), *range(10)]
    np.testing.assert_array_equal(memory(numbers(*values)), 2 * numbers(*values))
    assert runs == [3, 3, 3, 1]
    assert len(memory) == most


@pytest.mark.parametrize(
    ("windows", "runs"), [(1, [8]), (3, [16]), (8, [27, 16]), (20, [108]), (40, [108, 27, 27, 27, 16])]
)
def test_frames_are_computed_in_few_runs_of_warmed_sizes(windows: int, runs: list[int]) -> None:
    lifter = seeded(OURS)
    infer, counted = remembering(lifter)
    infer(windows_of(lifter, windows))  # of five frames each
    assert counted.runs == runs
    assert set(runs) <= set(FRAME_RUNS)


def test_threads_that_share_a_memory_do_not_mix_their_answers() -> None:
    lifter = seeded(OURS)
    infer, _ = remembering(lifter, most=20)
    given = [windows_of(lifter, 2, seed) for seed in (*range(6), *range(6))]
    wanted = [infer(each)[0] for each in given]
    with ThreadPoolExecutor(3) as pool:
        for answer, want in zip(pool.map(lambda each: infer(each)[0], given), wanted, strict=True):
            np.testing.assert_allclose(answer, want, atol=1e-6)


@pytest.mark.skipif(not openvino_available(), reason="the extra `cpu` is not installed")
def test_openvino_remembers_as_torch_does() -> None:
    lifter = seeded(OURS)

    def build(part: nn.Module, example: Array, sizes: Sequence[int]) -> Infer:
        return openvino_infer(part, example, sizes, 1, "f32")

    infer = remembering_infer(parts(lifter), (build, build), windows_of(lifter, 1), (1, 2), 100)
    by_torch = torch_infer(lifter, "cpu", "f32", 1)
    sequence = windows_of(lifter, 2).reshape(-1, 17, 6)
    for first in range(len(sequence) - FRAMES + 1):
        window = sequence[None, first : first + FRAMES]
        np.testing.assert_allclose(infer(window)[0], by_torch(window)[0], rtol=1e-3, atol=1e-3)


def test_a_lifter_of_lone_frames_and_other_networks_have_no_parts() -> None:
    assert parts_of(seeded(OURS | {"frames": 1})) is None
    assert parts_of(nn.Linear(3, 3)) is None
