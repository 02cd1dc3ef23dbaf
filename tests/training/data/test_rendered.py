"""Rendered clips as takes: who is in them, for how long, and whose 2D points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.rendered import read_rendered_takes, read_sightings
from training.detect import watch
from training.fixtures import FRAMES, write_rendered


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "rendered"
    write_rendered(folder)
    return folder


def test_a_person_who_is_hidden_for_a_while_is_two_sightings(clips: Path) -> None:
    names = {sighting.name: len(sighting.boxes) for sighting in read_sightings(clips)}
    assert names == {"000000/0/0": 2 * FRAMES, "000000/1/0": FRAMES, f"000000/1/{FRAMES + 1}": FRAMES - 1}


def test_exact_points_are_the_projected_ones_and_a_detectors_are_its_own(clips: Path) -> None:
    exact, seen = (read_rendered_takes(clips, name) for name in ("exact", "attention"))
    sighting = read_sightings(clips)[0]
    hips = sighting.projected[:, [11, 12]]
    assert np.allclose(exact[0].points[:, 0], hips.mean(axis=1), atol=1e-3), "the pelvis is made of the hips"
    moved = np.abs(seen[0].points - exact[0].points)[:, 1:7]
    assert 0.3 < moved.mean() < 3
    for one, other in zip(exact, seen, strict=True):
        assert np.array_equal(one.joints, other.joints) and one.size == (160, 120)
        assert np.allclose(one.joints[:, 0], 0)


def test_what_is_missing_is_named(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rendered clips in"):
        read_rendered_takes(tmp_path, "plain")
    with pytest.raises(ValueError, match=r"data_2d_none\.npz: `python -m training detect rendered"):
        read_rendered_takes(clips, "none")
    others: dict[str, Any] = {"000000/0/0": np.zeros((FRAMES, 17, 2), np.float32)}
    np.savez(tmp_path / "data_2d_plain.npz", **others)
    (tmp_path / "000000.json").write_bytes((clips / "000000.json").read_bytes())
    with pytest.raises(ValueError, match="lacks 000000/1/0 and 1 more"):
        read_rendered_takes(tmp_path, "plain")


def test_a_detector_looks_at_every_rendered_box_and_no_other(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [np.full((120, 160, 3), index, np.uint8) for index in range(2 * FRAMES)]
    monkeypatch.setattr("training.detect._pictures", lambda file: pictures if file.name == "000000.mp4" else [])
    asked = []

    def pose(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        asked.append((int(picture[0, 0, 0]), [round(float(x), 2) for x in box]))
        points = np.full((17, 3), box[0], np.float32)
        points[9] = np.nan if len(asked) > 1 else 1.0  # the left wrist is seen once
        return points

    points = watch(pose, clips)
    told = json.loads((clips / "000000.json").read_text())["frames"]
    wanted = [
        (frame["index"], [round(float(np.float32(x)), 2) for x in person["bbox"]])
        for frame in told
        for person in frame["people"]
        if person["whole"] > 0.5
    ]
    assert sorted(asked) == sorted(wanted)
    assert points["000000/0/0"].shape == (2 * FRAMES, 17, 2)
    assert (points["000000/0/0"][:, 13] == 1).all(), "a joint that is not seen keeps its place"
