"""The finder's pictures, assignment, losses and validation."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.networks import create
from training.data.photos import PhotoSet, PhotoSetRecipe, read_photos
from training.data.squares import SquareMaker, SquareRecipe, turned
from training.person import PersonLoss, PersonTask, assign, flattened, freeze, overlaps, person_losses, train
from training.pose import read_sets
from training.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "rtmdet-nano.toml"
STRIDES = (8, 16, 32)
CPU = torch.device("cpu")


def maker(photos: Path, recipe: SquareRecipe, *files: str) -> SquareMaker:
    names = [*(PhotoSetRecipe(file=file) for file in files), PhotoSetRecipe(pictures="nobody")]
    return SquareMaker([read_photos(photos, each) for each in names], recipe, 6, 1)


def answer_that_says(boxes: torch.Tensor, side: int = 128, sure: float = 4.0) -> list[torch.Tensor]:
    """Levels (1, rows, columns, 5) that answer each box from the cell nearest to its middle, in the fitting level."""
    levels = [torch.zeros(1, side // stride, side // stride, 5) for stride in STRIDES]
    for level in levels:
        level[..., 0] = -sure
    for box in boxes:
        n = 1 if float((box[2:] - box[:2]).max()) > 40 else 0
        column, row = ((box[:2] + box[2:]) / 2 / STRIDES[n]).round().int().tolist()
        x, y = column * STRIDES[n], row * STRIDES[n]
        levels[n][0, row, column] = torch.tensor([sure, x - box[0], y - box[1], box[2] - x, box[3] - y])
    return levels


def test_the_same_number_gives_the_same_squares(photos: Path) -> None:
    recipe = SquareRecipe(sides=(64, 96))
    first, again = maker(photos, recipe, "hand.json"), maker(photos, recipe, "hand.json")
    assert all(np.array_equal(a, b) for a, b in zip(first(4), again(4), strict=True))
    assert {first(number).pixels.shape[1] for number in range(8)} == {64, 96}


def test_boxes_stay_around_their_people(photos: Path) -> None:
    """The people's blots are the only red in the picture."""
    recipe = SquareRecipe(sides=(160,), zoom=(0.7, 1.5), nobody=0.0, colour=0.0, grey=0.0)
    batch = maker(photos, recipe, "hand.json")(0)
    for pixels, boxes, kinds in zip(*batch, strict=True):
        y, x = np.nonzero(pixels[..., 0] > 230)
        known = boxes[kinds != 0]
        inside = ((x[:, None] > known[:, 0] - 5) & (x[:, None] < known[:, 2] + 5)
                  & (y[:, None] > known[:, 1] - 5) & (y[:, None] < known[:, 3] + 5)).any(1)  # fmt: skip
        assert len(x) and inside.all()


@pytest.mark.parametrize("share", [{"turned": 1.0}, {"aimed": 1.0}, {"turned": 1.0, "aimed": 1.0}], ids=str)
def test_boxes_travel_with_turned_and_aimed_pictures(photos: Path, share: dict[str, float]) -> None:
    recipe = SquareRecipe(sides=(160,), zoom=(1.0, 1.01), mirrored=0.0, nobody=0.0, colour=0.0, grey=0.0, **share)  # type: ignore[arg-type]
    make = maker(photos, recipe, "hand.json")
    for number in range(6):
        for pixels, boxes, kinds in zip(*make(number), strict=True):
            y, x = np.nonzero(pixels[..., 0] > 230)
            known = boxes[kinds != 0]
            inside = ((x[:, None] > known[:, 0] - 9) & (x[:, None] < known[:, 2] + 9)
                      & (y[:, None] > known[:, 1] - 9) & (y[:, None] < known[:, 3] + 9)).any(1)  # fmt: skip
            assert inside.all()


def test_four_quarter_turns_are_none() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (30, 50, 3)).astype(np.uint8)
    boxes = np.array([[3, 4, 20, 28], [0, 0, 50, 30]], np.float32)
    whole, same = turned(picture, boxes, 4)
    assert np.array_equal(whole, picture)
    assert np.array_equal(same, boxes)
    left, moved = turned(picture, boxes, 1)
    assert np.array_equal(left, np.rot90(picture))
    assert moved[0].tolist() == [4, 30, 28, 47]


def test_an_aimed_picture_shows_its_person_at_the_size_that_was_drawn(photos: Path) -> None:
    recipe = SquareRecipe(sides=(160,), aimed=1.0, filled=(0.3, 0.301), nobody=0.0)
    boxes, kinds = maker(photos, recipe, "hand.json")(0)[1:]
    longest = (boxes[..., 2:] - boxes[..., :2]).max(-1) / 160
    assert (np.abs(np.where(kinds == 1, longest, 9) - 0.3).min(1) < 0.05).all()


def test_crowds_are_ignored_and_nobody_has_no_box(photos: Path) -> None:
    make = maker(photos, SquareRecipe(sides=(64,), nobody=0.0, zoom=(1.0, 1.01)), "hand.json")
    assert {tuple(sorted(kinds.tolist())) for kinds in make(1).kinds} == {(-1, 1), (1, 1)}
    assert (maker(photos, SquareRecipe(sides=(64,), nobody=1.0), "hand.json")(0).kinds == 0).all()


def test_photos_whose_people_are_not_all_boxed_are_left_out(photos: Path) -> None:
    with pytest.raises(ValueError, match="complete"):
        SquareMaker([read_photos(photos, PhotoSetRecipe(file="cut_outs.json"))], SquareRecipe(), 2, 0)
    with pytest.raises(ValueError, match="complete"):
        SquareMaker([PhotoSet((), {})], SquareRecipe(), 2, 0)


def test_overlap_is_one_for_equal_boxes_and_giou_falls_with_distance() -> None:
    box = torch.tensor([0.0, 0, 10, 10])
    assert [float(each) for each in overlaps(box, box)] == pytest.approx([1, 1])
    near, far = box + torch.tensor([20.0, 0, 20, 0]), box + torch.tensor([50.0, 0, 50, 0])
    assert float(overlaps(box, near)[0]) == 0
    assert 0 > float(overlaps(box, near)[1]) > float(overlaps(box, far)[1])


def test_every_person_gets_a_cell_inside_and_no_cell_two_people() -> None:
    torch.manual_seed(0)
    levels = [torch.rand(1, 128 // s, 128 // s, 5) * s for s in STRIDES]
    logits, boxes, cells = flattened(levels, STRIDES)
    people = torch.tensor([[10.0, 10, 60, 100], [40.0, 20, 100, 120], [81.0, 81, 86, 87]])  # the last is tiny
    chosen, whom, overlap = assign(logits[0], boxes[0], cells, people, PersonLoss())
    assert set(whom.tolist()) == {0, 1, 2}
    assert len(set(chosen.tolist())) == len(chosen)
    half = torch.maximum((people[whom, 2:] - people[whom, :2]) / 2, cells[chosen, 2:] / 2)
    assert ((cells[chosen, :2] - (people[whom, :2] + people[whom, 2:]) / 2).abs() <= half).all()
    assert ((overlap >= 0) & (overlap <= 1)).all()
    nobody = assign(logits[0], boxes[0], cells, people[:0], PersonLoss())
    assert [len(each) for each in nobody] == [0, 0, 0]


def test_the_right_answer_costs_nothing_and_a_false_person_does() -> None:
    people = torch.tensor([[[16.0, 16, 48, 80], [70.0, 60, 90, 90]]])
    kinds = torch.tensor([[1, 1]])
    right = person_losses(answer_that_says(people[0], sure=9), people, kinds, STRIDES, PersonLoss())
    assert right["loss"] < 1e-2 and right["overlap"] > 0.99
    false = torch.cat([people[0], torch.tensor([[100.0, 8, 120, 40]])])
    more = person_losses(answer_that_says(false, sure=9), people, kinds, STRIDES, PersonLoss())
    assert more["score"] > right["score"] + 0.5
    ignored = torch.cat([people, torch.tensor([[[96.0, 0, 128, 48]]])], 1)
    excused = person_losses(answer_that_says(false, sure=9), ignored, torch.tensor([[1, 1, -1]]), STRIDES, PersonLoss())
    assert excused["loss"] == pytest.approx(float(right["loss"]), abs=1e-4)


def test_a_picture_of_nobody_teaches_the_score_alone() -> None:
    levels = [level.requires_grad_() for level in answer_that_says(torch.tensor([[16.0, 16, 48, 80]]))]
    losses = person_losses(levels, torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long), STRIDES, PersonLoss())
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert losses["box"] == 0
    assert levels[1].grad is not None and levels[1].grad[..., 0].abs().max() > 0


def test_answers_that_follow_the_gradient_find_the_people() -> None:
    """From boxes that are half wrong and scores that say nothing."""
    people, kinds = torch.tensor([[[16.0, 16, 48, 80], [70.0, 60, 94, 90]]]), torch.tensor([[1, 1]])
    levels = [torch.full((1, 128 // s, 128 // s, 5), 12.0).requires_grad_() for s in STRIDES]
    with torch.no_grad():
        for level in levels:
            level[..., 0] = -2.0
    optimiser = torch.optim.Adam(levels, 0.5)
    for _ in range(120):
        losses = person_losses(levels, people, kinds, STRIDES, PersonLoss())
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    logits, boxes, _ = flattened(levels, STRIDES)
    best = overlaps(boxes[0, :, None], people[0])[0].amax(1)
    assert (best[logits[0] > 1] > 0.8).all()
    assert len(set(overlaps(boxes[0, logits[0] > 1, None], people[0])[0].argmax(1).tolist())) == 2


def test_frozen_parts_stay_and_unknown_ones_are_refused() -> None:
    module = create("rtmdet-nano")
    freeze(module, ["backbone.stem"])
    assert not any(each.requires_grad for each in module.get_submodule("backbone.stem").parameters())
    assert all(each.requires_grad for each in module.get_submodule("neck").parameters())
    with pytest.raises(ValueError, match=r"`frozen` names 'backbone\.stem9'"):
        freeze(module, ["backbone.stem9"])


class Says(torch.nn.Module):
    """One answer, whatever it is shown."""

    def __init__(self, levels: list[torch.Tensor]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return self.levels


def test_the_validation_reads_boxes_as_the_service_does(photos: Path) -> None:
    recipe = read_recipe(RECIPE) | {"validation": [{"file": "hand.json"}]}
    recipe["input"] |= {"side": 128}
    ((name, hand),) = read_sets(recipe, "validation", photos)
    one = PhotoSet(
        hand.photos[:1], hand.coco | {"images": hand.coco["images"][:1], "annotations": hand.coco["annotations"][:2]}
    )
    task = PersonTask(recipe, [(name, one)], CPU, False)
    boxes = torch.tensor([[20.0, 10, 70, 110], [90.0, 20, 135, 110]]) * (128 / 160)
    assert task.validate(Says(answer_that_says(boxes)))["hand_ap50"] == pytest.approx(1.0)
    assert task.validate(Says(answer_that_says(boxes - 25)))["hand_ap50"] < 0.1


def test_the_finders_recipe_takes_steps(photos: Path, tmp_path: Path) -> None:
    recipe = read_recipe(RECIPE) | {"train": [{"file": "hand.json"}, {"pictures": "nobody"}]}
    recipe |= {"validation": [{"file": "hand.json"}], "start": "", "squares": {"sides": [64]}}
    recipe["input"] |= {"side": 64}
    recipe["loop"] |= {"batch": 2}
    told = {"photos": photos, "run": tmp_path, "start": "", "store": tmp_path, "device": "cpu", "bf16": True}
    figures = train(recipe, Namespace(**told, workers=0, start_from=None, hours=1.0, decay_steps=2, decay_hours=0.0))
    assert set(figures) >= {"hand_ap", "hand_ap50"}
    assert torch.load(tmp_path / "latest.pt", weights_only=True)["step"] == 2
