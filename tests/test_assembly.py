"""Settings and the embedded models become a service, which finds, lifts and follows people."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.openvino_engine import bf16_native, openvino_available
from service.geometry.alignment import stature
from service.loading import LONG
from service.media.pictures import Picture
from service.media.videos import ClipLimits, open_clip
from service.pipelines.call import Class
from service.pipelines.clip import ClipFrame, ClipOptions
from service.pipelines.live import LiveOptions, LivePose
from service.pipelines.photo import PhotoAnswer, PhotoOptions
from service.store.manifest import ROLES

from .conftest import LIFT, Started, call


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
    chosen = {role: service.store.default(role) for role in ROLES} | {LONG: service.store.long_lifter()}
    assert list(engines) == list(chosen)
    for slot, entry in chosen.items():
        assert entry is not None
        assert engines[slot] == {
            "model": entry.label,
            "runtime": "openvino" if openvino_available() else "torch",
            "device": "cpu",
            "precision": "mixed" if slot.startswith("lift") and bf16_native() else "f32",
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

    async def stream() -> list[LivePose]:
        live = started.service.live(LiveOptions("coco17", (640, 480)))
        return [pose for n in range(3) for pose in await live.add(n, n / 30, [points], call(Class.LIVE))]

    told = started.run(stream())
    assert [pose.seq for pose in told] == [0, 1, 2]
    assert all(0.2 < np.ptp(pose.people[0].joints, axis=0).max() < 2.5 for pose in told)  # metres
