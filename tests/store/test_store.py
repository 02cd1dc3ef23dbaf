"""The store: what is found, what serves by default, and that a version appears whole or not at all."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.errors import OutOfRange, StoreBroken, Unknown
from service.store.manifest import Manifest, Role, WeightsFile, read
from service.store.store import ABANDONED_S, IMPORTED, Entry, Store, embedded_store

ARRAYS = {"conv.weight": np.ones((2, 3), np.float32), "head.weight": np.ones(2, np.float32)}


def manifest(
    name: str,
    version: int = 1,
    role: Role = "pose",
    *,
    default: bool = False,
    licence: str = "Apache-2.0",
    restricted: bool = False,
    long: bool = False,
) -> Manifest:
    weights = WeightsFile(licence, restricted)
    return Manifest(name, version, role, "network", "For a test.", weights, default=default, long=long)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "model_store")


def filled(store: Store, *manifests: Manifest) -> Store:
    for one in manifests:
        store.add(one, ARRAYS, "# Card\n")
    return Store(store.folder)


def test_what_is_added_is_found_with_its_checksum_and_size(store: Store) -> None:
    added = store.add(manifest("net"), ARRAYS, "# Card\n", "From elsewhere.\n", half=True)
    found = store.find("net")
    assert found == added == Store(store.folder).find("net@1")
    assert found.label == "net@1"
    assert found.manifest == read(found.folder / "manifest.toml")
    assert found.manifest.weights.bytes == found.weights_path.stat().st_size
    assert {name: array.dtype.name for name, array in found.load().items()} == {
        "conv.weight": "float16",
        "head.weight": "float32",
    }
    assert {path.name for path in found.folder.iterdir()} == {
        "weights.safetensors",
        "manifest.toml",
        "CARD.md",
        "NOTICE",
    }
    assert store.check() == []


def test_entries_are_sorted_by_name_and_then_by_version_as_a_number(store: Store) -> None:
    entries = filled(store, manifest("b"), manifest("a", 10), manifest("a", 9)).entries()
    assert [entry.label for entry in entries] == ["a@9", "a@10", "b@1"]


def test_a_name_alone_is_its_newest_version(store: Store) -> None:
    store = filled(store, manifest("a", 9), manifest("a", 10), manifest("a-b", 11))
    assert [store.find(label).label for label in ("a", "a@9", "a-b")] == ["a@10", "a@9", "a-b@11"]
    assert store.find("a", 9).label == "a@9"


@pytest.mark.parametrize("label", ["b", "a@2", "a@", "a@01", "@1", "", "a@1@1", "../a", "A"])
def test_an_unknown_model_is_refused_with_what_there_is(store: Store, label: str) -> None:
    with pytest.raises(Unknown, match="there are a@1") as unknown:
        filled(store, manifest("a")).find(label)
    assert (unknown.value.field, unknown.value.limit) == ("models", ["a@1"])


def default(store: Store, permissive: bool = False) -> str:
    return store.default("pose", permissive).label


def test_the_default_is_the_one_that_says_so_else_the_newest(store: Store) -> None:
    store = filled(store, manifest("a", 1), manifest("b", 2), manifest("lift", 9, "lift"))
    assert default(store) == "b@2"
    store = filled(store, manifest("c", 1, default=True))
    assert default(store) == "c@1"
    store = filled(store, manifest("c", 2, default=True), manifest("c", 3))
    assert default(store) == "c@2"


def test_a_permissive_default_passes_over_research_photos_and_other_licences(store: Store) -> None:
    free, old = manifest("free", 2), manifest("old", 1)
    research, foreign = manifest("r", 3, restricted=True, default=True), manifest("f", 4, licence="CC-BY-NC-4.0")
    store = filled(store, free, old, research, foreign)
    assert (default(store), default(store, permissive=True)) == ("r@3", "free@2")


def test_a_lifter_for_long_sequences_is_the_newest_that_says_so_and_never_the_default(store: Store) -> None:
    store = filled(store, manifest("a", role="lift"))
    assert store.long_lifter() is None
    long = [manifest("b", 8, "lift", long=True), manifest("b", 9, "lift", long=True, restricted=True)]
    store = filled(store, *long)
    assert store.default("lift").label == "a@1"
    assert [found.label for p in (False, True) if (found := store.long_lifter(p))] == ["b@9", "b@8"]


def test_a_role_that_nobody_fills_is_refused(store: Store) -> None:
    store = filled(store, manifest("a", restricted=True))
    with pytest.raises(Unknown, match="no model for the role `lift`"):
        store.default("lift")
    with pytest.raises(Unknown, match="no permissive model for the role `pose`"):
        store.default("pose", permissive=True)


def test_a_version_never_changes(store: Store) -> None:
    first = store.add(manifest("a"), ARRAYS, "# First\n")
    with pytest.raises(OutOfRange, match=r"a@1 is in .* already"):
        store.add(manifest("a"), ARRAYS, "# Second\n")
    assert (first.folder / "CARD.md").read_text() == "# First\n"


def test_a_version_that_fails_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(ValueError, match="no numbers"):
        store.add(manifest("a"), {"w": np.array([np.nan])}, "")
    with pytest.raises(ValueError, match="a manifest holds"):
        store.add(replace(manifest("a"), options={"x": None}), ARRAYS, "")
    assert list(store.folder.iterdir()) == []


def imported(name: str, version: int, when: str) -> Manifest:
    return replace(manifest(name, version), training={IMPORTED: when})


def test_an_import_serves_by_default_only_where_there_is_nothing_else_and_then_the_first(store: Store) -> None:
    store = filled(
        store, imported("m", 3, "2026-11-02"), imported("a", 9, "2026-11-03"), imported("z", 1, "2026-11-04")
    )
    assert default(store) == default(store, permissive=True) == "m@3"
    store = filled(store, manifest("x", 1))
    assert default(store) == "x@1"
    store = filled(store, manifest("w", 1), manifest("b", 2, default=True, restricted=True))
    assert (default(store), default(store, permissive=True)) == ("b@2", "w@1")


def test_a_version_that_was_given_up_is_removed_by_the_next_and_one_under_way_is_not(store: Store) -> None:
    store = filled(store, manifest("a"))
    old, written, young, downloads = (
        store.folder / name for name in (f".b@1.{'0' * 32}", f".c.2@12.{'1' * 32}", f".d@1.{'2' * 32}", ".downloads")
    )
    for folder in (old, written, young, downloads):
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"half")
    long_ago = time.time() - ABANDONED_S - 60
    for path in (old, old / "weights.safetensors", written, downloads, downloads / "weights.safetensors"):
        os.utime(path, (long_ago, long_ago))
    filled(store, manifest("e"))
    assert {path.name for path in store.folder.iterdir()} == {"a", "e", written.name, young.name, ".downloads"}


def test_what_somebody_is_still_adding_is_not_seen(store: Store) -> None:
    store = filled(store, manifest("a"))
    (store.folder / ".b@1.growing").mkdir()
    (store.folder / "README.md").write_text("")
    assert [entry.label for entry in store.entries()] == ["a@1"]
    assert store.check() == []


def test_what_is_served_does_not_change_under_way(store: Store) -> None:
    store = filled(store, manifest("a"))
    assert store.find("a").label == "a@1"
    Store(store.folder).add(manifest("a", 2), ARRAYS, "")
    assert store.find("a").label == "a@1"


def test_a_folder_that_says_another_name_is_broken(store: Store) -> None:
    entry = store.add(manifest("a"), ARRAYS, "")
    entry.folder.rename(entry.folder.with_name("2"))
    with pytest.raises(StoreBroken, match="say a@1, the folder says a@2"):
        Store(store.folder).entries()


def test_a_store_without_a_folder_is_broken(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    with pytest.raises(StoreBroken, match="there is no such folder"):
        store.entries()
    assert [problem.endswith("so no model store") for problem in store.check()] == [True]


def spoil(entry: Entry, what: str) -> None:
    weights, text = entry.weights_path, entry.folder / "manifest.toml"
    if what == "weights":
        weights.write_bytes(weights.read_bytes() + b"\0")
    elif what == "no weights":
        weights.unlink()
    elif what == "size":
        size = entry.manifest.weights.bytes
        text.write_text(text.read_text().replace(f"bytes = {size}", f"bytes = {size + 1}"))
    elif what == "card":
        (entry.folder / "CARD.md").unlink()
    elif what == "manifest":
        text.unlink()
    elif what == "stranger":
        (entry.folder.parent / "1-old").mkdir()


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("weights", "weights.safetensors is not the file of its manifest"),
        ("no weights", "weights.safetensors cannot be read"),
        ("size", "`weights.bytes` is"),
        ("card", "CARD.md is missing"),
        ("manifest", "manifest.toml cannot be read"),
        ("stranger", "1-old: a version is a whole number"),
    ],
)
def test_a_check_names_each_file_that_is_wrong_and_no_other(store: Store, what: str, problem: str) -> None:
    store = filled(store, manifest("a"), manifest("b"))
    spoil(store.find("a"), what)
    (found,) = Store(store.folder).check()
    assert problem in found
    assert str(store.folder / "a") in found


def test_two_models_cannot_both_be_the_default_of_a_role(store: Store) -> None:
    store = filled(
        store, manifest("a", default=True), manifest("b", default=True), manifest("c", 1, "lift", default=True)
    )
    assert store.check() == [f"{store.folder}: `default` of the role `pose` is claimed by a, b"]


def test_the_embedded_store_is_sound_and_small() -> None:
    folder = embedded_store()
    assert folder.name == "model_store"
    assert Store(folder).check() == []
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 60 * 2**20
