"""COCO's metric: laws, hand-counted cases, and pycocotools' own figures on random ones."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.metrics.keypoints import (
    FIGURES,
    SIGMAS,
    keypoint_figures,
    mean_oks,
    oks,
    only_joints,
    pose_score,
    suppress_alike,
)

Coco = dict[str, Any]
Results = list[dict[str, Any]]


def random_case(seed: int) -> tuple[Coco, Results]:
    """Some photos with people, crowds, unlabelled and half-labelled ones, and results near them, astray and equal."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: Results = []
    images = [{"id": int(i)} for i in rng.choice(1000, rng.integers(1, 5), replace=False)]
    for image in images:
        for _ in range(rng.integers(0, 5)):
            width, height = rng.uniform(10, 200, 2)
            box = np.array([*rng.uniform(0, 300, 2), width, height])
            points = box[:2] + rng.random((17, 2)) * box[2:]
            visible = rng.choice([0, 1, 2], 17, p=[0.3, 0.3, 0.4]) * (rng.random() > 0.15)
            labels = np.column_stack([points, visible]) * (visible > 0)[:, None]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "bbox": box.tolist(),
                    "area": float(width * height * rng.uniform(0.3, 0.9)),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": labels.ravel().tolist(),
                    "num_keypoints": int((visible > 0).sum()),
                }
            )
            for _ in range(rng.integers(0, 9)):
                guess = points + rng.normal(0, rng.choice([0.0, 0.01, 0.05, 0.3]) * np.sqrt(width * height), (17, 2))
                triples = np.column_stack([guess, np.ones(17)]).ravel().tolist()
                score = float(rng.choice([0.5, round(float(rng.random()), 2)]))
                results.append({"image_id": image["id"], "category_id": 1, "keypoints": triples, "score": score})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


def theirs(coco: Coco, results: Results) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=True))


def copied(coco: Coco) -> Coco:
    """pycocotools writes into what it is given."""
    return {key: [dict(each) for each in value] for key, value in coco.items()}


def check_cases(seeds: range) -> None:
    scored = 0
    for seed in seeds:
        coco, results = random_case(seed)
        if not results:
            continue
        for labels in (coco, only_joints(coco, "hidden")) if seed % 4 == 0 else (coco,):
            ours, official = keypoint_figures(labels, results), theirs(copied(labels), [dict(r) for r in results])
            for name in FIGURES:
                assert ours[name] == pytest.approx(official[name], abs=1e-9), (seed, name)
            scored += 1
    assert scored >= 0.8 * len(seeds)


def test_random_cases_score_as_in_pycocotools() -> None:
    check_cases(range(60))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_random_cases_score_as_in_pycocotools() -> None:
    check_cases(range(1000, 2250))


def person(number: int, image: int, points: np.ndarray, visible: int = 2, **more: Any) -> dict[str, Any]:
    labels = np.column_stack([points, np.full(17, visible)])
    box = [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]
    plain = {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": 5000.0, "iscrowd": 0}
    return plain | {"keypoints": labels.ravel().tolist(), "num_keypoints": 17} | more


def result(image: int, points: np.ndarray, score: float) -> dict[str, Any]:
    triples = np.column_stack([points, np.ones(17)]).ravel().tolist()
    return {"image_id": image, "category_id": 1, "keypoints": triples, "score": score}


POSE = np.random.default_rng(0).uniform(10, 90, (17, 2))


def labelled(*people: dict[str, Any]) -> Coco:
    return {"images": [{"id": 1}, {"id": 2}], "annotations": list(people), "categories": [{"id": 1}]}


def test_a_pose_is_fully_like_itself_and_one_joint_off_by_its_k_costs_its_share() -> None:
    truth = np.column_stack([POSE, np.full(17, 2)])
    area = 4900.0
    moved = POSE.copy()
    moved[5, 0] += np.sqrt(area) * 2 * SIGMAS[5]
    alike = oks([POSE, moved], [truth], [area], [[0, 0, 100, 100]])
    assert alike[:, 0] == pytest.approx([1.0, (16 + np.exp(-0.5)) / 17])


def test_unlabelled_joints_do_not_count_in_oks() -> None:
    truth = np.column_stack([POSE, np.full(17, 2)])
    truth[3] = 0
    moved = POSE.copy()
    moved[3] += 500
    assert oks([moved], [truth], [4900.0], [[0, 0, 100, 100]])[0, 0] == 1.0


def test_without_labels_a_result_in_the_enlarged_box_is_fully_alike() -> None:
    nothing = np.zeros((17, 3))
    inside = np.full((17, 2), 190.0)  # the box 0..100 reaches from -100 to 200
    alike = oks([inside, inside + 11], [nothing], [4900.0], [[0, 0, 100, 100]])[:, 0]
    assert alike[0] == 1.0 and 0 < alike[1] < 1


def test_one_right_of_two_people_gives_the_counted_precision() -> None:
    """Recall ends at a half: 51 of 101 recalls have precision 1."""
    figures = keypoint_figures(labelled(person(1, 1, POSE), person(2, 2, POSE)), [result(1, POSE, 0.9)])
    assert figures["ap"] == pytest.approx(51 / 101)
    assert figures["ar"] == 0.5
    assert figures["ap_large"] == -1.0, "no label is large"
    assert figures["ap_medium"] == figures["ap"]


def test_a_wrong_result_of_higher_score_halves_the_precision() -> None:
    astray = result(1, POSE + 400, 0.95)
    figures = keypoint_figures(labelled(person(1, 1, POSE)), [astray, result(1, POSE, 0.9)])
    assert figures["ap"] == pytest.approx(0.5)
    assert keypoint_figures(labelled(person(1, 1, POSE)), [result(1, POSE, 0.9), astray | {"score": 0.1}])["ap"] > 0.999


def test_a_second_result_on_one_person_is_wrong_and_on_a_crowd_is_not() -> None:
    twice = [result(1, POSE, 0.9), result(1, POSE, 0.95), result(2, POSE, 0.5)]
    people = (person(1, 1, POSE), person(2, 2, POSE))
    assert keypoint_figures(labelled(*people), twice)["ap"] < 1
    crowd = person(1, 1, POSE, iscrowd=1)
    assert keypoint_figures(labelled(crowd, people[1]), twice)["ap"] == pytest.approx(1)


def test_no_result_scores_nought_and_no_label_is_minus_one() -> None:
    assert keypoint_figures(labelled(person(1, 1, POSE)), [])["ap"] == 0
    assert set(keypoint_figures(labelled(), [result(1, POSE, 1.0)]).values()) == {-1.0}


def test_mean_oks_takes_each_labelled_persons_best_result_whatever_its_score() -> None:
    area = 4900.0
    moved = POSE.copy()
    moved[5, 0] += np.sqrt(area) * 2 * SIGMAS[5]
    near = (16 + np.exp(-0.5)) / 17
    crowd, unlabelled = person(3, 1, POSE + 300, iscrowd=1), person(4, 2, POSE, visible=0, num_keypoints=0)
    truth = labelled(person(1, 1, POSE, area=area), person(2, 2, POSE, area=area), crowd, unlabelled)
    results = [result(1, moved, 0.1), result(1, POSE + 400, 0.9)]
    assert mean_oks(truth, results) == pytest.approx(near / 2), "nothing was found of the second"
    assert mean_oks(truth, [*results, result(2, POSE, 0.0)]) == pytest.approx((near + 1) / 2)
    assert mean_oks(labelled(crowd, unlabelled), results) == -1.0


def test_a_result_of_an_unknown_photo_is_refused() -> None:
    with pytest.raises(ValueError, match="image 9"):
        keypoint_figures(labelled(), [result(9, POSE, 1.0)])


def test_seen_and_hidden_joints_are_scored_apart() -> None:
    both = person(1, 1, POSE)
    labels = np.reshape(both["keypoints"], (17, 3))
    labels[8:, 2] = 1
    coco = labelled(both | {"keypoints": labels.ravel().tolist()})
    wrong_below = POSE.copy()
    wrong_below[8:] += 300
    found = [result(1, wrong_below, 0.9)]
    assert keypoint_figures(only_joints(coco, "seen"), found)["ap"] == pytest.approx(1)
    assert keypoint_figures(only_joints(coco, "hidden"), found)["ap"] == 0
    assert coco["annotations"][0]["num_keypoints"] == 17, "the labels are left as they were"


def test_a_poses_score_is_the_boxs_times_the_mean_of_its_sure_joints() -> None:
    assert pose_score([0.1, 0.2, 0.5, 0.9], 0.5) == pytest.approx(0.35)
    assert pose_score([0.1, 0.2], 0.9) == 0


def test_of_two_alike_poses_the_better_one_stays() -> None:
    poses = np.stack([POSE, POSE + 0.1, POSE + 60])
    assert suppress_alike(poses, [0.5, 0.9, 0.7], [5000.0] * 3).tolist() == [1, 2]
    assert suppress_alike(poses, [0.9, 0.9, 0.7], [5000.0] * 3).tolist() == [0, 2]
    assert suppress_alike(np.zeros((0, 17, 2)), [], []).tolist() == []
