"""Streams of keypoints, frame by frame, through the real queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
import torch

from service.engines.framing import LiftFraming, WindowRow
from service.errors import EngineFailed, OutOfRange
from service.geometry.alignment import stature
from service.geometry.skeletons import SKELETONS, mirror_points
from service.networks import create
from service.people import Scale
from service.pipelines.call import CameraOptions, Class
from service.pipelines.lift import Array, LiftOptions, LiftPipeline
from service.pipelines.live import LiveKeypoints, LiveOptions, LivePose

from .fake import BODY, FRAMES, FakeEngine, call, figure, lifter, running, turned

LOW = LiveOptions("coco17", (640, 480))
FULL = replace(LOW, latency="full")
UNKNOWN = np.full((17, 3), (np.nan, np.nan, 0), np.float32)


@dataclass(frozen=True)
class Sent:
    """One message: seq, time, and the people's points."""

    seq: int
    time: float | None
    people: list[Array]


def walker(n: float, start: float = 100) -> Array:
    return figure((start + 2 * n, 80, 120, 300))


def stream(frames: int, fps: float = 30) -> list[Sent]:
    return [Sent(n, n / fps, [walker(n)]) for n in range(frames)]


def answers(
    sent: Sequence[Sent], options: LiveOptions = LOW, engine: FakeEngine | None = None
) -> list[LivePose | OutOfRange]:
    async def main() -> list[LivePose | OutOfRange]:
        told: list[LivePose | OutOfRange] = []
        async with running(engine or FakeEngine("lift", lifter)) as (batcher,):
            live = LiveKeypoints(LiftPipeline(batcher, FRAMES), options)
            for one in sent:
                try:
                    told.extend(await live.add(one.seq, one.time, one.people, call(Class.LIVE)))
                except OutOfRange as error:
                    told.append(error)
            told.extend(await live.rest(call(Class.LIVE)))
        return told

    return asyncio.run(main())


def poses(sent: Sequence[Sent], options: LiveOptions = LOW, engine: FakeEngine | None = None) -> list[LivePose]:
    told = answers(sent, options, engine)
    assert all(isinstance(one, LivePose) for one in told)
    return [one for one in told if isinstance(one, LivePose)]


def expected(points: Array) -> Array:
    return turned(float(points[11:13, 0].mean())) * np.float32(1.70 / stature(BODY))


def test_low_latency_answers_the_newest_frame() -> None:
    sent = stream(60)
    for one, pose in zip(sent, poses(sent), strict=True):
        assert (pose.seq, pose.time) == (one.seq, one.time)
        (person,) = pose.people
        np.testing.assert_allclose(person.joints, expected(one.people[0]), atol=1e-4)
        assert person.position is not None and person.position[2] > 0
        assert person.scale == Scale(1.70, "assumed")


@pytest.mark.parametrize("options", [LOW, FULL])
def test_frames_that_were_dropped_make_no_more_windows(options: LiveOptions) -> None:
    engine = FakeEngine("lift", lifter)
    kept = np.random.default_rng(0).random(120) < 0.5
    sent = [one for one, here in zip(stream(120), kept, strict=True) if here]
    told = poses(sent, options, engine)
    assert [pose.seq for pose in told] == [one.seq for one in sent]
    assert len(engine.rows) <= len(sent)
    for one, pose in zip(sent, told, strict=True):
        np.testing.assert_allclose(pose.people[0].joints, expected(one.people[0]), atol=1e-2)


def test_full_latency_answers_the_middle_of_the_window() -> None:
    sent = stream(60)
    told = poses(sent, FULL)
    assert [pose.seq for pose in told] == list(range(60))  # each once, the last ones at the end
    for pose in told:
        assert pose.time == sent[pose.seq].time
        np.testing.assert_allclose(pose.people[0].joints, expected(sent[pose.seq].people[0]), atol=1e-4)


def test_full_latency_waits_for_half_a_window_of_frames_and_where_they_are_rare_of_time() -> None:
    async def waits(fps: float) -> list[int]:
        async with running(FakeEngine("lift", lifter)) as (batcher,):
            live = LiveKeypoints(LiftPipeline(batcher, FRAMES), replace(FULL, fps=fps))
            return [len(await live.add(n, n / fps, [walker(n)], call(Class.LIVE))) for n in range(40)]

    at_30 = asyncio.run(waits(30.0))
    assert at_30 == [0] * (FRAMES // 2) + [1] * (40 - FRAMES // 2)
    assert asyncio.run(waits(1.0))[2:] == [1] * 38


@pytest.mark.parametrize("options", [LOW, FULL], ids=["low", "full"])
@pytest.mark.parametrize("times", [(0, 0.033, 0.067, 0.1, 0.01, 0.05), (0, 0.033, 0.033, 0.067), (1, 0.9, 0.8)])
def test_a_clock_that_stands_still_or_goes_back_loses_no_frame(options: LiveOptions, times: Sequence[float]) -> None:
    sent = [Sent(n, time, [walker(n)]) for n, time in enumerate(times)]
    told = poses(sent, options)
    assert [pose.seq for pose in told] == list(range(len(times)))
    for pose in told:
        np.testing.assert_allclose(pose.people[0].joints, expected(walker(pose.seq)), atol=1e-4)


def test_of_a_pass_that_fails_the_frames_behind_those_it_answers_are_still_pending() -> None:
    engine = FakeEngine("lift", lifter)

    def breaks(row: WindowRow) -> Array:
        raise ValueError("broken")

    async def main() -> tuple[set[int], list[LivePose]]:
        async with running(engine) as (batcher,):
            live = LiveKeypoints(LiftPipeline(batcher, FRAMES), FULL)
            half = FRAMES // 2
            for n in range(half):
                await live.add(n, n / 30, [walker(n)], call(Class.LIVE))
            engine.answer = breaks
            with pytest.raises(EngineFailed):
                await live.add(half, half / 30, [walker(half)], call(Class.LIVE))
            engine.answer = lifter
            return live.pending, await live.rest(call(Class.LIVE))

    pending, told = asyncio.run(main())
    assert pending == set(range(1, FRAMES // 2 + 1))
    assert {pose.seq for pose in told} == pending


def test_without_a_time_the_rate_tells_it() -> None:
    told = poses([Sent(n, None, [walker(n)]) for n in (5, 6, 9)], replace(LOW, fps=20.0))
    assert [pose.time for pose in told] == [5 / 20, 6 / 20, 9 / 20]


def test_nobody_is_answered_with_nobody() -> None:
    assert poses([Sent(0, 0.0, [])])[0] == LivePose(0, 0.0, [])
    assert poses([Sent(0, 0.0, [])], FULL)[0] == LivePose(0, 0.0, [])


def test_people_come_and_go() -> None:
    counts = [1, 1, 3, 3, 2, 0, 0, 2, 1]
    sent = [Sent(n, n / 30, [walker(n, 100 + 150 * k) for k in range(count)]) for n, count in enumerate(counts)]
    told = poses(sent)
    assert [len(pose.people) for pose in told] == counts
    for one, pose in zip(sent, told, strict=True):
        for points, person in zip(one.people, pose.people, strict=True):
            np.testing.assert_allclose(person.joints, expected(points), atol=1e-4)


def test_who_left_is_forgotten() -> None:
    engine = FakeEngine("lift", lifter)
    sent = [*stream(20), Sent(20, 20 / 30, []), Sent(21, 21 / 30, [walker(300)])]
    poses(sent, engine=engine)
    window = engine.rows[-1].points
    np.testing.assert_array_equal(window, np.broadcast_to(window[:1], window.shape))


@pytest.mark.parametrize("options", [LOW, FULL])
def test_a_newcomer_does_not_change_which_frame_is_answered(options: LiveOptions) -> None:
    alone = poses(stream(40), options)
    sent = [Sent(n, n / 30, [walker(n)] + [walker(n, 400)] * (n >= 30)) for n in range(40)]
    together = poses(sent, options)
    assert [pose.seq for pose in together] == [pose.seq for pose in alone]
    for here, there in zip(together, alone, strict=True):
        np.testing.assert_allclose(here.people[0].joints, there.people[0].joints, atol=1e-6)
    for pose in together:  # until the answered frame has them, their first one is told
        for person in pose.people[1:]:
            np.testing.assert_allclose(person.joints, expected(walker(max(pose.seq, 30), 400)), atol=1e-4)


@pytest.mark.parametrize("options", [LOW, FULL, replace(LOW, smooth=True)])
def test_a_clock_that_goes_back_begins_anew(options: LiveOptions) -> None:
    sent = [*stream(30), *[Sent(30 + n, n / 30, [walker(n)]) for n in range(5)]]
    after = [pose for pose in poses(sent, options) if pose.seq >= 30]
    fresh = poses([Sent(30 + n, n / 30, [walker(n)]) for n in range(5)], options)
    assert len(fresh) == 5
    for here, there in zip(after, fresh, strict=True):
        assert (here.seq, here.time) == (there.seq, there.time)
        np.testing.assert_allclose(here.people[0].joints, there.people[0].joints, atol=1e-5)


@pytest.mark.parametrize("fps", [1.0, 5.0, 15.0, 30.0, 120.0])
def test_a_frame_costs_few_rows_at_any_rate(fps: float) -> None:
    engine = FakeEngine("lift", lifter)
    poses(stream(40, fps), replace(LOW, fps=fps), engine)
    assert len(engine.rows) == 40


def test_frames_that_are_dropped_leave_the_newest_one_right() -> None:
    sent = [one for one in stream(80) if one.seq % 7 not in (2, 3)]
    for one, pose in zip(sent, poses(sent), strict=True):
        assert pose.seq == one.seq
        np.testing.assert_allclose(pose.people[0].joints, expected(one.people[0]), atol=1e-3)


def test_smoothing_takes_the_flicker_off() -> None:
    noise = np.random.default_rng(0).normal(0, 2, (90, 17, 2)).astype(np.float32)
    sent = []
    for n in range(90):
        points = walker(0)
        points[:, :2] += noise[n]
        sent.append(Sent(n, n / 30, [points]))
    rough, calm = (
        np.stack([pose.people[0].joints for pose in poses(sent, replace(LOW, smooth=smooth))])[30:]
        for smooth in (False, True)
    )
    assert np.abs(np.diff(calm, axis=0)).mean() < 0.6 * np.abs(np.diff(rough, axis=0)).mean()


@pytest.mark.parametrize("smooth", [False, True])
def test_a_frame_in_which_nothing_is_known_has_no_position_and_joints_once_somebody_was_seen(smooth: bool) -> None:
    sent = [Sent(n, n / 30, [UNKNOWN if n in (0, 10) else walker(n)]) for n in range(20)]
    told = poses(sent, replace(LOW, smooth=smooth))
    assert [pose.seq for pose in told] == list(range(20))
    for pose in told:
        joints = pose.people[0].joints
        assert np.isfinite(joints).all() if pose.seq else np.isnan(joints).all()
        assert (pose.people[0].position is None) == (pose.seq in (0, 10))


def test_a_stature_and_a_camera_are_used() -> None:
    near, far = (
        poses(stream(3), replace(LOW, stature=1.2, camera=CameraOptions(focal_px=focal)))[-1].people[0]
        for focal in (500.0, 1000.0)
    )
    assert near.scale == Scale(1.2, "given")
    assert stature(near.joints) == pytest.approx(1.2, abs=0.03)
    assert near.position is not None and far.position is not None
    assert far.position[2] == pytest.approx(2 * near.position[2], rel=0.1)


@pytest.mark.parametrize("options", [LOW, FULL])
def test_a_mirrored_stream_shows_the_true_scene(options: LiveOptions) -> None:
    camera = CameraOptions(focal_px=500, center=(300, 240))
    sent = stream(12)
    seen = [replace(one, people=[mirror_points(each, SKELETONS["coco17"], 640) for each in one.people]) for one in sent]
    true = poses(sent, replace(options, camera=camera))
    told = poses(seen, replace(options, mirrored=True, camera=replace(camera, center=(340, 240))))
    assert [one.seq for one in told] == [one.seq for one in true] == list(range(12))
    for one, other in zip(told, true, strict=True):
        np.testing.assert_allclose(one.people[0].joints, other.people[0].joints, atol=1e-5)
        assert one.people[0].position is not None and other.people[0].position is not None
        np.testing.assert_allclose(one.people[0].position, other.people[0].position, rtol=1e-4)


def test_a_person_of_another_skeleton_is_refused_and_the_stream_goes_on() -> None:
    sent = stream(10)
    broken = [*sent[:5], Sent(5, 5 / 30, [walker(5), walker(5)[:16]]), *sent[6:]]
    told = answers(broken, replace(LOW, smooth=True))
    assert isinstance(told[5], OutOfRange)
    left_out = poses([one for one in sent if one.seq != 5], replace(LOW, smooth=True))
    assert isinstance(told[9], LivePose)
    np.testing.assert_array_equal(told[9].people[0].joints, left_out[-1].people[0].joints)


def test_streams_do_not_know_of_each_other_and_share_batches() -> None:
    engine = FakeEngine("lift", lifter)

    async def main() -> list[list[LivePose]]:
        async with running(engine) as (batcher,):
            pipeline = LiftPipeline(batcher, FRAMES)

            async def one(start: float) -> list[LivePose]:
                live = LiveKeypoints(pipeline, LOW)
                return [(await live.add(n, n / 30, [walker(n, start)], call(Class.LIVE)))[0] for n in range(10)]

            return await asyncio.gather(*[one(20.0 * k) for k in range(16)])

    for k, told in enumerate(asyncio.run(main())):
        for n, pose in enumerate(told):
            np.testing.assert_allclose(pose.people[0].joints, expected(walker(n, 20.0 * k)), atol=1e-4)
    assert len(engine.batches) < 16 * 10 / 2


# ---- Several frames at once


def in_groups(
    sent: Sequence[Sent], groups: Sequence[int], options: LiveOptions = LOW, engine: FakeEngine | None = None
) -> list[list[LivePose]]:
    """The stream's answers, where so many frames come at a time; the rest's at the end."""

    async def main() -> list[list[LivePose]]:
        told, left = [], [(one.seq, one.time, one.people) for one in sent]
        async with running(engine or FakeEngine("lift", lifter)) as (batcher,):
            live = LiveKeypoints(LiftPipeline(batcher, FRAMES), options)
            for count in groups:
                told.append(await live.add_all(left[:count], call(Class.LIVE)))
                left = left[count:]
            told.append(await live.rest(call(Class.LIVE)))
        return told

    return asyncio.run(main())


@pytest.mark.parametrize("options", [LOW, FULL], ids=["low", "full"])
@pytest.mark.parametrize("groups", [[1, 3, 5, 2, 9], [20], [10, 10], [19, 1]])
def test_frames_that_come_together_are_answered_as_if_they_had_come_alone(
    groups: list[int], options: LiveOptions
) -> None:
    # The fake lifter's answer does not depend on the window.
    alone = [pose for pose in answers(stream(20), options) if isinstance(pose, LivePose)]
    together = [pose for part in in_groups(stream(20), groups, options) for pose in part]
    assert [pose.seq for pose in together] == [pose.seq for pose in alone] == list(range(20))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.people[0].joints, other.people[0].joints, atol=1e-5)


def test_frames_that_come_together_share_a_pass() -> None:
    engine = FakeEngine("lift", lifter)
    told = in_groups(stream(23), [8, 5, 10], engine=engine)
    assert [len(part) for part in told] == [8, 5, 10, 0]
    assert len(engine.rows) == 3


def test_more_than_half_a_window_at_once_takes_several_passes() -> None:
    engine = FakeEngine("lift", lifter)
    told = in_groups(stream(60), [60], engine=engine)
    assert [pose.seq for pose in told[0]] == list(range(60))
    assert len(engine.rows) == -(-60 // (FRAMES // 2 + 1))


def test_a_clock_that_goes_back_among_them_and_a_new_person_end_a_pass() -> None:
    back = [*stream(5), Sent(5, 0.0, [walker(0)]), Sent(6, 0.03, [walker(1), walker(1, 300)])]
    engine = FakeEngine("lift", lifter)
    told = in_groups(back, [7], engine=engine)
    assert [pose.seq for pose in told[0]] == list(range(7))
    assert [len(pose.people) for pose in told[0]] == [1] * 6 + [2]
    assert len(engine.rows) == 4  # of the last pass a row a person


# ---- Frames that come until the device begins


def told_late(
    sent: Sequence[Sent], at_once: int, later: Sequence[int], options: LiveOptions = LOW
) -> tuple[list[LivePose], FakeEngine]:
    """The answers to a stream's first frames, and to so many `at_once`, while those behind them come `later`: so many
    whenever a pass begins."""
    engine = FakeEngine("lift", lifter)
    frames = [(one.seq, one.time, one.people) for one in sent]
    behind, parts = frames[at_once:], iter(later)

    def newer() -> list[tuple[int, float | None, list[Array]]]:
        count = next(parts, 0)
        came = behind[:count]
        del behind[:count]
        return came

    async def main() -> list[LivePose]:
        async with running(engine) as (batcher,):
            live = LiveKeypoints(LiftPipeline(batcher, FRAMES), options, newer)
            return await live.add_all(frames[:at_once], call(Class.LIVE))

    return asyncio.run(main()), engine


def test_frames_that_come_until_the_device_begins_share_the_pass() -> None:
    told, engine = told_late(stream(9), 5, [4])
    assert [pose.seq for pose in told] == list(range(9))
    assert len(engine.rows) == 1
    together = in_groups(stream(9), [9])[0]
    for one, other in zip(told, together, strict=True):
        assert (one.seq, one.time) == (other.seq, other.time)
        np.testing.assert_array_equal(one.people[0].joints, other.people[0].joints)
        assert one.people[0].position is not None and other.people[0].position is not None
        np.testing.assert_array_equal(one.people[0].position, other.people[0].position)


def test_what_does_not_fit_into_a_pass_that_has_begun_is_answered_by_the_next() -> None:
    told, engine = told_late(stream(40), 10, [30])
    assert [pose.seq for pose in told] == list(range(40))
    assert len(engine.rows) == 3  # half a window each
    for pose in told:
        np.testing.assert_allclose(pose.people[0].joints, expected(walker(pose.seq)), atol=1e-4)


def test_a_clock_that_goes_back_a_new_person_and_a_gap_do_not_join_a_pass_that_has_begun() -> None:
    before = stream(26)[-6:]
    back = Sent(26, before[0].time, [walker(26)])
    two = Sent(26, 26 / 30, [walker(26), walker(26, 300)])
    far = Sent(26, 26 / 30 + 1.5, [walker(26)])  # its window of 27 frames begins behind the others
    for strange, rows in ((back, 2), (two, 3), (far, 2)):
        told, engine = told_late([*before, strange], 6, [1])
        assert [pose.seq for pose in told] == list(range(20, 27))
        assert len(told[-1].people) == len(strange.people)
        assert len(engine.rows) >= rows, strange


def test_a_first_frame_alone_and_full_latency_wait_for_nobody() -> None:
    told, engine = told_late(stream(3), 1, [2])
    assert [pose.seq for pose in told] == [0]
    assert engine.rows[0].mirror_test  # as a photo's
    told, _ = told_late(stream(40), 20, [20], FULL)
    assert [pose.seq for pose in told] == list(range(20 - FRAMES // 2))


def test_a_pass_that_fails_takes_what_had_joined_it_along_and_no_more() -> None:
    engine = FakeEngine("lift", lifter)
    came = [(n, n / 30, [walker(n)]) for n in (2, 3)]

    def newer() -> list[tuple[int, float | None, list[Array]]]:
        late, came[:] = [*came], []
        return [*late]

    def breaks(row: WindowRow) -> Array:
        raise ValueError("broken")

    async def main() -> list[LivePose]:
        async with running(engine) as (batcher,):
            live = LiveKeypoints(LiftPipeline(batcher, FRAMES), LOW, newer)
            engine.answer = breaks
            with pytest.raises(EngineFailed):
                await live.add_all([(n, n / 30, [walker(n)]) for n in (0, 1)], call(Class.LIVE))
            engine.answer = lifter
            return await live.add(4, 4 / 30, [walker(4)], call(Class.LIVE))

    (pose,) = asyncio.run(main())
    assert not came
    assert pose.seq == 4
    np.testing.assert_allclose(pose.people[0].joints, expected(walker(4)), atol=1e-4)


def test_points_of_another_shape_take_none_of_them() -> None:
    async def main() -> list[LivePose]:
        async with running(FakeEngine("lift", lifter)) as (batcher,):
            live = LiveKeypoints(LiftPipeline(batcher, FRAMES), LOW)
            with pytest.raises(OutOfRange):
                await live.add_all([(0, 0.0, [walker(0)]), (1, 0.1, [np.zeros((5, 3), np.float32)])], call(Class.LIVE))
            return await live.add_all([(2, 0.2, [walker(2)])], call(Class.LIVE))

    assert [pose.seq for pose in asyncio.run(main())] == [2]


# ---- The same as offline


def real_lifter() -> FakeEngine:
    """A lifter with weights by chance, whose answer for a frame depends on every frame of the window."""
    torch.manual_seed(0)
    facts = {"frames": FRAMES, "channels": 6, "depth": 2, "head": "sequence", "spatial": True, "temporal": True}
    network = create("lifter", **facts, unknown_token=True).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    framing = LiftFraming(FRAMES)

    def answer(row: WindowRow) -> Array:
        with torch.no_grad():
            return framing.answers([network(torch.from_numpy(framing.inputs([row]))).numpy()], [row])[0]

    return FakeEngine("lift", answer)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("latency", ["low", "full"])
def test_a_stream_is_lifted_as_its_windows_are_offline(latency: Literal["low", "full"], group: int) -> None:
    random = np.random.default_rng(3)
    shaken = random.normal(0, [3, 3, 0], (60, 17, 3)).astype(np.float32)
    sent = [Sent(n, n / 30, [walker(n) + shaken[n]]) for n in range(60)]
    options = replace(LOW, latency=latency)
    engine = real_lifter()
    parts = in_groups(sent, [group] * (60 // group), options, engine)
    poses = [(end, pose) for end, part in enumerate(parts[:-1]) for pose in part]
    assert len(poses) >= 40

    async def offline(points: Array) -> Array:
        async with running(engine) as (batcher,):
            lift = LiftPipeline(batcher, FRAMES)
            return (await lift.lift(points, LiftOptions("coco17", LOW.image_size, fps=30), call())).joints

    for end, pose in poses[:: 5 if group == 1 else 3]:
        newest = group * (end + 1) - 1
        first = max(0, newest - FRAMES + 1)
        window = np.stack([one.people[0] for one in sent[first : newest + 1]])
        there = asyncio.run(offline(window))[pose.seq - first]
        np.testing.assert_allclose(pose.people[0].joints, there, atol=1e-4)
        if newest >= FRAMES and group == 1:
            assert pose.seq == (newest if latency == "low" else newest - FRAMES // 2)
