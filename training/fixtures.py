"""Tiny made data sets in the form of the real ones, for `python -m training check` and tests: nothing of them is true.

COCO 2017 (drawn people), Human3.6M and MPI-INF-3DHP (a stick figure that walks through the real cameras' views), a
motion pack, and the labels of rendered clips with 2D points of two detectors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .data.human36m import TESTING, TRAINING, views
from .data.joint_orders import H36M_OF_3DHP, HUMAN36M_OF_32, MPII16

Floats = NDArray[np.float64]

FRAMES = 12
PHOTO_SIZE = (160, 120)
# A standing person: COCO's joints in a box of 1 x 1, and Human3.6M's in metres around the hip, z up.
COCO_STANDING: Floats = np.array(
    [[.5, .1], [.54, .08], [.46, .08], [.58, .1], [.42, .1], [.68, .25], [.32, .25], [.75, .4], [.25, .4], [.78, .54],
     [.22, .54], [.6, .55], [.4, .55], [.62, .75], [.38, .75], [.63, .95], [.37, .95]]
)  # fmt: skip
STANDING: Floats = np.array(
    [[0, 0, 0], [-.13, 0, 0], [-.14, 0, -.45], [-.14, 0, -.88], [.13, 0, 0], [.14, 0, -.45], [.14, 0, -.88],
     [0, 0, .25], [0, 0, .5], [0, -.02, .62], [0, -.02, .74], [.17, 0, .45], [.2, 0, .17], [.22, -.05, -.07],
     [-.17, 0, .45], [-.2, 0, .17], [-.22, -.05, -.07]]
)  # fmt: skip


def write_fixtures(root: Path) -> Path:
    """Writes all of them under `root` (coco/, human36m/, 3dhp/, motion/, rendered/) and returns it."""
    write_coco(root / "coco")
    write_human36m(root / "human36m")
    write_3dhp(root / "3dhp")
    write_motion(root / "motion")
    write_rendered(root / "rendered")
    return root


def walking(frames: int, seed: int) -> Floats:
    """(frames, 17, 3) world metres of the stick figure."""
    rng = np.random.default_rng(seed)
    swing = np.sin(np.arange(frames) / 3 + rng.uniform(0, 6))[:, None] * rng.uniform(0.05, 0.3)
    joints = np.repeat(STANDING[None], frames, axis=0)
    joints[:, [2, 3, 12, 13], 1] += swing
    joints[:, [5, 6, 15, 16], 1] -= swing
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    path = np.array([0, 0, 0.93]) + np.arange(frames)[:, None] * np.array([0.01, 0, 0])
    walked: Floats = joints @ turn.T + path[:, None]
    return walked


def write_coco(root: Path) -> None:
    """annotations/person_keypoints_{train,val}2017.json, their pictures, and a file of detected boxes."""
    (root / "annotations").mkdir(parents=True)
    boxes = [[20.0, 10.0, 50.0, 100.0], [90.0, 20.0, 45.0, 90.0]]
    for split, first in (("train2017", 1), ("val2017", 11)):
        (root / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        detections: list[dict[str, Any]] = []
        for image in range(first, first + 2):
            picture = np.random.default_rng(image).integers(60, 120, (PHOTO_SIZE[1], PHOTO_SIZE[0], 3)).astype(np.uint8)
            for box in boxes:
                joints = np.array(box[:2]) + COCO_STANDING * box[2:]
                for joint, (x, y) in enumerate(joints):
                    cv2.circle(picture, (round(x), round(y)), 3, (15 * joint, 255 - 15 * joint, 255), -1)
                visible = np.full(17, 2)
                visible[13:] = 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                        "keypoints": np.column_stack([joints, visible]).ravel().tolist(),
                        "num_keypoints": 17,
                    }
                )
                detections.append({"image_id": image, "category_id": 1, "bbox": box, "score": 0.9})
            name = f"{image:012d}.png"
            cv2.imwrite(str(root / split / name), picture)
            images.append({"id": image, "file_name": name, "width": PHOTO_SIZE[0], "height": PHOTO_SIZE[1]})
        categories = [{"id": 1, "name": "person", "keypoints": [str(joint) for joint in range(17)]}]
        told = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(told))
        (root / f"detections_{split}.json").write_text(json.dumps(detections))


def write_human36m(root: Path, frames: int = FRAMES) -> None:
    """3D of all seven subjects, two takes of one action and one of another, and every kind of 2D file."""
    root.mkdir(parents=True)
    names = ("Directions", "Directions 1", "WalkingDog")
    world: dict[str, Any] = {}
    for number, subject in enumerate((*TRAINING, *TESTING)):
        world[subject] = {}
        for take, name in enumerate(names):
            joints = np.zeros((frames, 32, 3), np.float32)
            joints[:, list(HUMAN36M_OF_32)] = walking(frames, 10 * number + take)
            world[subject][name] = joints
    _save(root / "data_3d_h36m.npz", positions_3d=world)
    for middle, order in (
        ("gt", "h36m17"), ("cpn_ft_h36m_dbb", "h36m17"), ("detectron_pt_coco", "coco17"), ("sh_ft_h36m", "mpii16"),
        ("ours-w32", "h36m17"), ("ours-w32-attention", "h36m17"),
    ):  # fmt: skip
        rng = np.random.default_rng(5)
        points: dict[str, Any] = {}
        for subject, takes in world.items():
            points[subject] = {}
            for name, joints in takes.items():
                seen = []
                for view in views(subject):
                    exact = view.project(view.from_world(joints[:, list(HUMAN36M_OF_32)]))
                    moved = _reordered(exact, order)
                    if middle != "gt":
                        moved = moved + rng.normal(0, 3, moved.shape)
                    # The videos are longer than the recordings.
                    seen.append(np.concatenate([moved, moved[-1:]]).astype(np.float32))
                points[subject][name] = seen
        _save(root / f"data_2d_h36m_{middle}.npz", positions_2d=points, metadata={"num_joints": 17})


def _reordered(points: Floats, order: str) -> Floats:
    """Roughly: a face is made of the head's top and middle."""
    if order == "mpii16":
        h36m = {"right_ankle": 3, "right_knee": 2, "right_hip": 1, "left_hip": 4, "left_knee": 5, "left_ankle": 6,
                "pelvis": 0, "thorax": 7, "upper_neck": 8, "head_top": 10, "right_wrist": 16, "right_elbow": 15,
                "right_shoulder": 14, "left_shoulder": 11, "left_elbow": 12, "left_wrist": 13}  # fmt: skip
        return points[:, [h36m[joint] for joint in MPII16]]
    if order == "coco17":
        return points[:, [9, 9, 9, 9, 9, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3]]
    return points


def write_3dhp(root: Path, frames: int = FRAMES) -> None:
    """Two training sequences of two cameras, and the six test sequences; the last third of each does not count."""
    root.mkdir(parents=True)
    order = np.argsort(H36M_OF_3DHP)

    def seen(seed: int, size: tuple[int, int]) -> dict[str, Any]:
        joints = walking(frames, seed)[:, order] * [1, 1, -1] + [0, 2.0, 3.0]  # z up becomes y down, 3 m away
        joints = joints[..., [0, 2, 1]]
        flat = joints[..., :2] / joints[..., 2:] * size[0] / 2 + np.array(size) / 2
        return {"data_2d": flat.astype(np.float32), "data_3d": (1000 * joints).astype(np.float32)}

    training = {
        f"S{subject} Seq1": [{camera: seen(subject, (2048, 2048)) for camera in ("0", "4")}, 25] for subject in (1, 2)
    }
    test = {}
    for number in range(1, 7):
        size = (1920, 1080) if number > 4 else (2048, 2048)
        test[f"TS{number}"] = {**seen(20 + number, size), "valid": np.arange(frames) < 2 * frames // 3}
    _save(root / "data_train_3dhp.npz", data=training)
    _save(root / "data_test_3dhp.npz", data=test)


def write_motion(root: Path, frames: int = FRAMES) -> None:
    """motion_{train,val}.npz, two sequences each."""
    root.mkdir(parents=True)
    for seed, split in enumerate(("train", "val")):
        walked = np.concatenate([walking(frames, 30 + seed), walking(frames, 40 + seed)])
        np.savez(
            root / f"motion_{split}.npz",
            joints=(walked - walked[:, :1]).astype(np.float16),
            root=walked[:, 0].astype(np.float32),
            seq_start=np.array([0, frames, 2 * frames]),
            seq_kind=np.array(["walk", "dance"]),
            seq_subject=np.array(["a", "b"]),
            fps=np.float32(50),
            up=np.array("z"),
            units=np.array("metre"),
        )


def write_rendered(root: Path, frames: int = FRAMES) -> None:
    """One clip's json, of one who is seen throughout and one who is gone in the middle, and what two detectors saw."""
    root.mkdir(parents=True)
    size, focal = np.array([160, 120]), 150.0
    told: list[dict[str, Any]] = [{"index": index, "people": []} for index in range(2 * frames)]
    points: dict[str, Floats] = {}
    for person in range(2):
        joints = walking(2 * frames, 50 + person)[..., [0, 2, 1]] * [1, -1, 1] + [0, 1, 4]  # z up becomes y down
        flat = focal * joints[..., :2] / joints[..., 2:] + size / 2
        for index in range(2 * frames):
            corner, end = flat[index].min(axis=0), flat[index].max(axis=0)
            told[index]["people"].append(
                {
                    "id": person,
                    "whole": 0.2 if person and index == frames else 0.9,
                    "bbox": [*corner, *(end - corner)],
                    "projected": _reordered(flat[index : index + 1], "coco17")[0].tolist(),
                    "joints3d": (joints[index] - joints[index, :1]).tolist(),
                }
            )
        spans = [(0, 2 * frames)] if person == 0 else [(0, frames), (frames + 1, 2 * frames)]
        points |= {f"000000/{person}/{first}": flat[first:end] for first, end in spans}
    facts = {"width": int(size[0]), "height": int(size[1]), "fps": 24, "focal_px": focal, "frames": told}
    (root / "000000.json").write_text(json.dumps(facts))
    for seed, name in enumerate(("plain", "attention")):
        rng = np.random.default_rng(seed)
        moved: dict[str, Any] = {k: (v + rng.normal(0, 1, v.shape)).astype(np.float32) for k, v in points.items()}
        np.savez(root / f"data_2d_{name}.npz", **moved)


def _save(path: Path, **objects: Any) -> None:
    """As the projects write them: dictionaries in arrays of no dimension."""
    arrays: dict[str, Any] = {}
    for name, value in objects.items():
        arrays[name] = np.empty((), object)
        arrays[name][()] = value
    np.savez_compressed(path, **arrays)
