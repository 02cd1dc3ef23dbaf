"""Photos of coloured rectangles through the real queue, to people."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from service.engines.framing import CropRow, Found
from service.errors import OutOfRange, Unknown
from service.geometry.alignment import stature
from service.geometry.skeletons import SKELETONS, mirror_order
from service.media.pictures import Picture
from service.people import Scale
from service.pipelines.call import CameraOptions
from service.pipelines.photo import Array, PhotoAnswer, PhotoOptions, joint_states

from .fake import BLUE, GREEN, HIDDEN, RED, SCORES, FakeEngine, Fakes, Pixels, call, detector, draw, figure, street

BOXES = ((20, 40, 60, 150), (120, 60, 50, 140), (220, 30, 70, 180))


def three_people() -> Pixels:
    picture = street()
    for box, colour in zip(BOXES, (RED, GREEN, BLUE), strict=True):
        picture = draw(picture, box, colour)
    return picture


def seen(
    pixels: Pixels, options: PhotoOptions | None = None, fakes: Fakes | None = None, focal_35mm: float | None = None
) -> PhotoAnswer:
    async def main() -> PhotoAnswer:
        async with (fakes or Fakes()).photo() as photo:
            return await photo.find_people(Picture(pixels, focal_35mm, "png"), options or PhotoOptions(), call())

    return asyncio.run(main())


def boxes_of(answer: PhotoAnswer) -> Array:
    return np.array([person.box.xywh for person in answer.people]).reshape(-1, 4)


def test_everyone_is_found_by_falling_score() -> None:
    answer = seen(three_people())
    np.testing.assert_array_equal(boxes_of(answer), BOXES)
    assert [person.box.score for person in answer.people] == pytest.approx(SCORES)
    assert [person.id for person in answer.people] == [0, 1, 2]
    for person, box in zip(answer.people, BOXES, strict=True):
        np.testing.assert_allclose(person.keypoints.points, figure(box), atol=1e-4)
    assert (answer.width, answer.height) == (320, 240)
    assert answer.models == {"person": "fake-person@1", "pose": "fake-pose@1", "lift": "fake-lift@1"}
    assert answer.states is None


def test_each_person_stands_on_the_ground_of_the_camera() -> None:
    for person in seen(three_people()).people:
        lifted = person.lifted
        assert lifted is not None and lifted.position is not None
        assert lifted.joints.shape == (17, 3)
        np.testing.assert_array_equal(lifted.joints[0], 0)
        assert np.isfinite(lifted.joints).all() and np.isfinite(lifted.position).all()
        assert lifted.position[2] > 0
        assert stature(lifted.joints) == pytest.approx(1.70, abs=0.01)
        assert lifted.scale == Scale(1.70, "assumed")


def test_an_empty_street_has_nobody_and_asks_nobody() -> None:
    fakes = Fakes()
    answer = seen(street(), fakes=fakes)
    assert answer.people == ()
    assert fakes.pose.batches == fakes.lift.batches == []
    assert seen(street(), PhotoOptions(states=True)).states == []


def test_without_lift_there_are_keypoints_alone() -> None:
    fakes = Fakes()
    answer = seen(three_people(), PhotoOptions(lift=False), fakes)
    assert [person.lifted for person in answer.people] == [None] * 3
    assert fakes.lift.batches == []


def test_the_best_people_stay_when_there_are_too_many() -> None:
    np.testing.assert_array_equal(boxes_of(seen(three_people(), PhotoOptions(max_people=2))), BOXES[:2])


def test_who_is_not_sure_enough_is_left_out() -> None:
    np.testing.assert_array_equal(boxes_of(seen(three_people(), PhotoOptions(min_person_score=0.85))), BOXES[:1])


def test_a_box_without_area_is_nobody() -> None:
    fakes = Fakes()
    found = Found(np.array([[0, 0, 10, 0], [20, 40, 60, 150]], np.float32), np.array([0.9, 0.8], np.float32))
    fakes.person = FakeEngine("person", lambda row: found, budget=1)
    np.testing.assert_array_equal(boxes_of(seen(three_people(), fakes=fakes)), BOXES[:1])


def test_two_boxes_of_one_pose_are_one_person() -> None:
    whole, part = BOXES[0], (20, 40, 60, 90)
    found = Found(np.array([part, whole, BOXES[1]], np.float32), np.array([0.8, 0.6, 0.5], np.float32))
    fakes = Fakes()
    fakes.person = FakeEngine("person", lambda row: found, budget=1)
    answer = seen(three_people(), fakes=fakes)
    np.testing.assert_array_equal(boxes_of(answer), [part, BOXES[1]])
    assert [person.id for person in answer.people] == [0, 1]


# ---- Boxes that the request brings


def of_boxes(*boxes: Sequence[float]) -> PhotoOptions:
    return PhotoOptions(boxes=np.array(boxes, np.float32).reshape(-1, 4))


def test_given_boxes_keep_their_order_and_need_no_finder() -> None:
    fakes = Fakes()
    answer = seen(three_people(), of_boxes(BOXES[2], BOXES[0]), fakes)
    np.testing.assert_array_equal(boxes_of(answer), [BOXES[2], BOXES[0]])
    assert [person.box.score for person in answer.people] == [1.0, 1.0]
    assert fakes.person.batches == []
    assert len(fakes.pose.rows) == len(fakes.lift.rows) == 2


def test_given_boxes_are_not_merged_capped_or_held_to_a_score() -> None:
    options = replace(of_boxes(*[BOXES[0]] * 5), max_people=2, min_person_score=1.0)
    assert len(seen(three_people(), options).people) == 5


def test_a_given_box_is_clipped_to_the_picture() -> None:
    given = np.array([[-20, 40, 100, 500]], np.float32)
    answer = seen(three_people(), PhotoOptions(boxes=given))
    np.testing.assert_array_equal(boxes_of(answer), [[0, 40, 80, 200]])
    np.testing.assert_array_equal(given, [[-20, 40, 100, 500]])


@pytest.mark.parametrize("outside", [(320, 10, 30, 30), (-50, 10, 50, 30), (10, 241, 5, 5), (10, 10, 0, 20)])
def test_a_box_with_nothing_inside_is_refused_by_its_index(outside: tuple[float, ...]) -> None:
    fakes = Fakes()
    with pytest.raises(OutOfRange, match=r"`boxes\[1\]` is .* 320x240") as caught:
        seen(three_people(), of_boxes(BOXES[0], outside), fakes)
    assert (caught.value.field, caught.value.limit) == ("boxes[1]", [320, 240])
    assert fakes.pose.batches == []


def test_no_boxes_at_all_are_nobody() -> None:
    assert seen(three_people(), of_boxes()).people == ()


# ---- Options


def test_the_flip_test_reaches_every_crop_and_costs_double() -> None:
    for flip_test, cost in ((False, 1), (True, 2)):
        fakes = Fakes()
        seen(three_people(), PhotoOptions(flip_test=flip_test), fakes)
        assert [row.cost for row in fakes.pose.rows] == [cost] * 3


def test_states_tell_what_is_seen_and_what_is_guessed() -> None:
    answer = seen(draw(street(), BOXES[0], RED), PhotoOptions(states=True))
    assert answer.states is not None and len(answer.states) == 1
    assert [state for n, state in enumerate(answer.states[0]) if n != HIDDEN] == ["seen"] * 16
    assert answer.states[0][HIDDEN] == "occluded"


def test_every_state_has_its_case() -> None:
    points = np.array([[5, 5, 0.9], [5, 5, 0.1], [100, 5, 0.9], [5, -0.1, 0.2], [np.nan, np.nan, 0]], np.float32)
    assert joint_states(points, 100, 50) == ["seen", "occluded", "outside", "outside", "inferred"]


def test_a_stature_is_used_and_said() -> None:
    person = seen(draw(street(), BOXES[0], RED), PhotoOptions(stature=1.2)).people[0]
    assert person.lifted is not None
    assert person.lifted.scale == Scale(1.2, "given")
    assert stature(person.lifted.joints) == pytest.approx(1.2, abs=0.03)


def test_the_camera_is_the_requests_else_of_exif_else_assumed() -> None:
    picture = draw(street(), BOXES[0], RED)
    asked = PhotoOptions(camera=CameraOptions(field_of_view=70.0))
    assert seen(picture, asked, focal_35mm=30.0).camera.source == "given"
    assert seen(picture, focal_35mm=30.0).camera.source == "exif"
    assert seen(picture).camera.source == "assumed"


def test_a_longer_lens_puts_people_farther_away() -> None:
    picture, far = draw(street(), BOXES[0], RED), []
    for focal_px in (200.0, 400.0):
        lifted = seen(picture, PhotoOptions(camera=CameraOptions(focal_px=focal_px))).people[0].lifted
        assert lifted is not None and lifted.position is not None
        far.append(float(lifted.position[2]))
    assert far[1] == pytest.approx(2 * far[0], rel=0.05)


def test_a_mirrored_photo_names_the_true_left_and_shows_the_true_scene() -> None:
    picture = draw(street(), BOXES[0], RED)
    plain = seen(picture)
    mirrored = seen(np.ascontiguousarray(picture[:, ::-1]), PhotoOptions(mirrored=True))
    (here,), (there,) = plain.people, mirrored.people
    assert here.lifted is not None and there.lifted is not None
    # The fake detector's figure is the same seen in a mirror, but for the ankle that it hides.
    shown = figure((320 - 20 - 60, 40, 60, 150))[mirror_order(SKELETONS["coco17"])]
    np.testing.assert_allclose(there.keypoints.points, shown, atol=1e-4)
    np.testing.assert_allclose(there.lifted.joints, here.lifted.joints, atol=1e-4)
    assert here.lifted.position is not None and there.lifted.position is not None
    np.testing.assert_allclose(there.lifted.position, here.lifted.position, rtol=0.02, atol=0.02)


def test_a_model_that_is_not_loaded_is_refused_before_any_work() -> None:
    fakes = Fakes()
    with pytest.raises(Unknown, match=r"`models.pose` is 'hrnet-w48'") as caught:
        seen(three_people(), PhotoOptions(models={"pose": "hrnet-w48"}), fakes)
    assert caught.value.field == "models.pose"
    assert fakes.person.batches == []


def test_models_that_are_loaded_may_be_named() -> None:
    named = {"person": "fake-person", "pose": "fake-pose@1", "lift": "fake-lift"}
    assert len(seen(three_people(), PhotoOptions(models=named)).people) == 3


# ---- What is not known


def test_where_nobody_can_be_placed_the_position_is_none() -> None:
    def unsure(row: CropRow) -> Array:
        points = detector(row)
        points[:, 2] = 0
        return points

    fakes = Fakes()
    fakes.pose = FakeEngine("pose", unsure)
    person = seen(draw(street(), BOXES[0], RED), fakes=fakes).people[0]
    assert person.lifted is not None
    assert person.lifted.position is None
    assert np.isfinite(person.lifted.joints).all()


def test_the_call_learns_what_each_stage_took() -> None:
    async def main() -> set[str]:
        mine = call()
        async with Fakes().photo() as photo:
            await photo.find_people(Picture(three_people(), None, "png"), PhotoOptions(), mine)
        return set(mine.spent_ms)

    assert asyncio.run(main()) == {"queue", "person", "pose", "lift"}


def test_photos_of_many_callers_at_once_get_the_same_answers_as_alone() -> None:
    pictures = [draw(street(), (20 + 5 * n, 40, 60, 150), RED) for n in range(20)]
    fakes = Fakes()

    async def main() -> list[PhotoAnswer]:
        async with fakes.photo() as photo:
            work = [photo.find_people(Picture(pixels, None, "png"), PhotoOptions(), call()) for pixels in pictures]
            return await asyncio.gather(*work)

    for pixels, together in zip(pictures, asyncio.run(main()), strict=True):
        alone = seen(pixels)
        np.testing.assert_array_equal(boxes_of(together), boxes_of(alone))
        np.testing.assert_array_equal(together.people[0].keypoints.points, alone.people[0].keypoints.points)
    assert len(fakes.lift.batches) < 20
