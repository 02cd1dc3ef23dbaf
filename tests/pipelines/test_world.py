"""Laws of worlds: gravity, floor, feet that stand, and paths on which they stay."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.alignment import ANKLE_HEIGHT_M
from service.geometry.cameras import Camera, given_camera, project
from service.people import World
from service.pipelines import world as module
from service.pipelines.world import LEAST_STANDING, SAMPLES, Floor, contacts, settle, to_world, turned

from .fake import BODY

FPS = 25.0
CAMERA = given_camera(1280, 720, focal_px=1000.0)
FEET = [6, 3]  # left, right ankle of h36m17


def camera_at(height: float, pitch: float, roll: float = 0.0) -> World:
    """The true world of a camera so many metres up, that looks down by so many degrees and is rolled by others."""
    p, r = np.radians([pitch, roll])
    down = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    level = np.diag([1.0, -1.0, -1.0])
    return World(level @ np.linalg.inv(down).T @ tilt if pitch else level @ tilt, np.array([0, height, 0]))


def walk(frames: int = 200, speed: float = 1.2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A walker in the world (y up, floor 0), 5 m before the camera: times, joints (frames, 17, 3) relative to the
    pelvis, pelvis (frames, 3), and which feet stand (frames, 2)."""
    times = np.arange(frames) / FPS
    body = BODY.astype(float) * [1, -1, -1]
    stride, period = speed * 1.0, 1.0
    joints, down = np.tile(body, (frames, 1, 1)), np.zeros((frames, 2), bool)
    pelvis = np.stack([speed * times - 2, np.full(frames, 0.82 + ANKLE_HEIGHT_M), np.full(frames, -5.0)], axis=1)
    for foot, (ankle, knee, lag) in enumerate(((6, 5, 0.0), (3, 2, 0.5))):
        phase = (times / period + lag) % 1
        stands = phase < 0.5
        ahead = np.where(stands, stride / 4 - stride * phase, -stride / 4 + stride * (phase - 0.5))
        lift = np.where(stands, 0, 0.15 * np.sin(2 * np.pi * (phase - 0.5)))
        joints[:, ankle, 0] = ahead
        joints[:, ankle, 1] += lift
        joints[:, knee, 0] = ahead / 2
        down[:, foot] = stands
    return times, joints, pelvis, down


def seen_by(true: World, joints: np.ndarray, pelvis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints and places of the world in the camera's axes."""
    return joints @ true.rotation, (pelvis - true.translation) @ true.rotation


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


# ---- Turning


def test_there_and_back_is_where_it_was() -> None:
    true = camera_at(1.6, 12, 3)
    points = np.random.default_rng(0).normal(size=(4, 17, 3))
    back = (to_world(points, true) - true.translation) @ true.rotation
    np.testing.assert_allclose(back, points, atol=1e-12)
    np.testing.assert_allclose(to_world(points, true), turned(points, true) + true.translation, atol=1e-12)


def test_unknown_places_stay_unknown() -> None:
    points = np.full((2, 3), np.nan)
    assert np.isnan(to_world(points, camera_at(1, 0))).all()


# ---- The floor


@pytest.mark.parametrize("height", [0.6, 1.6, 2.6])
@pytest.mark.parametrize("pitch", [-10, 0, 15, 35])
@pytest.mark.parametrize("roll", [-5, 0, 8])
def test_the_world_of_a_walker_is_found(height: float, pitch: float, roll: float) -> None:
    true = camera_at(height, pitch, roll)
    _, joints, pelvis, down = walk()
    body, places = seen_by(true, joints, pelvis)
    floor = Floor()
    floor.add(body, places, down.astype(float))
    found, reason = floor.world()
    assert found is not None and reason == ""
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    assert degrees(found.rotation[1], true.rotation[1]) < 1.5
    assert found.translation[1] == pytest.approx(height, abs=0.05)
    # The camera stands over the origin and looks along -z.
    np.testing.assert_allclose(found.translation[[0, 2]], 0)
    assert (found.rotation @ [0, 0, 1])[0] == pytest.approx(0, abs=1e-9)
    assert (found.rotation @ [0, 0, 1])[2] < 0
    ankles = to_world((body + places[:, None])[:, FEET], found)
    np.testing.assert_allclose(ankles[down][:, 1], ANKLE_HEIGHT_M, atol=0.06)


def test_everybody_shares_one_floor_and_it_does_not_matter_in_which_parts_they_came() -> None:
    true = camera_at(1.8, 15)
    _, joints, pelvis, down = walk(120)
    body, places = seen_by(true, joints, pelvis)
    other, there = seen_by(true, joints, pelvis - np.array([0, 0, 2]))
    whole, parts = Floor(), Floor()
    whole.add(body, places, down)
    whole.add(other, there, down)
    for n in range(0, 120, 15):
        parts.add(body[n : n + 15], places[n : n + 15], down[n : n + 15])
        parts.add(other[n : n + 15], there[n : n + 15], down[n : n + 15])
    one, two = whole.world()[0], parts.world()[0]
    assert one is not None and two is not None
    np.testing.assert_allclose(one.rotation, two.rotation, atol=1e-6)
    np.testing.assert_allclose(one.translation, two.translation, atol=1e-6)


def test_memory_does_not_grow_with_the_clip() -> None:
    _, joints, pelvis, down = walk(200)
    body, places = seen_by(camera_at(1.5, 10), joints, pelvis)
    floor = Floor()
    for _ in range(60):
        floor.add(body, places, down)
        assert len(floor._axes.rows) <= SAMPLES and len(floor._steps.rows) <= SAMPLES
    found, _ = floor.world()
    assert found is not None and found.translation[1] == pytest.approx(1.5, abs=0.05)


def test_without_evidence_there_is_no_world_but_a_reason() -> None:
    _, joints, pelvis, down = walk(LEAST_STANDING + 5)
    body, places = seen_by(camera_at(1.5, 10), joints, pelvis)
    assert "stands upright" in Floor().world()[1]
    nobody_down = Floor()
    nobody_down.add(body, places, np.zeros_like(down))
    assert nobody_down.world()[0] is None and "rarely" in nobody_down.world()[1]
    unplaced = Floor()
    unplaced.add(body, np.full_like(places, np.nan), down)
    assert unplaced.world()[0] is None


def test_people_who_lean_every_way_tell_no_up() -> None:
    _, joints, pelvis, down = walk(200)
    body, places = seen_by(camera_at(1.5, 0), joints, pelvis)
    floor = Floor()
    for n in range(200):
        angle = np.radians(40) * np.sin(n)
        lean = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        floor.add(body[n : n + 1] @ lean.T, places[n : n + 1], down[n : n + 1])
    found, reason = floor.world()
    assert found is None and "lean" in reason


def test_feet_on_different_heights_are_no_floor() -> None:
    _, joints, pelvis, down = walk(200)
    floor = Floor()
    for step in (0.0, 1.5, 3.0):
        body, places = seen_by(camera_at(1.5, 10), joints, pelvis + np.array([0, step, 0]))
        floor.add(body, places, down)
    found, reason = floor.world()
    assert found is None and reason


def test_a_camera_that_looks_straight_down_has_no_world() -> None:
    _, joints, pelvis, down = walk(200)
    body, places = seen_by(camera_at(6.0, 75), joints, pelvis)
    floor = Floor()
    floor.add(body, places, down)
    found, reason = floor.world()
    assert found is None and "tilted" in reason


# ---- Feet


def test_the_feet_of_a_walker_are_told() -> None:
    true = camera_at(1.5, 8)
    times, joints, pelvis, down = walk()
    body, places = seen_by(true, joints, pelvis)
    told = contacts(times, pixels_of(body, places, CAMERA), body, places, CAMERA.focal_px)
    inner = slice(10, -10)
    assert (told[inner] == down[inner]).mean() > 0.85
    assert down[inner][told[inner] == 1].mean() > 0.85


def pixels_of(body: np.ndarray, places: np.ndarray, camera: Camera, score: float = 0.9) -> np.ndarray:
    ankles = project((body + places[:, None])[:, FEET], camera)
    return np.concatenate([ankles, np.full((*ankles.shape[:2], 1), score)], axis=-1)


def test_who_stands_has_both_feet_down_and_who_jumps_has_none() -> None:
    times = np.arange(50) / FPS
    body, places = np.tile(BODY, (50, 1, 1)), np.tile([0.0, 0, 5], (50, 1))
    assert (contacts(times, pixels_of(body, places, CAMERA), body, places, 1000.0) == 1).all()
    high = places - np.stack([0 * times, 2.5 * times, 0 * times], axis=1)
    assert (contacts(times, pixels_of(body, high, CAMERA), body, high, 1000.0)[3:-3] == 0).all()


def test_of_hidden_or_unplaced_feet_nothing_is_said() -> None:
    times = np.arange(20) / FPS
    body, places = np.tile(BODY, (20, 1, 1)), np.tile([0.0, 0, 5], (20, 1))
    pixels = pixels_of(body, places, CAMERA)
    pixels[:, 1, 2] = 0.1
    told = contacts(times, pixels, body, places, 1000.0)
    assert (told[:, 0] == 1).all() and np.isnan(told[:, 1]).all()
    assert np.isnan(contacts(times, pixels, body, np.full_like(places, np.nan), 1000.0)).all()
    assert contacts(times[:0], pixels[:0], body[:0], places[:0], 1000.0).shape == (0, 2)
    assert np.isnan(contacts(times[:1], pixels[:1], body[:1], places[:1], 1000.0)).all()


# ---- Paths


def slide(joints: np.ndarray, places: np.ndarray, down: np.ndarray) -> float:
    """Mean way of standing feet from frame to frame, metres."""
    ankles = joints[:, FEET] + places[:, None]
    stands = down[1:] & down[:-1]
    return float(np.linalg.norm(np.diff(ankles, axis=0), axis=-1)[stands].mean())


def test_feet_that_stand_do_not_slide_and_the_path_stays() -> None:
    true = camera_at(1.6, 10)
    times, joints, pelvis, down = walk()
    body, places = seen_by(true, joints, pelvis)
    random = np.random.default_rng(0)
    rough = places + random.normal(0, [0.01, 0.01, 0.06], places.shape)
    for world in (None, true):
        calm = settle(times, body, rough, down, world)
        assert slide(body, calm, down) < 0.1 * slide(body, rough, down) < 0.02
        assert np.linalg.norm(calm - places, axis=1).mean() < np.linalg.norm(rough - places, axis=1).mean()


def test_with_a_world_standing_feet_are_drawn_to_its_floor() -> None:
    true = camera_at(1.6, 10)
    times, joints, pelvis, down = walk()
    body, places = seen_by(true, joints, pelvis + np.array([0, 0.2, 0]))
    calm = settle(times, body, places, down, true)
    heights = to_world((body + calm[:, None])[:, FEET], true)[..., 1]
    assert np.abs(heights[down] - ANKLE_HEIGHT_M).mean() < 0.02


def test_a_path_without_slides_is_left_alone() -> None:
    times, joints, pelvis, down = walk()
    body, places = seen_by(camera_at(1.6, 10), joints, pelvis)
    ideal = settle(times, body, places, down)
    np.testing.assert_allclose(settle(times, body, ideal, down), ideal, atol=2e-3)
    np.testing.assert_allclose(settle(times, body, places, np.zeros_like(down)), places, atol=1e-9)


def test_settling_does_not_depend_on_where_the_camera_stands() -> None:
    times, joints, pelvis, down = walk()
    rough = pelvis + np.random.default_rng(1).normal(0, 0.03, pelvis.shape)
    here, there = camera_at(1.6, 10), camera_at(2.5, 30, 5)
    answers = []
    for true in (here, there):
        body, places = seen_by(true, joints, rough)
        answers.append(to_world(settle(times, body, places, down, true), true))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_unknown_places_stay_unknown_and_do_not_spoil_others() -> None:
    times, joints, pelvis, down = walk(60)
    body, places = seen_by(camera_at(1.6, 10), joints, pelvis)
    places[20:25] = np.nan
    body[40] = np.nan
    calm = settle(times, body, places, down)
    assert np.isnan(calm[20:25]).all() and np.isfinite(calm[:20]).all() and np.isfinite(calm[25:]).all()
    assert np.isnan(settle(times[:1], body[:1], np.full((1, 3), np.nan), down[:1])).all()
    assert settle(times[:0], body[:0], places[:0], down[:0]).shape == (0, 3)


def test_the_systems_are_solved() -> None:
    random = np.random.default_rng(2)
    beside = -random.uniform(0, 1, 30)
    diagonal = 3 + random.uniform(0, 1, (31, 3))
    right = random.normal(size=(31, 3))
    found = module._tridiagonal(diagonal, beside, right)
    for column in range(3):
        matrix = np.diag(diagonal[:, column]) + np.diag(beside, 1) + np.diag(beside, -1)
        np.testing.assert_allclose(matrix @ found[:, column], right[:, column], atol=1e-10)
