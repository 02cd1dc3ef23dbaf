"""What a camera does to a picture."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from training.data.synthetic.film import Grade, develop, jpeg, over, random_grade

PLAIN = Grade(np.ones(3, np.float32), 0.0, None, 0.0, 0.0, False)
PICTURE = np.random.default_rng(0).uniform(0, 0.7, (40, 60, 3)).astype(np.float32)


def test_what_covers_nothing_leaves_the_background() -> None:
    np.testing.assert_array_equal(over(np.zeros((80, 120, 4), np.float32), PICTURE, 2), PICTURE)


def test_half_a_pixel_of_cover_mixes_half() -> None:
    cover = np.zeros((2, 2, 4), np.float32)
    cover[0] = (1, 0, 0, 1)
    mixed = over(cover, np.zeros((1, 1, 3), np.float32), 2)
    np.testing.assert_allclose(mixed, [[[0.5, 0, 0]]])


def test_a_plain_camera_changes_nothing_but_the_scale() -> None:
    out = develop(PICTURE, PLAIN, np.random.default_rng(0))
    assert out.dtype == np.uint8
    np.testing.assert_allclose(out, 255 * PICTURE ** (1 / 2.2), atol=1)


def test_smear_and_blur_keep_the_mean_and_take_detail() -> None:
    plain = develop(PICTURE, PLAIN, np.random.default_rng(0)).astype(float)
    for faulty in (replace(PLAIN, streak=(7.0, 0.4)), replace(PLAIN, blur_px=1.5)):
        out = develop(PICTURE, faulty, np.random.default_rng(0)).astype(float)
        assert abs((out / 255).mean() ** 2.2 - (plain / 255).mean() ** 2.2) < 0.05
        assert out.std() < 0.7 * plain.std()


def test_noise_is_the_generators() -> None:
    noisy = replace(PLAIN, noise=0.02, coarse=True)
    first, again, other = (develop(PICTURE, noisy, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_corners_fall_off() -> None:
    flat = np.full((40, 60, 3), 0.5, np.float32)
    out = develop(flat, replace(PLAIN, falloff=0.4), np.random.default_rng(0))
    assert out[0, 0, 0] < out[20, 30, 0] and abs(int(out[20, 30, 0]) - round(255 * 0.5 ** (1 / 2.2))) <= 1


def test_grades_differ_and_some_are_smeared() -> None:
    grades = [random_grade(300, np.random.default_rng(seed), moving=0.5) for seed in range(60)]
    assert 10 < sum(grade.streak is not None for grade in grades) < 50
    assert all(grade.blur_px == 0 for grade in grades if grade.streak)


def test_the_file_is_the_picture() -> None:
    smooth = np.asarray(cv2.GaussianBlur(PICTURE, (0, 0), 4), np.float32)
    picture = develop(smooth, PLAIN, np.random.default_rng(0))
    read = np.asarray(cv2.imdecode(np.frombuffer(jpeg(picture, 95), np.uint8), cv2.IMREAD_COLOR))[..., ::-1]
    assert np.abs(read.astype(int) - picture).mean() < 4
    assert len(jpeg(picture, 40)) < len(jpeg(picture, 95))
