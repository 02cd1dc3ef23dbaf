"""One of the paper's tables, I to X: `python -m training table II --data DATA --runs RUNS`; under torchrun as well.

DATA holds coco/, human36m/ and 3dhp/ in their usual layouts. Every row is trained in a folder of its own under RUNS (or
takes a checkpoint), scored once, and printed beside the paper's; rows of equal recipes share their training. What
cannot be run for want of data says so and leaves its place empty.
"""

from __future__ import annotations

import json
import sys
import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from service.errors import ServiceError
from service.networks import create, load_weights

from .data.human36m import JOINTS_FILE
from .distributed import joined, started_by_torchrun
from .paper.detectors import score_detector, train_detector
from .paper.lifters import TakeRecipe, build_lifter, read_takes, score_lifter, train_lifter
from .paper.report import terminal, write_report
from .paper.rows import TABLES, Row, Table, merged, read_table
from .paper.where import Where
from .recipe import section
from .start import ended


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help=f"holds coco/, human36m/ ({JOINTS_FILE}, ...), 3dhp/")
    parser.add_argument("--runs", type=Path, required=True, help="a folder for each training, and the tables; resumes")
    parser.add_argument("--rows", nargs="*", default=[], help="names of rows; by default all of ours")
    parser.add_argument("--steps", type=int, default=0, help="of each training; 0: the recipe's epochs")
    parser.add_argument("--hours", type=float, default=float("inf"), help="of each training, in this call")
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=[], help="a training of each row for each; mean, spread"
    )
    parser.add_argument(
        "--change", action="append", default=[], metavar="KEY=VALUE", help="in every row, as `network.depth=2` (TOML)"
    )
    parser.add_argument("--checkpoint", action="append", default=[], metavar="ROW=FILE", help="score it, do not train")
    parser.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help="what rows with `backbone` start from: ImageNet weights, or the latest.pt of a plain row",
    )
    parser.add_argument("--boxes", type=Path, help="file of detected people for COCO val; else the labelled boxes")
    parser.add_argument("--report-only", action="store_true", help="train and score nothing: print what there is")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches; 0: none but this one")
    parser.add_argument("--parts", type=int, default=1, help="in how many a batch is computed (accumulated gradients)")
    parser.add_argument("--picture-gb", type=float, default=0.0, help="memory for decoded pictures; 0: none is kept")
    parser.add_argument("--bf16", action="store_true", help="16-bit passes through the 2D network")


def table(arguments: Namespace) -> str:
    """Runs the table's rows and returns what the terminal shows.

    Raises:
        SystemExit: what was asked for is not there, as a row, a file, or weights that a row's network can have; the
            message is one line.
    """
    told = read_table(arguments.table)
    processes = started_by_torchrun()
    checkpoints, given, change = _asked(arguments, told)
    device = torch.device(arguments.device)
    if device.type == "cuda" and processes.count > 1:
        device = torch.device("cuda", processes.local)
    where = Where(
        run=arguments.runs,
        data=arguments.data,
        device=device,
        steps=arguments.steps,
        hours=arguments.hours,
        workers=arguments.workers,
        parts=arguments.parts,
        processes=processes,
        backbones={name: Path(file) for name, file in given.items()},
        boxes=arguments.boxes,
        bf16=arguments.bf16,
        picture_gb=arguments.picture_gb,
    )
    changes = [merged(change, {"loop": {"seed": seed}}) for seed in arguments.seeds] or [change]
    ours: dict[str, dict[str, Any]] = {}
    with joined(processes, device):
        for row in told.rows:
            if not row.trained:
                continue
            wanted = (not arguments.rows or row.name in arguments.rows) and not arguments.report_only
            file = checkpoints.get(row.name)
            changed = [replace(row, recipe=merged(row.recipe, change)) for change in changes]
            figures = [figures_of(each, where, Path(file) if file else None, wanted) for each in changed]
            if all(figures):
                ours[row.name] = mean_of_seeds(figures)
    if not processes.first:
        return ""
    if change:
        told = replace(told, title=f"{told.title}; changed: {', '.join(arguments.change)}")
    files = write_report(told, ours, arguments.runs)
    return "\n".join([terminal(told, ours), *(f"written: {file}" for file in files)])


def _asked(arguments: Namespace, told: Table) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """Checkpoints by row, backbones by network, and changes, once rows and files are there."""
    try:
        checkpoints = _pairs(arguments.checkpoint, "--checkpoint")
        backbones = _pairs(arguments.backbone, "--backbone")
        names = [row.name for row in told.rows if row.trained]
        for name in (*arguments.rows, *checkpoints):
            if name not in names:
                raise ValueError(f"table {told.number} trains no row {name!r}; it trains {', '.join(names)}")
        for file in (*checkpoints.values(), *backbones.values(), *([arguments.boxes] if arguments.boxes else [])):
            if not Path(file).is_file():
                raise ValueError(f"there is no file {file}")
        return checkpoints, backbones, change_of(arguments.change)
    except ValueError as error:
        raise SystemExit(f"python -m training table: {error}") from error


def change_of(given: list[str]) -> dict[str, Any]:
    """What `--change` says, as tables to merge over a recipe.

    Raises:
        ValueError: one is no KEY=VALUE of TOML.
    """
    change: dict[str, Any] = {}
    for each in given:
        try:
            change = merged(change, tomllib.loads(each))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"`--change` wants KEY=VALUE as TOML has it (text in quotes), got {each!r}") from error
    return change


def mean_of_seeds(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one training, or the means of several with their standard deviations (`spread`) and `seeds`."""
    if len(figures) == 1 or any("missing" in each for each in figures):
        return next((each for each in figures if "missing" in each), figures[0])
    numbers = [name for name, value in figures[0].items() if isinstance(value, int | float)]
    values = {name: np.array([each[name] for each in figures], np.float64) for name in numbers}
    mean: dict[str, Any] = {name: float(each.mean()) for name, each in values.items()}
    mean |= {"whole": all(each["whole"] for each in figures), "steps": round(mean.get("steps", 0))}
    if "actions" in figures[0]:
        mean["actions"] = {
            action: {name: float(np.mean([each["actions"][action][name] for each in figures])) for name in told}
            for action, told in figures[0]["actions"].items()
        }
    return mean | {"seeds": len(figures), "spread": {name: float(each.std(ddof=1)) for name, each in values.items()}}


def figures_of(row: Row, where: Where, checkpoint: Path | None, run: bool) -> dict[str, Any]:
    """A row's figures: those that its folder holds, or after training and scoring; empty where nothing was run.

    Data that are missing are no error of the table: the message stands under `missing`.
    """
    folder = where.run / (row.key if checkpoint is None else f"{row.key}-given")
    tested = row.recipe.get("takes", {}).get("tested", "")
    scored = folder / (f"figures-{tested}.json" if tested else "figures.json")
    if scored.is_file() and (checkpoint is None or not run):
        figures: dict[str, Any] = json.loads(scored.read_text(encoding="utf-8"))
        return figures
    if not run:
        return {}
    where = replace(where, run=folder)
    try:
        figures = train_and_score(row.recipe, where, checkpoint)
    except ServiceError as error:  # a checkpoint or a backbone is not this network's, or nothing that is read
        raise SystemExit(f"python -m training table: table {row.table}, row {row.name}: {error}") from error
    except ValueError as error:
        print(f"{row.table} {row.name}: {error}", file=sys.stderr, flush=True)
        return {"missing": str(error)}
    if where.processes.first:
        folder.mkdir(parents=True, exist_ok=True)
        # A training that its hours cut short goes on at the next call: its figures are not kept.
        if figures["whole"]:
            scored.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        (folder / "recipe.json").write_text(json.dumps(row.recipe, indent=1), encoding="utf-8")
    return figures


def train_and_score(recipe: Mapping[str, Any], where: Where, checkpoint: Path | None = None) -> dict[str, Any]:
    """The figures of a recipe's network: `params` in millions, those of its protocol, `steps`, and whether it is whole.

    Raises:
        ValueError: data or a start are missing; a checkpoint is not the recipe's network.
    """
    pose = recipe["kind"] == "pose"
    if checkpoint is not None:
        module = with_checkpoint(recipe, checkpoint).to(where.device)
    else:
        module = (train_detector if pose else train_lifter)(recipe, where)
    figures: dict[str, Any] = {"params": sum(p.numel() for p in module.parameters()) / 1e6}
    if not where.processes.first:
        return figures
    if pose:
        figures |= score_detector(module, recipe, where)
    else:
        takes = section(recipe, "takes", TakeRecipe)
        test = read_takes(takes, where.data, training=False)
        figures |= score_lifter(module, test, takes, recipe["network"]["frames"], where.device)
    figures["whole"] = True
    if checkpoint is None:
        figures["steps"] = torch.load(where.run / "latest.pt", map_location="cpu", weights_only=True)["step"]
        figures["whole"] = not where.steps or figures["steps"] >= where.steps
    return figures


def with_checkpoint(recipe: Mapping[str, Any], file: Path) -> nn.Module:
    """The recipe's network with a file's weights: a run's `latest.pt`, or an official checkpoint of that network."""
    network = recipe["network"]
    options = {key: value for key, value in network.items() if key != "name"}
    module = build_lifter(network) if recipe["kind"] != "pose" else create(network["name"], **options)
    load_weights(module, ended(file), file.name)
    return module


def _pairs(given: list[str], option: str) -> dict[str, str]:
    for each in given:
        if "=" not in each:
            raise ValueError(f"`{option}` wants NAME=FILE, got {each!r}")
    return dict(each.split("=", 1) for each in given)
