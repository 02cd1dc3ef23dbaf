"""Bodies with a detector's errors borrowed from people in much the same pose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.geometry.skeletons import SKELETONS, mirror_order
from training.data import borrowed
from training.data.borrowed import LIMBS, Borrowed, Seen, read_seen
from training.data.lone import LoneFrames

ORDER = mirror_order(SKELETONS["h36m17"])
WIDTH, HEIGHT = 80.0, 100.0


def people(count: int, seed: int, scale: float = 1.0) -> LoneFrames:
    """Exactly seen, in random poses; `scale` pixels for each that others have."""
    dice = torch.Generator().manual_seed(seed)
    places = 10 + 60 * torch.rand(count, 17, 2, generator=dice)
    joints = 0.3 * torch.randn(count, 17, 3, generator=dice)
    joints[:, 0] = 0
    points = torch.cat([scale * places, torch.ones(count, 17, 1)], -1)
    sizes = scale * torch.tensor([WIDTH, HEIGHT]).expand(count, 2)
    return LoneFrames(points, sizes, torch.full((count,), 90.0), joints)


def watched(exact: LoneFrames, off: float, score: float) -> Seen:
    """The same people, every joint so many pixels further right, with one score."""
    points = exact.points.clone()
    points[..., 0] += off
    points[..., 2] = score
    return Seen(LoneFrames(points, exact.sizes, exact.focals, exact.joints), exact.points[..., :2])


def test_without_errors_to_borrow_bodies_stay_where_they_are() -> None:
    bodies = people(5, 1)
    windows = Borrowed(bodies, watched(people(7, 2), 0.0, 0.5)).draw(40, 3, seed=0, turned=0.0)
    mirrored = bodies.mirrored()
    for points, targets in zip(windows.points, windows.targets, strict=True):
        same = [
            n
            for n in range(5)
            for of in (bodies, mirrored)
            if torch.equal(of.joints[n], targets[0])
            and torch.allclose(of.points[n, :, :2], points[0, :, :2], atol=1e-4)
        ]
        assert len(same) == 1
    scores = windows.points[..., 2]
    assert scores.median() == pytest.approx(0.5, abs=0.03) and 0.03 < scores.std() < 0.2  # shaken about what was lent
    assert not windows.given.any()


def test_an_error_grows_with_the_size_of_who_borrows_it() -> None:
    lender = people(1, 3)
    big = LoneFrames(
        3 * lender.points[..., :] * torch.tensor([1, 1, 1 / 3]), 3 * lender.sizes, lender.focals, lender.joints
    )
    windows = Borrowed(big, watched(lender, 2.0, 0.7)).draw(30, 1, seed=0, turned=0.0)
    mirrored = big.mirrored()
    for points, targets in zip(windows.points[:, 0], windows.targets[:, 0], strict=True):
        as_it_was = torch.equal(targets, big.joints[0])
        exact = (big if as_it_was else mirrored).points[0, :, :2]
        off = points[:, :2] - exact
        # Whoever lends is in the same pose, as he is or in a mirror; there the error points the other way.
        assert (off[:, 0].sign() == (1 if as_it_was else -1)).all()
        assert off[:, 0].abs().median() == pytest.approx(6.0, rel=0.3) and off[:, 0].abs().std() > 0.5  # shaken, too
        assert torch.allclose(off[:, 1], torch.zeros(17), atol=1e-3)


def test_whoever_is_in_the_same_pose_lends_first() -> None:
    lenders = people(40, 4)
    bodies = lenders.some(torch.tensor([7, 21])).joined(lenders.some(torch.tensor([3])).mirrored())
    borrowed = Borrowed(bodies, watched(lenders, 1.0, 0.4))
    assert borrowed.lenders[:, 0].tolist() == [7, 21, 40 + 3]  # the mirrored ones come after the others


def test_limbs_of_half_of_the_bodies_have_lenders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrowed, "ALIKE", 1.0)
    monkeypatch.setattr(borrowed, "SHAKEN", 0.0)
    lenders = watched(people(100, 10), 0.0, 0.5)
    lenders.people.points[..., 1] += torch.arange(100.0)[:, None]  # each is known by how far down its joints lie
    bodies = people(1, 11)
    windows = Borrowed(bodies, lenders).draw(400, 1, seed=2, turned=0.0)
    as_it_was = (windows.targets[:, 0] == bodies.joints).flatten(1).all(1)
    off = windows.points[as_it_was, 0, :, 1] - bodies.points[:, :, 1]
    of_limbs = [off[:, list(limb)] for limb in LIMBS]
    assert all(torch.allclose(limb, limb[:, :1].expand_as(limb), atol=1e-3) for limb in of_limbs)
    several = torch.stack([limb[:, 0] for limb in of_limbs], 1).std(1) > 1e-3
    assert 0.4 < float(several.float().mean()) < 0.6


def test_a_joint_that_the_lender_lacks_is_unknown() -> None:
    lenders = watched(people(3, 5), 0.0, 0.6)
    lenders.people.points[:, 9] = torch.tensor([torch.nan, torch.nan, 0.0])
    windows = Borrowed(people(4, 6), lenders).draw(20, 1, seed=1, turned=0.5)
    assert windows.points[:, :, 9, :2].isnan().all() and (windows.points[:, :, 9, 2] == 0).all()
    others = [joint for joint in range(17) if joint != 9]
    assert windows.points[:, :, others].isfinite().all()


def test_nobody_lends_whose_truth_is_not_known() -> None:
    lenders = watched(people(20, 7), 1.0, 0.4)
    lenders.truths[:15, 3] = torch.nan
    borrowed = Borrowed(people(2, 8), lenders)
    assert len(borrowed.errors) == 2 * 5
    assert borrowed.draw(10, 1, seed=0).points.isfinite().all()


def test_a_file_without_the_truth_is_named(tmp_path: Path) -> None:
    one = people(2, 9)
    arrays = {key: getattr(one, key).numpy() for key in ("points", "sizes", "focals", "joints")}
    np.savez(tmp_path / "old.npz", **arrays)
    with pytest.raises(ValueError, match="lacks truths"):
        read_seen(tmp_path / "old.npz")
    np.savez(tmp_path / "new.npz", **arrays, truths=arrays["points"][..., :2])
    assert torch.equal(read_seen(tmp_path / "new.npz").truths, one.points[..., :2])
