"""Clothes that fit and follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data.synthetic.bodies import BodyModel
from training.data.synthetic.dress import Wardrobe, read_wardrobe

from .made_body import write_assets


def test_a_garment_lies_around_the_body_of_any_size(wardrobe: Wardrobe, body: BodyModel) -> None:
    shirt = wardrobe.garments["shirt"]
    for height in (0.1, 0.9):
        skin = body.shape({"height": height}).vertices
        under, over = skin[shirt.references[:, 0]], shirt.fitted(skin)
        middle = under.mean(0)
        assert (np.abs(over - under).max(1) > 0.005).all()
        assert np.ptp(over - middle, axis=0).min() > np.ptp(under - middle, axis=0).min()


def test_twice_the_body_wears_twice_the_garment(wardrobe: Wardrobe, body: BodyModel) -> None:
    shirt, skin = wardrobe.garments["shirt"], body.shape({}).vertices
    np.testing.assert_allclose(shirt.fitted(2 * skin), 2 * shirt.fitted(skin), rtol=1e-4, atol=1e-5)


def test_a_garment_moves_with_the_bones_under_it(wardrobe: Wardrobe, body: BodyModel) -> None:
    shirt = wardrobe.garments["shirt"]
    weights = wardrobe.skinning("shirt")
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(weights, body.weights[shirt.references[:, 0]], atol=1e-6)


def test_short_sleeves_bare_the_forearms_and_nothing_else(wardrobe: Wardrobe) -> None:
    shirt = wardrobe.garments["shirt"]
    whole, covered = wardrobe.shortened("shirt", False, False)
    assert len(whole) == len(shirt.triangles) and len(covered) == len(shirt.hidden)
    cut, still = wardrobe.shortened("shirt", True, False)
    assert len(whole) - len(cut) == 2 * 12  # two boxes of twelve triangles
    bared = set(covered) - set(still)
    assert bared and all(wardrobe.bare_arms[vertex] for vertex in bared)
    assert len(wardrobe.shortened("shirt", False, True)[0]) == len(whole)


def test_pieces_that_do_not_touch_are_told_apart(wardrobe: Wardrobe) -> None:
    shirt = wardrobe.garments["shirt"]
    assert len(set(shirt.pieces)) == len(shirt.references) // 8


def test_kinds_and_genders_choose(wardrobe: Wardrobe) -> None:
    assert set(wardrobe.of_kind("suit")) == {"shirt", "trousers_only"}
    assert set(wardrobe.of_kind("suit", "female")) == {"shirt", "trousers_only"}
    assert wardrobe.of_kind("cloak") == []


def test_a_file_that_lacks_something_says_what(tmp_path: Path, body: BodyModel) -> None:
    with pytest.raises(ValueError, match=r"clothes need .*nowhere\.npz"):
        read_wardrobe(tmp_path / "nowhere.npz", body)
    path = write_assets(tmp_path)
    with np.load(path) as file:
        kept = {key: file[key] for key in file.files if key != "shirt.tri"}
    np.savez(path, **kept)
    with pytest.raises(ValueError, match="shirt lacks tri"):
        read_wardrobe(path, body)
