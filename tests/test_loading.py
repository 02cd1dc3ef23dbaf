"""Models replaced under way: the new one is warm before the old one goes, and one that breaks changes nothing."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.assembly import Service, build
from service.errors import NotReady, OutOfRange, SettingWrong, Unknown, Unreadable
from service.loading import LONG
from service.pipelines.call import Call, Class
from service.pipelines.lift import LiftOptions
from service.pipelines.live import LiveOptions
from service.settings import Settings
from service.store.manifest import Manifest
from service.store.store import Store, embedded_store

from .pipelines.fake import FakeEngine, detector, finder, lifter

LIFT = LiftOptions("coco17", (640, 480))
POINTS = np.zeros((1, 17, 3), np.float32)
NAMES = ("rtmdet-nano", "lite-hrnet-public", "lift-27")


class Loading:
    """Engines that answer by rule, named by their manifests; each waits for `gate` while it is loaded."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.threads: list[str] = []

    def __call__(self, manifest: Manifest, read: Any, settings: Settings, device: str, *_: Any) -> FakeEngine:
        self.threads.append(threading.current_thread().name)
        read()  # the checksum
        assert self.gate.wait(10)
        rules: dict[str, Callable[[Any], Any]] = {"person": finder, "pose": detector, "lift": lifter}
        engine = FakeEngine(manifest.role, rules[manifest.role])
        engine.label, engine.network = manifest.label, LONG if manifest.long else manifest.role
        return engine


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    made = Loading()
    monkeypatch.setattr("service.loading.load_engine", made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The first version of a model of each role; of the lifter a second one, and a third whose weights were changed."""
    folder = tmp_path / "store"
    for name in NAMES:
        newest = max((embedded_store() / name).iterdir(), key=lambda each: int(each.name))
        first = Path(shutil.copytree(newest, folder / name / "1"))
        manifest = (first / "manifest.toml").read_text().replace(f"version = {newest.name}\n", "version = 1\n", 1)
        manifest = manifest.replace("long = true\n", "", 1)  # here it lifts everything
        (first / "manifest.toml").write_text(manifest)
    for version in (2, 3):
        entry = Store(folder).find("lift-27@1")
        Store(folder).add(replace(entry.manifest, version=version), entry.load(), "card")
    weights = folder / "lift-27" / "3" / "weights.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)
    return folder


def course(folder: Path, work: Callable[[Service], Any], **settings: Any) -> None:
    """Does the work with a started service of that store whose lifter is the first version, if nothing else is said."""

    async def main() -> None:
        settings.setdefault("lift", "lift-27@1")
        service = build(Settings(device="cpu", threads=1, decode_threads=1, store=folder, **settings))
        await service.start()
        try:
            async with asyncio.timeout(60):
                await work(service)
        finally:
            await service.close()

    asyncio.run(main())


def lifted_by(service: Service) -> Any:
    call = Call("someone", Class.PHOTO, asyncio.get_running_loop().time() + 30)
    return service.lift.lift(POINTS, LIFT, call)


async def gone(service: Service) -> None:
    """Waits until nobody works with a replaced model any more."""
    while service.models_leaving:
        gc.collect()
        await asyncio.sleep(0.005)


def told(service: Service) -> list[tuple[str, str]]:
    """Name and version of every model that the metrics say is served."""
    (family,) = service.metrics.model_info.collect()
    return sorted((sample.labels["name"], sample.labels["version"]) for sample in family.samples)


def test_the_new_version_serves_all_doors_and_the_metrics_say_so(loading: Loading, store: Path) -> None:
    async def work(service: Service) -> None:
        assert await service.load_model("lift-27@2") == "lift-27@2"
        assert (await lifted_by(service)).models == {"lift": "lift-27@2"}
        assert service.photo.models["lift"] == service.engines_in_use()["lift"]["model"] == "lift-27@2"
        assert service.live(LiveOptions("coco17", (640, 480))).lift is service.lift
        assert ("lift-27", "2") in told(service) and ("lift-27", "1") not in told(service)
        assert not loading.threads[-1].startswith("device-cpu")  # which went on serving

    course(store, work)


def test_the_old_version_serves_until_the_new_one_is_warm_and_goes_with_its_last_request(
    loading: Loading, store: Path
) -> None:
    async def work(service: Service) -> None:
        held = service.lift  # as somebody's clip would
        loading.gate.clear()
        change = asyncio.create_task(service.load_model("lift-27@2"))
        while service.changes != {"lift-27@2": "LOADING"}:
            await asyncio.sleep(0.005)
        assert (await lifted_by(service)).models == {"lift": "lift-27@1"}
        loading.gate.set()
        await change
        assert service.models_leaving == ["lift-27@1"] and service.changes == {}
        call = Call("someone", Class.PHOTO, asyncio.get_running_loop().time() + 30)
        assert (await held.lift(POINTS, LIFT, call)).models == {"lift": "lift-27@1"}
        del held
        await gone(service)

    course(store, work)


def test_a_second_lifter_is_replaced_in_its_own_place(loading: Loading, store: Path) -> None:
    shutil.rmtree(store / "lift-27" / "3")  # nobody is named, so the newest would serve
    entry = Store(store).find("lift-27@1")
    for version in (1, 2):
        moving = replace(entry.manifest, name="motion", version=version, default=False, long=True)
        Store(store).add(moving, {"w": np.ones(1, np.float32)}, "card")

    async def work(service: Service) -> None:
        before = service.photo.models["lift"]
        assert service.clip.lift.models == {"lift": "motion@2"}
        assert await service.load_model("motion@1") == "motion@1"
        assert service.clip.lift.models == {"lift": "motion@1"}
        assert service.photo.models["lift"] == before
        await gone(service)

    course(store, work, lift=None)


def test_a_version_that_is_broken_keeps_the_old_one_and_says_why(loading: Loading, store: Path) -> None:
    async def work(service: Service) -> None:
        with pytest.raises(Unreadable, match=r"lift-27@3 could .* lift-27@1 serves on.*sha256") as refused:
            await service.load_model("lift-27@3")
        assert str(store) not in str(refused.value)
        assert "sha256" in service.changes["lift-27@3"]
        assert (await lifted_by(service)).models == {"lift": "lift-27@1"}
        assert service.state == "ready" and service.models_leaving == []

    course(store, work)


def test_a_version_that_was_put_there_after_the_start_is_found_beside_a_broken_one(
    loading: Loading, store: Path
) -> None:
    async def work(service: Service) -> None:
        entry = Store(store).find("lift-27@1")
        Store(store).add(replace(entry.manifest, version=4), entry.load(), "card")
        (store / "lift-27" / "5").mkdir()
        with pytest.raises(Unreadable, match=r"manifest\.toml"):
            await service.load_model("lift-27@5")
        assert await service.load_model("lift-27") == "lift-27@4"
        assert {model["version"] for model in service.models() if model["name"] == "lift-27"} == {1, 2, 3, 4}

    course(store, work)


def test_unloading_gives_the_role_back_to_whoever_had_it_at_the_start(loading: Loading, store: Path) -> None:
    async def work(service: Service) -> None:
        await service.load_model("lift-27@2")
        await service.unload_model("lift-27")
        assert (await lifted_by(service)).models == {"lift": "lift-27@1"}
        with pytest.raises(OutOfRange, match="from the start"):
            await service.unload_model("lift-27")
        with pytest.raises(Unknown):
            await service.unload_model("nobody")

    course(store, work)


def test_what_is_served_already_is_not_loaded_again(loading: Loading, store: Path) -> None:
    async def work(service: Service) -> None:
        before = len(loading.threads)
        assert await service.load_model("lift-27@1") == "lift-27@1"
        assert len(loading.threads) == before

    course(store, work)


def test_a_draining_service_loads_nothing(loading: Loading, store: Path) -> None:
    async def work(service: Service) -> None:
        await service.drain(0.0)
        with pytest.raises(NotReady):
            await service.load_model("lift-27@2")

    course(store, work)


def test_the_licence_policy_holds_at_run_time_too(loading: Loading, store: Path) -> None:
    entry = Store(store).find("lift-27@1")
    restricted = replace(entry.manifest, version=6, weights=replace(entry.manifest.weights, restricted=True))
    Store(store).add(restricted, entry.load(), "card")

    async def work(service: Service) -> None:
        with pytest.raises(SettingWrong, match="permissive"):
            await service.load_model("lift-27@6")

    if entry.manifest.permissive:
        course(store, work, licence_policy="permissive")


def test_under_load_every_request_is_answered_by_one_version_or_the_other(loading: Loading, store: Path) -> None:
    async def work(service: Service) -> None:
        answers: list[str] = []
        ended = False

        async def caller() -> None:
            while not ended:
                answers.append((await lifted_by(service)).models["lift"])

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        for label in ("lift-27@2", "lift-27@1", "lift-27@2"):
            await asyncio.sleep(0.05)
            await service.load_model(label)
        await asyncio.sleep(0.05)
        ended = True
        await asyncio.gather(*callers)
        assert set(answers) == {"lift-27@1", "lift-27@2"}
        await gone(service)

    course(store, work)
