"""Labels that are exact: who is seen, hidden, cut."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.cameras import project
from training.data.synthetic.figures import Figure, figure, thing
from training.data.synthetic.labels import PersonLabel, annotation, label
from training.data.synthetic.raster import rasterise
from training.data.synthetic.scenes import Stage
from training.data.synthetic.shading import Part, joined
from training.data.synthetic.views import View, looking

SIZE = (300, 300)


@pytest.fixture(scope="module")
def somebody(stage: Stage) -> Figure:
    """Stands at the origin; the pack's person looks along -y."""
    joints = stage.motion.joints[0].copy()
    joints[:, :2] -= joints[0, :2]
    return figure(stage.cast.person(np.random.default_rng(0)), joints, 0)


def owned(one: Figure, owner: int, shift: tuple[float, float, float]) -> Figure:
    moved = one.moved(np.eye(3), shift)
    parts = tuple(Part(p.places, p.rest, p.tint, p.triangles, p.material, owner, p.fixed) for p in moved.parts)
    return Figure(parts, moved.keypoints, moved.joints, moved.size_m)


def front(focal: float = 300) -> View:
    return looking((0, -4, 1), (0, 0, 1), 0, focal, SIZE)


def labels(figures: list[Figure], view: View, things: list[Part] | None = None, factor: int = 2) -> list[PersonLabel]:
    mesh = joined([part for one in figures for part in one.parts] + (things or []))
    big = view.enlarged(factor)
    points = big.project(mesh.places)
    ids = rasterise(points, mesh.triangles, big.size)
    alone = []
    for one in figures:
        own = joined(one.parts)
        alone.append(float((rasterise(big.project(own.places), own.triangles, big.size) >= 0).sum() / factor**2))
    return label(figures, mesh, ids, points, view, alone, factor)


def test_who_stands_free_is_seen_whole_where_the_camera_says(somebody: Figure) -> None:
    [person] = labels([somebody], front())
    assert person.whole == pytest.approx(1)
    assert (person.keypoints[:, 2] > 0).all()
    np.testing.assert_allclose(person.keypoints[:, :2], front().project(somebody.keypoints)[:, :2], atol=1e-3)
    low, high = person.box[:2], person.box[:2] + person.box[2:]
    outline = front().project(somebody.outline)[:, :2]
    np.testing.assert_allclose(low, outline.min(0), atol=0.6)
    np.testing.assert_allclose(high, outline.max(0), atol=0.6)
    assert 0.2 * person.box[2:].prod() < person.area < person.box[2:].prod()


def test_the_joints_in_space_project_onto_the_picture(somebody: Figure) -> None:
    [person] = labels([somebody], front())
    view = front()
    np.testing.assert_allclose(project(person.joints, view.camera), view.project(somebody.joints)[:, :2], atol=0.01)
    assert person.joints[10, 1] < person.joints[0, 1] < person.joints[3, 1]  # y points down


def test_from_behind_the_face_is_hidden_and_the_back_is_not(somebody: Figure) -> None:
    [ahead] = labels([somebody], front())
    [behind] = labels([somebody], looking((0, 4, 1), (0, 0, 1), 0, 300, SIZE))
    assert ahead.keypoints[0, 2] == 2 and behind.keypoints[0, 2] == 1
    assert (behind.keypoints[5:7, 2] == 2).all()


def test_who_stands_behind_somebody_is_hidden_but_labelled(somebody: Figure) -> None:
    other = owned(somebody, 1, (0.12, 1.0, 0))
    near, far = labels([somebody, other], front())
    assert (near.owner, far.owner) == (0, 1)
    assert near.whole == pytest.approx(1) and 0.12 < far.whole < 0.8
    assert (far.keypoints[:, 2] == 1).sum() > (near.keypoints[:, 2] == 1).sum()


def test_who_can_hardly_be_seen_has_a_box_and_no_joints(somebody: Figure) -> None:
    top = float(somebody.outline[:, 2].max())
    wall = thing(np.random.default_rng(0), (0, -0.5, 0), (3, 0.1, 2 * (top - 0.05)), 0)
    [person] = labels([somebody], front(), [wall])
    assert person.whole < 0.12 and not person.keypoints.any() and person.box[2:].min() > 0


def test_who_is_hidden_or_outside_altogether_has_no_label(somebody: Figure) -> None:
    wall = thing(np.random.default_rng(0), (0, -1, 1), (9, 0.1, 9), 0)
    assert labels([somebody], front(), [wall]) == []
    assert labels([owned(somebody, 0, (40, 0, 0))], front()) == []


def test_what_the_border_cuts_off_is_outside(somebody: Figure) -> None:
    close = looking((0, -1.4, 1.4), (0, 0, 1.4), 0, 400, SIZE)
    [person] = labels([somebody], close)
    below = close.project(somebody.keypoints)[:, 1] >= SIZE[1]
    assert below[15:].all() and (person.keypoints[below] == 0).all() and (person.keypoints[~below, 2] > 0).any()
    assert person.projected[15, 1] > SIZE[1]  # the place is told all the same
    assert person.box[1] + person.box[3] == pytest.approx(SIZE[1])


def test_finer_drawing_changes_labels_by_less_than_a_pixel(somebody: Figure) -> None:
    [coarse], [fine] = labels([somebody], front(), factor=1), labels([somebody], front(), factor=3)
    np.testing.assert_allclose(coarse.box, fine.box, atol=1.1)
    assert coarse.area == pytest.approx(fine.area, rel=0.03)
    np.testing.assert_array_equal(coarse.keypoints, fine.keypoints)


def test_nobody_gives_no_labels() -> None:
    assert labels([], front(), [thing(np.random.default_rng(0), (0, 0, 1), (1, 1, 1), 0)]) == []


def test_an_annotation_is_cocos_and_has_null_for_what_is_behind(somebody: Figure) -> None:
    [person] = labels([somebody], front())
    projected = person.projected.copy()
    projected[3] = np.nan
    written = annotation(
        PersonLabel(0, person.keypoints, projected, person.box, person.area, person.whole, person.joints), 5, 9
    )
    assert (written["id"], written["image_id"], written["category_id"], written["iscrowd"]) == (5, 9, 1, 0)
    assert len(written["keypoints"]) == 51 and written["num_keypoints"] == 17
    assert written["projected"][3] == [None, None] and len(written["joints3d"]) == 17
