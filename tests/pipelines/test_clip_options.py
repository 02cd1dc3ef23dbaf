"""What may be asked of a clip: frames, smoothing, raw keypoints, stature, the lift, a mirrored picture."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import OutOfRange, Unknown
from service.geometry.alignment import stature
from service.geometry.skeletons import SKELETONS, mirror_order
from service.people import Scale
from service.pipelines.call import CameraOptions
from service.pipelines.clip import ClipOptions, ClipStart
from service.pipelines.photo import PhotoOptions

from .conftest import Shown, Told, evenly, told, walker, walking
from .fake import RED, Fakes, Pixels, draw, figure, street


def test_every_nth_frame_between_start_and_end() -> None:
    clip = Shown(evenly(100))
    options = ClipOptions(PhotoOptions(lift=False), every=3, start=1.0, end=2.0)
    story = told(clip, options)
    assert [frame.index for frame in story.frames] == [n for n in range(25, 51) if n % 3 == 0]
    assert story.end.frames == len(story.frames)
    assert clip.taken == 52


@pytest.mark.parametrize("end", [None, 60.0])
def test_a_part_without_a_frame_is_refused_with_the_clips_length(end: float | None) -> None:
    story = told(Shown(evenly(10)), ClipOptions(start=50.0, end=end))
    assert isinstance(story.error, OutOfRange) and story.error.field == "start"
    assert "from `start` 50 s" in str(story.error) and story.frames == []


def test_raw_keypoints_are_those_before_smoothing() -> None:
    def trembling(n: int) -> Pixels:
        x, y, width, height = walker(0)
        return draw(street(), (x + 6 * (n % 2), y, width, height), RED)

    def places(story: Told, raw: bool) -> np.ndarray:
        people = [story.only(n) for n in range(30)]
        return np.stack([one.raw if raw and one.raw is not None else one.person.keypoints.points for one in people])

    rough = told(Shown(evenly(30), trembling), ClipOptions(raw=True, smooth=False))
    calm = told(Shown(evenly(30), trembling), ClipOptions(raw=True))
    np.testing.assert_array_equal(places(rough, raw=True), places(rough, raw=False))
    np.testing.assert_array_equal(places(calm, raw=True), places(rough, raw=True))
    assert np.ptp(places(calm, raw=False)[5:25, 0, 0]) < 0.5 * np.ptp(places(calm, raw=True)[5:25, 0, 0])
    assert told(Shown(evenly(2))).only(0).raw is None


def test_smoothing_does_not_see_the_seams_between_blocks() -> None:
    story = told(Shown(evenly(60)), ClipOptions(PhotoOptions(lift=False)))
    x = np.array([story.only(n).person.keypoints.points[0, 0] for n in range(60)])
    np.testing.assert_allclose(np.diff(x)[4:-4], 2.0, atol=0.05)


def test_states_and_stature_are_told_for_each_person() -> None:
    photo = PhotoOptions(states=True, stature=1.2, camera=CameraOptions(focal_px=400.0))
    story = told(Shown(evenly(10)), ClipOptions(photo, inferred=True))
    start = story.lines[0]
    assert isinstance(start, ClipStart)
    assert (start.camera.focal_px, start.camera.source) == (400.0, "given")
    for n in range(10):
        person = story.only(n)
        assert person.states is not None and person.states.count("seen") == 16
        lifted = person.person.lifted
        assert lifted is not None and lifted.scale == Scale(1.2, "given")
        assert stature(lifted.joints) == pytest.approx(1.2, abs=0.03)
        assert lifted.position is not None and np.isfinite(lifted.position).all()
    assert story.end.tracks[0].scale == Scale(1.2, "given")


def test_without_lift_no_lifter_is_asked() -> None:
    fakes = Fakes()
    story = told(Shown(evenly(10)), ClipOptions(PhotoOptions(lift=False)), fakes)
    assert story.only(5).person.lifted is None
    assert fakes.lift.batches == []
    assert (story.end.camera_to_world, story.end.reason) == (None, "there is no 3D: `lift` is false")


def test_a_joint_that_the_track_never_shows_is_unknown_in_3d_unless_asked_for() -> None:
    story = told(Shown(evenly(30)))
    for n in range(30):
        lifted = story.only(n).person.lifted
        assert lifted is not None
        assert np.flatnonzero(np.isnan(lifted.joints).any(axis=1)).tolist() == [6]  # left ankle, which is HIDDEN
    whole = told(Shown(evenly(30)), ClipOptions(inferred=True)).only(5).person.lifted
    assert whole is not None and np.isfinite(whole.joints).all()


def test_a_mirrored_clip_names_the_true_left_and_shows_the_true_scene() -> None:
    camera = CameraOptions(focal_px=400.0, center=(150.0, 120.0))
    turned_round = CameraOptions(focal_px=400.0, center=(170.0, 120.0))
    plain = told(Shown(evenly(12)), ClipOptions(PhotoOptions(camera=camera), inferred=True))
    mirrored = told(
        Shown(evenly(12), lambda n: np.ascontiguousarray(walking(n)[:, ::-1])),
        ClipOptions(PhotoOptions(camera=turned_round, mirrored=True), raw=True, inferred=True),
    )
    order = mirror_order(SKELETONS["coco17"])
    for n in range(12):
        here, there = plain.only(n).person, mirrored.only(n).person
        x, y, width, height = walker(n)
        raw = mirrored.only(n).raw
        assert raw is not None
        np.testing.assert_allclose(raw, figure((320 - x - width, y, width, height))[order], atol=1e-3)
        np.testing.assert_array_equal(there.keypoints.points[:, 2], raw[:, 2])
        assert here.lifted and there.lifted
        np.testing.assert_allclose(there.lifted.joints, here.lifted.joints, atol=1e-3)
        assert here.lifted.position is not None and there.lifted.position is not None
        np.testing.assert_allclose(there.lifted.position, here.lifted.position, rtol=0.02, atol=0.02)


def test_a_model_that_is_not_loaded_is_refused_before_the_first_frame() -> None:
    clip = Shown(evenly(5))
    story = told(clip, ClipOptions(PhotoOptions(models={"lift": "lift-243"})))
    assert isinstance(story.error, Unknown)
    assert (story.lines, clip.taken) == ([], 0)
