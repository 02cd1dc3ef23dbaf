"""Trains a lifter: `python -m training lift RECIPE --motion PACK --validation PACK --run FOLDER`.

The losses are the paper's eqs. 13-15, read as means of joint distances (metres), with two of our own beside them.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.engines.framing import SIZE_STEPS
from service.geometry.alignment import mpjpe, n_mpjpe
from service.networks import create, load_weights
from service.networks.lifter import AcrossNeighbours, SelfAttention

from .data.ahead import Ahead
from .data.borrowed import Borrowed, read_seen
from .data.lone import LoneFrames, read_lone_frames
from .data.motion import Motion, read_motion
from .data.windows import WindowMaker, WindowRecipe, Windows
from .loop import LoopRecipe, Run
from .recipe import section
from .start import Arrays, read_start, weights_of

_ACROSS_FRAMES = re.compile(r"blocks\.\d+\.across\.conv_[ab]\.weight")  # (channels, 1 if depth-wise, frames)
DRAWN_TOGETHER = 64  # batches, on a GPU: there a batch's hundreds of small kernels cost as much as the step itself


@dataclass(frozen=True)
class LiftLoss:
    """Weights beside L_t = 1. scaled: distance after the best scale a window; spatial: L_s; unfitted: of the poses
    before they are fitted, where the network does that, in L_t and `scaled`."""

    scaled: float = 0.5
    velocity: float = 0.5
    spatial: float = 0.25
    unfitted: float = 0.5


@dataclass(frozen=True)
class LoneRecipe:
    """share: of a batch's windows that are frames which a detector saw, where there are such (`--lone`). turned: the
    share of these that other cameras see. leaning: how often those are drawn who lean or lie, for others' once.
    borrowed: the share of these that are bodies with borrowed errors, where there are such (`--bodies`)."""

    share: float = 0.2
    turned: float = 0.5
    leaning: float = 1.0
    borrowed: float = 0.6


def distance(poses: Tensor, targets: Tensor) -> Tensor:
    """Mean over everything of the joints' distances: eqs. 13 and 14 as means of norms. (..., 17, 3) metres."""
    mean: Tensor = torch.linalg.vector_norm(poses - targets, dim=-1).mean()
    return mean


def _distances(poses: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The distance, and the distance after the best scale of each window."""
    scale = ((poses * targets).sum((1, 2, 3)) / (poses * poses).sum((1, 2, 3)).clamp(min=1e-6)).detach()
    return distance(poses, targets), distance(poses * scale[:, None, None, None], targets)


def lift_losses(module: nn.Module, batch: tuple[Tensor, Tensor], weights: LiftLoss, bf16: bool) -> dict[str, Tensor]:
    """L = L_t + spatial L_s (eq. 15), and what `LiftLoss` adds. batch: channels (n, F, 17, 6), targets (n, F, 17, 3).

    On a CPU the spatial blocks stay in 32 bits: their tiny heads (four numbers) are slower in bfloat16 there.
    """
    channels, targets = batch
    kind = channels.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=bf16 and kind != "cpu"):
        features = module.features(channels)  # type: ignore[operator]
    with torch.autocast(kind, torch.bfloat16, enabled=bf16):
        poses = module.poses(features)  # type: ignore[operator]
    features, poses = features.float(), poses.float()
    losses = {}
    fitting: nn.Module | None = getattr(module, "fitting", None)
    if fitting is None:
        l_t, scaled = _distances(poses, targets)
        loss = l_t + weights.scaled * scaled
    else:
        raw, raw_scaled = _distances(poses, targets)
        poses = fitting(poses, channels)
        l_t, scaled = _distances(poses, targets)
        loss = l_t + weights.scaled * scaled + weights.unfitted * (raw + weights.scaled * raw_scaled)
        losses["raw_mm"] = 1000 * raw_scaled
    losses |= {"mm": 1000 * l_t, "n_mm": 1000 * scaled}
    if poses.shape[1] > 1:
        loss = loss + weights.velocity * distance(poses.diff(dim=1), targets.diff(dim=1))
    if module.spatial_head is not None:
        l_s = distance(module.spatial_head(features), targets)  # type: ignore[operator]
        loss = loss + weights.spatial * l_s
        losses["s_mm"] = 1000 * l_s
    return {"loss": loss, **losses}


class WindowBatches:
    """Makes the batch of a number: channels (n, frames, 17, 6) and targets (n, frames, 17, 3).

    makers: take turns. batch: windows of the first one; another's are as many more as they are shorter.
    together: batches that are drawn at once, for a device that draws a thousand windows as quickly as ten.
    seen: frames that a detector saw; the share of every batch that `lone` says is of them. borrowed: in the place of
    some of these.
    """

    def __init__(
        self,
        makers: Sequence[WindowMaker],
        batch: int,
        seed: int,
        together: int = 1,
        seen: LoneFrames | None = None,
        lone: LoneRecipe | None = None,
        borrowed: Borrowed | None = None,
    ) -> None:
        self.makers, self.batch, self.seed, self.together = makers, batch, seed, together
        self.seen, self.lone, self.borrowed = seen, lone or LoneRecipe(), borrowed
        self._drawn: dict[int, tuple[int, list[tuple[Tensor, Tensor]]]] = {}  # by the maker's turn

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        at, turn = divmod(number, len(self.makers))
        part = at % self.together
        first = number - part * len(self.makers)
        if turn not in self._drawn or self._drawn[turn][0] != first:
            self._drawn[turn] = first, self._draw(self.makers[turn], first)
        return self._drawn[turn][1][part]

    def _draw(self, maker: WindowMaker, first: int) -> list[tuple[Tensor, Tensor]]:
        """The batches of this maker from step `first` on."""
        count, seed = self.batch * self.makers[0].recipe.frames // maker.recipe.frames, self.seed * 1_000_003 + first
        lone = round(self.lone.share * count) if self.seen is not None else 0
        borrowed = round(self.lone.borrowed * lone) if self.borrowed is not None else 0
        drawn = [maker.draw((count - lone) * self.together, seed)]
        frames, turned = maker.recipe.frames, self.lone.turned
        if self.seen is not None and lone - borrowed:
            drawn.append(self.seen.draw((lone - borrowed) * self.together, frames, seed, turned, self.lone.leaning))
        if self.borrowed is not None and borrowed:
            drawn.append(self.borrowed.draw(borrowed * self.together, frames, seed, turned))
        parts = [(channels_of(some).to(maker.device), some.targets.to(maker.device)) for some in drawn]
        each = [[torch.split(values, len(values) // self.together) for values in part] for part in parts]
        channels, targets = ([torch.cat(some) for some in zip(*kind, strict=True)] for kind in zip(*each, strict=True))
        return list(zip(channels, targets, strict=True))


def channels_of(windows: Windows) -> Tensor:
    """(n, frames, 17, 6): `service.engines.framing.window_channels` in torch, for windows made on a device."""
    places, scores = windows.points[..., :2], windows.points[..., 2]
    known = places.isfinite().all(-1)
    places = torch.where(known[..., None], places, 0.0)
    middle = torch.where(known[..., :1], places[..., 0, :], places.sum(-2) / known.sum(-1, keepdim=True).clamp(min=1))
    around = torch.where(known[..., None], places - middle[..., None, :], 0.0)
    extent = (around.square().sum((1, 2, 3)) / known.sum((1, 2)).clamp(min=1)).sqrt().clamp(min=1)
    side = windows.sizes.amax(-1) / 2
    extent = side * torch.exp2(torch.round(SIZE_STEPS * torch.log2(extent / side)) / SIZE_STEPS)
    size = windows.sizes[:, None, None]
    in_picture = torch.where(known[..., None], (places - size / 2) / (size.amax(-1, keepdim=True) / 2), 0.0)
    given = windows.given[:, None, None, None].expand(*known.shape, 1).to(places.dtype)
    confidence = torch.where(known, scores, -1.0)[..., None]
    return torch.cat([around / extent[:, None, None, None], confidence, in_picture, given], -1)


def validation_windows(
    motion: Motion, recipe: WindowRecipe, count: int, noisy: bool, device: torch.device | None = None
) -> Windows:
    """Windows at the pack's own rate, bodies as they were filmed, whole people; with or without a detector's errors."""
    exact = replace(
        recipe,
        rates=(motion.rate, motion.rate),
        still=0.0,
        exchanged=0.0,
        field_of_view=(30.0, 90.0),
        distance=(2.0, 8.0),
        cut=0.0,
        made=0.5 if noisy else 0.0,
        noisy=1.0 if noisy else 0.0,
        hidden=0.0,
        tilted=0.0,
        bent=0.0,
    )
    return WindowMaker(motion, exact, device).draw(count, seed=1)


@torch.no_grad()
def score(module: nn.Module, windows: Windows, batch: int = 32) -> dict[str, float]:
    """MPJPE and N-MPJPE in millimetres over all frames of the windows, on the device where they lie."""
    channels = channels_of(windows)
    answer = torch.cat([module(part).float() for part in torch.split(channels, batch)]).cpu().numpy()
    targets: np.ndarray[Any, np.dtype[np.float32]] = windows.targets.cpu().numpy()
    return {"p1": 1000 * float(mpjpe(answer, targets)), "n": 1000 * float(n_mpjpe(answer, targets))}


def other_frames(arrays: Arrays, frames: int) -> Arrays:
    """A lifter's weights for windows of another length: places keep their distance to the centre, ends are repeated.

    A lone frame has no neighbours. For it depth-wise convolutions over frames become what they are to a frame that is
    repeated: the sums of their weights.
    """
    places = arrays["Temporal_pos_embed"]  # (1, frames, width)
    had = places.shape[1]
    at = np.clip(np.arange(frames) - frames // 2 + had // 2, 0, had - 1)
    changed = {"Temporal_pos_embed": places[:, at]}
    if frames == 1 < had:
        for name, weights in arrays.items():
            if _ACROSS_FRAMES.fullmatch(name) and weights.shape[1] == 1:
                changed[name] = np.zeros_like(weights)
                changed[name][..., weights.shape[-1] // 2] = weights.sum(-1)
    return {**arrays, **changed}


def write_out(module: nn.Module) -> None:
    """Has a compiler see through what it cannot fuse: heads of four numbers, depth-wise convolutions."""
    for name, part in module.named_modules():
        if isinstance(part, AcrossNeighbours) or (isinstance(part, SelfAttention) and name.startswith("Spatial")):
            part.written_out = True


def train(recipe: dict[str, Any], arguments: Namespace) -> dict[str, float]:
    """Runs a `lift` recipe in `arguments.run` until the time or the decay leg is over; returns validation figures."""
    device = torch.device(arguments.device)
    loop, weights = section(recipe, "loop", LoopRecipe), section(recipe, "loss", LiftLoss)
    torch.manual_seed(loop.seed)
    network = dict(recipe["network"])
    frames = network["frames"]
    module = create(network.pop("name"), **network)
    if source := arguments.start or recipe.get("start", ""):
        # What no earlier network had starts as it is made.
        new = {name: each for name, each in weights_of(module.state_dict()).items() if name.startswith("fitting.")}
        load_weights(module, {**new, **other_frames(read_start(source, arguments.store), frames)}, source)
    cuda = device.type == "cuda"
    recorded = cuda and arguments.graphs and "shorter" not in recipe  # a graph knows one shape
    if arguments.compile or recorded:
        write_out(module)
    windows = replace(section(recipe, "windows", WindowRecipe), frames=frames)
    kinds = [windows, section(recipe, "shorter", WindowRecipe)] if "shorter" in recipe else [windows]
    pack = read_motion(arguments.motion)
    makers = [WindowMaker(pack, kind, device) for kind in kinds]
    seen = read_lone_frames(arguments.lone) if arguments.lone is not None else None
    lone, borrowed = section(recipe, "lone", LoneRecipe), None
    if arguments.bodies is not None:
        if arguments.lone is None:
            raise ValueError("`--bodies` borrow their errors from the people of `--lone`, which is missing")
        borrowed = Borrowed(read_lone_frames(arguments.bodies), read_seen(arguments.lone))
    batches = WindowBatches(makers, loop.batch, loop.seed, DRAWN_TOGETHER if cuda else 1, seen, lone, borrowed)
    motion = read_motion(arguments.validation)
    checks = {noisy: validation_windows(motion, windows, 320, noisy, device) for noisy in (False, True)}
    shorter = [validation_windows(motion, kind, 320, False, device) for kind in kinds[1:]]

    def losses(module: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return lift_losses(module, batch, weights, arguments.bf16)

    def validate(average: nn.Module) -> dict[str, float]:
        exact, noisy = (score(average, checks[n]) for n in (False, True))
        short = {f"n_{each.points.shape[1]}": score(average, each)["n"] for each in shorter}
        return {**exact, **{f"noisy_{k}": v for k, v in noisy.items()}, **short}

    run = Run(arguments.run, module, loop, device)
    if arguments.start_from:
        run.start_from(arguments.start_from)
    return run.fit(
        # A GPU makes its windows itself: no process could bring them fast enough.
        batches if cuda else Ahead(batches, arguments.workers),
        torch.compile(losses, dynamic=False) if arguments.compile else losses,
        validate,
        hours=arguments.hours,
        decay_steps=arguments.decay_steps,
        decay_hours=arguments.decay_hours,
        recorded=recorded,
    )
