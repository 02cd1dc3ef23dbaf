"""Sequences through the real queue, with a lifter that answers each frame by a plain rule."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.engines.framing import WindowRow
from service.errors import NotFinite, OutOfRange, Unknown
from service.geometry.alignment import stature
from service.geometry.cameras import given_camera, project
from service.geometry.skeletons import SKELETONS, mirror_order
from service.people import Scale
from service.pipelines.call import CameraOptions
from service.pipelines.lift import (
    CHUNK,
    STRIDE,
    Array,
    Lifted,
    LiftOptions,
    LiftPipeline,
    unmirrored_camera,
)
from service.pipelines.placing import height_factor
from service.pipelines.windows import plan_windows

from .fake import BODY, FRAMES, FakeEngine, call, figure, lifter, running, turned

WIDTH, HEIGHT = 640, 480
OPTIONS = LiftOptions("coco17", (WIDTH, HEIGHT))
UNKNOWN = np.full((17, 3), (np.nan, np.nan, 0), np.float32)


def walk(frames: int, step: float = 1.7) -> Array:
    """(frames, 17, 3) COCO-17: a standing figure that moves to the right."""
    return np.stack([figure((100 + step * n, 80, 120, 300)) for n in range(frames)])


def hips(points: Array) -> Array:
    middle: Array = points[:, 11:13, 0].mean(axis=1)
    return middle


def seen_by(engine: FakeEngine, *people: Array, options: LiftOptions = OPTIONS, fitted: bool = False) -> list[Lifted]:
    async def main() -> list[Lifted]:
        async with running(engine) as (batcher,):
            return await LiftPipeline(batcher, FRAMES, fitted=fitted).lift_people(people, options, call())

    return asyncio.run(main())


def lifted(points: Array, options: LiftOptions = OPTIONS, rule: Callable[[Any], Any] = lifter) -> Lifted:
    return seen_by(FakeEngine("lift", rule), points, options=options)[0]


def expected(points: Array, wanted: float = 1.70) -> Array:
    return np.stack([turned(x) for x in hips(points)]) * np.float32(wanted / stature(BODY))


def swaying(row: WindowRow) -> Array:
    """BODY, with a right wrist as far away as the hip is to the right: linear in the input."""
    poses = np.tile(BODY, (len(row.points), 1, 1))
    poses[:, 16, 2] = row.points[:, 0, 0] / 1000
    return poses


@pytest.mark.parametrize("frames", [1, 2, FRAMES - 1, FRAMES, FRAMES + 1, 100, 731])
def test_each_frame_gets_its_own_pose(frames: int) -> None:
    points = walk(frames)
    before = points.copy()
    answer = lifted(points)
    np.testing.assert_allclose(answer.joints, expected(points), atol=1e-4)
    np.testing.assert_allclose(answer.times, np.arange(frames) / 30)
    assert answer.joints.dtype == answer.position.dtype == np.float32
    assert answer.position.shape == (frames, 3)
    assert answer.models == {"lift": "fake-lift@1"}
    np.testing.assert_array_equal(points, before)


def test_a_long_sequence_is_its_windows() -> None:
    def of_window(row: WindowRow) -> Array:
        return lifter(row) * np.float32(1 + row.points[:, 0, 0].mean() / 5000)

    points = walk(100)
    plan = plan_windows(100, FRAMES, STRIDE)
    factors = [np.full(FRAMES, 1 + hips(points)[indices].mean() / 5000, np.float32) for indices in plan.indices]
    wanted = expected(points, 1.6) * plan.joined(factors)[:, None, None]
    np.testing.assert_allclose(
        lifted(points, rule=of_window).joints, wanted * height_factor(stature(wanted), 1.70), atol=1e-4
    )


def test_several_people_share_batches_and_each_gets_an_own_answer() -> None:
    engine = FakeEngine("lift", lifter)
    people = [walk(n, step=n / 10) for n in (1, 5, 27, 60, 13)]
    together = seen_by(engine, *people)
    assert len(engine.batches) < len(people)
    for points, answer in zip(people, together, strict=True):
        np.testing.assert_allclose(answer.joints, lifted(points).joints, atol=1e-6)


def test_of_a_lifter_that_fits_its_poses_a_sequence_of_several_windows_keeps_its_bones() -> None:
    def nodding(row: WindowRow) -> Array:
        poses = np.tile(BODY, (len(row.points), 1, 1))
        poses[:, 13, 2] += 0.2 * np.sin(row.points[:, 0, 0] / 20)  # a wrist: how far away changes the forearm's length
        return poses

    def forearm(answer: Lifted) -> float:
        return float(np.linalg.norm(answer.joints[:, 13] - answer.joints[:, 12], axis=1).std())

    surely = replace(OPTIONS, skeleton="h36m17")
    points = np.full((90, 17, 3), 100, np.float32)
    points[..., 0] += np.arange(90)[:, None] * 3
    points[..., 2] = 1
    engine = FakeEngine("lift", nodding)
    fitted, plain = (seen_by(engine, points, points[:FRAMES], options=surely, fitted=each) for each in (True, False))
    assert forearm(fitted[0]) < 0.7 * forearm(plain[0])
    np.testing.assert_array_equal(fitted[1].joints, plain[1].joints)  # one window is the network's own business


def test_nobody_gives_no_answers() -> None:
    assert seen_by(FakeEngine("lift", lifter)) == []


@pytest.mark.parametrize("frames", [1, 2, 28, 41])
def test_centre_is_the_middle_frame_of_all(frames: int) -> None:
    points = walk(frames)
    every, centre = lifted(points), lifted(points, replace(OPTIONS, centre=True))
    middle = slice(frames // 2, frames // 2 + 1)
    np.testing.assert_array_equal(centre.joints, every.joints[middle])
    np.testing.assert_array_equal(centre.position, every.position[middle])
    np.testing.assert_array_equal(centre.times, every.times[middle])


def test_a_long_sequence_never_fills_the_queue() -> None:
    sent: list[int] = []

    async def main() -> None:
        engine = FakeEngine("lift", lifter)
        async with running(engine, queue_rows=CHUNK) as (batcher,):
            submit = batcher.submit

            async def counted(rows: Any, **how: Any) -> Any:
                sent.append(len(rows))
                assert batcher.line.rows + len(rows) <= CHUNK
                return await submit(rows, **how)

            batcher.submit = counted  # type: ignore[method-assign]
            await LiftPipeline(batcher, FRAMES).lift_people([walk(900), walk(900)], OPTIONS, call())

    asyncio.run(main())
    assert sum(sent) == 2 * len(plan_windows(900, FRAMES, STRIDE).indices)
    assert max(sent) == CHUNK


def test_a_network_of_one_frame_answers_long_sequences_too() -> None:
    async def main() -> Array:
        async with running(FakeEngine("lift", lifter)) as (batcher,):
            return (await LiftPipeline(batcher, 1).lift(walk(20), OPTIONS, call())).joints

    np.testing.assert_allclose(asyncio.run(main()), expected(walk(20)), atol=1e-4)


def test_a_network_that_answers_its_centre_alone_answers_every_frame() -> None:
    def centre_alone(row: WindowRow) -> Array:
        poses = np.zeros((FRAMES, 17, 3), np.float32)
        poses[FRAMES // 2] = lifter(row)[FRAMES // 2]
        return poses

    async def main() -> Array:
        async with running(FakeEngine("lift", centre_alone)) as (batcher,):
            return (await LiftPipeline(batcher, FRAMES, centre=True).lift(walk(60), OPTIONS, call())).joints

    np.testing.assert_allclose(asyncio.run(main()), expected(walk(60)), atol=1e-4)


def test_smoothing_calms_the_points_before_they_are_lifted() -> None:
    points = walk(60)
    points[..., :2] += np.random.default_rng(5).normal(0, 4, (60, 1, 2)).astype(np.float32)
    rough, calm = (lifted(points, replace(OPTIONS, smooth=smooth)).joints for smooth in (False, True))
    assert np.abs(np.diff(calm, n=2, axis=0)).mean() < 0.5 * np.abs(np.diff(rough, n=2, axis=0)).mean()


# ---- Scale and place


@pytest.mark.parametrize("wanted", [0.9, 1.70, 2.1])
def test_the_answer_is_as_tall_as_asked_for(wanted: float) -> None:
    answer = lifted(walk(40), replace(OPTIONS, stature=wanted))
    assert stature(answer.joints) - 0.08 == pytest.approx((stature(BODY) - 0.08) * wanted / stature(BODY), rel=1e-4)
    assert answer.scale == Scale(wanted, "given")


def test_without_a_stature_the_scale_is_assumed() -> None:
    assert lifted(walk(1)).scale == Scale(1.70, "assumed")


def test_pose_and_position_grow_with_the_stature() -> None:
    points = walk(30)
    small, large = (lifted(points, replace(OPTIONS, stature=metres)) for metres in (1.0, 2.0))
    np.testing.assert_allclose(large.joints, 2 * small.joints, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(large.position, 2 * small.position, rtol=1e-3)


def test_a_collapsed_pose_is_not_blown_up() -> None:
    for collapsed in (0 * BODY, 1e-3 * BODY):
        poses = np.stack([collapsed] * FRAMES)
        answered = lifted(walk(3), rule=functools.partial(lambda poses, row: poses, poses)).joints
        assert np.abs(answered).max() <= 2 * np.abs(collapsed).max()


def standing_at(position: tuple[float, float, float], options: CameraOptions) -> Array:
    """(1, 17, 3) h36m17: where a camera sees BODY, made 1.70 m tall."""
    camera = given_camera(WIDTH, HEIGHT, options.focal_px, None, options.center, options.distortion)
    body = BODY * (1.70 / stature(BODY)) + np.array(position)
    return np.concatenate([project(body, camera), np.ones((17, 1))], axis=1).astype(np.float32)[None]


def upright(row: WindowRow) -> Array:
    return np.tile(BODY, (len(row.points), 1, 1))


CAMERAS = [
    CameraOptions(focal_px=700.0),
    CameraOptions(focal_px=500.0, center=(280.0, 250.0)),
    CameraOptions(focal_px=700.0, center=(300.0, 250.0), distortion=(-0.1, 0.02, 0.002, -0.003)),
]


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_position_puts_the_joints_onto_their_keypoints(camera: CameraOptions) -> None:
    options = LiftOptions("h36m17", (WIDTH, HEIGHT), camera=camera)
    answer = lifted(standing_at((0.4, 0.1, 4.0), camera), options, upright)
    np.testing.assert_allclose(answer.position[0], (0.4, 0.1, 4.0), atol=0.01)


def test_joints_that_are_made_up_do_not_move_the_position() -> None:
    points = walk(1)
    bowed = points.copy()
    bowed[:, 3:5, 1] += 40  # the ears, which head and head top are made from
    np.testing.assert_allclose(lifted(bowed).position, lifted(points).position, atol=1e-6)


@pytest.mark.parametrize("camera", [CameraOptions(), *CAMERAS])
def test_a_mirrored_picture_of_a_scene_gives_the_scene(camera: CameraOptions) -> None:
    plain = LiftOptions("coco17", (WIDTH, HEIGHT), camera=camera)
    points = walk(30)
    mirrored = points[:, mirror_order(SKELETONS["coco17"])]
    mirrored[..., 0] = WIDTH - mirrored[..., 0]
    turned_round = camera
    if camera.focal_px is not None:
        seen = unmirrored_camera(
            given_camera(WIDTH, HEIGHT, camera.focal_px, None, camera.center, camera.distortion), WIDTH
        )
        turned_round = CameraOptions(seen.focal_px, None, seen.center, seen.distortion)
    there = lifted(points, plain)
    back = lifted(mirrored, replace(plain, mirrored=True, camera=turned_round))
    np.testing.assert_allclose(back.joints, there.joints, atol=1e-4)
    np.testing.assert_allclose(back.position, there.position, rtol=1e-3, atol=1e-3)


def test_with_a_flip_test_every_window_is_lifted_with_its_mirror_image_and_without_it_lone_frames_alone() -> None:
    for frames, asked, wanted in ((60, True, {True}), (60, False, {False}), (1, False, {True}), (1, True, {True})):
        engine = FakeEngine("lift", lifter)
        seen_by(engine, walk(frames), options=replace(OPTIONS, flip_test=asked))
        assert {row.mirror_test for row in engine.rows} == wanted
        assert {row.cost for row in engine.rows} == {1 + mirrored for mirrored in wanted}


def test_a_mirrored_camera_sees_the_mirrored_scene() -> None:
    camera = given_camera(WIDTH, HEIGHT, 600.0, None, (290.0, 250.0), (-0.2, 0.05, 0.01, -0.02, 0.001))
    scene = BODY + np.array([0.3, 0.2, 3.0])
    mirrored = scene * np.array([-1, 1, 1])
    here, there = project(scene, camera), project(mirrored, unmirrored_camera(camera, WIDTH))
    np.testing.assert_allclose(there, np.stack([WIDTH - here[:, 0], here[:, 1]], axis=1), atol=1e-6)
    assert unmirrored_camera(unmirrored_camera(camera, WIDTH), WIDTH) == camera


# ---- Times


@pytest.mark.parametrize("fps", [1.0, 5.0, 120.0, 240.0])
def test_rates_that_the_lifter_does_not_know_are_resampled_and_brought_back(fps: float) -> None:
    engine = FakeEngine("lift", swaying)
    points = walk(61, step=3.0)
    answer = seen_by(engine, points, options=replace(OPTIONS, fps=fps))[0]
    np.testing.assert_allclose(answer.times, np.arange(61) / fps)
    assert len(answer.joints) == 61
    wanted = hips(points) / 1000 * 1.70 / stature(BODY)
    np.testing.assert_allclose(answer.joints[:, 16, 2], wanted, atol=1e-4)
    frames = 60 / fps * min(max(fps, 10), 60)
    assert len(engine.rows) == len(plan_windows(round(frames) + 1, FRAMES, STRIDE).indices)


def test_frames_with_uneven_times_keep_their_times() -> None:
    times = 5 + np.delete(np.arange(70) / 30, [10, 11, 40])
    points = np.stack([figure((100 + 90 * time, 80, 120, 300)) for time in times - 5])
    answer = lifted(points, replace(OPTIONS, times=times), swaying)
    np.testing.assert_array_equal(answer.times, times)
    np.testing.assert_allclose(answer.joints[:, 16, 2], hips(points) / 1000 * 1.70 / stature(BODY), atol=1e-4)


def test_times_at_an_even_rate_are_the_rate() -> None:
    points = walk(50)
    by_times = lifted(points, replace(OPTIONS, times=np.arange(50) / 25))
    np.testing.assert_allclose(by_times.joints, lifted(points, replace(OPTIONS, fps=25)).joints, atol=1e-6)


# ---- What is unknown, and what is refused


def test_unknown_frames_are_answered_and_have_no_position() -> None:
    points = walk(40)
    points[10:13] = UNKNOWN
    answer = lifted(points)
    assert np.isfinite(answer.joints).all()
    np.testing.assert_array_equal(np.isnan(answer.position).any(axis=1), np.isin(np.arange(40), [10, 11, 12]))


def test_a_sequence_of_nothing_known_is_a_sequence_of_nothing_known() -> None:
    answer = lifted(np.stack([UNKNOWN] * 5))
    assert answer.joints.shape == (5, 17, 3) and np.isnan(answer.joints).all()
    assert answer.position.shape == (5, 3) and np.isnan(answer.position).all()


def test_the_network_is_told_whether_its_joints_were_given() -> None:
    for skeleton in ("coco17", "h36m17"):
        engine = FakeEngine("lift", lifter)
        seen_by(engine, walk(3), options=replace(OPTIONS, skeleton=skeleton))
        assert [(row.given, row.size, row.points.shape) for row in engine.rows] == [
            (skeleton == "h36m17", (WIDTH, HEIGHT), (FRAMES, 17, 3))
        ]


def test_a_skeleton_that_is_not_known_and_a_wrong_joint_count_are_refused() -> None:
    with pytest.raises(OutOfRange, match="`skeleton`"):
        lifted(walk(2), replace(OPTIONS, skeleton="coco18"))
    with pytest.raises(OutOfRange, match="`keypoints`"):
        lifted(walk(2)[:, :16])


def test_a_lifter_that_is_not_loaded_is_refused_by_name() -> None:
    with pytest.raises(Unknown, match="lift-243"):
        lifted(walk(2), replace(OPTIONS, models={"lift": "lift-243"}))
    assert lifted(walk(2), replace(OPTIONS, models={"lift": "fake-lift"})).models == {"lift": "fake-lift@1"}


def test_a_row_that_fails_fails_the_sequence() -> None:
    with pytest.raises(NotFinite):
        lifted(walk(100), rule=lambda row: NotFinite("no number") if row.points[0, 0, 0] > 200 else lifter(row))


@pytest.mark.parametrize(("frames", "who"), [(1, "still"), (2, "moving"), (FRAMES, "moving"), (100, "moving")])
def test_a_network_for_motion_of_the_same_window_lifts_all_but_lone_frames(frames: int, who: str) -> None:
    async def main() -> Lifted:
        still, moving = FakeEngine("lift", lifter), FakeEngine("lift", lifter)
        still.label, moving.label = "still@1", "moving@1"
        async with running(still, moving) as (one, other):
            both = LiftPipeline(one, FRAMES, long=LiftPipeline(other, FRAMES))
            assert both.moving.models == {"lift": "moving@1"}
            return await both.lift(walk(frames), OPTIONS, call())

    assert asyncio.run(main()).models == {"lift": f"{who}@1"}


def test_a_network_of_a_longer_window_lifts_what_is_longer_and_no_stream() -> None:
    async def main() -> tuple[list[Lifted], dict[str, str]]:
        short, long = FakeEngine("lift", lifter), FakeEngine("lift", lifter)
        short.label, long.label = "short@1", "long@1"
        async with running(short, long) as (one, other):
            both = LiftPipeline(one, FRAMES, long=LiftPipeline(other, FRAMES + 2))
            return [await both.lift(walk(n), OPTIONS, call()) for n in (FRAMES, FRAMES + 1)], both.moving.models

    (shorter, longer), moving = asyncio.run(main())
    assert (shorter.models, longer.models) == ({"lift": "short@1"}, {"lift": "long@1"})
    assert moving == {"lift": "short@1"}
