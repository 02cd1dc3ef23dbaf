"""`python -m training pose|lift|person RECIPE`, `python -m training release RUN`: reads arguments, calls, prints.

Recipes lie in training/recipes. A run goes on where its folder left off. On a CPU that is shared, export
OMP_WAIT_POLICY=PASSIVE first: with spinning threads a busy neighbour costs a factor of ten.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from service.store.store import embedded_store

from . import calibrate, certainty, check, detect, lift, person, pose, release, render, table, whole_way
from .recipe import read_recipe

TASKS = {"lift": lift.train, "pose": pose.train, "person": person.train}
PAPER = {
    "table": table,
    "check": check,
    "detect": detect,
    "certainty": certainty,
}  # each file has a function of its name


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    tasks = root.add_subparsers(dest="task", required=True)
    for name in TASKS:
        task = tasks.add_parser(name)
        task.add_argument("recipe", type=Path)
        task.add_argument("--run", type=Path, required=True, help="the run's folder; it resumes there")
        task.add_argument("--hours", type=float, default=24.0, help="of this call; 0 only validates")
        task.add_argument("--decay-steps", type=int, default=0, help="steps over which the rate falls to 0, then stop")
        task.add_argument("--decay-hours", type=float, default=0.0, help="the end of --hours, over which it falls to 0")
        task.add_argument("--start-from", type=Path, help="another run's checkpoint, to go on from")
        task.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        task.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves them as torch has them")
        task.add_argument("--workers", type=int, default=0, help="processes that prepare batches; 0: none but this one")
        task.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
        task.add_argument("--start", help="instead of the recipe's: a store's model, a .pt or an .npz file")
        task.add_argument("--store", type=Path, default=embedded_store())
    tasks.choices["lift"].add_argument("--compile", action="store_true", help="torch.compile: worth minutes on CUDA")
    tasks.choices["lift"].add_argument("--motion", type=Path, required=True, help="motion pack to train on")
    tasks.choices["lift"].add_argument("--validation", type=Path, required=True, help="motion pack of other people")
    tasks.choices["lift"].add_argument("--lone", type=Path, help="lone frames that `training detect photos` wrote")
    bodies = "bodies that `training render --kind joints` made, which borrow the errors of those"
    tasks.choices["lift"].add_argument("--bodies", type=Path, help=bodies)
    for name in ("lift", "pose"):
        tasks.choices[name].add_argument(
            "--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs, on CUDA"
        )
    for name in ("pose", "person"):
        task = tasks.choices[name]
        task.add_argument("--photos", type=Path, required=True, help="folder that the recipe's files lie in")
    task = tasks.choices["pose"]
    task.add_argument("--picture-gb", type=float, default=2.0, help="memory for decoded pictures; 0: none is kept")
    task.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    render.add_arguments(tasks.add_parser("render", description=render.__doc__))
    whole_way.add_arguments(tasks.add_parser("whole-way", description=whole_way.__doc__))
    release.add_arguments(tasks.add_parser("release", description=release.__doc__))
    for name, task_file in PAPER.items():
        task_file.add_arguments(tasks.add_parser(name, description=task_file.__doc__))
    calibrate.add_arguments(tasks.add_parser("calibrate", description=calibrate.__doc__))
    return root


def main() -> None:
    arguments = parser().parse_args()
    if arguments.task == "release":
        print(release.release(arguments))
        return
    if arguments.task in PAPER:
        print(getattr(PAPER[arguments.task], arguments.task)(arguments))
        return
    if arguments.task == "calibrate":
        print(json.dumps(calibrate.calibrate(arguments), indent=1))
        return
    if arguments.task == "render":
        print(json.dumps(render.render(arguments), indent=1))
        return
    if arguments.task == "whole-way":
        print(json.dumps(whole_way.whole_way(arguments), indent=1))
        return
    recipe = read_recipe(arguments.recipe)
    if recipe["kind"] != arguments.task:
        raise SystemExit(f"{arguments.recipe} is a recipe for `{recipe['kind']}`, not for `{arguments.task}`")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.run.mkdir(parents=True, exist_ok=True)
    copy = arguments.run / "recipe.toml"
    if arguments.recipe.resolve() != copy.resolve():
        shutil.copy(arguments.recipe, copy)
    print(json.dumps(TASKS[arguments.task](recipe, arguments), indent=1))


if __name__ == "__main__":
    main()
