"""One pinhole camera: from metres to pixels, lens distortion off again, and where a lifted person stands.

Camera axes: x right, y down, z away, metres. Pixels are the picture's, from its corner. Knows no pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import OutOfRange

Floats = NDArray[np.float64]

ASSUMED_FIELD_OF_VIEW_DEG = 55.0  # on the longer side, between a phone's main camera and a webcam
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)  # the diagonal is what CIPA's 35 mm equivalent keeps
LEAST_JOINTS = 3  # two give just as many equations as there are unknowns, and nothing to check a third with
UNDISTORT_ROUNDS = 30
UNDISTORT_TOLERANCE_PX = 0.1
PLACE_ROUNDS = 2  # Gauss-Newton from the linear answer; a third moves the position by well under a millimetre


@dataclass(frozen=True)
class Camera:
    """A camera with square pixels.

    focal_px: focal length in pixels.
    center: (x, y) of the optical axis in pixels, from the picture's corner.
    distortion: OpenCV's (k1, k2, p1, p2) or (k1, k2, p1, p2, k3), or None.
    source: where the figures come from.
    """

    focal_px: float
    center: tuple[float, float]
    distortion: tuple[float, ...] | None
    source: Literal["given", "exif", "assumed"]


def given_camera(
    width: int,
    height: int,
    focal_px: float | None = None,
    field_of_view: float | None = None,
    center: Sequence[float] | None = None,
    distortion: Sequence[float] | None = None,
) -> Camera:
    """The camera that a request describes; OutOfRange names the field that cannot be.

    Args:
        width, height: of the picture in pixels.
        focal_px, field_of_view: one of them; the field of view in degrees, on the longer side.
        center: (x, y) in pixels; by default the picture's middle.
        distortion: 4 or 5 numbers, as Camera has them.
    """
    if (focal_px is None) == (field_of_view is None):
        raise OutOfRange("`camera` needs either focal_px or field_of_view, not both and not neither", field="camera")
    if field_of_view is not None:
        if not 0 < field_of_view < 180:
            raise _refused("field_of_view", "degrees between 0 and 180", field_of_view)
        focal_px = _focal_of_view(width, height, field_of_view)
    if focal_px is None or not (math.isfinite(focal_px) and focal_px > 0):
        raise _refused("focal_px", "a number of pixels over 0", focal_px)
    if center is not None and (len(center) != 2 or not all(map(math.isfinite, center))):
        raise _refused("center", "two numbers, x and y in pixels", center)
    if distortion is not None and (len(distortion) not in (4, 5) or not all(map(math.isfinite, distortion))):
        raise _refused("distortion", "4 or 5 numbers, k1, k2, p1, p2 and k3", distortion)
    x, y = center if center is not None else (width / 2, height / 2)
    lens = tuple(float(number) for number in distortion) if distortion is not None else None
    return Camera(float(focal_px), (float(x), float(y)), lens, "given")


def exif_camera(width: int, height: int, focal_35mm: float) -> Camera:
    """The camera of a picture whose EXIF states its 35 mm equivalent focal length, in mm, over 0."""
    focal_px = focal_35mm * math.hypot(width, height) / FILM_DIAGONAL_MM
    return Camera(focal_px, (width / 2, height / 2), None, "exif")


def assumed_camera(width: int, height: int) -> Camera:
    """The camera of a picture that tells nothing: 55 degrees on its longer side."""
    focal_px = _focal_of_view(width, height, ASSUMED_FIELD_OF_VIEW_DEG)
    return Camera(focal_px, (width / 2, height / 2), None, "assumed")


def project(points3d: ArrayLike, camera: Camera) -> Floats:
    """Points (..., 3) in metres, camera axes, to pixels (..., 2); NaN for points not in front of the camera."""
    points = np.asarray(points3d, np.float64)
    depth = points[..., 2:]
    front = np.where(depth > 0, depth, np.nan)
    return _distort(points[..., :2] / front, camera) * camera.focal_px + camera.center


def undistort(points_px: ArrayLike, camera: Camera) -> Floats:
    """Pixels (..., 2) as the same camera without distortion would see them: (..., 2) pixels.

    Fixed-point iteration on the inverse of OpenCV's model. NaN where it finds no ray, far outside of what the
    distortion was measured on; NaN stays NaN.
    """
    pixels = np.asarray(points_px, np.float64)
    if camera.distortion is None:
        return pixels.copy()
    seen = (pixels - camera.center) / camera.focal_px
    with np.errstate(all="ignore"):  # where there is no ray the rounds run away, and are told by the last line
        ray = seen.copy()
        for _ in range(UNDISTORT_ROUNDS):
            ray = (seen - _tangential(ray, camera.distortion)) / _radial(ray, camera.distortion)
        miss = np.abs(_distort(ray, camera) - seen).max(axis=-1, keepdims=True) * camera.focal_px
        return np.where(miss < UNDISTORT_TOLERANCE_PX, ray, np.nan) * camera.focal_px + camera.center


def place(joints3d: ArrayLike, points: ArrayLike, camera: Camera) -> NDArray[np.float32]:
    """Where the pelvis stands: the translation that re-projects the joints onto the keypoints; see `stand`.

    Args:
        joints3d: (..., joints, 3) metres relative to the pelvis, camera axes.
        points: (..., joints, 3) x, y in pixels and score, of the same joints; unknown ones are NaN.

    Returns:
        (..., 3) float32 metres; NaN where it cannot be told.
    """
    joints, keypoints = np.asarray(joints3d, np.float64), np.asarray(points, np.float64)
    seen = np.concatenate([rays_of(keypoints[..., :2], camera), keypoints[..., 2:]], axis=-1)
    places = stand(poses_last(joints.reshape(-1, *joints.shape[-2:])), poses_last(seen.reshape(-1, *seen.shape[-2:])))
    return places.T.reshape(*joints.shape[:-2], 3).astype(np.float32)


def rays_of(points_px: ArrayLike, camera: Camera) -> Floats:
    """Pixels (..., 2) as x and y of the ray through them where it is a metre away: (..., 2)."""
    pixels = np.asarray(points_px, np.float64)
    straight = pixels if camera.distortion is None else undistort(pixels, camera)
    rays: Floats = (straight - camera.center) / camera.focal_px
    return rays


def poses_last(poses: NDArray[np.floating]) -> Floats:
    """(poses, joints, numbers) as (numbers, joints, poses): NumPy adds up rows of many far faster than many of 17."""
    return np.ascontiguousarray(poses.T, np.float64)


def stand(joints: Floats, seen: Floats) -> Floats:
    """Where the pelvis of each pose stands, by least squares of what its joints miss their rays by.

    A linear answer in closed form (the error of each ray equation), then PLACE_ROUNDS Gauss-Newton rounds on the error
    in the picture, each the same closed form. Squared errors are weighted by the keypoint's score.

    Args:
        joints: (3, joints, poses) metres relative to the pelvis, camera axes.
        seen: (3, joints, poses) x and y of each joint's ray, and its score; who is NaN or of score 0 does not count.

    Returns:
        (3, poses) metres; NaN with fewer than LEAST_JOINTS joints that count, or where one of these would not be in
        front of the camera.
    """
    usable = (seen[2] > 0) & np.isfinite(seen[0] + seen[1] + (joints[0] + joints[1] + joints[2]))
    whole = bool(usable.all())
    if not whole:
        joints, seen = np.where(usable, joints, 0), np.where(usable, seen, 0)
    rays, weights, flat, depth = seen[:2], seen[2], joints[:2], joints[2]
    with np.errstate(all="ignore"):  # people who cannot be placed run away, and are told at the end
        position = _least_squares(rays, rays * depth - flat, weights)
        linear = position
        for _ in range(PLACE_ROUNDS):
            away = depth + position[2]
            image = (flat + position[:2, None]) / away
            position = position + _least_squares(image, (rays - image) * away, weights / (away * away))
        # With joints far off their rays the rounds may leave the minimum that they started beside.
        better = _miss(flat, depth, rays, weights, position) <= _miss(flat, depth, rays, weights, linear)
        if not better.all():
            position = np.where(better, position, linear)
        nearest = (depth if whole else np.where(usable, depth, np.inf)).min(axis=0, initial=np.inf) + position[2]
        placed = (nearest > 0) & np.isfinite(position[0] + position[1] + position[2])
        if not whole or len(depth) < LEAST_JOINTS:
            placed &= usable.sum(axis=0) >= LEAST_JOINTS
        return position if placed.all() else np.where(placed, position, np.nan)


def _least_squares(rays: Floats, sides: Floats, weights: Floats) -> Floats:
    """t (3, poses) of least weighted squares in t_xy - ray * t_z = side, over (2, joints, poses) of x and y."""
    share = weights / weights.sum(axis=0)
    ray, side = np.einsum("jp,kjp->kp", share, rays), np.einsum("jp,kjp->kp", share, sides)
    rays, sides = rays - ray[:, None], sides - side[:, None]
    weighted = share * rays
    away = np.einsum("kjp,kjp->p", weighted, sides) / -np.einsum("kjp,kjp->p", weighted, rays)
    return np.concatenate([side + ray * away, away[None]])


def _miss(flat: Floats, depth: Floats, rays: Floats, weights: Floats, position: Floats) -> Floats:
    """Weighted sum of squared errors in the picture, (poses,)."""
    miss = (flat + position[:2, None]) / (depth + position[2]) - rays
    squares: Floats = np.einsum("kjp,kjp->p", weights * miss, miss)
    return squares


def _focal_of_view(width: int, height: int, degrees: float) -> float:
    return max(width, height) / 2 / math.tan(math.radians(degrees) / 2)


def _refused(name: str, limit: str, value: object) -> OutOfRange:
    return OutOfRange(f"`camera.{name}` must be {limit}; got {value!r}", field=f"camera.{name}", limit=limit)


def _distort(rays: Floats, camera: Camera) -> Floats:
    """(..., 2) x/z, y/z through the lens, OpenCV's model."""
    if camera.distortion is None:
        return rays
    return rays * _radial(rays, camera.distortion) + _tangential(rays, camera.distortion)


def _radial(rays: Floats, distortion: tuple[float, ...]) -> Floats:
    k1, k2, _, _, k3 = (*distortion, 0.0)[:5]
    squares = (rays**2).sum(axis=-1, keepdims=True)
    factor: Floats = 1 + squares * (k1 + squares * (k2 + squares * k3))
    return factor


def _tangential(rays: Floats, distortion: tuple[float, ...]) -> Floats:
    p1, p2 = distortion[2:4]
    x, y = rays[..., 0], rays[..., 1]
    squares = x**2 + y**2
    return np.stack([2 * p1 * x * y + p2 * (squares + 2 * x**2), p1 * (squares + 2 * y**2) + 2 * p2 * x * y], axis=-1)
