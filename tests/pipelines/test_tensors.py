"""Crops that come as tensors: the same answer as from a photo, in the same batches, in crop pixels."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.engine import Engine
from service.engines.framing import CropPose, CropRow, PoseFraming, TensorCropRow
from service.geometry.crops import cut, to_input
from service.pipelines.lift import LiftPipeline
from service.pipelines.photo import PhotoPipeline
from service.pipelines.tensors import crop_size, detect_in_crops, lift_tensor

from .fake import FRAMES, FakeEngine, call, finder, lifter, running

pytestmark = pytest.mark.anyio

HEIGHT, WIDTH = 64, 48
PRESET = {
    "width": WIDTH,
    "height": HEIGHT,
    "padding": 1.25,
    "stride": 4.0,
    "shift": [1.0, 0.6],
    "flip_shift": 1,
    "decode": "dark",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Network:
    """Heatmaps are the cells' brightness, different for every joint; remembers how many inputs each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self.runs.append(len(inputs))
        cells = inputs.reshape(len(inputs), HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean(axis=(2, 4, 5)) / 255
        return [np.stack([np.roll(cells, joint % 3, axis=2) for joint in range(17)], axis=1).astype(np.float32)]


def engine(network: Network) -> Engine:
    return Engine(
        "n@1",
        "pose",
        PoseFraming(PRESET),
        network,
        sizes=range(1, 9),
        budget=8,
        pads=False,
        runtime="",
        precision="f32",
    )


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 255, (90, 120, 3), np.uint8)


BOXES = np.array([[10, 10, 30, 60], [50, 5, 40, 70], [-5, 20, 30, 30]], np.float32)


def given_crops(framing: PoseFraming) -> NDArray[np.uint8]:
    return np.stack([cut(picture(), framing.crop(CropRow(picture(), box))) for box in BOXES])


def test_a_given_crop_is_answered_as_the_same_crop_of_a_picture_in_its_own_pixels() -> None:
    made = engine(Network())
    framing = made.framing
    assert isinstance(framing, PoseFraming)
    crops = given_crops(framing)
    rows: list[CropRow | TensorCropRow] = [CropRow(picture(), box) for box in BOXES]
    rows[1:1] = [TensorCropRow(crop, heatmaps=True) for crop in crops]
    rows.append(CropRow(picture(), BOXES[0], flip_test=True))
    answers = made.run(made.prepare(rows))
    assert [isinstance(answer, CropPose) for answer in answers] == [False, True, True, True, False, False, False]
    of_photo = [answers[0], answers[4], answers[5]]
    for box, points, pose in zip(BOXES, of_photo, answers[1:4], strict=True):
        crop = framing.crop(CropRow(picture(), box))
        assert np.allclose(to_input(points, crop), pose.points, atol=1e-3)
        assert pose.heatmaps.shape == (17, 16, 12) and pose.heatmaps.base is None
    alone = made.run(made.prepare(rows[-1:]))[0]
    assert np.allclose(alone, answers[-1], atol=1e-5)


async def test_batched_equals_single_and_heatmaps_change_nothing() -> None:
    network = Network()
    made = engine(network)
    assert isinstance(made.framing, PoseFraming)
    crops = given_crops(made.framing)
    async with running(made, FakeEngine("person", finder), FakeEngine("lift", lifter)) as (pose, person, lift):
        photo = PhotoPipeline(person, pose, LiftPipeline(lift, FRAMES))
        assert crop_size(photo) == (HEIGHT, WIDTH)
        points, heatmaps = await detect_in_crops(photo, crops, True, call())
        assert heatmaps is not None and heatmaps.shape == (3, 17, 16, 12) and points.dtype == np.float32
        for n, crop in enumerate(crops):
            single, none = await detect_in_crops(photo, crop[None], False, call())
            assert none is None and np.allclose(single[0], points[n], atol=1e-5)
        empty, no_maps = await detect_in_crops(photo, crops[:0], True, call())
        assert empty.shape == (0, 17, 3) and no_maps is not None and len(no_maps) == 0


async def test_given_crops_and_photos_share_a_batch() -> None:
    network = Network()
    made = engine(network)
    assert isinstance(made.framing, PoseFraming)
    crops = given_crops(made.framing)
    async with running(made) as (pose,):
        photo = PhotoPipeline(pose, pose, LiftPipeline(pose, FRAMES))
        asked = call()
        rows = [CropRow(picture(), box) for box in BOXES]
        both = (
            pose.submit(rows, caller="a", klass=asked.klass, deadline=asked.deadline),
            detect_in_crops(photo, crops, False, call()),
        )
        await asyncio.gather(*both)
    assert network.runs == [6]


async def test_sequences_of_different_pictures_keep_their_order() -> None:
    points = np.random.default_rng(2).uniform(0, 300, (3, 5, 17, 3)).astype(np.float32)
    points[..., 2] = 1
    sizes = np.array([[640, 480], [64, 48], [640, 480]])
    async with running(FakeEngine("lift", lifter)) as (batcher,):
        lift = LiftPipeline(batcher, FRAMES)
        together, _ = await lift_tensor(lift, points, sizes, 1.7, call())
        for n in range(3):
            alone, _ = await lift_tensor(lift, points[n : n + 1], sizes[n : n + 1], 1.7, call())
            assert np.allclose(together[n], alone[0], atol=1e-5)
        nobody, label = await lift_tensor(lift, points[:0], sizes[:0], 1.7, call())
        assert nobody.shape == (0, 5, 17, 3) and label == "fake-lift@1"
