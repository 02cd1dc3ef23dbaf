"""Settings and a store become a service: once with the embedded models, else with engines that answer by rule."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service import loading
from service.assembly import Service, build
from service.engines.openvino_engine import openvino_available
from service.errors import NotReady, QueueFull, ServiceError, SettingWrong, StoreBroken, Unknown
from service.geometry.alignment import stature
from service.loading import LONG
from service.media.pictures import Picture, PictureLimits
from service.media.videos import ClipLimits, open_clip
from service.pipelines.call import Call, Class
from service.pipelines.clip import ClipFrame, ClipOptions
from service.pipelines.lift import LiftOptions
from service.pipelines.live import LiveOptions
from service.pipelines.live_frames import LiveFramesOptions
from service.pipelines.photo import PhotoAnswer, PhotoOptions
from service.settings import Settings
from service.store.manifest import ROLES, Manifest
from service.store.store import Store, embedded_store

from .conftest import Started
from .pipelines.fake import RED, FakeEngine, detector, draw, finder, lifter, street

FINDER = "rtmdet-nano"
LIFT = LiftOptions("coco17", (640, 480))


def call(klass: Class = Class.PHOTO, caller: str = "someone") -> Call:
    return Call(caller, klass, asyncio.get_running_loop().time() + 60)


def lifters(service: Service) -> dict[str, str]:
    """Label of the lifter behind each door."""
    limits = PictureLimits(1_000_000, 16, 2000)
    return {
        "photo": service.photo.models["lift"],
        "clip": service.clip.lift.models["lift"],
        "live": service.live(LiveOptions("coco17", (640, 480))).lift.models["lift"],
        "live frames": service.live_frames(LiveFramesOptions(), limits).models["lift"],
    }


# ---- The embedded models


@pytest.fixture(scope="module")
def astronaut() -> NDArray[np.uint8]:
    data = pytest.importorskip("skimage.data")
    pixels: NDArray[np.uint8] = data.astronaut()
    return pixels


def people_of(started: Started, pixels: NDArray[np.uint8], options: PhotoOptions | None = None) -> PhotoAnswer:
    async def ask() -> PhotoAnswer:
        return await started.service.photo.find_people(Picture(pixels, None, "png"), options or PhotoOptions(), call())

    return started.run(ask())


def test_before_its_start_a_service_says_that_it_is_starting(started: Started) -> None:
    assert started.before["state"] == "starting"
    assert "loaded" in started.before["reason"]
    assert started.before["engines"] == {}
    assert started.before["ready"] == 0
    assert started.before["models"] and all(model["running"] is None for model in started.before["models"])


def test_after_its_start_it_is_ready(started: Started) -> None:
    service = started.service
    assert (service.state, service.reason) == ("ready", "")
    assert service.metrics.registry.get_sample_value("poselift_ready") == 1


def test_the_engines_in_use_are_the_stores_defaults_on_this_cpu(started: Started) -> None:
    service = started.service
    engines = service.engines_in_use()
    assert list(engines) == list(ROLES)
    for role in ROLES:
        assert engines[role] == {
            "model": service.store.default(role).label,
            "runtime": "openvino" if openvino_available() else "torch",
            "device": "cpu",
            "precision": "f32",
        }
    assert service.photo.models == {role: engines[role]["model"] for role in ROLES}


def test_the_list_of_models_is_the_store_and_says_which_run(started: Started) -> None:
    service = started.service
    listed = {f"{model['name']}@{model['version']}": model for model in service.models()}
    assert list(listed) == [entry.label for entry in service.store.entries()]
    running = {label: model["running"] for label, model in listed.items() if model["running"]}
    assert set(running) == {engine["model"] for engine in service.engines_in_use().values()}
    for label, facts in running.items():
        assert facts["device"] == "cpu"
        engine = next(engine for engine in service.engines.values() if engine.label == label)
        assert facts["sizes"] == list(engine.sizes)
        assert listed[label]["licence"] and len(listed[label]["sha256"]) == 64


def test_what_was_loaded_is_out_of_the_garbage_collectors_sight(started: Started) -> None:
    seen = {id(each) for each in gc.get_objects()}
    engines = list(started.service.engines.values())
    assert engines and all(gc.is_tracked(engine) and id(engine) not in seen for engine in engines)
    assert gc.get_freeze_count() > len(seen)  # what came since is less


def test_every_engine_is_in_the_metrics(started: Started) -> None:
    told = started.service.metrics.render()[0].decode()
    for slot, engine in started.service.engines_in_use().items():
        role, name = started.service.engines[slot].role, engine["model"].split("@")[0]
        lines = [line for line in told.splitlines() if line.startswith("poselift_model_info") and f'"{name}"' in line]
        assert len(lines) == 1 and lines[0].endswith(" 1.0")
        assert f'"{role}"' in lines[0] and f'"{engine["runtime"]}"' in lines[0]


def test_the_astronaut_is_one_person_in_three_dimensions(started: Started, astronaut: NDArray[np.uint8]) -> None:
    answer = people_of(started, astronaut, PhotoOptions(states=True))
    (person,) = answer.people
    assert person.box.score > 0.5
    points = person.keypoints.points
    assert points.shape == (17, 3) and np.isfinite(points).all()
    assert ((points[:, 2] >= 0) & (points[:, 2] <= 1)).all()
    nose, left_eye, right_eye = points[:3, :2]
    np.testing.assert_allclose(nose, (222, 124), atol=15)
    assert left_eye[0] > right_eye[0] + 20  # her left is on the picture's right
    assert points[5, 0] > points[6, 0] + 150  # shoulders
    assert answer.states is not None and answer.states[0][:7] == ["seen"] * 7

    lifted = person.lifted
    assert lifted is not None and lifted.position is not None
    assert lifted.joints.shape == (17, 3) and np.isfinite(lifted.joints).all()
    np.testing.assert_array_equal(lifted.joints[0], 0)
    assert lifted.joints[10, 1] < lifted.joints[8, 1] < -0.2  # head top over thorax over pelvis; y points down
    assert lifted.joints[11, 0] > lifted.joints[14, 0]  # left shoulder on the right
    assert stature(lifted.joints) == pytest.approx(1.70, abs=0.03)
    assert 0.3 < lifted.position[2] < 10


def test_the_flip_test_agrees_with_the_plain_answer(started: Started, astronaut: NDArray[np.uint8]) -> None:
    plain, flipped = (people_of(started, astronaut, PhotoOptions(flip_test=flip)).people[0] for flip in (False, True))
    np.testing.assert_allclose(flipped.keypoints.points[:7, :2], plain.keypoints.points[:7, :2], atol=12)
    assert not np.array_equal(flipped.keypoints.points, plain.keypoints.points)


def test_a_picture_without_people_has_nobody(started: Started) -> None:
    assert people_of(started, np.full((240, 320, 3), 90, np.uint8)).people == ()


def test_one_lifter_serves_photos_clips_and_streams(started: Started) -> None:
    assert started.service.store.long_lifter() is None
    assert set(lifters(started.service).values()) == {started.service.store.default("lift").label}


def test_callers_at_once_share_batches_and_get_what_they_get_alone(started: Started) -> None:
    """Engines of other batch sizes add in another order: 0.1 mm."""
    sequences = np.random.default_rng(0).uniform(100, 400, (48, 5, 17, 3)).astype(np.float32)
    sequences[..., 2] = 0.9
    registry = started.service.metrics.registry

    def batches() -> tuple[float, float]:
        names = ("poselift_batch_rows_sum", "poselift_batch_rows_count")
        network = started.service.lift.moving.batcher.engine.network
        rows, count = (registry.get_sample_value(name, {"network": network}) or 0.0 for name in names)
        return rows, count

    async def together() -> list[NDArray[np.float32]]:
        work = [
            started.service.lift.lift(points, LIFT, call(caller=f"caller {n}")) for n, points in enumerate(sequences)
        ]
        return [lifted.joints for lifted in await asyncio.gather(*work)]

    async def alone(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return (await started.service.lift.lift(points, LIFT, call())).joints

    before = batches()
    shared = started.run(together())
    rows, count = (now - then for now, then in zip(batches(), before, strict=True))
    assert rows == 48
    assert rows / count > 1
    for points, joints in zip(sequences[::6], shared[::6], strict=True):
        np.testing.assert_allclose(joints, started.run(alone(points)), atol=1e-4)


def test_a_clip_of_the_astronaut_is_one_track(started: Started, astronaut: NDArray[np.uint8], tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 512, 512, "yuv420p", 4_000_000
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(astronaut)))
        container.mux(stream.encode())

    async def frames() -> list[ClipFrame]:
        with open_clip(tmp_path / "clip.mp4", ClipLimits(10**6, 100, 60)) as clip:
            lines = started.service.clip.run(clip, ClipOptions(), call(Class.CLIP))
            return [line async for line in lines if isinstance(line, ClipFrame)]

    told = started.run(frames())
    assert [[one.person.id for one in frame.people] for frame in told] == [[0]] * 6
    assert all(one.person.lifted is not None for frame in told for one in frame.people)


def test_a_live_stream_answers_with_the_embedded_lifter(started: Started) -> None:
    points = np.random.default_rng(1).uniform(100, 400, (17, 3)).astype(np.float32)
    points[:, 2] = 1

    async def stream() -> list[int]:
        live = started.service.live(LiveOptions("coco17", (640, 480)))
        return [(await live.add(n, n / 30, [points], call(Class.LIVE)))[0].seq for n in range(3)]

    assert started.run(stream()) == [0, 1, 2]


# ---- A start that fails


def store_of(folder: Path, change: Callable[[Manifest, dict[str, Any]], tuple[Manifest, dict[str, Any]]]) -> Path:
    """A store of the embedded models whose finder is changed."""
    entry = Store(embedded_store()).find(FINDER)
    manifest, arrays = change(entry.manifest, entry.load())
    Store(folder).add(manifest, arrays, "card")
    return with_others(folder)


def with_others(folder: Path) -> Path:
    """The store with a detector and a lifter beside its finder."""
    for role in ("pose", "lift"):
        source = Store(embedded_store()).default(role, permissive=True).folder
        shutil.copytree(source, folder / source.parent.name / source.name)
    return folder


def failing(settings: Settings, kind: type[ServiceError], *words: str) -> Service:
    """Starts a service that cannot start; its error and its reason must hold the words."""
    service = build(settings)

    async def start() -> None:
        try:
            with pytest.raises(kind) as caught:
                await service.start()
            for word in words:
                assert word in str(caught.value)
            assert (service.state, service.reason) == ("failed", str(caught.value))
            assert service.metrics.registry.get_sample_value("poselift_ready") == 0
        finally:
            await service.close()

    asyncio.run(start())
    assert service.state == "failed"
    return service


def on_cpu(**values: Any) -> Settings:
    return Settings(device="cpu", threads=1, decode_threads=1, **values)


def test_a_changed_file_is_refused_by_its_checksum(tmp_path: Path) -> None:
    source = Store(embedded_store()).find(FINDER).folder
    copied = tmp_path / "store" / FINDER / source.name
    shutil.copytree(source, copied)
    weights = copied / "weights.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)
    failing(on_cpu(store=with_others(tmp_path / "store")), StoreBroken, str(weights), "sha256")


def test_a_missing_key_is_named_with_its_file(tmp_path: Path) -> None:
    gone: list[str] = []

    def change(manifest: Manifest, arrays: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
        gone.append(sorted(arrays)[3])
        return manifest, {name: array for name, array in arrays.items() if name != gone[0]}

    store = store_of(tmp_path / "store", change)
    failing(on_cpu(store=store), StoreBroken, gone[0], f"{FINDER}@1", "weights.safetensors")


def test_a_key_that_the_network_does_not_have_is_named_with_its_file(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", lambda m, arrays: (m, arrays | {"strange.weight": np.zeros(3, np.float32)}))
    failing(on_cpu(store=store), StoreBroken, "strange.weight", "weights.safetensors")


def test_a_misshaped_weight_is_named_with_its_file_and_both_shapes(tmp_path: Path) -> None:
    bent: list[str] = []

    def change(manifest: Manifest, arrays: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
        name = next(name for name, array in arrays.items() if array.ndim == 4)
        bent.extend([name, str(arrays[name].shape), str(arrays[name][1:].shape)])
        return manifest, arrays | {name: arrays[name][1:]}

    store = store_of(tmp_path / "store", change)
    failing(on_cpu(store=store), StoreBroken, *bent, "weights.safetensors")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"network": "rtmdet-huge"}, "rtmdet-huge"),
        ({"options": {"wings": 2}}, "wings"),
        ({"input": {"colour": "bgr", "suppress_iou": 0.6}}, "mean"),
        ({"input": {"colour": "cmyk", "mean": [0, 0, 0], "deviation": [1, 1, 1], "suppress_iou": 0.6}}, "cmyk"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_named(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    store = store_of(tmp_path / "store", lambda manifest, arrays: (replace(manifest, **change), arrays))
    failing(on_cpu(store=store), StoreBroken, f"{FINDER}@1", word)


def test_a_store_without_a_role_says_which(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    failing(on_cpu(store=tmp_path / "store"), Unknown, "`person`", str(tmp_path / "store"))


def test_a_store_that_is_not_there_says_where(tmp_path: Path) -> None:
    failing(on_cpu(store=tmp_path / "nowhere"), StoreBroken, str(tmp_path / "nowhere"))


def test_a_model_that_is_not_in_the_store_is_named() -> None:
    failing(on_cpu(person="yolo"), Unknown, "'yolo'", FINDER)


def test_a_model_of_another_role_is_refused() -> None:
    failing(on_cpu(person="lite-hrnet"), SettingWrong, "`person` is lite-hrnet", "role is pose")


def test_under_the_permissive_policy_a_restricted_model_is_refused_by_name(tmp_path: Path) -> None:
    def change(manifest: Manifest, arrays: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
        return replace(manifest, weights=replace(manifest.weights, restricted=True)), arrays

    store = store_of(tmp_path / "store", change)
    failing(on_cpu(store=store, licence_policy="permissive", person=FINDER), SettingWrong, FINDER, "permissive")
    failing(on_cpu(store=store, licence_policy="permissive"), Unknown, "permissive", "`person`")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_where_there_is_none_fails_and_is_never_the_cpu(device: str) -> None:
    service = failing(Settings(device=device), SettingWrong, f"`device` is {device}", "0 CUDA devices")
    assert service.engines_in_use() == {}


# ---- The course of a service, with engines that answer by rule


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
@pytest.mark.parametrize("named", [None, "lift-27"])
def test_a_second_lifter_of_the_store_serves_what_moves_unless_a_lifter_is_named(
    tmp_path: Path, named: str | None
) -> None:
    shutil.copytree(embedded_store(), tmp_path / "store")
    first = Store(tmp_path / "store").default("lift")
    second = replace(first.manifest, name="motion", version=1, default=False, long=True)
    Store(tmp_path / "store").add(second, {"w": np.ones(1, np.float32)}, "card")
    moving = first.label if named else "motion@1"

    async def main() -> None:
        service = build(on_cpu(store=tmp_path / "store", lift=named))
        await service.start()
        assert list(service.engines_in_use()) == [*ROLES, *([] if named else [LONG])]
        assert lifters(service) == {"photo": first.label, "clip": moving, "live": moving, "live frames": moving}
        for frames, label in ((1, first.label), (2, moving)):
            lifted = await service.lift.lift(np.zeros((frames, 17, 3), np.float32), LIFT, call())
            assert lifted.models == {"lift": label}
        await service.close()

    asyncio.run(main())


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


def test_an_error_of_any_kind_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the runtime is broken")

    monkeypatch.setattr(loading, "load_engine", broken)

    async def main() -> None:
        service = build(on_cpu())
        with pytest.raises(RuntimeError):
            await service.start()
        assert (service.state, service.reason) == ("failed", "the runtime is broken")
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
