"""What every pipeline does on a call's behalf."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.errors import DeadlinePassed, OutOfRange, Unknown
from service.pipelines.call import CameraOptions, check_models, choose_camera, run_rows

from .fake import FakeEngine, call, running

LOADED = {"person": "finder@1", "pose": "detector@2"}


class Row:
    cost = 1
    holds = np.zeros(0)


@pytest.mark.parametrize("asked", [{}, {"pose": "detector"}, {"pose": "detector@2", "person": "finder@1"}])
def test_models_that_are_loaded_may_be_asked_for(asked: dict[str, str]) -> None:
    before = dict(asked)
    check_models(asked, LOADED)
    assert asked == before


@pytest.mark.parametrize(
    ("role", "name"), [("pose", "detector@1"), ("pose", "finder"), ("person", "nobody"), ("lift", "finder"), ("x", "y")]
)
def test_a_model_that_is_not_loaded_is_refused_by_name(role: str, name: str) -> None:
    with pytest.raises(Unknown, match=f"`models.{role}` is '{name}'.*person finder@1, pose detector@2") as caught:
        check_models({role: name}, LOADED)
    assert caught.value.field == f"models.{role}"


def test_the_request_stands_over_exif_and_exif_over_the_assumption() -> None:
    given = choose_camera(640, 480, CameraOptions(focal_px=900.0), focal_35mm=28.0)
    assert (given.source, given.focal_px) == ("given", 900.0)
    assert choose_camera(640, 480, CameraOptions(), focal_35mm=28.0).source == "exif"
    assert choose_camera(640, 480, CameraOptions()).source == "assumed"


def test_a_camera_without_a_focal_length_is_refused() -> None:
    with pytest.raises(OutOfRange, match="focal_px or field_of_view"):
        choose_camera(640, 480, CameraOptions(center=(320, 240)))


def test_rows_come_back_in_order_and_their_time_is_told() -> None:
    async def main() -> None:
        engine = FakeEngine("pose", id, budget=4)
        rows = [Row() for _ in range(10)]
        async with running(engine) as (batcher,):
            mine = call()
            assert await run_rows(batcher, rows, mine) == [id(row) for row in rows]
            once = dict(mine.spent_ms)
            await run_rows(batcher, rows, mine)
        assert set(once) == {"queue", "pose"}
        assert min(once.values()) >= 0
        assert mine.spent_ms["pose"] + mine.spent_ms["queue"] > sum(once.values())

    asyncio.run(main())


def test_no_rows_need_no_engine() -> None:
    async def main() -> None:
        engine = FakeEngine("pose", id)
        async with running(engine) as (batcher,):
            assert await run_rows(batcher, [], call()) == []
        assert engine.batches == []

    asyncio.run(main())


def test_after_the_deadline_nothing_is_computed() -> None:
    async def main() -> None:
        engine = FakeEngine("pose", id)
        async with running(engine) as (batcher,):
            with pytest.raises(DeadlinePassed):
                await run_rows(batcher, [Row()], call(seconds=-1))
        assert engine.batches == []

    asyncio.run(main())
