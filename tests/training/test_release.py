"""A run into the store: weights, manifest and card say the same, and what cannot be served is not released."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import OutOfRange
from service.networks import create, load_weights
from service.store.manifest import DataSource, Manifest, Score, WeightsFile
from service.store.store import Store
from training.__main__ import parser
from training.loop import LoopRecipe, Run
from training.release import last_figures, release
from training.start import read_start, started, weights_of

RECIPE = """
kind = "lift"
name = "lift-3"
{more}

[network]
name = "lifter"
frames = 3
channels = 6
width = 8
heads = 2
depth = 1
head = "sequence"

[loop]
rate = 1e-3
seed = 9

[loss]
scaled = 0.5
{tail}

[[data]]
name = "Drawn motion"
licence = "{licence}"
terms = "none"
"""


def run_folder(tmp_path: Path, licence: str = "CC0-1.0", more: str = "", tail: str = "") -> Path:
    folder = tmp_path / "run"
    torch.manual_seed(0)
    network = create("lifter", frames=3, channels=6, width=8, heads=2, depth=1, head="sequence")
    Run(folder, network, LoopRecipe(), torch.device("cpu")).fit(
        lambda number: None, lambda module, batch: {}, lambda module: {"n": 61.25}, hours=0
    )
    (folder / "recipe.toml").write_text(RECIPE.format(licence=licence, more=more, tail=tail))
    return folder


def told(folder: Path, *more: str) -> Namespace:
    store = folder.parent / "store"
    store.mkdir(exist_ok=True)
    words = ["release", str(folder), "--name", "lift-3", "--version", "1", "--store", str(store), *more]
    return parser().parse_args(words)


def test_a_released_run_loads_as_it_was_and_says_where_it_comes_from(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    assert release(told(folder, "--default")) == "lift-3@1"
    store = Store(tmp_path / "store")
    assert store.check() == []
    entry = store.find("lift-3")
    manifest = entry.manifest
    assert (manifest.role, manifest.network, manifest.joints, manifest.default) == ("lift", "lifter", "h36m17", True)
    assert manifest.permissive and manifest.data == (DataSource("Drawn motion", "CC0-1.0", "none"),)
    assert [(score.metric, score.value) for score in manifest.scores] == [("n", 61.25)]
    assert manifest.training["seed"] == 9 and manifest.training["loss"] == {"scaled": 0.5}
    module = create(manifest.network, **manifest.options)
    load_weights(module, entry.load(), entry.label)
    kept = torch.load(folder / "latest.pt", weights_only=True)["average"]
    for name, value in module.state_dict().items():
        assert torch.allclose(value, kept[name], atol=1e-3, rtol=1e-3)
    dtypes = {name: array.dtype for name, array in entry.load().items()}
    assert np.float16 in dtypes.values()
    assert all(dtypes[name] == np.float32 for name in dtypes if "embed" in name or "head" in name)


def test_the_card_says_what_the_manifest_says(tmp_path: Path) -> None:
    release(told(run_folder(tmp_path, more='limits = "People who lie."')))
    card = (tmp_path / "store" / "lift-3" / "1" / "CARD.md").read_text()
    for word in ("# lift-3@1", "Drawn motion (CC0-1.0): none", "| n | 61.25 |", "seed 9", "People who lie.", "commit"):
        assert word in card
    assert "not restricted" in card


def test_research_data_marks_the_weights_unless_the_recipe_knows_better(tmp_path: Path) -> None:
    release(told(run_folder(tmp_path / "a", "none stated")))
    entry = Store(tmp_path / "a" / "store").find("lift-3")
    assert entry.manifest.weights.restricted and not entry.permissive
    release(told(run_folder(tmp_path / "b", "LicenseRef-CMU", more="restricted = false")))
    assert Store(tmp_path / "b" / "store").find("lift-3").permissive


def test_the_sources_of_the_start_are_sources_too_and_none_is_named_twice(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, more='start = "older"')
    arguments = told(folder)
    data = (DataSource("Older data", "CC-BY-4.0", "named"), DataSource("Drawn motion", "CC0-1.0", "none"))
    weights = weights_of(create("lifter", frames=1, width=8, heads=2).state_dict())
    older = Manifest("older", 1, "lift", "lifter", "Old.", WeightsFile("Apache-2.0", False), data=data)
    Store(tmp_path / "store").add(older, weights, "# Old\n")
    release(arguments)
    assert [source.name for source in Store(tmp_path / "store").find("lift-3").manifest.data] == [
        "Older data",
        "Drawn motion",
    ]


def test_what_cannot_be_served_or_said_is_not_released(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    arguments = told(folder)
    good = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(good.replace("scaled = 0.5", 'kind = "cross_entropy"'))
    with pytest.raises(ValueError, match="logits"):
        release(arguments)
    (folder / "recipe.toml").write_text(good.replace('terms = "none"', ""))
    with pytest.raises(ValueError, match="`terms` of its data"):
        release(arguments)
    (folder / "recipe.toml").write_text(good)
    release(arguments)
    with pytest.raises(OutOfRange, match="next version"):
        release(arguments)


def test_a_log_without_a_validation_is_named(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 1, "val_n": 2.0}, {"step": 2, "val_n": 1.5}, {"step": 3, "loss": 1.0}]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    assert last_figures(log) == {"n": 1.5}
    log.write_text(json.dumps(lines[2]))
    with pytest.raises(ValueError, match=r"log\.jsonl holds no validation"):
        last_figures(log)


def test_a_run_starts_from_the_store_an_npz_or_another_run_all_the_same(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    release(told(folder, "--no-half"))
    kept = weights_of(torch.load(folder / "latest.pt", weights_only=True)["average"])
    np.savez(tmp_path / "weights.npz", **kept)  # type: ignore[arg-type]
    store = tmp_path / "store"
    for source in ("lift-3", "lift-3@1", str(tmp_path / "weights.npz"), str(folder / "latest.pt")):
        arrays = read_start(source, store)
        assert all(np.array_equal(arrays[name], kept[name]) for name in kept)
        network = {"name": "lifter", "frames": 3, "channels": 6, "width": 8, "heads": 2, "depth": 1, "head": "sequence"}
        assert sum(p.numel() for p in started(network, arrays, source).parameters()) > 0


def test_a_share_of_a_run_is_released_with_its_own_scores_and_never_the_logs(tmp_path: Path) -> None:
    folder, start = run_folder(tmp_path), tmp_path / "start"
    start.mkdir()
    trained = torch.load(folder / "latest.pt", weights_only=True)["average"]
    torch.save({"average": {name: value * 0 for name, value in trained.items()}}, start / "latest.pt")
    between = ("--no-half", "--towards", str(start), "--share", "0.25")
    release(told(folder, *between, "--device", "a made machine"))
    entry = Store(tmp_path / "store").find("lift-3")
    assert entry.manifest.scores == () and entry.manifest.training["share"] == 0.25
    for name, value in entry.load().items():
        np.testing.assert_allclose(value, 0.25 * trained[name].numpy(), rtol=1e-6)
    card = (entry.folder / "CARD.md").read_text()
    assert "0.25 of the trained weights" in card and "hours on a made machine" in card
    (tmp_path / "scores.json").write_text('[{"protocol": "photos", "metric": "AP", "value": 0.6}]')
    release(told(folder, *between, "--scores", str(tmp_path / "scores.json"), "--version", "2"))
    assert Store(tmp_path / "store").find("lift-3@2").manifest.scores == (Score("photos", "AP", 0.6),)
    with pytest.raises(ValueError, match=r"--share 0\.5 needs --towards"):
        release(told(folder, "--share", "0.5"))


@pytest.mark.parametrize("restricted", [False, True])
def test_a_starts_notice_and_restriction_go_on(tmp_path: Path, restricted: bool) -> None:
    folder = run_folder(tmp_path, more='start = "older"')
    arguments = told(folder)
    weights = weights_of(create("lifter", frames=1, width=8, heads=2).state_dict())
    older = Manifest("older", 1, "lift", "lifter", "Old.", WeightsFile("Apache-2.0", restricted))
    Store(tmp_path / "store").add(older, weights, "# Old\n", "Copyright Somebody\n")
    release(arguments)
    entry = Store(tmp_path / "store").find("lift-3")
    assert (entry.folder / "NOTICE").read_text().splitlines()[0] == "Copyright Somebody"
    assert "older@1" in (entry.folder / "NOTICE").read_text()
    assert entry.manifest.weights.restricted is restricted
