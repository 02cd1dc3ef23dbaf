"""Rendered photos and clips through a service that answers as it is told to."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from training.whole_way import followed, kind_of, matched, score_clip, score_photos, tilted, whole_way

JOINTS = np.array(
    [[0, 0, 4], [-.13, 0, 4], [-.14, .45, 4], [-.14, .88, 4], [.13, 0, 4], [.14, .45, 4], [.14, .88, 4], [0, -.25, 4],
     [0, -.5, 4], [0, -.62, 4], [0, -.74, 4], [.17, -.45, 4], [.2, -.17, 4], [.22, .07, 4], [-.17, -.45, 4],
     [-.2, -.17, 4], [-.22, .07, 4]]
)  # fmt: skip


def person(number: int, image: int, x: float, **more: Any) -> dict[str, Any]:
    points = np.column_stack([np.full(17, x) + np.arange(17) % 5, 60 + 8 * np.arange(17), np.full(17, 2)])
    box = [x - 10, 50, 40, 150]
    plain = {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": box, "area": 4000.0}
    plain |= {"keypoints": points.ravel().tolist(), "num_keypoints": 17, "projected": points[:, :2].tolist()}
    return plain | {"whole": 1.0, "joints3d": JOINTS.tolist()} | more


def answered(label: dict[str, Any], number: int = 0, **more: Any) -> dict[str, Any]:
    joints = np.array(label["joints3d"]) - label["joints3d"][0]
    points = np.column_stack([label["projected"], np.full(17, 0.9)]).tolist()
    plain = {"id": number, "box": label["bbox"], "score": 0.9, "keypoints": points, "joints3d": joints.tolist()}
    return plain | more


def service(answer: Any) -> httpx.Client:
    return httpx.Client(base_url="http://here", transport=httpx.MockTransport(answer))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos: one person whole; one whole and one whom the border cuts."""
    cut = person(3, 2, 150)
    cut["projected"][15], cut["keypoints"][45:48] = [150.0, 500.0], [0, 0, 0]
    people = [person(1, 1, 30), person(2, 2, 30), cut]
    images = [
        {"id": n, "file_name": f"rendered_val/{n}.jpg", "width": 200, "height": 300, "focal_px": 250.0} for n in (1, 2)
    ]
    coco = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "rendered_val").mkdir()
    for image in images:
        (tmp_path / str(image["file_name"])).write_bytes(b"jpeg")
    path = tmp_path / "rendered_val.json"
    path.write_text(json.dumps(coco))
    return path


def answer_of(photos: Path, change: Any = lambda people: people) -> Any:
    coco = json.loads(photos.read_text())

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/lift":
            return httpx.Response(200, json={"joints3d": [(JOINTS - JOINTS[0]).tolist()]})
        number = int(str(request.read()).split('filename="')[1].split(".jpg")[0])
        people = [answered(each) for each in coco["annotations"] if each["image_id"] == number]
        return httpx.Response(200, json={"people": change(people), "models": {"pose": "p@1"}})

    return answer


def test_a_perfect_answer_has_no_error(photos: Path) -> None:
    out = score_photos(service(answer_of(photos)), photos, True, False)
    assert out["whole"] | {"people": 2, "found": 2} == out["whole"] and out["cut"]["people"] == 1
    for kind in ("whole", "cut"):
        assert (
            out[kind]["n_mm"] == 0
            and out[kind]["n_median_mm"] == 0
            and out[kind]["p1_mm"] == 0
            and out[kind]["pck150"] == 1
        )
        assert out[kind]["oks"] == pytest.approx(1) and out[kind]["found_share"] == 1
    assert out["covered"] == {"people": 0, "found": 0} and out["whole"]["n_exact_2d_mm"] == 0
    assert out["pose"]["ap"] == pytest.approx(1) and out["box"]["ap"] == pytest.approx(1)
    assert out["false_people_a_photo"] == 0 and out["models"] == {"pose": "p@1"}


def test_a_body_of_another_size_costs_p1_and_not_n(photos: Path) -> None:
    def smaller(people: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [each | {"joints3d": (0.8 * np.array(each["joints3d"])).tolist()} for each in people]

    whole = score_photos(service(answer_of(photos, smaller)), photos, True, False)["whole"]
    assert whole["n_mm"] == 0 and whole["p1_mm"] > 50


def test_who_is_not_found_is_missed_and_who_is_not_there_is_false(photos: Path) -> None:
    def elsewhere(people: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [people[0] | {"box": [120, 220, 30, 60]}]

    out = score_photos(service(answer_of(photos, elsewhere)), photos, True, False)
    assert out["whole"]["found"] == 0 and out["whole"]["found_share"] == 0 and out["false_people_a_photo"] == 1


def test_the_camera_is_told_only_when_it_should_be(photos: Path) -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/lift":
            return httpx.Response(200, json={"joints3d": [JOINTS.tolist()]})
        bodies.append(request.read())
        return httpx.Response(200, json={"people": [], "models": {}})

    for told in (True, False):
        score_photos(service(answer), photos, told, True)
    assert [b"focal_px" in body for body in bodies] == [True, True, False, False]
    assert all(b'"flip_test": true' in body for body in bodies)


def test_a_refusal_is_told_with_its_photo(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"1\.jpg: HTTP 503: full"):
        score_photos(service(lambda request: httpx.Response(503, text="full")), photos, True, False)


def test_best_overlaps_come_first_and_nobody_twice() -> None:
    true = [[0, 0, 10, 10], [4, 0, 10, 10]]
    assert matched(true, [[4, 0, 10, 10], [1, 0, 10, 10]]) == {1: 0, 0: 1}
    assert matched(true, [[4, 0, 10, 10]]) == {1: 0}
    assert matched(true, [[50, 50, 3, 3]]) == {} and matched([], true) == {} and matched(true, []) == {}


def test_who_was_matched_in_the_frame_before_stays_so_while_the_boxes_overlap() -> None:
    true, found = [[0, 0, 10, 10], [2, 0, 10, 10]], [[2, 0, 10, 10], [0, 0, 10, 10]]
    assert matched(true, found) == {0: 1, 1: 0}
    assert matched(true, found, {(0, 0), (1, 1)}) == {0: 0, 1: 1}
    assert matched(true, [[9, 0, 10, 10], [0, 0, 10, 10]], {(0, 0)}) == {0: 1}


def test_people_are_whole_cut_or_covered() -> None:
    image = {"width": 200, "height": 300}
    assert kind_of(person(1, 1, 30), image) == "whole"
    assert kind_of(person(1, 1, 30, whole=0.5), image) == "covered"
    assert kind_of(person(1, 1, 30, projected=[[-3.0, 5.0]] * 17), image) == "cut"
    assert kind_of(person(1, 1, 30, projected=[[None, None]] * 17), image) == "cut"


def test_who_lies_or_is_upside_down_is_tilted() -> None:
    assert not tilted(person(1, 1, 30))
    assert tilted(person(1, 1, 30, joints3d=JOINTS[:, [1, 0, 2]].tolist()))
    assert tilted(person(1, 1, 30, joints3d=(JOINTS * [1, -1, 1]).tolist()))


def test_ids_that_stick_have_no_swaps() -> None:
    pairs = [(0, 7), (1, 9), (0, 7), (1, None), (0, 7), (1, 9)]
    assert followed(pairs) == {"true_ids": 2, "ids": 2, "swaps": 0, "kept_share": round(5 / 6, 3)}


def test_exchanged_ids_are_two_swaps_and_a_new_id_is_one() -> None:
    assert followed([(0, 1), (1, 2), (0, 2), (1, 1)])["swaps"] == 2
    assert followed([(0, 1), (0, 1), (0, 5)]) == {"true_ids": 1, "ids": 2, "swaps": 1, "kept_share": 0.667}
    assert followed([]) == {"true_ids": 0, "ids": 0, "swaps": 0, "kept_share": 0.0}


def clip_of(folder: Path, frames: int) -> tuple[Path, list[list[dict[str, Any]]]]:
    people = [[person(0, n, 20 + n), person(1, n, 120 - n)] for n in range(frames)]
    facts = {"width": 200, "height": 300, "fps": 24.0, "focal_px": 250.0}
    lines = [{"index": n, "time": n / 24, "people": each} for n, each in enumerate(people)]
    clip = folder / "000000.mp4"
    clip.write_bytes(b"mp4")
    clip.with_suffix(".json").write_text(json.dumps(facts | {"frames": lines}))
    return clip, people


def ndjson(lines: list[dict[str, Any]]) -> Any:
    return lambda request: httpx.Response(200, text="\n".join(json.dumps(line) for line in lines))


def test_a_clip_is_scored_by_its_poses_and_by_its_ids(tmp_path: Path) -> None:
    clip, people = clip_of(tmp_path, 6)
    lines = [
        {"type": "frame", "index": n, "people": [answered(each[0], 3), answered(each[1], 4 if n < 3 else 8)]}
        for n, each in enumerate(people)
    ]
    out = score_clip(service(ndjson([{"type": "start"}, *lines, {"type": "end", "merged": {}}])), clip, True)
    assert out["n_mm"] == 0 and out["people"] == 12 and out["frames"] == 6
    assert out["true_ids"] == 2 and out["ids"] == 3 and out["swaps"] == 1
    again = score_clip(service(ndjson([{"type": "start"}, *lines, {"type": "end", "merged": {"8": 4}}])), clip, True)
    assert again["ids"] == 2 and again["swaps"] == 0


def test_a_clip_whose_answer_breaks_off_is_an_error(tmp_path: Path) -> None:
    clip, _ = clip_of(tmp_path, 2)
    with pytest.raises(ValueError, match="ends with"):
        score_clip(service(ndjson([{"type": "start"}, {"type": "error", "title": "no"}])), clip, False)


def test_a_folder_without_renderings_is_named(tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        url="http://127.0.0.1:9", rendered=tmp_path, name="rendered_val", camera="given", flip_test=False, key=None
    )
    with pytest.raises(ValueError, match="rendered_val"):
        whole_way(arguments)
