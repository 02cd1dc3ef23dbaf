"""What people wear, and how alike it is."""

from __future__ import annotations

import numpy as np

from service.pipelines.colours import LEAST, UNTOLD, Array, alike, worn

from .fake import BLUE, GREEN, RED, Pixels, draw, figure, street

BOX = (100, 40, 60, 160)


def dressed(box: tuple[int, int, int, int], shirt: tuple[int, int, int], trousers: tuple[int, int, int]) -> Pixels:
    x, y, width, height = box
    return draw(draw(street(), box, trousers), (x, y, width, height // 2), shirt)


def colours(pixels: Pixels, *poses: Array) -> Array:
    return worn(pixels, np.stack(poses))


def test_a_shirt_and_trousers_are_two_colours() -> None:
    np.testing.assert_array_equal(colours(dressed(BOX, RED, BLUE), figure(BOX)), [[RED, BLUE]])


def test_a_stripe_or_an_arm_before_them_changes_nothing() -> None:
    pixels = draw(dressed(BOX, RED, BLUE), (100, 75, 60, 12), GREEN)
    np.testing.assert_array_equal(colours(pixels, figure(BOX)), [[RED, BLUE]])


def test_parts_that_are_not_seen_have_no_colour() -> None:
    pose = figure(BOX)
    pose[11:, 2] = 0.05
    pixels = dressed(BOX, RED, BLUE)
    np.testing.assert_array_equal(np.isnan(colours(pixels, pose)[..., 0]), [[False, True]])
    pose[:, 2] = 0.1
    assert np.isnan(colours(pixels, pose)).all()


def test_people_beyond_the_picture_break_nothing() -> None:
    pose = figure((-500, 300, 60, 160))
    unknown = np.full((17, 3), (np.nan, np.nan, 0), np.float32)
    assert colours(street(), pose, unknown).shape == (2, 2, 3)
    assert worn(street(), np.zeros((0, 17, 3), np.float32)).shape == (0, 2, 3)


def test_a_mirrored_frame_has_the_same_colours() -> None:
    pixels, pose = dressed(BOX, RED, BLUE), figure(BOX)
    mirrored = pose.copy()
    mirrored[:, 0] = pixels.shape[1] - pose[:, 0]
    np.testing.assert_array_equal(colours(pixels, pose), colours(pixels[:, ::-1], mirrored))


def test_equal_colours_are_alike_others_are_not_and_neither_ends_a_likeness() -> None:
    red, blue = np.array([RED, BLUE], np.float32), np.array([BLUE, BLUE], np.float32)
    stays = alike(np.stack([red, blue]), np.stack([red, red + 5, blue]))
    np.testing.assert_allclose(stays[:, [0, 2]], [[1, LEAST], [LEAST, 1]], atol=1e-3)
    assert stays[0, 1] > 0.95


def test_only_what_is_known_of_both_is_compared() -> None:
    whole = np.array([RED, BLUE], np.float32)
    above, below = whole.copy(), whole.copy()
    above[1], below[0] = np.nan, np.nan
    assert alike(whole[None], above[None]) == 1
    assert alike(above[None], below[None]) == np.float32(LEAST)


def test_who_has_no_colours_yet_gives_way_and_who_shows_none_is_not_judged() -> None:
    red, unknown = np.array([RED, RED], np.float32), np.full((2, 3), np.nan, np.float32)
    stays = alike(np.stack([red, unknown]), np.stack([red, unknown]))
    np.testing.assert_allclose(stays, np.array([[1, UNTOLD], [LEAST, UNTOLD]]), rtol=1e-6)
