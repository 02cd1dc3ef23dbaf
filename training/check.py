"""`python -m training check`: every recipe of the paper for a few steps on made data, one of them killed and resumed.

Minutes on a CPU. What it shows is that the recipes run, resume and are scored; its figures mean nothing. By default the
networks are small ones of the same form; `--whole` builds them in full.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from service.networks import create

from .fixtures import write_fixtures
from .paper.lifters import train_lifter
from .paper.rows import every_row, merged
from .paper.where import Where
from .table import train_and_score

STEPS = 2
BATCH = 2
RESUMED_STEPS = 40
SMALL_INPUT = {"width": 64, "height": 64}
SMALL_LIFTER = {"width": 8, "depth": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--whole", action="store_true", help="networks in full: much longer, and gigabytes")
    parser.add_argument("--rows", nargs="*", default=[], help="keys of trainings; by default all")
    parser.add_argument("--device", default="cpu")


def check(arguments: argparse.Namespace) -> str:
    """Runs them all and returns a line to print; what fails raises, with the recipe's name in front."""
    began = time.monotonic()
    rows = {key: row for key, row in every_row().items() if not arguments.rows or key in arguments.rows}
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as made:
        root = write_fixtures(Path(made) / "data")
        for number, (key, row) in enumerate(rows.items(), 1):
            with tempfile.TemporaryDirectory(dir=made) as run:
                where = Where(Path(run), root, device, steps=STEPS, backbones=backbones(Path(made), row.recipe))
                try:
                    figures = train_and_score(shortened(row.recipe, arguments.whole), where)
                except Exception as error:
                    raise RuntimeError(f"table {row.table}, row {row.name} ({key}): {error}") from error
            wrong = [n for n, v in figures.items() if isinstance(v, float) and not math.isfinite(v)]
            if wrong or figures["steps"] != STEPS:
                raise RuntimeError(
                    f"table {row.table}, row {row.name}: {wrong or figures['steps']} after {STEPS} steps"
                )
            print(f"{number}/{len(rows)} table {row.table} {row.name}: runs", flush=True)
        killed_and_resumed(Path(made), root)
    return f"{len(rows)} recipes run, one was killed and resumed; {time.monotonic() - began:.0f} s"


def shortened(recipe: Mapping[str, Any], whole: bool = False) -> dict[str, Any]:
    """The recipe with tiny batches, and unless `whole` with a small network of the same form."""
    changes: dict[str, Any] = {"loop": {"batch": BATCH}}
    if whole:
        return merged(recipe, changes)
    name = recipe["network"]["name"]
    if recipe["kind"] == "pose":
        small = {"name": "hrnet-w16", "blocks": 2}
        # Backbones are published for the large ones alone.
        changes |= {"input": SMALL_INPUT, "network": {"name": "hrnet-w32"} if recipe.get("backbone") else small}
        changes["loop"]["rate"] = 1e-4
    elif name == "videopose3d":
        changes["network"] = {"channels": 8}
    else:
        changes["network"] = SMALL_LIFTER
    return merged(recipe, changes)


def backbones(folder: Path, recipe: Mapping[str, Any]) -> dict[str, Path]:
    """A made ImageNet file for a row that starts from one, for the network that `shortened` gives it."""
    if not recipe.get("backbone"):
        return {}
    file = folder / "hrnet_w32_imagenet.pth"
    state = create("hrnet-w32").state_dict()
    zero = torch.zeros(())
    torch.save(
        {key: value for key, value in state.items() if not key.startswith("final_layer")}
        | {"classifier.weight": zero.expand(1000, 2048)},
        file,
    )
    return {"hrnet-w32": file}


def resumable(folder: Path, root: Path, checkpoint_s: float) -> Where:
    return Where(folder, root, torch.device("cpu"), steps=RESUMED_STEPS, checkpoint_s=checkpoint_s)


def a_lifter() -> dict[str, Any]:
    row = next(row for row in every_row().values() if row.recipe["kind"] == "takes")
    return shortened(row.recipe)


def killed_and_resumed(folder: Path, root: Path) -> None:
    """A training that is killed without warning and goes on ends with the weights of one that never was.

    Raises:
        RuntimeError: it does not, or it could not be killed in the middle.
    """
    run = folder / "killed"
    command = [sys.executable, "-m", "training.check", str(run), str(root)]
    # As many threads as here: sums of other parts are other sums.
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": threads}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (run / "latest.pt").is_file():
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not (run / "latest.pt").is_file():
        raise RuntimeError(f"the training to be killed ended by itself, with code {process.returncode}")
    step = torch.load(run / "latest.pt", weights_only=True)["step"]
    if not 0 < step < RESUMED_STEPS:
        raise RuntimeError(f"the training was to be killed in the middle, not at step {step} of {RESUMED_STEPS}")
    resumed = train_lifter(a_lifter(), resumable(run, root, 180.0)).state_dict()
    never = train_lifter(a_lifter(), resumable(folder / "never killed", root, 180.0)).state_dict()
    apart = [name for name, value in never.items() if not torch.equal(value, resumed[name])]
    if apart:
        raise RuntimeError(f"killed at step {step} and resumed, {len(apart)} weights differ, `{apart[0]}` first")
    print(f"killed at step {step} of {RESUMED_STEPS} and resumed: the same weights", flush=True)


if __name__ == "__main__":  # what `killed_and_resumed` starts and kills: it writes a checkpoint after every step
    train_lifter(a_lifter(), resumable(Path(sys.argv[1]), Path(sys.argv[2]), 0.0))
