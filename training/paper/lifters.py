"""Trains and scores a lifter on takes: Human3.6M or MPI-INF-3DHP, by the paper's losses and its protocol.

Network inputs are 2D points over the picture's width (VideoPose3D's rule), targets root-relative metres in the camera's
axes. A window's centre frame is what is scored, the mean with its mirror image's, as the field has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.networks import create

from ..data import human36m as h36m
from ..data.ahead import Ahead
from ..data.motion_takes import read_motion_takes
from ..data.mpi_inf_3dhp import read_3dhp_test, read_3dhp_training
from ..data.rendered import read_rendered_takes
from ..data.takes import Take, TakeMaker, mirrored, normalised, window
from ..distributed import Schedule, ScheduledRun, own_batches, together
from ..loop import LoopRecipe, Losses
from ..metrics.lifting import Lifted, figures_3dhp, figures_by_action, mean_of_actions
from ..recipe import section
from .where import Where

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TakeRecipe:
    """set: human36m, 3dhp, or motion for packs of our own. detections: see `data.human36m`, `data.motion_takes`.

    tested: scored on rendered clips with these 2D points (see `data.rendered`) instead of on the set's own test half.
    epochs, fall, fall_epochs: the training's length, and to what share of itself the rate falls every so many epochs.
    """

    set: str = "human36m"
    detections: str = "cpn"
    epochs: int = 80
    fall: float = 0.95
    fall_epochs: int = 2
    tested: str = ""


@dataclass(frozen=True)
class TakeLoss:
    """Weights of L_t over all frames (eq. 14), of L_s over the spatial features' poses (eq. 13)."""

    temporal: float = 1.0
    spatial: float = 1.0


def read_takes(recipe: TakeRecipe, folder: Path, training: bool) -> list[Take]:
    """The training or test half of a set. Raises ValueError where files are missing, as its reader does."""
    if recipe.tested and not training:
        return read_rendered_takes(folder / "rendered", recipe.tested)
    if recipe.set == "human36m":
        subjects = h36m.TRAINING if training else h36m.TESTING
        return h36m.read_human36m(folder / "human36m", subjects, recipe.detections)
    if recipe.set == "3dhp":
        return (read_3dhp_training if training else read_3dhp_test)(folder / "3dhp")
    if recipe.set == "motion":
        return read_motion_takes(folder / "motion", training, recipe.detections)
    raise ValueError(f"[takes] `set` must be human36m, 3dhp or motion, got {recipe.set!r}")


def distance(poses: Tensor, targets: Tensor) -> Tensor:
    """Mean of the joints' distances in metres: the sums of norms of eqs. 13 and 14, read as means."""
    mean: Tensor = torch.linalg.vector_norm(poses - targets, dim=-1).mean()
    return mean


def take_losses(module: nn.Module, batch: Sequence[Tensor], weights: TakeLoss) -> Losses:
    """L = temporal L_t + spatial L_s (eq. 15). batch: inputs (n, F, joints, 2), targets (n, F, 17, 3).

    A network that answers the centre frame alone is held to that one: PoseFormer's and VideoPose3D's own loss.
    """
    inputs, targets = batch
    spatial = getattr(module, "spatial_head", None)
    if spatial is None:
        poses = module(inputs)
    else:
        features = module.features(inputs)  # type: ignore[operator]
        poses = module.poses(features)  # type: ignore[operator]
    middle = targets.shape[1] // 2
    wanted = targets if poses.shape[1] > 1 else targets[:, middle : middle + 1]
    l_t = distance(poses, wanted)
    losses = {"loss": weights.temporal * l_t, "mm": 1000 * l_t}
    if spatial is not None:
        l_s = distance(spatial(features), targets)
        losses["loss"] = losses["loss"] + weights.spatial * l_s
        losses["s_mm"] = 1000 * l_s
    return losses


@torch.no_grad()
def lift_take(module: nn.Module, take: Take, frames: int, device: torch.device, batch: int = 256) -> Array:
    """The pose of every scored frame, (n, 17, 3) metres: of its window and of the window's mirror image, the mean."""
    points = normalised(take.points, take.size)
    answers = []
    for first in range(0, len(take.scored), batch):
        rows = np.stack([window(points, int(frame), frames) for frame in take.scored[first : first + batch]])
        both = np.concatenate([rows, mirrored(rows, take.layout)])
        poses = module(torch.from_numpy(both).to(device)).float().cpu().numpy()
        centre: Array = poses[:, poses.shape[1] // 2]
        plain, mirror = np.split(centre, 2)
        answers.append((plain + mirrored(mirror, take.target_layout)) / 2)
    return np.concatenate(answers)


def score_lifter(
    module: nn.Module, takes: Sequence[Take], recipe: TakeRecipe, frames: int, device: torch.device
) -> dict[str, Any]:
    """Human3.6M: p1, p2, n, velocity, and each action's under `actions`. MPI-INF-3DHP: pck, auc, mpjpe.

    The network is scored in evaluation mode, whatever mode it is in, and left in the mode it was in.
    """
    was = module.training
    module.eval()
    lifted = [Lifted(t.group, lift_take(module, t, frames, device), t.joints[t.scored]) for t in takes]
    module.train(was)
    if recipe.set == "3dhp":
        return dict(figures_3dhp(lifted))
    actions = figures_by_action(lifted)
    return {**mean_of_actions(actions), "actions": actions}


def build_lifter(network: Mapping[str, Any]) -> nn.Module:
    """A recipe's [network]; VideoPose3D in its strided form, which computes what a window needs and nothing else."""
    options = {key: value for key, value in network.items() if key != "name"}
    if network["name"] == "videopose3d":
        options.setdefault("strided", True)
    return create(network["name"], **options)


def train_lifter(recipe: Mapping[str, Any], where: Where) -> nn.Module:
    """Trains a row's lifter in its folder, or goes on there; returns it with the weights that it ended with."""
    takes_recipe, loop = section(recipe, "takes", TakeRecipe), section(recipe, "loop", LoopRecipe)
    weights = section(recipe, "loss", TakeLoss)
    torch.manual_seed(loop.seed)
    module = build_lifter(recipe["network"])
    processes = where.processes
    # The recipe's batch is that of all processes together.
    loop = replace(loop, batch=max(1, loop.batch // processes.count))
    takes = read_takes(takes_recipe, where.data, training=True)
    maker = TakeMaker(takes, recipe["network"]["frames"], loop.batch, loop.seed)
    per_epoch = -(-maker.steps_per_epoch // processes.count)
    schedule = Schedule(
        where.steps or takes_recipe.epochs * per_epoch, takes_recipe.fall, takes_recipe.fall_epochs * per_epoch
    )
    run = ScheduledRun(where.run, module, loop, where.device, schedule, processes, where.hours)
    ahead = Ahead(own_batches(maker, processes), where.workers)

    def losses(network: nn.Module, batch: Sequence[Tensor]) -> Losses:
        return take_losses(network, [part.to(where.device) for part in batch], weights)

    run.fit(
        ahead,
        together(run.module, losses, processes, where.device, where.parts),
        lambda _: {},
        hours=float("inf"),
        checkpoint_s=where.checkpoint_s,
    )
    return run.module
