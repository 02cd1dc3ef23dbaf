"""The command line as a shell sees it: what it prints, writes, and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from service import cli
from service.cli import main
from service.formats import Recording, write
from tests.conftest import Started
from tests.formats.fake import person, recording, walking, without

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_settings_prints_every_setting_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("settings", "--port", "9000") == 0
    lines = capsys.readouterr().out.splitlines()
    port = next(line for line in lines if line.startswith("port "))
    assert port.split()[:3] == ["port", "9000", "--port"]
    assert next(line for line in lines if line.startswith("host ")).split()[1:3] == ["127.0.0.1", "default"]


def test_a_wrong_setting_is_wrong_use_and_names_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("settings", "--port", "70000") == 2
    message = capsys.readouterr().err
    assert "port" in message and "65535" in message and "70000" in message


def test_an_unknown_command_is_wrong_use() -> None:
    assert run("juggle") == 2


def test_a_file_that_is_not_there_is_named_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lift", "nowhere.json") == 2
    assert "nowhere.json" in capsys.readouterr().err


def test_help_tells_of_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--help") == 0
    told = capsys.readouterr().out
    assert "--queue-rows" in told and "--device" in told


def test_the_store_lists_and_checks_its_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "list") == 0
    listed = capsys.readouterr().out
    assert "lite-hrnet@2" in listed and "lite-hrnet-public@1" in listed and "rtmdet-nano@1" in listed
    assert run("models", "check") == 0


def test_a_damaged_store_is_told_by_file_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "rtmdet-nano" / "1"
    folder.mkdir(parents=True)
    for file in (ROOT / "model_store" / "rtmdet-nano" / "1").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert run("models", "check", "--store", str(tmp_path)) == 1
    assert "weights.safetensors" in capsys.readouterr().err


def test_a_file_of_no_known_kind_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.pkl"
    file.write_bytes(b"not a model")
    assert run("models", "import", str(file), "--as", "mine", "--store", str(tmp_path)) == 2
    assert "weights.pkl" in capsys.readouterr().err


def test_predict_writes_people_and_a_picture_and_names_what_failed(tmp_path: Path) -> None:
    photos, results = tmp_path / "photos", tmp_path / "results"
    photos.mkdir()
    astronaut = np.asarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    cv2.imwrite(str(photos / "astronaut.jpg"), astronaut[:, :, ::-1])
    cv2.imwrite(str(photos / "nobody.png"), np.full((64, 64, 3), 90, np.uint8))
    (photos / "deeper").mkdir()
    cv2.imwrite(str(photos / "deeper" / "same.png"), np.full((64, 64, 3), 90, np.uint8))
    cv2.imwrite(str(photos / "deeper" / "same.bmp"), np.full((64, 64, 3), 90, np.uint8))
    (photos / "torn.jpg").write_bytes((photos / "astronaut.jpg").read_bytes()[:5000])
    command = [sys.executable, "-m", "service", "predict", str(photos), "--output", str(results), "--overlay"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)

    assert ended.returncode == 1, ended.stderr
    assert "torn.jpg" in ended.stderr and "astronaut.jpg" not in ended.stderr
    answer = json.loads((results / "astronaut.json").read_text())
    assert len(answer["people"]) == 1
    assert np.isfinite(np.array(answer["people"][0]["joints3d"])).all()
    drawn = cv2.imread(str(results / "astronaut.overlay.png"))
    assert drawn is not None and drawn.shape[1] > 512
    assert json.loads((results / "nobody.json").read_text())["people"] == []
    assert not (results / "torn.json").exists()
    assert {path.name for path in (results / "deeper").glob("*.json")} == {"same.png.json", "same.bmp.json"}


@pytest.mark.parametrize(
    "option, value, rule",
    [
        ("every", "0", "1 to 1000"),
        ("every", "-2", "1 to 1000"),
        ("stature", "9", "0.3 to 3"),
        ("stature", "nan", "0.3"),
    ],
)
def test_predict_refuses_what_the_doors_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, rule: str
) -> None:
    assert run("predict", str(tmp_path), f"--{option}", value) == 2
    told = capsys.readouterr().err
    assert f"`{option}`" in told and rule in told and "got" in told


@pytest.mark.parametrize(
    "option, value, rule",
    [("image-size", ["0", "-5"], "equal to 1"), ("fps", ["0"], "1 to 240"), ("stature", ["-1"], "0.3 to 3")],
)
def test_lift_refuses_what_the_doors_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: list[str], rule: str
) -> None:
    assert run("lift", str(tmp_path / "keypoints.csv"), f"--{option}", *value) == 2
    told = capsys.readouterr().err
    assert f"`{option.replace('-', '_')}" in told and rule in told


def test_lift_answers_every_frame_of_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(100, 300, (40, 17, 2)).round(1).tolist()
    file = tmp_path / "keypoints.json"
    file.write_text(json.dumps({"skeleton": "coco17", "image_size": [640, 480], "keypoints": keypoints}))
    command = [sys.executable, "-m", "service", "lift", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert np.array(json.loads(ended.stdout)["joints3d"]).shape == (40, 17, 3)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    """Commands run over the models that other tests have started: loading them again takes seconds."""
    monkeypatch.setattr(cli, "_with_service", lambda arguments, work: started.run(work(started.service), 300))


def test_predict_takes_a_gif_of_several_frames_as_a_clip_and_one_of_one_as_a_photo(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((60, 80, 3), shade, np.uint8)) for shade in (40, 90, 140)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[0].save(tmp_path / "still.gif")
    assert run("predict", *(str(tmp_path / f"{name}.gif") for name in ("moving", "still"))) == 0
    lines = [json.loads(line) for line in (tmp_path / "moving.ndjson").read_text().splitlines()]
    assert [line["index"] for line in lines if line["type"] == "frame"] == [0, 1, 2]
    assert json.loads((tmp_path / "still.json").read_text())["people"] == []


@pytest.mark.usefixtures("in_this_process")
def test_the_last_line_of_a_clip_that_breaks_is_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 60, 80, 3), dtype=np.uint8)
    frames = [Image.fromarray(each) for each in noise]
    frames[0].save(tmp_path / "whole.gif", save_all=True, append_images=frames[1:], duration=100)
    whole = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 2])
    assert run("predict", str(tmp_path / "cut.gif")) == 1
    lines = [json.loads(line) for line in (tmp_path / "cut.ndjson").read_text().splitlines()]
    told = [line["index"] for line in lines if line["type"] == "frame"]
    assert lines[0]["type"] == "start" and 0 < len(told) < 20
    assert (lines[-1]["type"], lines[-1]["last_frame"]) == ("error", told[-1])
    assert lines[-1]["problem"]["detail"] in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_predict_writes_the_formats_that_are_asked_for_and_no_half_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    astronaut = np.asarray(skimage.data.astronaut(), np.uint8)  # type: ignore[no-untyped-call]
    small = np.asarray(cv2.resize(astronaut, (256, 256)), np.uint8)
    cv2.imwrite(str(tmp_path / "000042.jpg"), astronaut[:, :, ::-1])
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for n in range(12):
            moved = np.ascontiguousarray(np.roll(small, 2 * n, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    out = tmp_path / "out"
    clip = str(tmp_path / "clip.mp4")
    assert run("predict", clip, "--format", "json", "csv", "bvh", "coco", "mp4", "-o", str(out)) == 0
    assert {path.name for path in out.iterdir()} == {
        *("clip.ndjson", "clip.csv", "clip_bvh.zip", "clip.coco.json", "clip.mp4"),
    }
    assert av.open(str(out / "clip.mp4")).streams.video[0].frames == 12
    assert len((out / "clip.csv").read_text().splitlines()) == 13
    photo, beside = str(tmp_path / "000042.jpg"), str(tmp_path / "photo")
    assert run("predict", photo, "-o", beside, "--format", "json", "npz", "csv", "coco", "openpose") == 0
    assert {path.name for path in (tmp_path / "photo").iterdir()} == {
        *("000042.json", "000042.npz", "000042.csv", "000042.coco.json", "000042_openpose.zip"),
    }
    (detection,) = json.loads((tmp_path / "photo" / "000042.coco.json").read_text())
    assert detection["image_id"] == 42
    answer = json.loads((tmp_path / "photo" / "000042.json").read_text())
    assert detection["keypoints"][:2] == answer["people"][0]["keypoints"][0][:2]
    assert run("predict", photo, "-o", beside, "--format", "mp4") == 1
    assert "clips" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("kind", ["openpose", "alphapose", "coco", "csv", "npz", "body"])
def test_lift_reads_other_programs_files_and_writes_any_format(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = walkers()
    if kind == "body":
        path = tmp_path / "clip.json"
        points = given.people[0].keypoints.astype(float).round(2).tolist()
        keypoints = [[point if point[2] > 0 else None for point in frame] for frame in points]
        path.write_text(json.dumps({"skeleton": "coco17", "image_size": [640, 480], "people": [keypoints]}))
    else:
        with (tmp_path / "written").open("wb") as file:
            name, _ = write(given, kind, "clip", file)
        path = (tmp_path / "written").rename(tmp_path / name)
    size = () if kind in ("npz", "body") else ("--image-size", "640", "480")
    if size:
        assert run("lift", str(path)) == 2
        assert "--image-size" in capsys.readouterr().err
    out = tmp_path / "out"
    assert run("lift", str(path), *size, "--format", "json", "csv", "trc", "npz", "-o", str(out), "--fps", "30") == 0
    stem = f"{path.stem}.lifted"
    assert {each.name for each in out.iterdir()} == {f"{stem}{e}" for e in (".json", ".csv", "_trc.zip", ".npz")}
    people = json.loads((out / f"{stem}.json").read_text())["people"]
    assert len(people) == (1 if kind == "body" else 2)
    assert np.array(people[0]["joints3d"]).shape == (len(people[0]["frames"]), 17, 3)
    with np.load(out / f"{stem}.npz") as arrays:
        assert np.isfinite(arrays["joints3d"]).all() and arrays["size"].tolist() == [640, 480]
        first = arrays["person"] == arrays["person"][0]
        known = np.isfinite(given.people[0].keypoints).all(-1)
        np.testing.assert_allclose(arrays["keypoints"][first][known], given.people[0].keypoints[known], atol=0.02)


def walkers() -> Recording:
    """Two people, one of whom comes later; the second frame's left wrist of the first is not known."""

    def lose(arrays: dict[str, Any]) -> None:
        arrays["keypoints"][1, 9] = np.nan, np.nan, 0

    first = without(person(walking(30), id=0), lose)
    return recording(first, person(walking(12), id=1, first=15), frames=30, rate=30.0)
