"""Windows for the lifter: drawn by seed, laws of the made joints, of mirrors and of targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from service.geometry.alignment import stature
from service.geometry.skeletons import SKELETONS, to_h36m17
from training.data.motion import read_motion
from training.data.windows import (
    MIRROR,
    Dice,
    WindowMaker,
    WindowRecipe,
    Windows,
    _bends,
    _exchange,
    _make_middle_joints,
    _proportions,
    _reshape,
    _stature,
    _wandering,
)

PLAIN = WindowRecipe(frames=9, cut=0.0, noisy=0.0, hidden=0.0, made=0.0, tilted=0.0, exchanged=0.0)
H36M, COCO = SKELETONS["h36m17"], SKELETONS["coco17"]


def draw(motion_file: Path, recipe: WindowRecipe, seed: int = 0, count: int = 24) -> Windows:
    return WindowMaker(read_motion(motion_file), recipe).draw(count, seed)


def dice(seed: int = 0) -> Dice:
    return Dice(seed, torch.device("cpu"))


def bodies(motion_file: Path, first: int, last: int) -> Tensor:
    """(1, last - first, 17, 3) of the pack's own frames."""
    return torch.from_numpy(read_motion(motion_file).joints[None, first:last])


def bones(joints: Tensor) -> Tensor:
    return joints[..., 1:, :] - joints[..., list(H36M.parents[1:]), :]


def test_the_same_seed_gives_the_same_windows(motion_file: Path) -> None:
    one, again, other = (draw(motion_file, WindowRecipe(frames=9), seed) for seed in (3, 3, 4))
    for name in ("points", "sizes", "given", "targets"):
        assert torch.equal(getattr(one, name).nan_to_num(), getattr(again, name).nan_to_num())
    assert not torch.equal(one.targets, other.targets)


def test_shapes_scores_and_unknown_joints_are_what_the_framing_takes(motion_file: Path) -> None:
    windows = draw(motion_file, WindowRecipe(frames=9, hidden=1.0, noisy=1.0))
    assert windows.points.shape == (24, 9, 17, 3) and windows.points.dtype == torch.float32
    unknown = windows.points[..., 0].isnan()
    assert unknown.any() and not unknown.all()
    assert (windows.points[unknown][:, 2] == 0).all() and windows.points[unknown][:, 1].isnan().all()
    scores = windows.points[~unknown][:, 2]
    assert (scores > 0).all() and (scores <= 1).all()
    assert windows.targets.isfinite().all()


def test_targets_are_relative_to_the_hip_and_of_one_stature(motion_file: Path) -> None:
    windows = draw(motion_file, replace(PLAIN, still=1.0))
    assert (windows.targets[:, :, 0] == 0).all()
    assert np.allclose([stature(target.numpy()) for target in windows.targets], 1.70, atol=0.02)


def test_exact_points_are_where_a_pinhole_sees_the_targets(motion_file: Path) -> None:
    """The bundle of lines through a window's 2D and 3D agrees with one focal length and one place."""
    windows = draw(motion_file, PLAIN, count=6)
    assert windows.given.all()
    arrays = (windows.points.numpy(), windows.sizes.numpy(), windows.targets.numpy())
    for points, size, joints in zip(*arrays, strict=True):
        known = np.isfinite(points[..., 0])
        x = (points[..., :2] - size / 2)[known]
        p, frame = joints[known], np.nonzero(known)[0]
        # x (z + t_z) = f (p + t), linear in f, f t_xy and t_z, with a place a frame.
        rows, sides = [], []
        for (u, v), (px, py, pz), n in zip(x, p, frame, strict=True):
            for row, (seen, at) in enumerate(((u, px), (v, py))):
                line = np.zeros(1 + 3 * len(points))
                line[0], line[1 + 3 * n + row], line[3 + 3 * n] = at, 1, -seen
                rows.append(line)
                sides.append(seen * pz)
        solved, *_ = np.linalg.lstsq(np.array(rows), np.array(sides), rcond=None)
        assert np.abs(np.array(rows) @ solved - sides).max() < 0.5
        assert solved[0] > 100


def test_made_joints_are_what_the_services_conversion_makes_of_the_others() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 500, (2, 3, 17, 2)).astype(np.float32)
    scores = rng.uniform(0.3, 1, (2, 3, 17)).astype(np.float32)
    places[0, 1, 14] = np.nan
    before = places.copy()
    made, made_scores = (
        each.numpy() for each in _make_middle_joints(torch.from_numpy(places), torch.from_numpy(scores))
    )
    assert np.array_equal(places, before, equal_nan=True)
    coco = np.full((2, 3, 17, 3), np.nan, np.float32)
    for index, joint in enumerate(COCO.joints):
        if joint in H36M.joints:
            here = H36M.joints.index(joint)
            coco[..., index, :] = np.concatenate([places[..., here, :], scores[..., here, None]], -1)
    head = np.concatenate([places[..., 9, :], scores[..., 9, None]], -1)
    for ear in ("left_ear", "right_ear"):
        coco[..., COCO.joints.index(ear), :] = head
    expected = to_h36m17(coco, "coco17")
    assert np.allclose(made, expected[..., :2], atol=1e-3, equal_nan=True)
    known = np.isfinite(expected[..., 0])
    assert np.allclose(made_scores[known], expected[..., 2][known])


def test_windows_that_are_made_say_so(motion_file: Path) -> None:
    windows = draw(motion_file, replace(PLAIN, made=1.0))
    assert not windows.given.any()
    middle = (windows.points[..., 1, :2] + windows.points[..., 4, :2]) / 2
    assert torch.allclose(windows.points[..., 0, :2], middle, atol=1e-2, equal_nan=True)


def test_bodies_keep_their_directions_on_other_bones_and_sides_stay_equal(motion_file: Path) -> None:
    before = bodies(motion_file, 0, 5).repeat(8, 1, 1, 1)
    after = _reshape(before, _proportions(8, dice()), _bends(torch.zeros(8), dice()))
    ours, theirs = bones(before), bones(after)
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1)
    assert torch.allclose(cosine, torch.ones(()), atol=1e-4)
    factors = theirs.norm(dim=-1) / ours.norm(dim=-1)
    assert torch.allclose(factors, factors[:, :1], atol=1e-3)
    assert torch.allclose(factors, factors[..., MIRROR[1:] - 1], atol=1e-3)
    assert factors[:, 0].std(0).max() > 0.02


def test_a_bend_keeps_every_bones_length_and_turns_what_hangs_on_it(motion_file: Path) -> None:
    before = bodies(motion_file, 0, 5)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about the vertical
    turns = torch.eye(3).repeat(1, 17, 1, 1)
    turns[0, 12] = quarter  # the left upper arm
    after = _reshape(before, torch.ones(1, 17), turns)
    still = [joint for joint in range(17) if joint not in (12, 13)]
    assert torch.allclose(after[..., still, :], before[..., still, :], atol=1e-6)
    for joint in (12, 13):
        assert torch.allclose(bones(after)[..., joint - 1, :], bones(before)[..., joint - 1, :] @ quarter.T, atol=1e-6)
    drawn = _reshape(before.repeat(6, 1, 1, 1), torch.ones(6, 17), _bends(torch.ones(6), dice()))
    assert torch.allclose(bones(drawn).norm(dim=-1), bones(before).norm(dim=-1).expand(6, -1, -1), atol=1e-5)
    assert (drawn - before).abs().amax((1, 2, 3)).min() > 0.01
    assert torch.allclose(_reshape(before, torch.ones(1, 17), _bends(torch.zeros(1), dice())), before, atol=1e-6)


def test_moving_windows_are_bent_and_a_repeated_frame_is_not(motion_file: Path) -> None:
    for still in (0.0, 1.0):
        plain = draw(motion_file, replace(PLAIN, still=still, bent=0.0)).targets
        bent = draw(motion_file, replace(PLAIN, still=still, bent=1.0)).targets
        moved = (bent - plain).abs().amax((1, 2, 3))
        assert (moved == 0).all() if still else (moved > 0.01).all()


def test_an_exchanged_body_keeps_its_legs_and_the_others_bones(motion_file: Path) -> None:
    mine, others = bodies(motion_file, 0, 4), bodies(motion_file, 50, 54)
    mixed = _exchange(mine, others)
    assert torch.equal(mixed[..., :7, :], mine[..., :7, :])
    upper_arms = [(each[..., 12, :] - each[..., 11, :]).norm(dim=-1) for each in (mixed, others)]
    assert torch.allclose(upper_arms[0], upper_arms[1], atol=1e-4)
    assert torch.allclose(_exchange(mine, mine), mine, atol=1e-4)
    assert torch.allclose(_stature(mine), torch.tensor([stature(mine[0].numpy())]).float(), atol=0.02)


def test_a_wandering_error_has_unit_spread_and_remembers_the_frame_before() -> None:
    drawn = _wandering(torch.Size((400, 27, 17, 2)), dice())
    assert torch.allclose(drawn.std((0, 2, 3)), torch.ones(27), atol=0.05)
    together = (drawn[:, 1:] * drawn[:, :-1]).mean()
    assert 0.75 < together < 0.9  # the mean share that is kept lies between 0.7 and 0.97


def test_half_of_the_bodies_are_seen_in_a_mirror(motion_file: Path) -> None:
    """One who always raises the right arm raises the left one in half of the windows, and never both."""
    motion = read_motion(motion_file)
    joints = motion.joints.copy()
    joints[:, [15, 16], 2] = joints[:, [14], 2] + np.array([0.25, 0.5], np.float32)
    drawn = WindowMaker(replace(motion, joints=joints), PLAIN).draw(80, 0).targets
    up = drawn[:, 0, 8] - drawn[:, 0, 0]
    right, left = (((drawn[:, 0, wrist] - drawn[:, 0, 8]) * up).sum(-1) > 0 for wrist in (16, 13))
    assert (right ^ left).all()
    assert 0.3 < left.float().mean() < 0.7
    assert torch.equal(MIRROR[MIRROR], torch.arange(17))


def test_photos_are_one_frame_repeated(motion_file: Path) -> None:
    windows = draw(motion_file, replace(PLAIN, still=1.0))
    assert torch.allclose(windows.targets, windows.targets[:, :1], atol=1e-6)
    moving = draw(motion_file, replace(PLAIN, still=0.0))
    assert ((moving.targets - moving.targets[:, :1]).abs().amax((1, 2, 3)) > 1e-3).all()


def test_a_pack_of_another_form_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", joints=np.zeros(3))
    with pytest.raises(ValueError, match=r"bad\.npz.*fps, root"):
        read_motion(tmp_path / "bad.npz")
