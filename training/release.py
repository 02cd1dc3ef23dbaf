"""Puts a run's averaged weights into the model store: weights, manifest and a card made from the same facts.

`python -m training release RUN --name NAME --version N`. What it says comes from the run's recipe, its checkpoint and
its log; the sources and the notice of the model that the run started from come from that model's own entry.
"""

from __future__ import annotations

import json
import subprocess
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.errors import Unknown
from service.networks import create, load_weights
from service.store.manifest import PERMISSIVE, DataSource, Manifest, Role, Score, WeightsFile
from service.store.store import NOTICE, Entry, Store, embedded_store

from .blend import read_between
from .lift import other_frames
from .recipe import read_recipe
from .start import Arrays, weights_of

# What the figures of a run's log mean, for those who compare them.
PROTOCOLS: Mapping[str, str] = {
    "pose": "labelled boxes, no flip test, OKS",
    "person": "box overlap, input {side}",
    "lift": "{frames} frames, synthetic cameras over the validation motion, mm",
}
JOINTS: Mapping[str, str] = {"pose": "coco17", "person": "", "lift": "h36m17"}
# Sections of a recipe that say how the run went; the others have places of their own in a manifest.
HOW = ("loop", "loss", "crops", "squares", "windows", "shorter", "lone")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", type=int, required=True)
    parser.add_argument("--store", type=Path, default=embedded_store())
    parser.add_argument("--recipe", type=Path, help="instead of the run's own copy")
    parser.add_argument("--half", action=BooleanOptionalAction, help="16-bit weights; by default all but the finder's")
    parser.add_argument("--default", action="store_true", help="the model of its role when nobody names one")
    parser.add_argument("--towards", type=Path, help="a run or checkpoint: weights between that and this run's")
    parser.add_argument("--share", type=float, default=1.0, help="of this run's weights beside --towards, 0..1")
    parser.add_argument("--scores", type=Path, help='JSON, [{"protocol", "metric", "value"}], instead of the log\'s')
    parser.add_argument("--device", default="", help="what it was trained on, for the card")
    parser.add_argument("--frames", type=int, help="of a lifter: for windows of so many frames, fewer than the run's")
    parser.add_argument("--long", action="store_true", help="of a lifter: the one for long sequences")


def release(arguments: Namespace) -> str:
    """Adds the run to the store and returns the label of the new entry.

    Raises:
        ValueError: the run's network answers what the service does not read, its weights do not fit the recipe, or a
            share is asked for that cannot be had, see `blend.between`.
        OutOfRange: there is this version already.
    """
    path = arguments.recipe or arguments.run / "recipe.toml"
    recipe, store = read_recipe(path), Store(arguments.store)
    if recipe.get("loss", {}).get("kind") == "cross_entropy":
        raise ValueError("a cross-entropy run answers logits, the service reads heatmaps: end it with a leg of `mse`")
    if arguments.share != 1 and arguments.towards is None:
        raise ValueError(f"--share {arguments.share:g} needs --towards, the other weights")
    state = torch.load(arguments.run / "latest.pt", map_location="cpu", weights_only=True)
    if arguments.frames:
        recipe["network"]["frames"] = arguments.frames
    if arguments.towards is None:
        arrays = weights_of(state["average"])
    else:
        arrays = read_between(arguments.run, arguments.towards, arguments.share)
    if recipe["kind"] == "lift":
        arrays = other_frames(arrays, recipe["network"]["frames"])
    manifest = describe(recipe, state, store, arguments)
    parameters = check(manifest, arrays)
    half = recipe["kind"] != "person" if arguments.half is None else arguments.half
    text = card(manifest, recipe, parameters)
    return store.add(manifest, arrays, text, inherited_notice(recipe, store), half=half).label


def describe(recipe: Mapping[str, Any], state: Mapping[str, Any], store: Store, told: Namespace) -> Manifest:
    """The manifest of a run; checksum and size are the store's business."""
    role: Role = recipe["kind"]
    options = {key: value for key, value in recipe["network"].items() if key != "name"}
    protocol = PROTOCOLS[role].format(**{"side": recipe.get("input", {}).get("side"), **{"frames": None}, **options})
    own, start = sources(recipe), _start(recipe, store)
    marked = start is not None and start.manifest.weights.restricted
    return Manifest(
        name=told.name,
        version=told.version,
        role=role,
        network=recipe["network"]["name"],
        summary=recipe.get("summary", f"{recipe['network']['name']}, trained here by the recipe `{recipe['name']}`"),
        weights=WeightsFile(
            licence=recipe.get("licence", "Apache-2.0"),
            restricted=recipe.get("restricted", marked or any(source.licence not in PERMISSIVE for source in own)),
        ),
        options=options,
        input={key: value for key, value in recipe.get("input", {}).items() if key != "side"},
        data=tuple(dict.fromkeys((*inherited(recipe, store), *own))),  # what both learned from, once
        training={
            "recipe": recipe["name"],
            "start": recipe.get("start", ""),
            "seed": recipe.get("loop", {}).get("seed", 0),
            "commit": commit(),
            "steps": state["step"],
            "items": state["items"],
            "hours": round(state["seconds"] / 3600, 2),
            **({"device": told.device} if told.device else {}),
            **({"share": told.share} if told.towards else {}),
            **{key: recipe[key] for key in HOW if key in recipe},
        },
        scores=scores(told, protocol),
        joints=JOINTS[role],
        default=told.default,
        long=told.long,
    )


def sources(recipe: Mapping[str, Any]) -> tuple[DataSource, ...]:
    """What the run itself learned from: [[train]] and [[data]]."""
    tables = [*recipe.get("train", []), *recipe.get("data", [])]
    silent = [table for table in tables if not {"name", "licence", "terms"} <= set(table)]
    if silent or not tables:
        raise ValueError(f"the recipe must say `name`, `licence` and `terms` of its data, not so in {silent or 'any'}")
    return tuple(DataSource(table["name"], table["licence"], table["terms"]) for table in tables)


def inherited(recipe: Mapping[str, Any], store: Store) -> tuple[DataSource, ...]:
    """The sources of the store's model that the recipe starts from."""
    entry = _start(recipe, store)
    return entry.manifest.data if entry else ()


def inherited_notice(recipe: Mapping[str, Any], store: Store) -> str | None:
    """The notice of the store's model that the recipe starts from, with what was changed since."""
    entry = _start(recipe, store)
    if entry is None or not (entry.folder / NOTICE).is_file():
        return None
    text = (entry.folder / NOTICE).read_text(encoding="utf-8").rstrip()
    return f"{text}\nTrained on here from {entry.label}, by the recipe `{recipe['name']}`.\n"


def _start(recipe: Mapping[str, Any], store: Store) -> Entry | None:
    try:
        return store.find(recipe["start"])
    except (KeyError, Unknown):
        return None


def scores(told: Namespace, protocol: str) -> tuple[Score, ...]:
    """The figures of the file that is named, else the log's. The log knows nothing of weights between two: none."""
    if told.scores:
        rows = json.loads(told.scores.read_text(encoding="utf-8"))
        return tuple(Score(row["protocol"], row["metric"], float(row["value"])) for row in rows)
    if told.towards:
        return ()
    figures = last_figures(told.run / "log.jsonl")
    return tuple(Score(protocol, name, round(value, 4)) for name, value in figures.items())


def last_figures(log: Path) -> dict[str, float]:
    """The newest validation in a run's log, without its prefix."""
    for line in reversed(log.read_text(encoding="utf-8").splitlines()):
        figures = {key[4:]: float(value) for key, value in json.loads(line).items() if key.startswith("val_")}
        if figures:
            return figures
    raise ValueError(f"{log} holds no validation: run the recipe with --hours 0 first")


def check(manifest: Manifest, arrays: Arrays) -> int:
    """Loads the weights as a service would; returns the number of parameters."""
    module = create(manifest.network, **manifest.options)
    load_weights(module, arrays, manifest.label)
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise ValueError(f"{manifest.label}: `{broken[0]}` holds values that are no numbers")
    return sum(parameter.numel() for parameter in module.parameters())


def commit() -> str:
    """The commit of the code, with a mark where files differ from it; `unknown` outside of a repository."""
    here = Path(__file__).parent
    asked = [["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"]]
    try:
        head, changed = (subprocess.run(c, cwd=here, capture_output=True, text=True, check=True).stdout for c in asked)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("-changed" if changed.strip() else "")


def card(manifest: Manifest, recipe: Mapping[str, Any], parameters: int) -> str:
    """What a person should know before using the model, in Markdown; every line from the manifest or the recipe."""
    told = manifest.training
    figures = "".join(f"| {score.protocol} | {score.metric} | {score.value:g} |\n" for score in manifest.scores)
    data = "".join(f"- {source.name} ({source.licence}): {source.terms}.\n" for source in manifest.data)
    marked = (
        "marked `restricted`: research photos or data without stated terms went into them"
        if manifest.weights.restricted
        else "not restricted by the data behind them"
    )
    start = f"Started from `{told['start']}`. " if told["start"] else "Started from nothing. "
    device = f" on {told['device']}" if "device" in told else ""
    share = ""
    if "share" in told:
        share = f"\n  What is here: {told['share']:g} of the trained weights, the rest those of the start."
    limits = recipe.get("limits", "Not measured beyond the scores above.")
    return f"""# {manifest.label}

{manifest.summary}.

- **Network**: `{manifest.network}`, {parameters:,} parameters, options {dict(manifest.options) or "none"}.
- **Licence of the weights**: {manifest.weights.licence}, {marked}.
- **Training**: {start}{told["items"]:,} items in {told["steps"]:,} steps, {told["hours"]:g} hours{device}; recipe
  `{told["recipe"]}`, seed {told["seed"]}, commit {told["commit"]}.{share}

## Learned from

{data}
## Scores

| protocol | metric | value |
| --- | --- | --- |
{figures}
## Limits

{limits}
"""
