"""The command that renders: files, labels, and that workers change nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from service.geometry.alignment import statures
from training import render as command
from training.data.lone import read_lone_frames
from training.data.photos import PhotoSetRecipe, read_photos, read_picture
from training.data.synthetic import clips
from training.data.synthetic.joints import POSES_EACH
from training.data.windows import STATURE

from .synthetic.made_body import made_body, write_assets


@pytest.fixture
def arguments(tmp_path: Path, motion_file: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(command, "read_body_model", made_body)
    (tmp_path / "assets").mkdir()
    task = argparse.ArgumentParser()
    command.add_arguments(task)
    assets = write_assets(tmp_path / "assets")
    words = ["--motion", str(motion_file), "--assets", str(assets), "--out", str(tmp_path), "--renderer", "cpu"]
    return task.parse_args([*words, "--size", "60", "80", "--seed", "4"])


def with_(arguments: argparse.Namespace, **more: object) -> argparse.Namespace:
    return argparse.Namespace(**(vars(arguments) | more))


def test_crops_come_with_labels_that_the_training_reads(arguments: argparse.Namespace) -> None:
    facts = command.render(with_(arguments, count=3))
    assert facts["pictures"] == 3 and facts["pictures_per_second"] > 0 and facts["bytes"] > 0
    photos = read_photos(arguments.out, PhotoSetRecipe("synthetic_train.json"))
    assert len(photos.photos) == 3 and facts["people"] == sum(len(photo.people) for photo in photos.photos)
    for photo in photos.photos:
        assert read_picture(photo.file).shape == (80, 60, 3)
        assert any(person.has_pose for person in photo.people)
    assert len({each["id"] for each in photos.coco["annotations"]}) == facts["people"]
    assert all(image["focal_px"] > 0 for image in photos.coco["images"])


def test_joints_alone_come_with_what_a_camera_sees_of_them(arguments: argparse.Namespace) -> None:
    facts = command.render(with_(arguments, count=POSES_EACH + 1, kind="joints"))
    made = read_lone_frames(arguments.out / "synthetic_train.npz")
    assert facts["poses"] == len(made) > POSES_EACH and facts["poses_per_second"] > 0
    assert not list(arguments.out.glob("synthetic_train/*"))
    inside = (made.points[..., :2] >= 0) & (made.points[..., :2] < torch.tensor([60, 80]))
    assert inside.float().mean() > 0.97  # a joint may lie outside of the few vertices that are framed
    # Where a joint lies about the hip, seen from afar, is where it is seen about the hip, up to one scale.
    for axis in (0, 1):
        seen = made.points[..., axis] - made.points[:, :1, axis]
        assert np.corrcoef(seen.flatten(), made.joints[..., axis].flatten())[0, 1] > 0.9
    assert statures(made.joints.numpy()) == pytest.approx(np.full(len(made), STATURE), abs=0.15)


def test_joints_alone_do_not_depend_on_how_many_there_are(arguments: argparse.Namespace) -> None:
    for name, count in (("few", 5), ("more", POSES_EACH + 1)):
        command.render(with_(arguments, count=count, kind="joints", name=name))
    few, more = (read_lone_frames(arguments.out / f"{name}.npz") for name in ("few", "more"))
    assert len(few) < len(more)
    assert torch.equal(few.points, more.points[: len(few)])


def test_more_pictures_begin_with_the_same_ones(arguments: argparse.Namespace) -> None:
    command.render(with_(arguments, count=1, name="few"))
    command.render(with_(arguments, count=2, name="more"))
    few, more = (json.loads((arguments.out / f"{name}.json").read_text()) for name in ("few", "more"))
    first = [each for each in more["annotations"] if each["image_id"] == 1]
    assert first == few["annotations"]
    files = [(arguments.out / name / "000000.jpg").read_bytes() for name in ("few", "more")]
    assert files[0] == files[1]


def test_another_seed_gives_other_pictures(arguments: argparse.Namespace) -> None:
    command.render(with_(arguments, count=1, name="four"))
    command.render(with_(arguments, count=1, name="five", seed=5))
    assert (arguments.out / "four/000000.jpg").read_bytes() != (arguments.out / "five/000000.jpg").read_bytes()


def test_a_clip_has_a_film_and_everybody_in_each_of_its_frames(
    arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "SIZE", (96, 54))
    short = clips.clip
    monkeypatch.setattr(command, "clip", lambda stage, rng: short(stage, rng, seconds=0.25, people=2))
    assert command.render(with_(arguments, clips=1))["frames"] == 6
    folder = arguments.out / "synthetic_train_clips"
    truth = json.loads((folder / "000000.json").read_text())
    with av.open(str(folder / "000000.mp4")) as film:
        frames = [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
    assert len(frames) == len(truth["frames"]) == 6
    np.testing.assert_allclose([time for time, _ in frames], [frame["time"] for frame in truth["frames"]], atol=1e-3)
    assert frames[0][1].shape == (54, 96, 3) and (truth["width"], truth["height"]) == (96, 54)
    assert {person["id"] for frame in truth["frames"] for person in frame["people"]} <= {0, 1}


@pytest.mark.slow  # bodies of the package, in processes of their own
def test_the_number_of_workers_changes_nothing(arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anny")
    monkeypatch.undo()
    assets = arguments.assets  # tied to the made body's first vertices: odd clothes on a real one, but clothes
    for workers in (1, 2):
        command.render(with_(arguments, assets=assets, count=4, workers=workers, name=f"by_{workers}"))
    one, two = (json.loads((arguments.out / f"by_{workers}.json").read_text()) for workers in (1, 2))
    assert one["annotations"] == two["annotations"]
    for number in range(4):
        files = [(arguments.out / f"by_{workers}/{number:06d}.jpg").read_bytes() for workers in (1, 2)]
        assert files[0] == files[1]
