"""Losses, the teacher, the validation, and every pose recipe for two steps on drawn people."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.engines.framing import PoseFraming
from service.geometry.heatmaps import gaussian_targets, merge_mirrored
from service.networks import create, load_weights
from service.networks.hrnet import create_hrnet
from service.networks.lite_hrnet import ConvNorm
from training.data.crops import CropBatch
from training.pose import (
    PoseLoss,
    PoseTask,
    Teacher,
    as_heatmaps,
    cross_entropy,
    gaussians,
    read_sets,
    squared_error,
    train,
)
from training.recipe import read_recipe
from training.start import read_start, weights_of

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
CPU = torch.device("cpu")
SMALL = {"width": 64, "height": 64}


def some_targets() -> tuple[Tensor, Tensor]:
    positions = np.random.default_rng(0).uniform(3, 12, (2, 17, 2))
    visible = np.ones((2, 17))
    visible[0, :5] = 0
    targets, weights = gaussian_targets(positions, visible, 16, 16, 2.0)
    return torch.from_numpy(targets), torch.from_numpy(weights)


def test_the_squared_error_is_the_published_one_and_unlabelled_joints_do_not_count() -> None:
    targets, weights = some_targets()
    heatmaps = torch.rand(2, 17, 16, 16)
    joints = [
        0.5
        * nn.functional.mse_loss(heatmaps[:, j] * weights[:, j, None, None], targets[:, j] * weights[:, j, None, None])
        for j in range(17)
    ]
    assert squared_error(heatmaps, targets, weights) == pytest.approx(float(torch.stack(joints).mean()), rel=1e-5)
    assert squared_error(targets, targets, weights) == 0
    for loss in (squared_error, cross_entropy):
        other = heatmaps.clone()
        other[0, :5] += 10 * torch.rand(5, 16, 16)
        assert loss(other, targets, weights) == pytest.approx(float(loss(heatmaps, targets, weights)), rel=1e-6)


@pytest.mark.parametrize("rounded", [False, True])
def test_heatmaps_drawn_in_torch_are_the_services(rounded: bool) -> None:
    rng = np.random.default_rng(0)
    cells = rng.uniform(-12, 28, (3, 17, 2)).astype(np.float32)
    worth = rng.uniform(0, 1, (3, 17)).astype(np.float32) * (rng.random((3, 17)) < 0.8)
    cells[0, :4], worth[0, :4] = np.nan, 0
    expected, inside = gaussian_targets(cells, worth, 16, 20, 2.0, rounded)
    targets, weights = gaussians(torch.from_numpy(cells), torch.from_numpy(worth), 16, 20, 2.0, rounded)
    assert np.allclose(targets, expected, atol=1e-6) and np.allclose(weights, inside * worth)
    assert 0 < inside.sum() < (worth > 0).sum()


def test_the_cross_entropy_is_least_where_the_softmax_is_the_gaussian() -> None:
    targets, weights = some_targets()
    best = targets.clamp(min=1e-9).log()
    least = cross_entropy(best, targets, weights)
    assert least < cross_entropy(best + 0.1 * torch.randn_like(best), targets, weights)
    heatmaps = as_heatmaps(best, "cross_entropy", 2.0)
    inner = weights > 0
    assert torch.allclose(heatmaps[inner].amax((1, 2)), targets[inner].amax((1, 2)), atol=0.12)


def test_losses_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="mse or cross_entropy"):
        PoseLoss(kind="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs `kind` = mse"):
        PoseLoss(kind="cross_entropy", distil=1.0)


def test_the_teacher_is_the_services_flip_test() -> None:
    torch.manual_seed(0)
    framing = PoseFraming(read_recipe(RECIPES / "lite-hrnet.toml")["input"] | SMALL)
    network = nn.Conv2d(3, 17, 4, stride=4)
    crops = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        heatmaps, mirrored = network(crops).numpy(), network(crops.flip(3)).numpy()
    expected = merge_mirrored(heatmaps, mirrored, framing.order, framing.flip_shift)
    assert np.allclose(Teacher(network, framing, CPU)(crops).numpy(), expected, atol=1e-6)


def test_the_teacher_of_a_network_with_norms_answers_as_that_network(public: Path, tmp_path: Path) -> None:
    network = create("lite-hrnet")
    load_weights(network, read_start(str(public), tmp_path), "the file")
    framing = PoseFraming(read_recipe(RECIPES / "lite-hrnet.toml")["input"] | SMALL)
    crops = torch.randn(2, 3, 64, 64)
    exact = Teacher(nn.Sequential(network), framing, CPU)(crops)
    with torch.no_grad():
        expected = merge_mirrored(
            network.eval()(crops).numpy(), network(crops.flip(3)).numpy(), framing.order, framing.flip_shift
        )
    scale = np.abs(expected).max()
    assert np.allclose(exact.numpy(), expected, atol=1e-4 * scale)
    assert np.allclose(Teacher(network, framing, CPU, bf16=True)(crops).numpy(), expected, atol=0.05 * scale)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_teacher_has_no_say_in_crops_that_are_not_taught_whether_they_are_computed_or_not() -> None:
    recipe = small("lite-hrnet") | {"loss": {"distil": 0.5}}
    task = PoseTask(recipe, [], CPU, False)
    task.teacher = Teacher(nn.Conv2d(3, 17, 4, stride=4), task.framing, CPU)
    pixels = torch.randint(0, 255, (3, 64, 64, 3), dtype=torch.uint8)
    taught = torch.tensor([True, False, True])
    batch: CropBatch[Tensor] = CropBatch(pixels, torch.full((3, 17, 2), torch.nan), torch.zeros(3, 17), taught)
    network = nn.Conv2d(3, 17, 4, stride=4)
    losses = task.losses(network, batch)
    with torch.no_grad():
        crops = task.crops(pixels)
        apart = (network(crops) - task.teacher(crops)).square().mean((1, 2, 3)) / 2
    assert losses["distil"].detach() == pytest.approx(float((apart[0] + apart[2]) / 3), rel=1e-4)
    assert losses["loss"].detach() == pytest.approx(0.5 * float(losses["distil"].detach()), rel=1e-4)
    assert task.losses(network, batch._replace(taught=torch.zeros(3, dtype=torch.bool)))["distil"] == 0
    task.even = True
    assert float(task.losses(network, batch)["distil"].detach()) == pytest.approx(
        float(losses["distil"].detach()), rel=1e-4
    )


class Knowing(nn.Module):
    """Answers the heatmaps of the labels: what the validation calls perfect."""

    def __init__(self, heatmaps: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.heatmaps = torch.from_numpy(heatmaps)

    def forward(self, crops: Tensor) -> Tensor:
        return self.heatmaps[: len(crops)]


def test_the_validation_calls_the_labels_themselves_perfect(photos: Path) -> None:
    from service.geometry.crops import crop_of_box, input_to_cells, to_input

    recipe = read_recipe(RECIPES / "lite-hrnet.toml") | {"validation": [{"file": "hand.json"}]}
    task = PoseTask(recipe, read_sets(recipe, "validation", photos), CPU, False)
    people = [person for photo in task.validation[0][1].photos for person in photo.people if person.has_pose]
    cells = [
        input_to_cells(to_input(person.joints, crop_of_box(person.box, 192, 256))[:, :2], 4, task.framing.shift)
        for person in people
    ]
    heatmaps, _ = gaussian_targets(np.stack(cells), np.ones((len(people), 17)), 48, 64, 2.0)
    assert task.validate(Knowing(heatmaps))["hand_ap"] == pytest.approx(1.0)
    assert task.validate(Knowing(heatmaps[:, ::-1].copy()))["hand_ap"] < 0.1


def arguments(photos: Path, run: Path, start: str = "", **more: Any) -> Namespace:
    told = {"photos": photos, "run": run, "start": start, "store": run, "device": "cpu", "bf16": False, "workers": 0}
    told |= {"picture_gb": 0.01, "graphs": True, "channels_last": True, "decay_hours": 0.0}
    return Namespace(**told, start_from=None, hours=1.0, decay_steps=2, **more)


def small(name: str) -> dict[str, Any]:
    recipe = read_recipe(RECIPES / f"{name}.toml")
    recipe["input"] |= SMALL
    recipe["loop"] |= {"batch": 2}
    sets = {
        "train": [{"file": "hand.json"}, {"file": "wild.json", "share": 0.5}],
        "validation": [{"file": "hand.json"}],
    }
    return recipe | sets


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lite-hrnet as an importer leaves it, in an npz."""
    torch.manual_seed(0)
    network = create("lite-hrnet")
    for pair in network.modules():
        if isinstance(pair, ConvNorm) and pair.bn.running_var is not None:
            pair.bn.running_var.fill_(1 - pair.bn.eps)
    path = tmp_path_factory.mktemp("public") / "lite.npz"
    np.savez(path, **weights_of(network.state_dict()))  # type: ignore[arg-type]
    return path


def test_lite_hrnet_trains_on_from_public_weights_and_starts_where_they_are(
    photos: Path, public: Path, tmp_path: Path
) -> None:
    recipe = small("lite-hrnet") | {"norms": {"crops": 3}}
    run = tmp_path / "run"
    told = arguments(photos, run, str(public))
    untrained = train(recipe, Namespace(**vars(told) | {"hours": 0.0, "decay_steps": 0}))
    assert set(untrained) >= {"hand_ap", "hand_ar"}
    start, plain = create("lite-hrnet", attention="all_blocks", gate="open"), create("lite-hrnet")
    load_weights(start, read_start(str(run / "latest.pt"), run), "the run")
    load_weights(plain, read_start(str(public), run), "the file")
    crops = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        answer, expected = start.eval()(crops), plain.eval()(crops)
    assert torch.allclose(answer, expected, atol=1e-3 * float(expected.abs().max()))
    train(recipe, told)
    state = torch.load(run / "latest.pt", weights_only=True)
    assert state["step"] == 2
    assert any(not torch.equal(state["module"][k], v) for k, v in start.state_dict().items() if ".cam." in k)


def test_the_papers_detector_takes_steps_on_its_own_recipe(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As published but for its width: 29 million weights would take seconds to write.
    monkeypatch.setattr("training.pose.create", lambda name, **options: create_hrnet(8, **options))
    figures = train(small("hrnet-w32-attention"), arguments(photos, tmp_path / "run"))
    assert 0 <= figures["hand_ap"] <= 1
    state = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.equal(state["module"][name], value) for name, value in state["average"].items())


class Free(nn.Module):
    """Heatmaps that are weights themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.heatmaps = nn.Parameter(torch.zeros(2, 17, 16, 16))

    def forward(self, crops: Tensor) -> Tensor:
        return self.heatmaps


def test_either_loss_falls_on_one_batch_and_the_peak_rises(photos: Path) -> None:
    for kind in ("mse", "cross_entropy"):
        torch.manual_seed(0)
        recipe = small("lite-hrnet") | {"loss": {"kind": kind}}
        task = PoseTask(recipe, [], CPU, False)
        cells = torch.from_numpy(np.random.default_rng(0).uniform(3, 12, (2, 17, 2)).astype(np.float32))
        pixels = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
        batch: CropBatch[Tensor] = CropBatch(pixels, cells, torch.ones(2, 17), torch.ones(2, dtype=torch.bool))
        network = Free()
        optimiser = torch.optim.Adam(network.parameters(), 0.2)
        figures = []
        for _ in range(40):
            losses = task.losses(network, batch)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
            figures.append({name: float(value.detach()) for name, value in losses.items()})
        assert figures[-1]["loss"] < 0.8 * figures[0]["loss"]
        assert figures[0]["peak"] < 0.2 and figures[-1]["peak"] > 0.8
