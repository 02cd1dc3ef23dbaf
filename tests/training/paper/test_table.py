"""From a row to its place in the table: trained on made data, scored, printed; and what the protocols hold to."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.engines.framing import CropRow
from service.networks import create
from training import table as command
from training.check import killed_and_resumed, shortened
from training.data.coco import DetectedBox, labelled_boxes, read_coco
from training.data.human36m import TESTING, read_human36m
from training.data.takes import mirrored, normalised
from training.fixtures import write_fixtures
from training.loop import Run
from training.paper import detectors, lifters
from training.paper.report import as_json, figure_of, markdown, plot, terminal
from training.paper.rows import Row, Table, every_row, merged, read_table
from training.paper.where import Where
from training.pose import PoseTask

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fixtures(tmp_path_factory.mktemp("made"))


def told(*words: str) -> Namespace:
    parser = ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([*words, "--device", "cpu"])


def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of the same rows with small networks and batches."""

    def small(number: str) -> Table:
        whole = read_table(number)
        rows = (Row(r.table, r.name, r.label, shortened(r.recipe), r.printed, r.note, r.trained) for r in whole.rows)
        return Table(whole.number, whole.title, whole.figures, whole.primary, tuple(rows))

    monkeypatch.setattr(command, "read_table", small)


def test_rows_are_trained_scored_once_and_printed_beside_the_papers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rows(monkeypatch)
    words = ("IX", "--data", str(data), "--runs", str(tmp_path), "--steps", "1", "--rows", "ours-9", "videopose3d-81")
    shown = command.table(told(*words))
    assert "Ours, 9 frames" in shown and "(44.3)" in shown
    report = {row["name"]: row for row in json.loads((tmp_path / "table_IX.json").read_text())["rows"]}
    ours = report["ours-9"]["ours"]
    assert ours["steps"] == 1 and np.isfinite(ours["p1"]) and ours["params"] < 1
    assert set(ours["actions"]) == {"Directions", "WalkDog"}
    assert report["ours-27"]["ours"] is None and report["ours-27"]["printed"]["p1"] == 43.6
    ElementTree.fromstring((tmp_path / "table_IX.svg").read_text())

    def never(*_: Any) -> nn.Module:
        raise AssertionError("it is scored already")

    monkeypatch.setattr(command, "train_lifter", never)
    assert command.table(told(*words)) == shown
    assert command.table(told("IX", "--data", str(data), "--runs", str(tmp_path), "--report-only")) == shown


def test_several_seeds_give_mean_and_spread_and_a_change_reaches_every_row(
    data: Path, motion_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rows(monkeypatch)
    folder = tmp_path / "data" / "motion"
    folder.mkdir(parents=True)
    for name in ("motion_train.npz", "motion_val.npz"):
        (folder / name).write_bytes(motion_file.read_bytes())
    changes = (
        "--change",
        'takes.set="motion"',
        "--change",
        'takes.detections="simulated"',
        "--change",
        "network.frames=3",
    )
    words = ("forms", "--data", str(folder.parent), "--runs", str(tmp_path / "runs"), "--steps", "1", *changes)
    shown = command.table(told(*words, "--rows", "none", "depthwise", "--seeds", "1", "2"))
    assert "2 seeds" in shown and "±" in shown and 'changed: takes.set="motion"' in shown
    report = json.loads((tmp_path / "runs" / "table_forms.json").read_text())["rows"]
    ours = {row["name"]: row["ours"] for row in report}
    assert ours["none"]["seeds"] == 2 and ours["none"]["spread"]["p1"] > 0
    assert ours["paper"] is None
    runs = {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()}
    assert len(runs) == 4, "a folder a row and seed"
    with pytest.raises(SystemExit, match="`--change` wants KEY=VALUE"):
        command.table(told(*words, "--change", "network.form=paper"))


def test_missing_data_leave_a_row_empty_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = command.table(told("IV", "--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--rows", "ours"))
    assert "MPI-INF-3DHP is had from" in capsys.readouterr().err
    assert "there is no" in shown and "- (89.1)" in shown


def test_a_row_that_there_is_not_is_refused(tmp_path: Path) -> None:
    words = ("IV", "--data", str(tmp_path), "--runs", str(tmp_path))
    for wrong, message in (
        (("--rows", "lin"), r"table IV trains no row 'lin'; it trains poseformer, ours$"),
        (("--checkpoint", "lin=x.pt"), r"table IV trains no row 'lin'; it trains poseformer, ours$"),
        (("--checkpoint", "x.pt"), r"`--checkpoint` wants NAME=FILE, got 'x\.pt'$"),
        (("--checkpoint", "ours=x.pt"), r"there is no file x\.pt$"),
        (("--backbone", "hrnet-w32=x.pt"), r"there is no file x\.pt$"),
        (("--boxes", "x.json"), r"there is no file x\.json$"),
    ):
        with pytest.raises(SystemExit, match=rf"^python -m training table: {message}"):
            command.table(told(*words, *wrong))


@pytest.mark.parametrize("name", ["x.pt", "latest.pt"])
def test_a_checkpoint_that_is_none_or_another_network_s_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    small_rows(monkeypatch)
    (tmp_path / name).write_bytes(b"nothing")
    words = ("IV", "--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--rows", "ours")
    with pytest.raises(SystemExit, match=rf"^python -m training table: table IV, row ours: .*{name} is no [^\n]*$"):
        command.table(told(*words, "--checkpoint", f"ours={tmp_path / name}"))
    torch.save({"module": {"w": torch.ones(1)}}, tmp_path / "latest.pt")
    with pytest.raises(SystemExit, match=r"table IV, row ours: latest.pt lacks [^\n]*$"):
        command.table(told(*words, "--checkpoint", f"ours={tmp_path / 'latest.pt'}"))


def test_an_official_checkpoint_is_scored_and_not_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rows(monkeypatch)
    row = next(row for row in read_table("IV").rows if row.name == "poseformer")
    network = lifters.build_lifter(shortened(row.recipe)["network"])
    torch.save({"model_pos": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "pf.bin")
    words = ("IV", "--data", str(data), "--runs", str(tmp_path / "runs"), "--rows", "poseformer")
    command.table(told(*words, "--checkpoint", f"poseformer={tmp_path / 'pf.bin'}"))
    report = json.loads((tmp_path / "runs" / "table_IV.json").read_text())["rows"]
    ours = next(each for each in report if each["name"] == "poseformer")["ours"]
    assert "steps" not in ours and 0 <= ours["pck"] <= 100


class Knowing(nn.Module):
    """Answers the target of the window that it is shown: told by its centre frame's points, plain or mirrored."""

    def __init__(self, takes: list[Any]) -> None:
        super().__init__()
        self.by_points: dict[bytes, np.ndarray] = {}
        for take in takes:
            points = normalised(take.points, take.size)
            for frame in range(len(points)):
                self.by_points[points[frame].tobytes()] = take.joints[frame]
                self.by_points[mirrored(points[frame], take.layout).tobytes()] = mirrored(take.joints[frame], "h36m17")

    def forward(self, x: Tensor) -> Tensor:
        centres = x[:, x.shape[1] // 2].numpy()
        return torch.from_numpy(np.stack([self.by_points[centre.tobytes()] for centre in centres]))[:, None]


def test_a_lifter_that_knows_the_answers_has_no_error(data: Path) -> None:
    takes = read_human36m(data / "human36m", TESTING, "cpn")
    figures = lifters.score_lifter(Knowing(takes), takes, lifters.TakeRecipe(), 9, CPU)
    assert figures["p1"] == pytest.approx(0, abs=1e-3)
    assert figures["velocity"] == pytest.approx(0, abs=1e-3)


def test_the_loss_is_the_mean_distance_of_all_frames_and_of_the_spatial_poses() -> None:
    torch.manual_seed(0)
    network: Any = create("lifter", frames=3, width=8, depth=1, head="sequence", spatial_head=True).eval()
    network.requires_grad_(False)
    inputs, targets = torch.randn(2, 3, 17, 2), torch.randn(2, 3, 17, 3)
    losses = lifters.take_losses(network, (inputs, targets), lifters.TakeLoss(2.0, 0.5))
    l_t = (network(inputs) - targets).norm(dim=-1).mean()
    l_s = (network.spatial_head(network.features(inputs)) - targets).norm(dim=-1).mean()
    assert float(losses["loss"]) == pytest.approx(float(2 * l_t + 0.5 * l_s), rel=1e-5)
    poseformer = create("lifter", frames=3, width=8, depth=1).eval().requires_grad_(False)
    centre = (poseformer(inputs) - targets[:, 1:2]).norm(dim=-1).mean()
    plain = lifters.take_losses(poseformer, (inputs, targets), lifters.TakeLoss())
    assert float(plain["loss"]) == pytest.approx(float(centre), rel=1e-5)


def recipe_of_ours() -> dict[str, Any]:
    row = next(row for row in read_table("VII").rows if row.name == "stage1")
    return shortened(row.recipe)


def test_a_detector_that_knows_the_labels_scores_full_marks_by_the_whole_protocol(data: Path) -> None:
    """Boxes, crops, flip test, decoding, rescoring, suppression, figures: heatmaps of the labels come out as AP 100."""
    from service.geometry.crops import input_to_cells, to_input
    from service.geometry.heatmaps import gaussian_targets

    recipe = recipe_of_ours() | {"input": {**recipe_of_ours()["input"], "width": 192, "height": 256}}
    photos = read_coco(data / "coco", "val2017")
    task = PoseTask(dict(recipe), [], CPU, False)
    order = task.framing.order
    maps = []
    for photo in photos.photos:
        for person in photo.people:
            crop = task.framing.crop(CropRow(np.zeros((120, 160, 3), np.uint8), person.box))
            cells = input_to_cells(to_input(person.joints, crop)[:, :2], task.framing.stride, task.framing.shift)
            maps.append(gaussian_targets(cells[None], np.ones((1, 17)), 48, 64, 2.0)[0][0])

    class Labels(nn.Module):
        def forward(self, crops: Tensor) -> Tensor:
            own = torch.from_numpy(np.stack(maps))
            # As a network whose strides count from pixel centres answers a mirror image: a cell further.
            mirror = own[:, order].flip(3).roll(-1, 3)
            return torch.stack([own, mirror], 1).flatten(0, 1)

    figures = detectors.score_detector(Labels(), recipe, Where(Path(), data, CPU))
    assert figures["ap"] == pytest.approx(100) and figures["ar"] == pytest.approx(100)
    # Decoding is to a quarter of a cell: four hidden joints of a small person may miss the strictest threshold.
    assert figures["seen_ap"] >= 90 and figures["hidden_ap"] >= 90


def test_the_area_for_suppression_is_the_padded_boxs(data: Path) -> None:
    framing = PoseTask(recipe_of_ours() | {}, [], CPU, False).framing
    tall = DetectedBox(1, np.array([0, 0, 10, 100], np.float32), 1.0)
    wide = 100 * framing.width / framing.height * 1.25
    assert detectors.padded_area(tall, framing) == pytest.approx(wide * 125)


def test_a_backbone_starts_a_detector_and_leaves_head_and_attention_alone() -> None:
    network = create("hrnet-w16", blocks=1, attention="six")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    arrays = {
        key: np.full(tuple(value.shape), 0.5, np.float32)
        for key, value in before.items()
        if ".cam." not in key and not key.startswith("final_layer")
    }
    detectors.start_from_backbone(network, "hrnet-w16", arrays)
    after = network.state_dict()
    assert all(
        bool((after[key] == 0.5).all()) or value.dtype == torch.int64 for key, value in after.items() if key in arrays
    )
    assert all(torch.equal(after[key], value) for key, value in before.items() if key not in arrays)
    with pytest.raises(ValueError, match=r"the backbone's `other` .* is no weight of hrnet-w16"):
        detectors.start_from_backbone(network, "hrnet-w16", {"other": np.zeros(1)})


def test_a_row_that_starts_from_a_backbone_says_when_there_is_none(data: Path, tmp_path: Path) -> None:
    row = next(row for row in read_table("I").rows if row.name == "w32-pretrained")
    with pytest.raises(ValueError, match="--backbone hrnet-w32=FILE"):
        command.train_and_score(shortened(row.recipe), Where(tmp_path, data, CPU, steps=1))


def test_a_row_with_attention_starts_as_the_plain_row_whose_run_it_is_given(data: Path, tmp_path: Path) -> None:
    rows = {row.name: merged(shortened(row.recipe), {"backbone": True}) for row in read_table("VII").rows}
    plain = {key: value for key, value in rows["none"].items() if key != "backbone"}
    trained = detectors.train_detector(plain, Where(tmp_path / "plain", data, CPU, steps=2)).eval()
    where = Where(tmp_path / "row", data, CPU, backbones={"hrnet-w16": tmp_path / "plain" / "latest.pt"})
    crops = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name in ("none", "sub3", "output"):
            started = detectors.build_detector(rows[name], where).eval()
            torch.testing.assert_close(started(crops), trained(crops), rtol=1e-4, atol=1e-4)


def test_a_rate_that_falls_to_zero_leaves_the_last_step_next_to_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    take_step = Run._take_step

    def watched_step(run: Run, *rest: Any) -> dict[str, Tensor]:
        sums = take_step(run, *rest)
        rates.append(run.optimiser.param_groups[0]["lr"])
        return sums

    monkeypatch.setattr(Run, "_take_step", watched_step)
    recipe = merged(recipe_of_ours(), {"epochs": {"to_zero": True, "drops": []}, "loop": {"rate": 1e-3}})
    detectors.train_detector(recipe, Where(tmp_path, data, CPU, steps=4))
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_logits_are_scored_as_the_heatmaps_that_their_loss_makes_of_them(data: Path) -> None:
    recipe = merged(recipe_of_ours(), {"loss": {"kind": "cross_entropy"}})
    task = PoseTask(dict(recipe), [], CPU, False)
    photos = read_coco(data / "coco", "val2017")
    scores: dict[float, float] = {}
    for sharpness in (0.0, 100.0):

        class OneCell(nn.Module):
            def forward(self, crops: Tensor) -> Tensor:
                logits = torch.full((len(crops), 17, 16, 16), -1000.0)
                logits[:, :, 8, 8] = -1000.0 + sharpness  # noqa: B023
                return logits

        results = detectors.detected_poses(OneCell(), task, photos, labelled_boxes(photos.photos), flip_test=False)
        scores[sharpness] = max(result["score"] for result in results)
    assert scores[100.0] == pytest.approx(1.0) and scores[0.0] == 0.0, "a heatmap without a peak is sure of nothing"


@pytest.mark.parametrize("name", ["stage1", "literal"])
def test_a_detector_row_runs_end_to_end(name: str, data: Path, tmp_path: Path) -> None:
    row = next(row for row in read_table("VII").rows if row.name == name)
    where = Where(tmp_path, data, CPU, steps=1, boxes=data / "coco" / "detections_val2017.json")
    figures = command.train_and_score(shortened(row.recipe), where)
    assert figures["steps"] == 1 and figures["whole"] and 0 <= figures["ap"] <= 100


def test_a_killed_training_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, data)


@pytest.mark.slow
def test_every_recipe_of_the_paper_runs() -> None:
    from training.check import check

    assert f"{len(every_row())} recipes run" in check(Namespace(rows=[], whole=False, device="cpu"))


TABLE = Table(
    "IX",
    "Some <title>",
    ("params", "p1", "p1.Walking"),
    "p1",
    (
        Row("IX", "one", "One", {"kind": "takes"}, {"p1": 43.0, "params": 9.6}),
        Row("IX", "two", "Two | other", {"kind": "takes"}, {}, "a note"),
    ),
)


def test_reports_hold_ours_and_the_printed_and_a_dash_where_there_is_none() -> None:
    ours = {"one": {"params": 9.626, "p1": 50.123, "actions": {"Walking": {"p1": 40.0}}, "steps": 1000}}
    text = markdown(TABLE, ours)
    assert "| One | 9.63 (9.60) | 50.1 (43.0) | 40.0 (-) | 1,000 steps |" in text
    assert "- (-)" in text and "a note" in text
    assert "50.1 (43.0)" in terminal(TABLE, ours)
    assert json.loads(as_json(TABLE, ours))["rows"][0]["ours"]["p1"] == 50.123
    assert len(ElementTree.fromstring(plot(TABLE, ours)).findall("{*}rect")) == 3
    assert plot(TABLE, {}).startswith("<svg")


def test_cocos_minus_one_is_no_figure() -> None:
    for name in ("hidden_ap", "ap", "ar", "ap50", "ap75", "ap_large", "ap_medium", "seen_ar", "fixed_ap"):
        assert figure_of({name: -100.0}, name) is None
        assert figure_of({name: 71.5}, name) == 71.5
    assert figure_of({"fixed_oks": -1.0, "cap": -2.0}, "cap") == -2.0
    assert "-100" not in markdown(replace(TABLE, figures=("ap_large",)), {"one": {"ap_large": -100.0}})


def test_a_lifter_is_trained_once_and_scored_on_both_detectors_points(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rows(monkeypatch)
    words = ("modules", "--data", str(data), "--runs", str(tmp_path), "--steps", "1", "--rows", "both", "all")
    shown = command.table(told(*words))
    folders = [folder for folder in tmp_path.iterdir() if folder.is_dir()]
    assert len(folders) == 1, "one training"
    plain, attention = (
        json.loads((folders[0] / f"figures-{name}.json").read_text()) for name in ("plain", "attention")
    )
    assert plain["steps"] == attention["steps"] == 1
    assert plain["p1"] != attention["p1"]
    assert "all three" in shown and "spatial and temporal" in shown
