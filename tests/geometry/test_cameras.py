"""The camera: projection, distortion and back, and where people stand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import OutOfRange
from service.geometry.cameras import Camera, assumed_camera, exif_camera, given_camera, place, project, undistort

PLAIN = Camera(1100.0, (500.0, 480.0), None, "given")
# Human3.6M's strongest lens, in OpenCV's order.
CURVED = Camera(1149.1, (519.8, 501.4), (-0.2083, 0.2555, -0.0008, 0.0015, -0.0025), "given")
BOTH = pytest.mark.parametrize("camera", [PLAIN, CURVED], ids=["plain", "curved"])


def some_poses(count: int, seed: int = 0) -> NDArray[np.float64]:
    """(count, 17, 3) metres around the pelvis, about as large as people."""
    poses = np.random.default_rng(seed).normal(0, 1, (count, 17, 3)) * [0.25, 0.45, 0.25]
    return poses - poses[:, :1]


def some_positions(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform([-1, -0.5, 3], [1, 0.5, 8], (count, 3))


def seen(poses: NDArray[np.float64], positions: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    pixels = project(poses + positions[:, None], camera)
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 0.9)], axis=-1)


def test_the_assumed_camera_sees_55_degrees_on_the_longer_side() -> None:
    for width, height in ((640, 427), (427, 640)):
        camera = assumed_camera(width, height)
        assert camera.focal_px == pytest.approx(614.7, abs=0.1)
        assert (camera.center, camera.source) == ((width / 2, height / 2), "assumed")


def test_a_50_mm_lens_sees_the_diagonal_of_film_under_47_degrees() -> None:
    camera = exif_camera(4032, 3024, 50)
    assert np.degrees(2 * np.arctan(np.hypot(4032, 3024) / 2 / camera.focal_px)) == pytest.approx(46.8, abs=0.1)
    assert camera.source == "exif"


def test_a_given_camera_is_what_was_given() -> None:
    camera = given_camera(640, 480, focal_px=900, center=[310, 250], distortion=[0.1, 0, 0, 0])
    assert camera == Camera(900.0, (310.0, 250.0), (0.1, 0.0, 0.0, 0.0), "given")


def test_a_field_of_view_is_that_of_the_longer_side() -> None:
    assert given_camera(480, 640, field_of_view=90).focal_px == pytest.approx(320)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "camera"),
        ({"focal_px": 900.0, "field_of_view": 60.0}, "camera"),
        ({"focal_px": 0.0}, "camera.focal_px"),
        ({"focal_px": float("nan")}, "camera.focal_px"),
        ({"field_of_view": 180.0}, "camera.field_of_view"),
        ({"focal_px": 900.0, "center": [1.0]}, "camera.center"),
        ({"focal_px": 900.0, "center": [1.0, float("inf")]}, "camera.center"),
        ({"focal_px": 900.0, "distortion": [0.1, 0.2]}, "camera.distortion"),
    ],
)
def test_a_camera_that_cannot_be_is_refused_by_field(options: dict[str, float], field: str) -> None:
    with pytest.raises(OutOfRange) as refusal:
        given_camera(640, 480, **options)  # type: ignore[arg-type]
    assert refusal.value.field == field


def test_a_point_on_the_axis_is_seen_at_the_center() -> None:
    assert project([0, 0, 3], CURVED).tolist() == list(CURVED.center)


def test_right_is_right_and_down_is_down() -> None:
    assert (project([1, 1, 5], PLAIN) > PLAIN.center).all()


def test_what_is_not_in_front_is_not_seen() -> None:
    assert np.isnan(project([[0, 0, 0], [1, 1, -2]], PLAIN)).all()


def test_distortion_is_opencvs() -> None:
    points = some_poses(1)[0] + [0, 0, 4]
    lens = np.array([[CURVED.focal_px, 0, CURVED.center[0]], [0, CURVED.focal_px, CURVED.center[1]], [0, 0, 1]])
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), lens, np.array(CURVED.distortion))
    np.testing.assert_allclose(project(points, CURVED), np.asarray(expected)[:, 0], atol=1e-6)


@BOTH
def test_undistorted_pixels_are_those_of_the_camera_without_distortion(camera: Camera) -> None:
    points = some_poses(20) + some_positions(20)[:, None]
    straight = Camera(camera.focal_px, camera.center, None, camera.source)
    np.testing.assert_allclose(undistort(project(points, camera), camera), project(points, straight), atol=1e-3)


def test_a_pixel_that_no_ray_reaches_is_unknown_and_costs_the_others_nothing() -> None:
    barrel = Camera(500.0, (320.0, 240.0), (-0.3, 0.0, 0.0, 0.0), "given")
    straight = undistort(np.array([[330, 250], [5000, 240], [np.nan, np.nan]]), barrel)
    assert np.isnan(straight[1:]).all()
    assert straight[0] == pytest.approx([330, 250], abs=0.1)


@BOTH
def test_a_person_stands_where_it_was_seen(camera: Camera) -> None:
    poses, positions = some_poses(30), some_positions(30)
    np.testing.assert_allclose(place(poses, seen(poses, positions, camera), camera), positions, atol=2e-3)


def test_no_step_from_the_place_lowers_the_error_in_the_picture() -> None:
    poses, positions, random = some_poses(20), some_positions(20), np.random.default_rng(1)
    points = seen(poses, positions, PLAIN)
    points[..., :2] += random.normal(0, 6, points[..., :2].shape)
    points[..., 2] = random.uniform(0.1, 1, points.shape[:2])
    placed = place(poses, points, PLAIN).astype(np.float64)

    def error(where: NDArray[np.float64]) -> NDArray[np.float64]:
        miss = project(poses + where[:, None], PLAIN) - points[..., :2]
        total: NDArray[np.float64] = (points[..., 2] * (miss**2).sum(axis=-1)).sum(axis=-1)
        return total

    for step in 0.02 * np.concatenate([np.eye(3), -np.eye(3)]):
        assert (error(placed) <= error(placed + step)).all()


def test_a_person_twice_as_large_stands_twice_as_far() -> None:
    poses = some_poses(5)
    points = seen(poses, some_positions(5), PLAIN)
    np.testing.assert_allclose(place(2 * poses, points, PLAIN), 2 * place(poses, points, PLAIN), atol=2e-3)


def test_unknown_and_scoreless_joints_have_no_say() -> None:
    poses, positions = some_poses(1), some_positions(1)
    points = seen(poses, positions, PLAIN)
    points[0, 3] = np.nan, np.nan, 0
    points[0, 4] = 0, 0, 0
    poses[0, 5] = np.nan
    np.testing.assert_allclose(place(poses, points, PLAIN), positions, atol=2e-3)


@pytest.mark.parametrize(("known", "placed"), [(0, False), (1, False), (2, False), (3, True), (17, True)])
def test_fewer_than_three_joints_do_not_tell_a_place(known: int, placed: bool) -> None:
    poses = some_poses(1)
    points = seen(poses, some_positions(1), PLAIN)
    points[0, known:] = np.nan, np.nan, 0
    assert np.isfinite(place(poses, points, PLAIN)).all() == placed


def test_a_person_without_extent_in_the_picture_has_no_place() -> None:
    points = np.full((1, 17, 3), [600, 500, 0.9])
    assert np.isnan(place(some_poses(1), points, PLAIN)).all()


def test_a_person_who_would_stand_behind_the_camera_has_no_place() -> None:
    poses = some_poses(1)
    points = seen(poses, some_positions(1), PLAIN)
    points[..., :2] = 2 * np.array(PLAIN.center) - points[..., :2]  # upside down and mirrored
    assert np.isnan(place(poses, points, PLAIN)).all()


@BOTH
def test_many_are_placed_as_each_alone(camera: Camera) -> None:
    poses, positions = some_poses(6), some_positions(6)
    points = seen(poses, positions, camera)
    points[2, 2:] = np.nan
    together = place(poses.reshape(2, 3, 17, 3), points.reshape(2, 3, 17, 3), camera).reshape(6, 3)
    for i in range(6):
        np.testing.assert_allclose(together[i], place(poses[i], points[i], camera), atol=1e-6)
    assert np.isnan(together[2]).all()


def test_nobody_is_nowhere() -> None:
    nobody = np.zeros((0, 17, 3))
    assert place(nobody, nobody, CURVED).shape == (0, 3)
    assert project(nobody, CURVED).shape == undistort(nobody[..., :2], CURVED).shape == (0, 17, 2)
