"""MODELS.md tells of every model in the store what its manifest does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.store.store import Entry, Store

ROOT = Path(__file__).parent.parent
ENTRIES = Store(ROOT / "model_store").entries()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.label)
def test_every_model_is_told_of_with_its_licence_checksum_and_data(entry: Entry) -> None:
    page = (ROOT / "MODELS.md").read_text(encoding="utf-8")
    _, _, rest = page.partition(f"\n## {entry.label}\n")
    told = rest.partition("\n## ")[0]
    manifest = entry.manifest
    assert manifest.weights.sha256 in told and manifest.weights.licence in told
    for source in manifest.data:
        assert source.name in told and source.licence in told


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.label)
def test_every_model_has_scores_with_their_protocol_and_a_card_with_limits(entry: Entry) -> None:
    assert entry.manifest.scores
    card = (entry.folder / "CARD.md").read_text(encoding="utf-8")
    assert all(score.protocol in card for score in entry.manifest.scores)
    assert "## Limits" in card


def test_a_store_has_one_live_version_of_a_model() -> None:
    names = [entry.manifest.name for entry in ENTRIES]
    assert sorted(set(names)) == sorted(names)


def test_the_default_detector_gives_way_to_the_public_one_where_the_policy_is_permissive() -> None:
    store = Store(ROOT / "model_store")
    trained, public = (store.default("pose", permissive=permissive) for permissive in (False, True))
    assert (trained.manifest.name, public.manifest.name) == ("lite-hrnet", "lite-hrnet-public")
    assert trained.manifest.weights.restricted and not public.manifest.weights.restricted
    assert trained.manifest.training["start"] == public.manifest.name


def test_readme_points_only_at_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).exists()] == []
