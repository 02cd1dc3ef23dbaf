"""The course of a service from start to end, its threads and limits, and which lifter is behind each door."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service import loading
from service.assembly import Service, build
from service.errors import NotReady, QueueFull
from service.loading import LONG
from service.media.pictures import Picture, PictureLimits
from service.pipelines.live import LiveOptions
from service.pipelines.live_frames import LiveFramesOptions
from service.pipelines.photo import PhotoOptions
from service.settings import Settings
from service.store.manifest import ROLES, Manifest

from .conftest import LIFT, Started, call, on_cpu
from .pipelines.fake import RED, FakeEngine, detector, draw, finder, lifter, street


def lifters(service: Service) -> dict[str, str]:
    """Label of the lifter behind each door."""
    limits = PictureLimits(1_000_000, 16, 2000)
    return {
        "photo": service.photo.models["lift"],
        "clip": service.clip.lift.models["lift"],
        "live": service.live(LiveOptions("coco17", (640, 480))).lift.models["lift"],
        "live frames": service.live_frames(LiveFramesOptions(), limits).models["lift"],
    }


@pytest.fixture
def loaded_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the networks by rules; the threads on which they were loaded."""
    threads: list[str] = []
    rules: dict[str, Callable[[Any], Any]] = {"person": finder, "pose": detector, "lift": lifter}

    def load(manifest: Manifest, read: Any, settings: Settings, device: str, *_: Any) -> FakeEngine:
        threads.append(threading.current_thread().name)
        engine = FakeEngine(manifest.role, rules[manifest.role], budget=1 if manifest.role == "person" else 32)
        engine.label, engine.network = manifest.label, LONG if manifest.long else manifest.role
        return engine

    monkeypatch.setattr(loading, "load_engine", load)
    return threads


@pytest.mark.usefixtures("loaded_on")
def test_a_drained_service_finishes_what_it_took_and_takes_nothing_new() -> None:
    async def main() -> None:
        service = build(on_cpu())
        await service.start()
        picture = Picture(draw(street(), (50, 40, 60, 150), RED), None, "png")
        taken = asyncio.create_task(service.lift.lift(np.zeros((1, 17, 3), np.float32), LIFT, call()))
        await asyncio.sleep(0)
        await service.drain(5.0)
        assert (await taken).joints.shape == (1, 17, 3)
        assert service.state == "draining" and service.reason
        assert service.metrics.registry.get_sample_value("poselift_ready") == 0
        with pytest.raises(NotReady):
            await service.photo.find_people(picture, PhotoOptions(), call())
        await service.close()
        assert service.state == "draining"

    asyncio.run(main())


def test_models_are_loaded_on_the_devices_thread_and_no_thread_outlives_the_service(loaded_on: list[str]) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        service = build(on_cpu())
        await service.start()
        await service.in_decode_pool(time.sleep, 0.0)
        await service.close()

    asyncio.run(main())
    assert len(loaded_on) >= len(ROLES) and len(set(loaded_on)) == 1 and loaded_on[0].startswith("device-cpu")
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


@pytest.mark.usefixtures("loaded_on")
def test_a_signal_while_loading_is_not_forgotten() -> None:
    async def main() -> None:
        service = build(on_cpu())
        await service.drain(0.0)
        await service.start()
        assert service.state == "draining"
        assert service.metrics.registry.get_sample_value("poselift_ready") == 0
        await service.close()

    asyncio.run(main())


def test_a_service_that_never_started_can_end() -> None:
    async def main() -> None:
        service = build(on_cpu())
        await service.drain(1.0)
        await service.close()
        assert service.state == "draining"

    asyncio.run(main())


def test_blocking_calls_run_in_the_decode_pool() -> None:
    async def main() -> tuple[str, int]:
        service = build(on_cpu())
        name = await service.in_decode_pool(lambda: threading.current_thread().name)
        doubled = await service.in_decode_pool(lambda number: 2 * number, 21)
        await service.close()
        return name, doubled

    name, doubled = asyncio.run(main())
    assert name.startswith("decode") and doubled == 42


def test_live_streams_have_a_limit_and_give_their_place_back() -> None:
    service = build(on_cpu(live_streams=2))

    def streams() -> float | None:
        return service.metrics.registry.get_sample_value("poselift_live_streams")

    service.open_stream()
    service.open_stream()
    with pytest.raises(QueueFull, match="all 2 live streams") as caught:
        service.open_stream()
    assert caught.value.limit == 2 and caught.value.retry_after_s > 0
    assert streams() == 2
    service.close_stream()
    assert streams() == 1
    service.open_stream()
    assert service.metrics.registry.get_sample_value("poselift_live_streams_limit") == 2
    asyncio.run(service.close())


# ---- Which lifter


def test_photos_have_a_lifter_of_lone_frames_and_what_moves_one_of_windows(started: Started) -> None:
    store = started.service.store
    lone, moving = store.default("lift"), store.long_lifter()
    assert moving is not None
    assert (lone.manifest.options["frames"], moving.manifest.options["frames"]) == (1, 27)
    of_what_moves = dict.fromkeys(("clip", "live", "live frames"), moving.label)
    assert lifters(started.service) == {"photo": lone.label, **of_what_moves}


@pytest.mark.usefixtures("loaded_on")
@pytest.mark.parametrize("named", [None, "lift-1", "lift-27"])
def test_a_lifter_that_is_named_lifts_everything_and_else_what_moves_has_its_own(named: str | None) -> None:
    async def main() -> None:
        service = build(on_cpu(lift=named))
        await service.start()
        assert list(service.engines_in_use()) == [*ROLES, *([] if named else [LONG])]
        lone, moving = (service.store.find(named or each).label for each in ("lift-1", "lift-27"))
        assert lifters(service) == {"photo": lone, "clip": moving, "live": moving, "live frames": moving}
        for frames, label in ((1, lone), (2, moving)):
            lifted = await service.lift.lift(np.zeros((frames, 17, 3), np.float32), LIFT, call())
            assert lifted.models == {"lift": label}
        await service.close()

    asyncio.run(main())
