"""Short clips with true ids."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.synthetic import clips
from training.data.synthetic.clips import RATE, clip, continued, resampled
from training.data.synthetic.scenes import Stage


def walk(frames: int, rate: float = RATE) -> np.ndarray:
    """Somebody whose legs swing once a second and who goes a metre in it."""
    time = np.arange(frames) / rate
    joints = np.zeros((frames, 17, 3), np.float32)
    joints[:, :, 0] = time[:, None]
    joints[:, 3, 1] = np.sin(2 * np.pi * time)
    joints[:, 6, 1] = np.cos(2 * np.pi * time)
    return joints


def test_another_rate_keeps_the_seconds() -> None:
    slow = resampled(walk(101, 50), 50, 25)
    assert len(slow) == 51
    np.testing.assert_allclose(slow, walk(101, 50)[::2], atol=1e-6)
    np.testing.assert_array_equal(resampled(walk(40), RATE, RATE), walk(40))


def test_a_walk_goes_on_with_its_own_gait() -> None:
    long = continued(walk(60), 150)
    assert len(long) == 150
    np.testing.assert_allclose(long[:40], walk(60)[:40], atol=1e-5)
    steps = np.diff(long[:, 0, 0])
    np.testing.assert_allclose(steps, 1 / RATE, atol=1e-4)
    assert np.abs(np.diff(long, axis=0)).max() < 0.3  # no leap where it begins again


def test_who_stays_goes_back_and_forth() -> None:
    still = walk(30)
    still[:, :, 0] = 0
    long = continued(still, 100)
    assert len(long) == 100 and np.abs(np.diff(long, axis=0)).max() < 0.3
    assert len(continued(still[:1], 5)) == 5


def test_a_sequence_that_is_long_enough_is_cut() -> None:
    np.testing.assert_array_equal(continued(walk(60), 20), walk(60)[:20])


def test_a_clip_shows_the_same_people_before_a_still_background(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "SIZE", (96, 54))
    frames = list(clip(stage, np.random.default_rng(3), seconds=0.5, people=2))
    assert len(frames) == 12
    assert {person.owner for frame in frames for person in frame.people} <= {0, 1}
    first, last = frames[0].pixels.astype(int), frames[-1].pixels.astype(int)
    assert np.median(np.abs(first - last)) < 12
    joints = {p.owner: p.joints for p in frames[0].people}
    for frame in frames[1:]:
        for person in frame.people:
            if person.owner in joints:  # nobody leaps
                assert np.abs(person.joints - joints[person.owner]).max() < 0.4
            joints[person.owner] = person.joints
