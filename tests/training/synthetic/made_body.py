"""A body made of boxes, one a bone, that moves as the package's does, and clothes for it: tests need no package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.geometry.skeletons import COCO17
from training.data.synthetic.bodies import MASKS, BodyModel

# Name: parent, where it begins (x left, y back, z up; metres from the middle of the body). Right sides are mirrored.
MIDDLE: dict[str, tuple[str, tuple[float, float, float]]] = {
    "root": ("", (0, 0, 0.05)),
    "spine05": ("root", (0, 0, 0.05)),
    "spine04": ("spine05", (0, 0, 0.12)),
    "spine03": ("spine04", (0, 0, 0.19)),
    "spine02": ("spine03", (0, 0, 0.26)),
    "spine01": ("spine02", (0, 0, 0.39)),
    "neck01": ("spine01", (0, 0, 0.56)),
    "neck02": ("neck01", (0, 0, 0.59)),
    "neck03": ("neck02", (0, 0, 0.63)),
    "head": ("neck03", (0, 0, 0.66)),
}
SIDE = {
    "pelvis": ("root", (0, 0, 0.05)),
    "upperleg01": ("pelvis", (0.1, 0, 0.04)),
    "upperleg02": ("upperleg01", (0.1, -0.01, -0.05)),
    "lowerleg01": ("upperleg02", (0.13, -0.03, -0.35)),
    "lowerleg02": ("lowerleg01", (0.15, -0.02, -0.55)),
    "foot": ("lowerleg02", (0.17, 0, -0.75)),
    "clavicle": ("spine01", (0.02, 0, 0.49)),
    "shoulder01": ("clavicle", (0.1, 0, 0.5)),
    "upperarm01": ("shoulder01", (0.16, 0, 0.47)),
    "upperarm02": ("upperarm01", (0.21, 0, 0.41)),
    "lowerarm01": ("upperarm02", (0.33, -0.02, 0.28)),
    "lowerarm02": ("lowerarm01", (0.39, -0.1, 0.22)),
    "wrist": ("lowerarm02", (0.45, -0.18, 0.16)),
    **{
        f"finger{finger}-{part}": (
            "wrist" if part == 1 else f"finger{finger}-{part - 1}",
            (0.45 + 0.015 * part, -0.22 - 0.02 * part + 0.012 * finger, 0.14 - 0.008 * part * part),
        )
        for finger in (2, 3, 4, 5)
        for part in (1, 2, 3)
    },
}
THICK_M = 0.05
JOINT_BONES = {"shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist", "hip": "upperleg01"} | {
    "knee": "lowerleg01",
    "ankle": "foot",
}
FACE = {"nose": (0, -0.12, 0.68), "eye": (0.03, -0.11, 0.7), "ear": (0.075, 0, 0.68)}


def bones() -> tuple[tuple[str, ...], tuple[int, ...], NDArray[np.float32]]:
    """Names, parents and beginnings of the bones."""
    tree = dict(MIDDLE)
    for side, sign in ((".L", 1), (".R", -1)):
        for name, (parent, (x, y, z)) in SIDE.items():
            tree[name + side] = (parent if parent in MIDDLE else parent + side, (sign * x, y, z))
    names = tuple(tree)
    parents = tuple(names.index(parent) if parent else -1 for parent, _ in tree.values())
    return names, parents, np.array([place for _, place in tree.values()], np.float32)


def box(low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(8, 3) corners and (12, 3) triangles."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (high - low) + low
    faces = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    triangles = [[a, b, c] for a, b, c, _ in faces] + [[a, c, d] for a, _, c, d in faces]
    return corners.astype(np.float32), np.array(triangles, np.int64)


def made_body() -> BodyModel:
    names, parents, heads = bones()
    vertices: list[NDArray[Any]] = []
    triangles, drivers = [], []
    for number in range(len(names)):
        children = [heads[i] for i, parent in enumerate(parents) if parent == number]
        crown = heads[number] + np.array([0, 0, 0.14 if names[number] == "head" else 0])
        ends = np.array([heads[number], *children, crown])
        corners, faces = box(ends.min(0) - THICK_M, ends.max(0) + THICK_M)
        triangles.append(faces + 8 * number)
        vertices.append(corners)
        drivers += [number] * 8
    eyes: list[slice] = []
    for sign in (1, -1):  # eyeballs: diamonds before the head
        middle = np.array(FACE["eye"]) * [sign, 1, 1]
        begin = 8 * len(names) + 6 * len(eyes)
        vertices.append(middle + 0.01 * np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]))
        triangles.append(begin + np.array([(0, 3, 4), (1, 3, 4), (0, 3, 5), (1, 3, 5)]))
        drivers += [names.index("head")] * 6
        eyes.append(slice(begin, begin + 6))
    places = np.concatenate(vertices).astype(np.float32)
    weights = np.eye(len(names), dtype=np.float32)[drivers]
    keypoints = np.stack([_regressor(joint, places, heads, names) for joint in COCO17.joints])

    def network(pose_parameters: torch.Tensor, phenotype_kwargs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        size = 0.6 + 0.8 * phenotype_kwargs["height"]
        return {
            "rest_vertices": size[:, None, None] * torch.from_numpy(places)[None],
            "rest_bone_heads": size[:, None, None] * torch.from_numpy(heads)[None],
        }

    painted = np.zeros((len(places), len(MASKS)), np.float32)
    return BodyModel(
        names, parents, weights, np.concatenate(triangles), keypoints, painted, (eyes[0], eyes[1]), network
    )


def _regressor(
    joint: str, places: NDArray[np.float32], heads: NDArray[np.float32], names: tuple[str, ...]
) -> NDArray[np.float32]:
    """(vertices,) weights that sum to 1 of one bone's corners, whose mean is the joint."""
    side, _, part = joint.partition("_")
    out = np.zeros(len(places), np.float32)
    if part in JOINT_BONES:
        number = names.index(JOINT_BONES[part] + (".L" if side == "left" else ".R"))
        target = heads[number]
    else:
        number = names.index("head")
        target = np.array(FACE[part or side]) * [1 if side != "right" else -1, 1, 1]
    corners = places[8 * number : 8 * number + 8]
    share = np.clip((target - corners[0]) / (corners[7] - corners[0]), 0, 1)
    for k in range(8):
        bits = np.array([(k >> 2) & 1, (k >> 1) & 1, k & 1])
        out[8 * number + k] = np.prod(np.where(bits, share, 1 - share))
    return out


def write_assets(folder: Path) -> Path:
    """A shirt with sleeves around the arms' and the trunk's boxes, and a hat; gives the npz."""
    model = made_body()
    arrays: dict[str, NDArray[Any]] = {}
    listing = []
    worn = {
        "shirt": (
            "suit",
            ("spine03", "spine02", "spine01", "lowerarm01.L", "lowerarm01.R", "upperarm01.L", "upperarm01.R"),
        ),
        "trousers_only": ("suit", ("upperleg01.L", "upperleg01.R", "lowerleg01.L", "lowerleg01.R", "spine01")),
        "cap": ("hat", ("head",)),
        "short01": ("hair", ("head",)),
        "shoes01": ("shoes", ("foot.L", "foot.R")),
    }
    for name, (kind, of_bones) in worn.items():
        numbers = [model.bones.index(bone) for bone in of_bones]
        references = np.concatenate([np.arange(8 * n, 8 * n + 8) for n in numbers])
        arrays[f"{name}.ref"] = np.repeat(references[:, None], 3, 1).astype(np.uint16)
        arrays[f"{name}.w"] = np.tile(np.array([[1, 0, 0]], np.float16), (len(references), 1))
        outward = np.tile(np.array([[x, z, -y] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]), (len(numbers), 1))
        arrays[f"{name}.off"] = (0.1 * outward).astype(np.float16)
        arrays[f"{name}.scale_v"] = np.array([[0, 4], [0, 1], [0, 2]], np.int32)
        arrays[f"{name}.scale_d"] = np.full(3, 1.0, np.float32)
        arrays[f"{name}.tri"] = np.concatenate([model.triangles[:12] + 8 * k for k in range(len(numbers))]).astype(
            np.uint16
        )
        arrays[f"{name}.hide"] = (np.zeros(0) if kind in ("hat", "hair") else references).astype(np.uint16)
        listing.append({"name": name, "kind": kind, "gender": "any"})
    path = folder / "assets.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    path.with_suffix(".json").write_text(json.dumps(listing))
    return path
