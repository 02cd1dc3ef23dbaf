"""The fit of the chance that a person is there, and what is written of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engines.framing import Found
from service.networks import create
from service.pipelines.presence import FIGURES, Presence, figures
from service.store.manifest import Manifest, WeightsFile
from service.store.store import CARD, Store
from tests.pipelines.fake import FakeEngine, figure
from training.calibrate import HEADING, Candidates, candidates, fit, judged, reliability, write
from training.data.photos import LabelledPerson, PhotoSetRecipe, read_photos
from training.start import weights_of


def made(count: int, seed: int = 0) -> tuple[Candidates, Presence]:
    """Candidates whose people are drawn by a known chance."""
    rng = np.random.default_rng(seed)
    truth = Presence({"finder": 2.0, "joints": 3.0, "extent": 1.0}, -0.5)
    known = np.column_stack([rng.normal(-1, 1.2, count), rng.uniform(0, 1, count), rng.uniform(0, 1, count)])
    return Candidates(known, rng.random(count) < truth.of(known)), truth


def test_the_fit_finds_the_chance_that_the_people_were_drawn_by() -> None:
    given, truth = made(20_000)
    found = fit(given)
    assert set(found.weights) == set(FIGURES)
    np.testing.assert_allclose(found.of(given.known), truth.of(given.known), atol=0.03)
    assert fit(given) == found


def test_of_people_alone_or_nobody_nothing_is_learned() -> None:
    given, _ = made(50)
    for person in (np.ones(50, bool), np.zeros(50, bool)):
        with pytest.raises(ValueError, match="50 candidates, of whom"):
            fit(Candidates(given.known, person))


def test_chances_that_are_shares_are_reliable_and_others_are_not() -> None:
    given, truth = made(20_000)
    chances = truth.of(given.known)
    assert reliability(chances, given.person)["error"] < 0.02
    assert reliability(np.full(20_000, 0.99), given.person)["error"] > 0.3
    told = reliability(chances, given.person)
    assert sum(count for count, _, _ in told["bins"]) == 20_000
    assert reliability(np.array([0.0, 1.0]), np.array([False, True]))["error"] == 0


def person(*box: float, uncertain: bool = False) -> LabelledPerson:
    return LabelledPerson(np.zeros((17, 3), np.float32), np.array(box, np.float32), uncertain)


def test_a_person_is_found_once_and_what_is_ignored_says_nothing() -> None:
    boxes = np.array([[0, 0, 10, 20], [1, 0, 10, 20], [50, 0, 10, 20], [80, 2, 5, 5], [0, 0, 10, 8]], np.float32)
    people = [person(0, 0, 10, 20), person(75, 0, 25, 25, uncertain=True)]
    assert judged(boxes, people).tolist() == [1, -1, 0, -1, 0]
    assert judged(boxes, []).tolist() == [0] * 5
    assert judged(boxes[:0], people).tolist() == []


def test_candidates_are_what_both_networks_say_of_the_labelled_photos(photos: Path) -> None:
    hand = read_photos(photos, PhotoSetRecipe("hand.json")).photos
    labels = hand[0].people[0].box
    found = Found(np.stack([labels, labels + 40, labels]), np.array([0.9, 0.5, 0.05], np.float32))
    finder, detector = FakeEngine("person", lambda row: found), FakeEngine("pose", lambda row: figure(row.box))
    given = candidates(hand[:1], finder, detector)
    assert given.person.tolist() == [True, False]
    np.testing.assert_allclose(
        given.known, figures(found.boxes[:2], found.scores[:2], np.stack([figure(box) for box in found.boxes[:2]]))
    )
    nothing = FakeEngine("person", lambda row: Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)))
    with pytest.raises(ValueError, match="no candidate"):
        candidates(hand, nothing, detector)


def test_two_people_who_overlap_are_both_found() -> None:
    people = [person(0, 0, 10, 20), person(2, 0, 10, 20)]
    boxes = np.array([[1, 0, 10, 20], [1.2, 0, 10, 20]], np.float32)
    assert judged(boxes, people).tolist() == [1, 1]


def test_the_manifest_keeps_the_chance_and_the_card_tells_it_once(tmp_path: Path) -> None:
    manifest = Manifest("finder", 1, "person", "rtmdet-nano", "", WeightsFile("MIT", False))
    arrays = weights_of(create("rtmdet-nano").state_dict())
    entry = Store(tmp_path).add(manifest, arrays, "# finder@1\n\n## Scores\n\nnone\n\n## Limits\n\nmany\n")
    truth = Presence({"finder": 2.0, "joints": 3.0, "extent": 1.0}, -0.5)
    for pose in ("detector@1", "detector@2", "detector@2", "other@1"):
        write(Store(tmp_path).find("finder"), truth, pose, 480, 0.0123)
    tables = Store(tmp_path).find("finder").manifest.presence
    assert list(tables) == ["detector@2", "other@1"]
    assert Presence.read(tables, "detector@2") == Presence.read(tables, "other@1") == truth
    card = (entry.folder / CARD).read_text()
    assert "| detector@2 | 480 | 0.012 |\n| other@1 | 480 | 0.012 |\n" in card
    assert card.count(HEADING) == card.count("## Limits") == card.count("many") == 1
    assert Store(tmp_path).check() == []
