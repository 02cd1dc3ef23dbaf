"""Bodies sized and placed: alone as together, and whoever asks in one turn of the loop in one call."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from service.geometry.alignment import stature
from service.geometry.cameras import assumed_camera, given_camera, project
from service.geometry.skeletons import MADE_JOINTS
from service.pipelines import placing
from service.pipelines.placing import FRAMES_AT_ONCE, Placed, Placing, Unplaced, place_all, position_of

from .fake import BODY

CAMERAS = (assumed_camera(640, 480), given_camera(1000, 800, 900.0, None, (480.0, 420.0), (0.1, -0.05, 0.001, 0.002)))


def body(seed: int, frames: int = 5, given: bool = True, metres: float = 1.7) -> Unplaced:
    """Somebody who was seen exactly, answered a tenth too small."""
    dice = np.random.default_rng(seed)
    camera = CAMERAS[seed % 2]
    joints = BODY * (metres / stature(BODY)) + dice.normal(0, 0.02, (frames, 17, 3))
    joints -= joints[:, :1]
    seen = project(joints + dice.uniform((-0.5, -0.3, 3), (0.5, 0.3, 6)), camera)
    points = np.concatenate([seen, dice.uniform(0.5, 1, (frames, 17, 1))], axis=-1).astype(np.float32)
    return Unplaced((0.9 * joints).astype(np.float32), points, given, camera, metres)


def together(*bodies: Unplaced) -> list[list[Placed]]:
    """Each asked for by a caller of its own, all in one turn."""

    async def main() -> list[list[Placed]]:
        ask = Placing()
        return await asyncio.gather(*(ask([each]) for each in bodies))

    return asyncio.run(main())


def test_each_is_answered_as_if_it_were_alone() -> None:
    bodies = [body(n, frames=1 + 7 * n, given=n % 3 > 0, metres=1.2 + 0.1 * n) for n in range(6)]
    for whole, alone in zip(place_all(bodies), (place_all([one])[0] for one in bodies), strict=True):
        np.testing.assert_allclose(whole.joints, alone.joints, atol=1e-6)
        np.testing.assert_allclose(whole.position, alone.position, atol=1e-5)


def test_a_body_gets_its_stature_and_stands_where_its_rays_meet() -> None:
    for one in (body(0), body(1)):
        (placed,) = place_all([one])
        # The ankles' height is no bone, and does not grow with the others.
        assert stature(placed.joints) == pytest.approx(one.stature, abs=0.01)
        again = project(placed.joints + placed.position[:, None], one.camera)
        assert np.abs(again - one.points[..., :2]).max() < 3
        np.testing.assert_allclose(placed.position, position_of(placed.joints, one.points, True, one.camera), atol=1e-4)


def test_made_joints_say_nothing_of_the_place() -> None:
    one = body(0, given=False)
    moved = one.points.copy()
    moved[:, list(MADE_JOINTS), :2] += 80
    straight, bent = place_all([one, replace(one, points=moved)])
    np.testing.assert_array_equal(straight.position, bent.position)
    assert np.abs(place_all([replace(one, points=moved, given=True)])[0].position - bent.position).max() > 0.01


def test_only_the_shown_frames_are_answered_at_the_size_of_all() -> None:
    whole, some = body(2, frames=9), replace(body(2, frames=9), shown=[4, 7])
    every, two = place_all([whole, some])
    np.testing.assert_allclose(two.joints, every.joints[[4, 7]], atol=1e-6)
    np.testing.assert_allclose(two.position, every.position[[4, 7]], atol=1e-5)


def test_nobody_gives_nothing() -> None:
    assert place_all([]) == []
    assert together() == []


def test_who_was_never_seen_gets_no_pose_and_no_place_and_does_not_touch_the_others() -> None:
    unseen = replace(body(1), points=np.full((5, 17, 3), (np.nan, np.nan, 0), np.float32))
    late = body(2)
    late.points[0, :16] = np.nan, np.nan, 0  # one joint in one frame is enough
    late.points[1:] = np.nan, np.nan, 0
    nobody, somebody, other = place_all([unseen, late, body(0)])
    assert np.isnan(nobody.joints).all() and np.isnan(nobody.position).all()
    assert nobody.joints.shape == (5, 17, 3) and nobody.position.shape == (5, 3)
    assert np.isfinite(somebody.joints).all()
    (alone,) = place_all([body(0)])
    np.testing.assert_allclose(other.joints, alone.joints, atol=1e-6)
    np.testing.assert_allclose(other.position, alone.position, atol=1e-6)


def test_who_asks_in_one_turn_is_reckoned_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(bodies: list[Unplaced]) -> list[Placed]:
        calls.append(len(bodies))
        return place_all(bodies)

    monkeypatch.setattr(placing, "place_all", counted)
    bodies = [body(n) for n in range(7)]
    answers = together(*bodies)
    assert calls == [7]
    for (placed,), one in zip(answers, bodies, strict=True):
        np.testing.assert_allclose(placed.joints, place_all([one])[0].joints, atol=1e-6)


def test_one_callers_fault_is_no_others() -> None:
    async def main() -> tuple[list[Placed] | BaseException, ...]:
        ask = Placing()
        broken = replace(body(0), joints=np.zeros((5, 3, 3), np.float32))
        return await asyncio.gather(ask([body(1)]), ask([broken]), ask([body(2)]), return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert isinstance(second, ValueError)
    assert isinstance(first, list) and isinstance(third, list)
    np.testing.assert_allclose(third[0].position, place_all([body(2)])[0].position, atol=1e-6)


def test_who_has_left_is_left_out() -> None:
    async def main() -> list[Placed]:
        ask = Placing()
        leaving, staying = asyncio.create_task(ask([body(0)])), asyncio.create_task(ask([body(1)]))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert len(asyncio.run(main())) == 1


def test_many_frames_are_reckoned_in_parts() -> None:
    bodies = [body(n, frames=FRAMES_AT_ONCE // 3) for n in range(8)]
    for placed, one in zip(place_all(bodies), bodies, strict=True):
        np.testing.assert_allclose(placed.position, place_all([one])[0].position, atol=1e-5)
