"""What the pictures promise: nothing is written into, everybody is there, unknown joints do no harm."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from service.geometry.skeletons import SKELETONS
from service.media.drawing import encode, overlay, side_by_side
from service.media.scene import IDS, LEFT, RIGHT, scene, stage_of
from service.people import Box, Joints3D, Keypoints, Person, Scale

STANDING = np.array(
    [
        *([0, 0, 0], [-0.12, 0, 0], [-0.14, 0.42, 0], [-0.15, 0.84, 0.08], [0.12, 0, 0], [0.14, 0.42, 0]),
        *([0.15, 0.84, 0.08], [0, -0.25, 0], [0, -0.5, 0], [0, -0.62, 0], [0, -0.74, 0], [0.17, -0.47, 0]),
        *([0.26, -0.2, 0.05], [0.3, 0.05, -0.1], [-0.17, -0.47, 0], [-0.26, -0.2, 0.05], [-0.3, 0.05, -0.1]),
    ],
    np.float32,
)
AS_COCO = [9, 9, 9, 9, 9, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3]


def picture(width: int = 320, height: int = 240) -> np.ndarray:
    return np.full((height, width, 3), 140, np.uint8)


def person(number: int = 0, x: float = 160, score: float = 0.9, position: Sequence[float] | None = (0, 0, 4)) -> Person:
    points = np.ones((17, 3), np.float32) * score
    points[:, :2] = STANDING[AS_COCO, :2] * 110 + [x, 120]
    points[:5, :2] += [[0, 0], [4, -4], [-4, -4], [9, 0], [-9, 0]]
    box = Box(x - 40, 30, 80, 190, 0.9)
    place = None if position is None else np.array(position, np.float32)
    return Person(number, box, Keypoints(points), Joints3D(STANDING.copy(), place))


def has(drawn: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> bool:
    """Whether there are pixels of about this colour; haze and anti-aliasing change it a little."""
    return int((np.abs(drawn.astype(int) - colour).max(axis=2) <= tolerance).sum()) >= 12


def test_nobody_leaves_the_photo_as_it_was() -> None:
    np.testing.assert_array_equal(overlay(picture(), []), picture())


def test_the_photo_and_the_people_are_left_as_they_were() -> None:
    photo, someone = picture(), person()
    kept = someone.keypoints.points.copy(), STANDING.copy()
    overlay(photo, [someone])
    side_by_side(photo, [someone])
    np.testing.assert_array_equal(photo, picture())
    np.testing.assert_array_equal(someone.keypoints.points, kept[0])
    assert someone.lifted is not None
    np.testing.assert_array_equal(someone.lifted.joints, kept[1])


def test_left_and_right_have_their_colours_where_the_limbs_are() -> None:
    drawn = overlay(picture(), [person()])
    assert has(drawn[:, 160:], LEFT)  # who faces the camera has the left limbs on the picture's right
    assert has(drawn[:, :160], RIGHT)
    assert not has(drawn[100:, :150], LEFT, 30)
    assert has(drawn, IDS[0])


def test_only_where_the_person_is_something_is_drawn() -> None:
    changed = (overlay(picture(), [person(x=60)]) != picture()).any(axis=2)
    assert changed[:, :120].any()
    assert not changed[:, 130:].any()


def test_a_joint_scored_low_is_fainter_than_one_scored_high_and_lower_still_is_not_drawn() -> None:
    sure, unsure, unseen = (
        int((overlay(picture(), [person(score=score)]) != picture()).any(axis=2)[70:].sum())
        for score in (0.9, 0.2, 0.01)
    )
    assert sure > 1.5 * unsure > 0
    assert unseen == 0


@pytest.mark.parametrize("skeleton", SKELETONS)
def test_every_skeleton_can_be_drawn(skeleton: str) -> None:
    joints = len(SKELETONS[skeleton].joints)
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(40, 200, (joints, 2)), np.ones((joints, 1))], axis=1).astype(np.float32)
    drawn = overlay(picture(), [replace(person(), keypoints=Keypoints(points, skeleton))])
    assert has(drawn, LEFT)
    assert has(drawn, RIGHT)


def test_unknown_and_far_joints_do_no_harm() -> None:
    someone = person()
    points, joints = someone.keypoints.points.copy(), STANDING.copy()
    points[[0, 9]] = np.nan, np.nan, 0
    points[[10, 15], :2] = 1e9, -1e9
    joints[[0, 8, 10, 16]] = np.nan
    broken = replace(someone, keypoints=Keypoints(points), lifted=Joints3D(joints, np.array([0, 0, 4], np.float32)))
    drawn = side_by_side(picture(), [broken, person(1)])
    assert has(drawn, LEFT)
    lost = replace(someone, lifted=Joints3D(np.full((17, 3), np.nan, np.float32), None))
    assert scene([lost], 100, 100).shape == (100, 100, 3)


def test_a_single_known_joint_can_be_shown() -> None:
    joints = np.full((17, 3), np.nan, np.float32)
    joints[0] = 0
    drawn = scene([replace(person(), lifted=Joints3D(joints, np.array([0, 0, 4], np.float32)))], 120, 90)
    assert drawn.shape == (90, 120, 3)


def test_the_scene_has_everybody_and_the_size_asked_for() -> None:
    people = [person(0, position=(-0.8, 0, 4)), person(1, position=(0.8, 0, 5)), person(2, position=(0, 0, 6))]
    drawn = scene(people, 500, 400)
    assert drawn.shape == (400, 500, 3)
    assert drawn.dtype == np.uint8
    assert all(has(drawn, IDS[number]) for number in range(3))
    assert drawn.mean() > 200  # light, as paper


def body_columns(drawn: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float(np.nonzero(np.abs(drawn.astype(int) - colour).max(axis=2) <= 40)[1].mean())


@pytest.mark.parametrize("positions", [[None, (0, 0, 4)], [(0, 0, 4), (np.nan, 0, 4)], [(0, 0, 4), (0, 0, 400)]])
def test_without_everybodys_place_they_stand_side_by_side_as_in_the_photo(
    positions: list[Sequence[float] | None],
) -> None:
    people = [person(0, x=250, position=positions[0]), person(1, x=60, position=positions[1])]
    drawn = scene(people, 400, 300, yaw_degrees=0)
    assert body_columns(drawn, IDS[1]) < body_columns(drawn, IDS[0]) - 50


def test_turned_half_round_left_and_right_change_places() -> None:
    front = scene([person()], 300, 300, yaw_degrees=0)
    back = scene([person()], 300, 300, yaw_degrees=180)
    legend = 260  # the rows above the legend
    assert body_columns(front[:legend], RIGHT) < 150 < body_columns(front[:legend], LEFT)
    assert body_columns(back[:legend], LEFT) < 150 < body_columns(back[:legend], RIGHT)


@pytest.mark.parametrize("yaw", range(-180, 180, 45))
def test_from_every_side_the_figure_stays_inside(yaw: int) -> None:
    people = [person(0, position=(-4, 0, 3)), person(1, position=(4, 0, 12))]
    drawn = scene(people, 300, 200, yaw_degrees=yaw)
    border = np.concatenate([drawn[:3].reshape(-1, 3), drawn[:, :3].reshape(-1, 3), drawn[:, -3:].reshape(-1, 3)])
    assert np.ptp(border.astype(int), axis=1).max() < 30  # paper and floor, no limb's colour


def test_side_by_side_holds_photo_view_and_caption() -> None:
    drawn = side_by_side(picture(640, 480), [person()])
    assert drawn.shape[1] > 640 + 400
    assert 480 < drawn.shape[0] < 540
    assert drawn[485:, :].min() < 150  # letters
    other = replace(person(), lifted=Joints3D(STANDING, None, Scale(1.91, "given")))
    assert (side_by_side(picture(640, 480), [other])[485:] != drawn[485:]).any()


@pytest.mark.parametrize(("size", "height"), [((64, 48), 480), ((3000, 2000), 1080), ((640, 600), 600)])
def test_the_photo_is_brought_to_a_height_for_reading(size: tuple[int, int], height: int) -> None:
    drawn = side_by_side(picture(*size), [])
    assert height < drawn.shape[0] < 1.1 * height
    assert tuple(drawn[height // 2, 10]) == (140, 140, 140)


def test_people_without_3d_are_shown_in_2d_alone() -> None:
    drawn = side_by_side(picture(640, 480), [replace(person(), lifted=None)])
    assert has(drawn[:, :640], LEFT)
    assert not has(drawn[:, 640:], LEFT, 30)


@pytest.mark.parametrize(("kind", "magic", "tolerance"), [("png", b"\x89PNG", 0), ("jpeg", b"\xff\xd8\xff", 12)])
def test_encoding_keeps_the_pixels_and_the_order_of_colours(kind: str, magic: bytes, tolerance: int) -> None:
    drawn = np.zeros((32, 48, 3), np.uint8)
    drawn[:, :24], drawn[:, 24:] = LEFT, RIGHT
    body = encode(drawn, kind)
    assert body.startswith(magic)
    back = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert back is not None
    np.testing.assert_allclose(back[:, [4, 44]], drawn[:, [4, 44]], atol=tolerance)


def test_encoding_as_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="it can be png or jpeg"):
        encode(picture(), "tiff")


# ---- A clip's stage


def joints_at(*positions: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    poses = [person(0, position=each).lifted for each in positions]
    return (
        np.array([pose.joints for pose in poses if pose], np.float64),
        np.array([pose.position for pose in poses if pose], np.float64),
    )


def test_on_a_clips_stage_who_walks_moves_and_the_floor_does_not() -> None:
    walk = [(-1.0, 0, 4), (0.0, 0, 4), (1.0, 0, 4)]
    stage = stage_of([0], *joints_at(*walk))
    assert stage is not None and stage.slots is None
    frames = [scene([person(0, position=each)], 400, 300, yaw_degrees=0, stage=stage) for each in walk]
    columns = [body_columns(frame, IDS[0]) for frame in frames]
    assert columns[0] < columns[1] - 40 < columns[2] - 80
    empty = scene([], 400, 300, yaw_degrees=0, stage=stage)
    for frame in frames:
        assert (np.abs(frame.astype(int) - empty).max(axis=2) <= 2).mean() > 0.7


@pytest.mark.parametrize("positions", [[(0, 0, 4), (np.nan,) * 3], [(0, 0, 4), (0, 0, 40)]])
def test_without_most_places_or_too_far_apart_a_clips_people_stand_side_by_side(positions: list[Any]) -> None:
    stage = stage_of([4, 7], *joints_at(*positions))
    assert stage is not None and stage.slots == {4: 0, 7: 1}
    drawn = scene([person(7, position=None), person(4, position=None)], 400, 300, yaw_degrees=0, stage=stage)
    assert body_columns(drawn, IDS[4]) < body_columns(drawn, IDS[7]) - 50


def test_a_wild_guess_does_not_shrink_the_stage() -> None:
    joints, positions = joints_at(*[(0.01 * n, 0, 4) for n in range(400)])
    calm = stage_of([0], joints, positions)
    joints[7, 3] = 900, -900, 900
    wild = stage_of([0], joints, positions)
    assert calm is not None and wild is not None
    np.testing.assert_allclose(wild.high - wild.low, calm.high - calm.low, atol=0.1)


def test_nobody_lifted_has_no_stage_and_a_world_has_its_floor_at_0() -> None:
    joints, positions = joints_at((0, 0, 4))
    assert stage_of([0], joints * np.nan, positions) is None
    stage = stage_of([0], joints, positions, world=True)
    assert stage is not None and stage.high[1] == 0 and stage.world
