from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engines.framing import PoseFraming
from service.geometry.crops import cells_to_input, crop_of_box, cut, to_input
from service.geometry.heatmaps import decode_dark, gaussian_targets
from training.data.crops import (
    CropBatch,
    CropMaker,
    CropRecipe,
    blurred,
    covered,
    half_body,
    heatmap_size,
    mirrored,
    recoloured,
)
from training.data.photos import PhotoSet, PhotoSetRecipe, Pictures, read_photos, read_picture

PRESET: dict[str, Any] = {
    "width": 96, "height": 128, "padding": 1.25, "stride": 4, "shift": [1.0, 0.6], "flip_shift": 1, "decode": "dark",
    "mean": [0, 0, 0], "deviation": [1, 1, 1], "colour": "rgb",
}  # fmt: skip
STILL = CropRecipe(scale=0, rotation=0, rotated=0, half_body=0, flipped=0)
WILD = CropRecipe(shift=0.1, colour=0.2, grey=0.2, covered=0.7, blurred=0.7)


def maker(photos: Path, recipe: CropRecipe, *files: str, batch: int = 4) -> CropMaker:
    sets = [read_photos(photos, PhotoSetRecipe(file=file)) for file in files]
    return CropMaker(sets, recipe, PoseFraming(PRESET), batch, seed=3)


def heatmaps(batch: CropBatch[Any]) -> Any:
    return gaussian_targets(batch.cells, batch.weights, 24, 32, 2.0)[0]


def test_the_same_number_gives_the_same_batch_and_another_one_another(photos: Path) -> None:
    first, again = maker(photos, WILD, "hand.json", "wild.json"), maker(photos, WILD, "hand.json", "wild.json")
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first(5), again(5), strict=True))
    assert not np.array_equal(first(5).pixels, first(6).pixels)


def test_a_crop_tells_whether_a_teacher_has_a_say_in_it(photos: Path) -> None:
    sets = [read_photos(photos, PhotoSetRecipe(file=f, taught=f == "hand.json")) for f in ("hand.json", "wild.json")]
    make = CropMaker(sets, STILL, PoseFraming(PRESET), 16, seed=3)
    files = {photo.file for photo in sets[0].photos}
    chosen = np.random.default_rng([3, 0]).choice(len(make.people), 16, p=make._chance)
    expected = [make.people[index][0].file in files for index in chosen]
    assert make(0).taught.tolist() == expected and len(set(expected)) == 2


def test_targets_are_the_inverse_of_the_decoding(photos: Path) -> None:
    make = maker(photos, STILL, "hand.json")
    batch = make(0)
    positions, _ = decode_dark(heatmaps(batch))
    answers = cells_to_input(positions, 4, (1.0, 0.6))
    expected = np.stack([to_input(p.joints, crop_of_box(p.box, 96, 128))[:, :2] for _, p in make.people])
    for joints, weights in zip(answers, batch.weights, strict=True):
        missed = np.abs(expected - joints)[:, weights > 0].max((1, 2))
        assert missed.min() < 0.1


def test_joints_stay_on_their_blots_whatever_is_drawn(photos: Path) -> None:
    """Every joint is a blot of its own colour: where the target has its peak, the crop must show that colour."""
    make = maker(photos, CropRecipe(shift=0.05), "hand.json", batch=16)
    seen = 0
    for number in range(4):
        batch = make(number)
        peaks = cells_to_input(decode_dark(heatmaps(batch))[0], 4, (1.0, 0.6))
        for n, joint in zip(*np.nonzero(batch.weights), strict=True):
            x, y = np.floor(peaks[n, joint]).astype(int)
            if not (12 < x < 84 and 12 < y < 116) or joint < 5:
                continue  # peaks near the border are read to a cell; the face's blots lie over each other
            blue, green = batch.pixels[n, y, x, 2], batch.pixels[n, y, x, 1]
            seen += 1
            assert abs(int(blue) - 15 * joint) < 25 and abs(int(green) - (255 - 15 * joint)) < 25
    assert seen > 200


def test_heatmaps_have_the_size_that_the_network_gives_by_either_stride() -> None:
    for transform in ("centre", "official", "alphapose", "udp"):
        assert heatmap_size(PoseFraming(PRESET | {"transform": transform})) == (24, 32)


def test_mirroring_twice_is_nothing_and_once_swaps_the_sides() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (128, 96, 3)).astype(np.uint8)
    joints = np.column_stack([rng.uniform(0, 96, 17), rng.uniform(0, 128, 17), np.ones(17)]).astype(np.float32)
    order = PoseFraming(PRESET).order
    once = mirrored(pixels, joints, order)
    assert np.allclose(once[1][6, :2], [96 - joints[5, 0], joints[5, 1]])
    assert np.array_equal(once[0][:, 0], pixels[:, -1])
    twice = mirrored(*once, order)
    assert np.array_equal(twice[0], pixels) and np.allclose(twice[1], joints, atol=1e-4)


def test_unlabelled_joints_weigh_nothing_and_model_labels_weigh_their_score(photos: Path) -> None:
    batch = maker(photos, STILL, "wild.json")(0)
    assert np.allclose(batch.weights, np.linspace(0.3, 0.98, 17), atol=1e-6)


def test_pictures_that_are_kept_give_the_same_batch(photos: Path) -> None:
    sets = [read_photos(photos, PhotoSetRecipe(file="hand.json"))]
    files = [photo.file for photo in sets[0].photos]
    kept = Pictures(files, 1e9)
    assert len(kept) == len(files) and kept.bytes == sum(read_picture(file).nbytes for file in files)
    recipes = (sets, WILD, PoseFraming(PRESET), 4, 3)
    batches = [CropMaker(*recipes, read)(2) for read in (read_picture, kept, Pictures(files, kept.bytes - 1))]
    assert all(np.array_equal(batch.pixels, batches[0].pixels) for batch in batches)
    assert len(Pictures(files, kept.bytes - 1)) == len(files) - 1 and not len(Pictures(files, 0))


def test_half_a_body_is_a_box_around_its_joints(photos: Path) -> None:
    person = read_photos(photos, PhotoSetRecipe(file="hand.json")).photos[0].people[0]
    boxes = {tuple(half_body(person, np.random.default_rng(seed)).round(2).tolist()) for seed in range(20)}
    assert len(boxes) == 2
    for x, y, width, height in boxes:
        inside = ((person.joints[:, :2] >= [x, y]) & (person.joints[:, :2] <= [x + width, y + height])).all(1)
        assert 6 <= inside.sum() < 17


def test_light_patches_and_blur_leave_the_picture_they_were_given(photos: Path) -> None:
    rng = np.random.default_rng(0)
    person = read_photos(photos, PhotoSetRecipe(file="hand.json")).photos[0].people[0]
    crop = crop_of_box(person.box, 96, 128)
    pixels, joints = cut(read_picture(photos / "hand" / "1.png"), crop), to_input(person.joints, crop)
    before = pixels.copy()
    for _ in range(6):
        for changed in (covered(pixels, joints, rng), recoloured(pixels, rng, 0.3, 0.0), blurred(pixels, rng)):
            assert changed.shape == pixels.shape and changed.dtype == np.uint8
            assert not np.array_equal(changed, pixels)
    assert np.array_equal(pixels, before)
    assert np.array_equal(recoloured(pixels, rng, 0.0, 0.0), pixels)
    grey = recoloured(pixels, rng, 0.0, 1.0).astype(int)
    assert np.abs(grey - grey[..., :1]).max() <= 1


def test_photos_without_a_pose_are_refused() -> None:
    with pytest.raises(ValueError, match="no person with a labelled joint"):
        CropMaker([PhotoSet((), {})], STILL, PoseFraming(PRESET), 2, 0)
