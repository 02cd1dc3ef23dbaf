from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from service.networks import create
from training.data.crops import CropRecipe
from training.data.photos import PhotoSetRecipe
from training.data.squares import SquareRecipe
from training.data.windows import WindowRecipe
from training.lift import LiftLoss, LoneRecipe
from training.loop import LoopRecipe
from training.norms import NormRecipe
from training.person import PersonLoss
from training.pose import PoseLoss
from training.recipe import read_recipe, section, sections

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.toml"))
LOSSES = {"lift": LiftLoss, "pose": PoseLoss, "person": PersonLoss}
KNOWN = {"kind", "name", "start", "summary", "licence", "restricted", "limits", "network", "input", "loop", "loss"}
SECTIONS = {"norms", "frozen", "crops", "squares", "windows", "shorter", "lone", "train", "validation", "data"}


@dataclass(frozen=True)
class Some:
    rate: float = 1.0
    names: tuple[tuple[str, float], ...] = ()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_whole(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe["name"] == path.stem
    assert set(recipe) <= KNOWN | SECTIONS
    section(recipe, "loop", LoopRecipe), section(recipe, "loss", LOSSES[recipe["kind"]])
    section(recipe, "crops", CropRecipe), section(recipe, "squares", SquareRecipe)
    section(recipe, "shorter", WindowRecipe), section(recipe, "lone", LoneRecipe)
    section(recipe, "windows", WindowRecipe), section(recipe, "norms", NormRecipe)
    for name in ("train", "validation"):
        sections(recipe, name, PhotoSetRecipe)
    sources = [*recipe.get("train", []), *recipe.get("data", [])]
    assert sources and all({"name", "licence", "terms"} <= set(source) for source in sources)
    assert sum(parameter.numel() for parameter in create(**recipe["network"]).parameters()) > 0


def test_an_unknown_key_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"\[loop\] has no rote; it has names, rate"):
        section({"loop": {"rote": 1}}, "loop", Some)
    with pytest.raises(ValueError, match=r"\[\[train\]\] has no rote"):
        sections({"train": [{"rate": 1.0}, {"rote": 1}]}, "train", Some)


def test_lists_become_tuples_all_the_way_down_and_a_missing_section_has_defaults() -> None:
    assert section({"loop": {"names": [[".cam.", 10.0]]}}, "loop", Some) == Some(names=((".cam.", 10.0),))
    assert section({}, "loop", Some) == Some()
    assert sections({}, "train", Some) == ()


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("a = 1")
    with pytest.raises(ValueError, match=r"x\.toml is no recipe"):
        read_recipe(tmp_path / "x.toml")
