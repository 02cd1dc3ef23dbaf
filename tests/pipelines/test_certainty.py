"""What a joint's score says: read from a manifest, made of peaks, and told by photos and clips alike."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from service.geometry.skeletons import SKELETONS, mirror_order
from service.media.pictures import Picture
from service.pipelines.certainty import FIGURES, KIND_INDEX, KINDS, SIDE, Certainty
from service.pipelines.lift import LiftPipeline
from service.pipelines.photo import PhotoAnswer, PhotoOptions, PhotoPipeline
from service.pipelines.story import FILLED_SCORE
from service.store.store import Store, embedded_store

from .conftest import evenly
from .fake import FRAMES, RED, Array, Fakes, call, draw, running, street
from .test_story import facing, run, telling

TABLE: dict[str, Any] = {
    kind: [1.0 + n / 10, 0.3 - n / 20, n / 20, n / 30, (n - 4) / 2] for n, kind in enumerate(KINDS)
}
BOX = np.array([20, 30, 90, 250], np.float32)


def read(table: dict[str, Any]) -> Certainty:
    certainty = Certainty.read(table)
    assert certainty is not None
    return certainty


def peaks(*heights: float) -> Array:
    poses = np.zeros((len(heights), 17, 3), np.float32)
    poses[..., :2] = np.arange(34).reshape(17, 2)
    poses[..., 2] = np.array(heights)[:, None]
    return poses


def boxes(count: int) -> Array:
    return np.repeat(BOX[None], count, 0)


def test_left_and_right_are_one_kind_and_every_joint_has_one() -> None:
    assert KINDS == ("nose", "eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    np.testing.assert_array_equal(KIND_INDEX, KIND_INDEX[mirror_order(SKELETONS["coco17"])])


def test_scores_are_the_sigmoid_of_the_kinds_line_over_the_figures() -> None:
    pose = peaks(0.5)[0]
    pose[11, 2] = 0.8
    own, whole, side, shape, offset = TABLE["hip"]
    line = own * np.log(4) + whole * np.log(4) / 17 + side * np.log(np.sqrt(90 * 250) / SIDE)
    line += shape * np.log(90 / 250) ** 2 + offset
    assert read(TABLE).of(pose, BOX)[11, 2] == pytest.approx(1 / (1 + np.exp(-line)), abs=1e-6)


def test_places_stay_and_what_was_given_is_not_written_to() -> None:
    given = peaks(0.3, 0.9)
    before = given.copy()
    scored = read(TABLE).of(given, boxes(2))
    np.testing.assert_array_equal(given, before)
    np.testing.assert_array_equal(scored[..., :2], given[..., :2])


def test_a_higher_peak_is_a_higher_score_and_all_lie_between_0_and_1() -> None:
    scored = read(TABLE).of(peaks(0, 1e-9, 0.01, 0.2, 0.5, 0.9, 0.998, 1), boxes(8))[..., 2]
    assert (np.diff(scored, axis=0) >= 0).all() and (np.diff(scored[2:-1], axis=0) > 0).all()
    assert (scored > 0).all() and (scored < 1).all()


def test_a_joint_is_less_certain_in_a_pose_that_is_unsure_as_a_whole() -> None:
    sure, unsure = peaks(0.9)[0], peaks(0.1)[0]
    sure[0, 2] = unsure[0, 2] = 0.6
    certainty = read(TABLE)
    assert certainty.of(unsure, BOX)[0, 2] < certainty.of(sure, BOX)[0, 2]


def test_a_box_counts_by_its_shape_whichever_side_is_the_longer() -> None:
    certainty, pose, square = read(TABLE), peaks(0.7)[0], np.array([20, 30, 150, 150], np.float32)
    expected = certainty.of(pose, BOX)
    np.testing.assert_allclose(certainty.of(pose, BOX[[0, 1, 3, 2]]), expected, rtol=1e-6)
    (hip, nose) = 11, 0
    assert certainty.of(pose, square)[hip, 2] < expected[hip, 2]  # of the same area
    assert certainty.of(pose, square)[nose, 2] == expected[nose, 2]  # whose weight is 0


def test_a_box_counts_by_its_size() -> None:
    certainty, pose, small = read(TABLE), peaks(0.7)[0], BOX * np.array([1, 1, 0.3, 0.3], np.float32)
    (hip, nose) = 11, 0
    assert certainty.of(pose, small)[hip, 2] < certainty.of(pose, BOX)[hip, 2]
    assert certainty.of(pose, small)[nose, 2] == certainty.of(pose, BOX)[nose, 2]


def test_joints_that_are_not_known_change_nothing_for_the_others() -> None:
    certainty, pose = read(TABLE), peaks(0.7)[0]
    pose[3] = np.nan
    scored = certainty.of(pose, BOX)
    known = np.arange(17) != 3
    np.testing.assert_allclose(scored[known], certainty.of(peaks(0.7)[0], BOX)[known], rtol=1e-6)
    assert np.isnan(scored[3]).all()


def test_one_by_one_or_all_at_once_is_the_same_and_nobody_is_nobody() -> None:
    certainty, poses = read(TABLE), peaks(0.1, 0.6, 0.95)
    each = [certainty.of(pose, BOX) for pose in poses]
    np.testing.assert_array_equal(certainty.of(poses, boxes(3)), each)
    assert certainty.of(poses[:0], boxes(0)).shape == (0, 17, 3)


def test_without_a_table_there_is_none() -> None:
    assert Certainty.read({}) is None


@pytest.mark.parametrize(
    "change",
    [{"hip": [1.0, 0.0]}, {"hip": [1.0, 0.0, 0.0, 0.0, "high"]}, {"hip": 1.0}, {"tail": [1.0] * 5}, {"hip": None}],
)
def test_a_table_that_says_something_else_is_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`certainty` must have 5 numbers \(peak, .*\) for each of nose, .*, got"):
        Certainty.read(TABLE | change)


def test_every_embedded_detector_has_a_table_that_can_be_read() -> None:
    detectors = [entry for entry in Store(embedded_store()).entries() if entry.manifest.role == "pose"]
    assert len(detectors) >= 2
    assert all(Certainty.read(entry.manifest.certainty) is not None for entry in detectors)


def test_a_photo_tells_certainties_and_its_states_and_3d_go_by_the_peaks() -> None:
    async def ask(certainty: Certainty | None, mirrored: bool) -> PhotoAnswer:
        fakes = Fakes()
        async with running(fakes.person, fakes.pose, fakes.lift) as (person, pose, lift):
            photo = PhotoPipeline(person, pose, LiftPipeline(lift, FRAMES), certainty=certainty)
            scene = draw(street(), (40, 40, 60, 150), RED)
            options = PhotoOptions(states=True, mirrored=mirrored)
            return await photo.find_people(Picture(scene, None, "png"), options, call())

    certainty = read(TABLE)
    for mirrored in (False, True):
        plain, scored = asyncio.run(ask(None, mirrored)), asyncio.run(ask(certainty, mirrored))
        (one,), (other,) = plain.people, scored.people
        np.testing.assert_array_equal(other.keypoints.points, certainty.of(one.keypoints.points, one.box.xywh))
        assert scored.states == plain.states and "occluded" in (plain.states or [[]])[0]
        assert one.lifted is not None and other.lifted is not None
        np.testing.assert_array_equal(other.lifted.joints, one.lifted.joints)
        assert other.box == one.box


def test_a_clip_tells_certainties_and_of_frames_that_nobody_saw_no_more_than_before() -> None:
    certainty = Certainty(np.array([[0.0] * len(FIGURES) + [3.0]] * len(KINDS)))  # 0.95 whatever the peak

    def scene(n: int) -> dict[int, Array]:
        return {} if 30 <= n < 36 else {0: facing(200)}

    plain = run(evenly(60), scene, telling(states=True, raw=True))
    scored = run(evenly(60), scene, telling(states=True, raw=True, certainty=certainty))
    assert len(plain.lines) == len(scored.lines) == 60
    for one, other in zip(plain.lines, scored.lines, strict=True):
        (before,), (after,) = one.people, other.people
        assert after.states == before.states and after.filled == (30 <= one.index < 36)
        np.testing.assert_array_equal(after.person.keypoints.points[:, :2], before.person.keypoints.points[:, :2])
        expected = FILLED_SCORE if after.filled else 1 / (1 + np.exp(-3.0))
        np.testing.assert_allclose(after.person.keypoints.points[:, 2], expected, atol=1e-6)
        if not after.filled:
            assert after.raw is not None
            np.testing.assert_allclose(after.raw[:, 2], expected, atol=1e-6)
