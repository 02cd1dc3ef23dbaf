"""What lies behind the people."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.synthetic.backgrounds import background, list_pictures, procedural
from training.data.synthetic.textures import linear
from training.data.synthetic.views import looking

VIEW = looking((0, -4, 1.5), (0, 0, 1), 0.05, 200, (160, 120))


def test_a_part_of_a_photo_has_the_photos_colours(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((90, 140, 3), (20, 120, 220), np.uint8))
    pictures = list_pictures(tmp_path)
    for seed in range(8):
        behind = background(VIEW, pictures * 9, np.random.default_rng(seed))
        assert behind.shape == (120, 160, 3) and np.isfinite(behind).all()
    ratios = [
        background(VIEW, pictures, np.random.default_rng(seed)).reshape(-1, 3).mean(0)
        / linear(np.array([220, 120, 20]))
        for seed in range(8)
    ]
    plain = [ratio for ratio in ratios if np.ptp(ratio) < 0.05 * ratio.mean()]
    assert len(plain) >= 5  # now and then it is a made one all the same


def test_the_same_generator_makes_the_same_room() -> None:
    first, second = (procedural(VIEW, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, procedural(VIEW, np.random.default_rng(5)))
    assert first.shape == (120, 160, 3) and first.min() >= 0 and first.std() > 0.005


def test_every_camera_sees_a_finite_room() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        view = looking(rng.uniform([-3, -3, 0.1], [3, 3, 6]), rng.uniform(-1, 1, 3), rng.normal(), 150, (60, 80))
        assert np.isfinite(procedural(view, rng)).all()


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=tmp_path.name):
        list_pictures(tmp_path)
