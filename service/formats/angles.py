"""Joint angles of a pose in degrees, after the ISB's recommendations as far as 17 joints allow.

Points are in a right-handed frame whose y points up. Segments have x forward, y up, z to the person's right, as the
ISB has them (Wu et al. 2002 and 2005). The 17 joints end at the ankles: there is no angle of the ankle.
"""

from __future__ import annotations

import numpy as np

from service.geometry.skeletons import H36M17

from .recording import Floats

LIMB_ANGLES = "elbow_flexion", "shoulder_elevation", "shoulder_plane", "hip_flexion", "hip_abduction", "knee_flexion"
TRUNK_ANGLES = "trunk_flexion", "trunk_lateral", "trunk_rotation", "neck_flexion", "neck_lateral"
ANGLES = (*(f"{side}_{angle}" for angle in LIMB_ANGLES for side in ("left", "right")), *TRUNK_ANGLES)
LEAST_ELEVATION_DEG = 10.0  # nearer to the trunk's line than this, an arm has no plane of elevation worth the name
VERTICAL = np.array([0.0, 1.0, 0.0])


def joint_angles(joints: Floats) -> Floats:
    """The angles named in ANGLES; docs/formats.md defines each for the reader.

    Args:
        joints: (..., 17, 3) h36m17, any unit, y up.

    Returns:
        (..., len(ANGLES)) degrees, NaN where a joint of the angle is unknown.
    """
    at = {name: joints[..., n, :] for n, name in enumerate(H36M17.joints)}
    trunk = at["thorax"] - at["pelvis"]
    pelvis_frame = _segment(trunk, at["right_hip"] - at["left_hip"])
    thorax_frame = _segment(trunk, at["right_shoulder"] - at["left_shoulder"])
    angles: dict[str, Floats] = {}
    for side, outward in (("left", -1.0), ("right", 1.0)):
        shoulder, elbow, wrist = (at[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
        hip, knee, ankle = (at[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle"))
        angles[f"{side}_elbow_flexion"] = _between(elbow - shoulder, wrist - elbow)
        angles[f"{side}_knee_flexion"] = _between(knee - hip, ankle - knee)
        elevation = _between(elbow - shoulder, -trunk)
        forward, _, right = _parts(elbow - shoulder, thorax_frame)
        flat = (elevation < LEAST_ELEVATION_DEG) | (elevation > 180 - LEAST_ELEVATION_DEG)
        angles[f"{side}_shoulder_elevation"] = elevation
        angles[f"{side}_shoulder_plane"] = np.where(flat, np.nan, np.degrees(np.arctan2(forward, outward * right)))
        forward, up, right = _parts(knee - hip, pelvis_frame)
        angles[f"{side}_hip_flexion"] = np.degrees(np.arctan2(forward, -up))
        angles[f"{side}_hip_abduction"] = _sine_angle(outward * right, knee - hip)
    heading = _segment(np.broadcast_to(VERTICAL, trunk.shape), at["right_hip"] - at["left_hip"])
    forward, up, right = _parts(trunk, heading)
    angles["trunk_flexion"] = np.degrees(np.arctan2(forward, up))
    angles["trunk_lateral"] = _sine_angle(right, trunk)
    forward, _, right = _parts(at["right_shoulder"] - at["left_shoulder"], pelvis_frame)
    angles["trunk_rotation"] = np.degrees(np.arctan2(forward, right))
    neck = at["head"] - at["thorax"]
    forward, up, right = _parts(neck, thorax_frame)
    angles["neck_flexion"] = np.degrees(np.arctan2(forward, up))
    angles["neck_lateral"] = _sine_angle(right, neck)
    return np.stack([angles[name] for name in ANGLES], axis=-1)


def _segment(up: Floats, right: Floats) -> Floats:
    """(..., 3, 3) rows x forward, y along `up`, z as near to `right` as it goes."""
    y = _unit(up)
    x = _unit(np.cross(y, right))
    return np.stack([x, y, np.cross(x, y)], axis=-2)


def _parts(vector: Floats, frame: Floats) -> Floats:
    """(3, ...) the vector's parts forward, up, and to the right in a segment's frame."""
    return np.moveaxis((frame @ vector[..., None])[..., 0], -1, 0)


def _between(a: Floats, b: Floats) -> Floats:
    """Degrees, 0 to 180, between two vectors."""
    first, second = _unit(a), _unit(b)
    across = np.linalg.norm(np.cross(first, second), axis=-1)
    angle: Floats = np.degrees(np.arctan2(across, (first * second).sum(axis=-1)))
    return angle


def _sine_angle(part: Floats, vector: Floats) -> Floats:
    """Degrees by which a vector leans towards an axis on which it has that part."""
    length = np.linalg.norm(vector, axis=-1)
    return np.degrees(np.arcsin(np.clip(part / np.where(length > 0, length, np.nan), -1, 1)))


def _unit(vector: Floats) -> Floats:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / np.where(length > 0, length, np.nan)
