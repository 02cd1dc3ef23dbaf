"""Cameras in the world."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.synthetic.views import View, framing, looking, random_eye, random_roll

SIZE = (640, 480)
POINTS = np.random.default_rng(0).uniform([-1, -1, 0], [1, 1, 2], (40, 3))


@pytest.fixture
def view() -> View:
    return looking((0.5, -4, 1.5), (0, 0, 1), 0.2, 600, SIZE)


def test_what_it_looks_at_is_in_the_middle(view: View) -> None:
    x, y, depth = view.project([0, 0, 1])
    assert (x, y) == pytest.approx((320, 240), abs=1e-3)
    assert depth == pytest.approx(np.linalg.norm([0.5, -4, 0.5]))


def test_its_axes_are_right_down_and_away() -> None:
    level = looking((0, -5, 1), (0, 0, 1), 0, 600, SIZE)
    np.testing.assert_allclose(level.axes.T, [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)
    assert np.linalg.det(level.axes) == pytest.approx(1)


def test_a_camera_that_looks_straight_down_has_axes_too() -> None:
    axes = looking((0, 0, 5), (0, 0, 0), 0.3, 600, SIZE).axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)


def test_a_roll_turns_the_picture_about_its_middle() -> None:
    eye, up = (0, -5, 1), np.array([0, 0, 2.0])
    level = looking(eye, (0, 0, 1), 0, 600, SIZE).project(up)[:2] - [320, 240]
    rolled = looking(eye, (0, 0, 1), np.pi / 2, 600, SIZE).project(up)[:2] - [320, 240]
    np.testing.assert_allclose(level, [0, -120], atol=1e-3)
    np.testing.assert_allclose(rolled, [-120, 0], atol=1e-3)


def test_rays_go_through_what_was_projected(view: View) -> None:
    flat = view.project(POINTS)
    back = view.eye + view.rays(flat[:, :2]) * flat[:, 2:]
    np.testing.assert_allclose(back, POINTS, atol=1e-4)


def test_points_behind_it_have_no_place_in_the_picture(view: View) -> None:
    assert np.isnan(view.project([0, -9, 1])[:2]).all()


def test_more_pixels_see_the_same(view: View) -> None:
    np.testing.assert_allclose(view.enlarged(2).project(POINTS)[:, :2], 2 * view.project(POINTS)[:, :2], rtol=1e-5)


def test_framed_points_fill_the_picture_but_for_the_room(view: View) -> None:
    framed = framing(view, POINTS, 0.75, 1.5, (300, 400))
    flat = framed.project(POINTS)[:, :2]
    low, high = flat.min(0), flat.max(0)
    np.testing.assert_allclose((low + high) / 2, [150, 200], atol=12)
    share = np.maximum((high - low)[0] / 300, (high - low)[1] / 400)
    assert share == pytest.approx(1 / 1.5, rel=0.06)
    np.testing.assert_array_equal(framed.eye, view.eye)


def test_eyes_are_as_far_as_asked_and_mostly_above_the_floor() -> None:
    rng = np.random.default_rng(0)
    eyes = np.stack([random_eye((1, 2, 1), 3, rng) for _ in range(300)])
    np.testing.assert_allclose(np.linalg.norm(eyes - [1, 2, 1], axis=1), 3)
    assert (eyes[:, 2] > 0).all() and np.ptp(eyes[:, 2]) > 2
    angles = np.arctan2(eyes[:, 1] - 2, eyes[:, 0] - 1)
    assert np.histogram(angles, 6, (-np.pi, np.pi))[0].min() > 20


def test_most_cameras_are_nearly_level() -> None:
    rng = np.random.default_rng(0)
    rolls = np.abs([random_roll(rng) for _ in range(400)])
    assert np.quantile(rolls, 0.6) < np.radians(8) and rolls.max() > np.radians(15)
