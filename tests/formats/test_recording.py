"""The axes of the files, the even grid, and who is in which frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import OutOfRange
from service.formats.recording import World, grid_times, on_grid, usual_rate, whole_clip

from .fake import NTSC, person, recording, standing, upright, walking, without


def test_a_frame_on_the_grid_is_not_mixed_with_its_neighbours() -> None:
    times = np.arange(50) / NTSC
    jitter = np.round(times * 90000) / 90000  # as containers round them
    values = np.random.default_rng(0).normal(size=(50, 2))
    grid = grid_times(jitter, NTSC)
    assert len(grid) == 50
    np.testing.assert_array_equal(on_grid(values, jitter, grid, NTSC), values)


def test_the_usual_step_counts_where_a_pause_makes_the_mean_rate_another() -> None:
    times = np.concatenate([np.arange(20) / 10, 22 + np.arange(20) / 10])
    rate = usual_rate(times, 40 / 24)
    assert rate == pytest.approx(10)
    values = np.random.default_rng(0).normal(size=(40, 3))
    grid = grid_times(times, rate)
    here = np.round((times - times[0]) * rate).astype(int)
    np.testing.assert_array_equal(on_grid(values, times, grid, rate)[here], values)


def test_a_rate_that_agrees_with_the_usual_step_stays_as_it_was_told() -> None:
    rounded = np.round(np.arange(100) / NTSC, 3)  # thousandths, as Matroska has them
    assert usual_rate(rounded, NTSC) == NTSC
    assert usual_rate(np.array([0.0, 0.5]), NTSC) == NTSC
    assert usual_rate(np.array([0.0, 1e-6, 2e-6, 600.0]), 1.0) == 1.0  # six hundred million frames


def test_a_line_stays_a_line_on_the_grid() -> None:
    times = np.array([0.0, 0.03, 0.1, 0.15, 0.2, 0.31, 0.4])
    grid = grid_times(times, 25)
    np.testing.assert_allclose(on_grid(3 * times + 1, times, grid, 25), 3 * grid + 1, atol=0.05 / 25 * 3)


def test_between_a_known_and_an_unknown_frame_nothing_is_known() -> None:
    times = np.array([0.0, 0.1, 0.2])
    even = on_grid(np.array([1.0, np.nan, 3.0]), times, np.array([0.0, 0.05, 0.1, 0.15, 0.2]), 20)
    np.testing.assert_array_equal(np.isnan(even), [False, True, True, True, False])


def test_no_frames_give_an_empty_grid() -> None:
    assert len(grid_times(np.zeros(0), 30)) == 0


def test_one_frame_gives_a_grid_of_one() -> None:
    np.testing.assert_array_equal(grid_times(np.array([2.5]), 30), [2.5])


def test_a_late_person_is_unknown_before_and_has_all_frames_of_the_clip() -> None:
    someone = person(walking(10), first=20)
    grid, joints = whole_clip(recording(someone, frames=40), someone)
    assert len(grid) == 40
    np.testing.assert_array_equal(np.isfinite(joints).all((1, 2)), (np.arange(40) >= 20) & (np.arange(40) < 30))


def test_without_a_world_y_points_up_and_z_to_the_camera() -> None:
    someone = person(standing()[None])
    joints, positions = recording(someone).in_file_axes(someone)
    np.testing.assert_allclose(joints, upright(someone.joints), atol=1e-6)
    np.testing.assert_allclose(positions, upright(someone.positions), atol=1e-6)


def test_a_world_turns_joints_and_moves_positions() -> None:
    world = World(np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]]), np.array([0.0, 1.5, 0]))
    someone = person(standing()[None])
    given = recording(someone, world=world)
    joints, positions = given.in_file_axes(someone)
    np.testing.assert_allclose(joints[0], standing() @ world.rotation.T, atol=1e-6)
    np.testing.assert_allclose(given.placed(someone), joints + positions[:, None])
    np.testing.assert_allclose(positions[0], world.rotation @ someone.positions[0] + [0, 1.5, 0], atol=1e-6)


def test_a_person_without_any_position_stands_about_the_origin() -> None:
    someone = person(walking(3), positions=np.full((3, 3), np.nan))
    given = recording(someone)
    np.testing.assert_array_equal(given.placed(someone), given.in_file_axes(someone)[0])


def test_a_frame_without_position_is_unknown_where_others_have_one() -> None:
    def lose(arrays: dict[str, Any]) -> None:
        arrays["positions"][1] = np.nan

    someone = without(person(walking(3)), lose)
    assert np.isnan(recording(someone).placed(someone)).all((1, 2)).tolist() == [False, True, False]


def test_rows_name_everybody_who_is_present_and_nobody_else() -> None:
    def leave(arrays: dict[str, Any]) -> None:
        arrays["scores"][2] = np.nan

    early = without(person(walking(5), id=9), leave)
    late = person(walking(4), id=1, first=3)
    told = {
        frame: [(each.id, row) for each, row in people] for frame, people in recording(early, late, frames=8).rows()
    }
    assert told == {
        0: [(9, 0)], 1: [(9, 1)], 2: [], 3: [(1, 0), (9, 3)], 4: [(1, 1), (9, 4)], 5: [(1, 2)], 6: [(1, 3)], 7: [],
    }  # fmt: skip


def test_a_person_who_is_not_there_is_refused_with_those_who_are() -> None:
    with pytest.raises(OutOfRange, match=r"`person` must be one of \[3\], got 4"):
        recording(person(walking(2))).of(4)
