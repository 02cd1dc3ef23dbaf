"""The tables' files: every row is a whole recipe, rows of one training share it, and what is printed is the paper's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from service.networks.attention import place_attention
from service.networks.hrnet import BLOCKS, BRANCHES, MODULES, HRNetOptions
from training.data.crops import CropRecipe
from training.loop import LoopRecipe
from training.paper.detectors import EpochRecipe
from training.paper.lifters import TakeLoss, TakeRecipe, build_lifter
from training.paper.report import figure_of
from training.paper.rows import TABLES, every_row, merged, read_table
from training.pose import PoseLoss
from training.recipe import section

ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


def row_of(table: str, name: str) -> Any:
    return next(row for row in read_table(table).rows if row.name == name)


def test_all_ten_tables_are_there() -> None:
    assert set(ROMAN) <= set(TABLES)


@pytest.mark.parametrize("number", TABLES)
def test_every_row_of_ours_is_read_whole(number: str) -> None:
    table = read_table(number)
    assert table.primary in table.figures
    for row in table.rows:
        recipe = row.recipe
        section(recipe, "loop", LoopRecipe)
        known = {"kind", "network", "loop", "loss"}
        if recipe["kind"] == "pose":
            known |= {"input", "crops", "epochs", "backbone"}
            section(recipe, "crops", CropRecipe), section(recipe, "epochs", EpochRecipe)
            section(recipe, "loss", PoseLoss)
        else:
            assert recipe["kind"] == "takes"
            known |= {"takes"}
            section(recipe, "takes", TakeRecipe), section(recipe, "loss", TakeLoss)
        assert set(recipe) <= known, row.name
        assert {figure.split(".")[0] for figure in row.printed} <= {figure.split(".")[0] for figure in table.figures}


def test_every_network_of_a_row_can_be_built() -> None:
    """Lifters in one layer; of the detectors what is checked before they are built."""
    networks = {json.dumps(row.recipe["network"], sort_keys=True) for row in every_row().values()}
    for network in map(json.loads, networks):
        if network["name"].startswith("hrnet"):
            options = HRNetOptions(**{key: value for key, value in network.items() if key != "name"})
            place_attention(options.attention, options.gate, MODULES, BRANCHES, BLOCKS, options.variant)
        else:
            small = {"channels": 2} if network["name"] == "videopose3d" else {"depth": 1, "width": 8}
            with torch.device("meta"):
                build_lifter({**network, **small})


def test_one_network_under_three_names_is_trained_once() -> None:
    keys = {row_of("VII", name).key for name in ("sub3", "stage3")} | {row_of("I", "ours-w32").key}
    assert len(keys) == 1
    assert row_of("I", "w32").key == row_of("VII", "none").key
    assert row_of("II", "ours").key == row_of("VI", "both").key == row_of("IX", "ours-81").key
    assert len({row_of("VII", name).key for name in ("none", "sub1", "sub2", "stage1", "stage2", "six", "output")}) == 7


def test_another_seed_is_another_training() -> None:
    row = row_of("II", "ours")
    other = merged(row.recipe, {"loop": {"seed": 5}})
    assert type(row)("II", "ours", "", other, {}).key != row.key


# The means of the printed 15 values that models of the tables give; the printed averages of these rows differ.
@pytest.mark.parametrize(
    ("table", "name", "figure", "mean", "printed"),
    [
        ("II", "ours", "p1", 48.60, 43.1),
        ("II", "ours", "p2", 38.29, 38.3),
        ("II", "poseformer", "p1", 44.25, 44.3),
        ("II", "poseformer", "p2", 35.96, 39.0),
        ("II", "martinez", "p1", 62.89, 62.9),
        ("II", "fang-p2", "p2", 45.79, 45.7),
        ("II", "wu-p2", "p2", 37.00, 37.7),
        ("III", "ours", "p1", 28.67, 31.0),
        ("III", "zhen", "p1", 41.99, 35.8),
        ("III", "xue", "p1", 35.60, 33.3),
        ("III", "poseformer", "p1", 32.11, 32.0),
    ],
)
def test_printed_rows_have_their_true_means(table: str, name: str, figure: str, mean: float, printed: float) -> None:
    row = row_of(table, name)
    values = [value for key, value in row.printed.items() if key.startswith(f"{figure}.")]
    assert len(values) == 15
    assert np.mean(values) == pytest.approx(mean, abs=0.006)
    assert figure_of(row.printed, figure) == printed


def test_moganets_rows_are_as_printed() -> None:
    figures = ("params", "ap", "ar", "ap50", "ap75")
    printed = {name: [row_of("I", name).printed[each] for each in figures] for name in ("moganet-t", "moganet-s")}
    assert printed == {"moganet-t": [8.1, 73.2, 81.0, 90.1, 78.8], "moganet-s": [29, 74.9, 82.8, 90.7, 80.1]}


def test_the_detectors_targets_are_those_of_the_code_that_the_paper_builds_on() -> None:
    rows = [row for number in ("I", "VII") for row in read_table(number).rows if row.trained]
    assert rows and all(row.recipe["crops"]["rounded"] for row in rows)


def test_an_unknown_table_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="there is no table 'XI'; there are I, II"):
        read_table("XI")


def test_merging_leaves_both_as_they_were() -> None:
    base, changes = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}
    assert merged(base, changes) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]} and changes == {"a": {"b": 3}, "d": [2]}
