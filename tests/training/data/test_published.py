"""COCO 2017, Human3.6M and MPI-INF-3DHP: tiny files of their form, and what is said where one is missing or foreign."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.geometry.alignment import mpjpe
from training.data import human36m as h36m
from training.data.coco import cleaned_box, labelled_boxes, read_coco, read_detections
from training.data.joint_orders import (
    COUNTED_14,
    H36M_OF_3DHP,
    HUMAN36M_OF_32,
    TEST_OF_28,
    h36m_of_3dhp,
    mirror_of,
    mpii_to_h36m17,
)
from training.data.motion_takes import VIEWS, read_motion_takes
from training.data.mpi_inf_3dhp import read_3dhp_test, read_3dhp_training
from training.data.object_arrays import read_objects
from training.data.takes import Take, TakeMaker, denormalised, mirrored, normalised, window
from training.fixtures import FRAMES, walking, write_3dhp, write_coco, write_human36m

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_coco(folder / "coco")
    write_human36m(folder / "human36m")
    write_3dhp(folder / "3dhp")
    return folder


class Code:
    """Unpickled for real, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_data_file_is_not_run_and_is_named(tmp_path: Path) -> None:
    held = np.empty((), object)
    held[()] = {"S1": Code(tmp_path / "it ran")}
    np.savez(tmp_path / "data.npz", positions_3d=held)
    with pytest.raises(ValueError, match=rf"data.npz cannot be read: it asks to run `{os.name}.mkdir`"):
        read_objects(tmp_path / "data.npz", "")
    assert not (tmp_path / "it ran").exists()


def test_objects_and_plain_arrays_come_out_as_they_went_in(tmp_path: Path) -> None:
    held = np.empty((), object)
    held[()] = {"a": [np.arange(3.0), np.float32(2)], "b": {"c": np.ones((2, 2), order="F")}}
    plain = np.arange(6, dtype=np.int16).reshape(2, 3)
    np.savez_compressed(tmp_path / "data.npz", held=held, plain=plain, fortran=np.asfortranarray(plain))
    read = read_objects(tmp_path / "data.npz", "")
    assert read["held"]["a"][0].tolist() == [0, 1, 2] and read["held"]["a"][1] == 2
    assert read["held"]["b"]["c"].tolist() == [[1, 1], [1, 1]]
    assert np.array_equal(read["plain"], plain) and np.array_equal(read["fortran"], plain)


@pytest.mark.parametrize("body", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(body)
    with pytest.raises(ValueError, match=r"data\.npz cannot be read"):
        read_objects(tmp_path / "data.npz", "")


def test_the_17_of_32_have_the_published_parents() -> None:
    parents = [-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 12, 16, 17, 18, 19, 20, 19, 22, 12, 24, 25, 26, 27,
               28, 27, 30]  # fmt: skip
    # The collar joints lie on the thorax, which is where the chosen shoulders hang.
    parents[17] = parents[25] = 13
    chosen = []
    for joint in HUMAN36M_OF_32:
        parent = parents[joint]
        while parent != -1 and parent not in HUMAN36M_OF_32:
            parent = parents[parent]
        chosen.append(HUMAN36M_OF_32.index(parent) if parent != -1 else -1)
    assert chosen == [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]


@pytest.mark.parametrize("subject", [*h36m.TRAINING, *h36m.TESTING])
def test_cameras_look_at_the_room_from_its_corners(subject: str) -> None:
    for view in h36m.views(subject):
        assert view.turn @ view.turn.T == pytest.approx(np.eye(3), abs=1e-9)
        in_camera = view.from_world(np.array([[0.0, 0.0, 1.0]]))
        assert 3 < in_camera[0, 2] < 7, "metres to the middle of the room"
        assert np.abs(view.project(in_camera) - 500).max() < 250
        up = view.from_world(np.array([[0.0, 0.0, 2.0]])) - in_camera
        assert up[0, 1] < -0.9, "y points down"


def test_the_lens_is_the_data_sets_own() -> None:
    view = h36m.views("S1")[0]
    x, y, z = 0.3, -0.5, 4.0
    u, v = x / z, y / z
    square = u * u + v * v
    k, p = view.radial, view.tangential
    factor = 1 + k[0] * square + k[1] * square**2 + k[2] * square**3 + p[0] * u + p[1] * v
    expected = view.focal * (np.array([u, v]) * factor + p * square) + view.centre
    assert view.project(np.array([x, y, z])) == pytest.approx(expected)


def test_a_subjects_takes_come_in_all_views_root_relative_and_as_long_as_the_recording(root: Path) -> None:
    takes = h36m.read_human36m(root / "human36m", ["S9", "S11"], "gt")
    assert len(takes) == 4 * (3 + 2), "S11's first Directions is corrupt"
    assert not any(take.name.startswith("S11 Directions 5") for take in takes)
    assert {take.group for take in takes} == {"Directions", "WalkDog"}
    for take in takes:
        assert take.points.shape == (FRAMES, 17, 2) and take.joints.shape == (FRAMES, 17, 3)
        assert not take.joints[:, 0].any()


def test_exact_points_are_the_projected_joints_and_need_no_2d_file(root: Path) -> None:
    given = h36m.read_human36m(root / "human36m", ["S1"], "gt")
    exact = h36m.read_human36m(root / "human36m", ["S1"], "exact")
    for one, other in zip(given, exact, strict=True):
        np.testing.assert_allclose(one.points, other.points, atol=1e-2)
        assert mpjpe(one.joints, other.joints) == 0


@pytest.mark.parametrize(("detections", "joints"), [("cpn", 17), ("detectron2", 17), ("hourglass", 16)])
def test_every_2d_file_is_read_in_its_own_joints(root: Path, detections: str, joints: int) -> None:
    takes = h36m.read_human36m(root / "human36m", ["S1"], detections)
    assert {take.points.shape[1:] for take in takes} == {(joints, 2)}
    assert {take.layout for take in takes} == {h36m.DETECTIONS[detections][1]}


def test_a_missing_file_is_named_with_where_people_get_it(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no .*data_3d_h36m\.npz: Human3\.6M is had from"):
        h36m.read_human36m(tmp_path, ["S1"])
    with pytest.raises(ValueError, match=r"data_2d_h36m_ours-x\.npz: `python -m training detect human36m VIDEOS`"):
        h36m.read_human36m(root / "human36m", ["S1"], "ours-x")
    with pytest.raises(ValueError, match=r"data_train_3dhp\.npz: MPI-INF-3DHP is had from"):
        read_3dhp_training(tmp_path)
    with pytest.raises(ValueError, match=r"person_keypoints_val2017\.json: annotations_trainval2017\.zip"):
        read_coco(tmp_path, "val2017")
    with pytest.raises(ValueError, match=r"boxes\.json: COCO_val2017_detections_AP_H_56_person\.json"):
        read_detections(tmp_path / "boxes.json")


def test_what_a_file_lacks_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cpn, detectron2, hourglass, gt, exact or ours-NAME; got 'mask'"):
        h36m.read_human36m(root / "human36m", ["S1"], "mask")
    with pytest.raises(ValueError, match=r"lacks S2; it has S1"):
        h36m.read_human36m(root / "human36m", ["S2"])
    np.savez(tmp_path / h36m.JOINTS_FILE, positions=np.zeros(2))
    with pytest.raises(ValueError, match=r"lacks `positions_3d`; it has positions"):
        h36m.read_human36m(tmp_path, ["S1"])


def test_screen_coordinates_go_there_and_back() -> None:
    points = RNG.uniform(0, 1000, (4, 17, 2))
    np.testing.assert_allclose(denormalised(normalised(points, (1000, 1002)), (1000, 1002)), points, rtol=1e-5)
    assert normalised(np.array([[0.0, 0.0], [1000.0, 1002.0]]), (1000, 1002)).tolist() == [
        [-1.0, pytest.approx(-1.002)],
        [1.0, pytest.approx(1.002)],
    ]


@pytest.mark.parametrize(("layout", "joints"), [("h36m17", 17), ("coco17", 17), ("mpii16", 16), ("3dhp17", 17)])
def test_mirroring_twice_is_the_identity_in_every_order(layout: str, joints: int) -> None:
    points = RNG.normal(size=(3, joints, 2)).astype(np.float32)
    assert np.array_equal(mirrored(mirrored(points, layout), layout), points)
    assert (mirror_of(layout) != np.arange(joints)).sum() >= 12


def test_windows_repeat_the_ends() -> None:
    values = np.arange(5)
    assert window(values, 0, 5).tolist() == [0, 0, 0, 1, 2]
    assert window(values, 4, 3).tolist() == [3, 4, 4]


def take(frames: int = 5) -> Take:
    joints = walking(frames, 1).astype(np.float32)
    points = RNG.uniform(0, 1000, (frames, 17, 2)).astype(np.float32)
    return Take("t", "Walking", points, joints - joints[:, :1], (1000, 1000))


def test_an_epoch_has_every_frame_plain_and_mirrored_once() -> None:
    maker = TakeMaker([take(5), take(3)], 3, 4, seed=1)
    assert maker.steps_per_epoch == 4
    batches = [maker(number) for number in range(4)]
    seen = np.concatenate([batch.inputs[:, 1] for batch in batches])
    plain = np.concatenate([normalised(t.points, t.size) for t in maker.takes])
    expected = np.concatenate([plain, mirrored(plain, "h36m17")])

    def rows(values: np.ndarray) -> list[tuple[float, ...]]:
        return sorted(tuple(np.round(value.ravel(), 4).tolist()) for value in values)

    assert rows(seen) == rows(expected)


def test_a_batch_follows_from_its_number_alone() -> None:
    one, other = TakeMaker([take()], 3, 4, seed=1), TakeMaker([take()], 3, 4, seed=1)
    for _ in range(7):
        one(3)
    assert one(5).targets.shape == (4, 3, 17, 3)
    np.testing.assert_array_equal(one(5).targets, other(5).targets)
    assert not np.array_equal(one(0).targets, one(one.steps_per_epoch).targets)


def test_3dhp_comes_with_its_scenes_valid_frames_and_the_pelvis_at_nought(root: Path) -> None:
    training, test = read_3dhp_training(root / "3dhp"), read_3dhp_test(root / "3dhp")
    assert len(training) == 4 and {t.group for t in test} == {"GS", "noGS", "outdoor"}
    assert {t.size for t in test} == {(2048, 2048), (1920, 1080)}
    for each in (*training, *test):
        assert not each.joints[:, 14].any()
        assert np.abs(each.joints).max() < 2, "metres"
    assert [len(t.scored) for t in test] == [2 * FRAMES // 3] * 6


def test_3dhp_joints_in_our_order_have_the_head_on_top_and_the_right_on_the_right(root: Path) -> None:
    joints = h36m_of_3dhp(read_3dhp_test(root / "3dhp")[0].joints)
    assert (joints[:, 10, 1] < joints[:, 8, 1]).all() and (joints[:, 8, 1] < joints[:, 0, 1]).all()
    assert (joints[:, 3, 1] > joints[:, 2, 1]).all(), "y points down"
    assert sorted(H36M_OF_3DHP) == list(range(17)) and len(set(TEST_OF_28)) == 17
    assert set(range(17)) - set(COUNTED_14) == {0, 7, 9}


def test_mpii_gives_all_joints_but_the_ninth_which_is_made() -> None:
    points = RNG.random((2, 16, 3)).astype(np.float32)
    out = mpii_to_h36m17(points)
    assert np.array_equal(out[:, 3], points[:, 0]) and np.array_equal(out[:, 10], points[:, 9])
    np.testing.assert_allclose(out[:, 9, :2], (points[:, 8, :2] + points[:, 9, :2]) / 2)


def test_coco_is_read_with_its_boxes_cleaned_and_its_detections(root: Path) -> None:
    photos = read_coco(root / "coco", "val2017")
    assert [len(photo.people) for photo in photos.photos] == [2, 2]
    assert photos.photos[0].people[0].box.tolist() == [20, 10, 49, 99]
    boxes = read_detections(root / "coco" / "detections_val2017.json")
    assert len(boxes) == 4 and boxes[0].box.tolist() == [20, 10, 50, 100]
    assert len(read_detections(root / "coco" / "detections_val2017.json", least_score=0.95)) == 0
    assert len(labelled_boxes(photos.photos)) == 4


def test_a_motion_pack_is_filmed_from_around_and_the_same_every_time(motion_file: Path, tmp_path: Path) -> None:
    (tmp_path / "motion_train.npz").write_bytes(motion_file.read_bytes())
    exact = read_motion_takes(tmp_path, training=True, detections="exact")
    assert len(exact) == 2 * VIEWS and {take.group for take in exact} == {"walk", "dance"}
    for one in exact:
        assert (one.points > 0).all() and (one.points < 1000).all(), "the whole person is in the picture"
        assert not one.joints[:, 0].any()
        assert (one.joints[:, 10, 1] < one.joints[:, 3, 1]).all(), "y points down"
    again = read_motion_takes(tmp_path, training=True, detections="exact")
    assert all(np.array_equal(one.points, other.points) for one, other in zip(exact, again, strict=True))
    simulated = read_motion_takes(tmp_path, training=True, detections="simulated")
    misses = np.concatenate(
        [np.linalg.norm(a.points - b.points, axis=-1) for a, b in zip(exact, simulated, strict=True)]
    )
    assert 0.5 < np.median(misses) < 30
    assert misses[:, 13].mean() > misses[:, 8].mean(), "wrists most"


def test_motion_packs_that_there_are_not_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no .*motion_val\.npz: a motion pack"):
        read_motion_takes(tmp_path, training=False, detections="exact")
    with pytest.raises(ValueError, match="`exact` or `simulated`, got 'cpn'"):
        read_motion_takes(tmp_path, training=False, detections="cpn")


@pytest.mark.parametrize(
    ("box", "cleaned"),
    [
        ([10, 10, 20, 30], [10, 10, 19, 29]),
        ([-5, -5, 20, 30], [0, 0, 19, 29]),
        ([90, 90, 50, 50], [90, 90, 9, 9]),
        ([10, 10, 0, 30], None),
        ([200, 10, 20, 20], None),
    ],
)
def test_a_labelled_box_is_cleaned_as_the_official_code_does(box: list[float], cleaned: list[float] | None) -> None:
    found = cleaned_box(np.array(box, np.float32), 100, 100)
    assert (None if found is None else found.tolist()) == cleaned


def test_a_file_of_other_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 1}]))
    with pytest.raises(ValueError, match=r"boxes\.json is no list of results"):
        read_detections(tmp_path / "boxes.json")
