"""A foreign file becomes an entry of a store that loads, runs, and says where it comes from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.engines.framing import FinderFraming, PoseFraming
from service.engines.torch_framing import from_pixels
from service.errors import StoreBroken, Unreadable
from service.importing.entry import PRESETS, card, import_file, run_once
from service.importing.recognise import ORIGINS, Converted, convert
from service.networks import create, load_weights
from service.store.manifest import ROLES, DataSource, Manifest, Score, WeightsFile
from service.store.store import CARD, IMPORTED, NOTICE, Entry, Store, embedded_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "store"
    folder.mkdir()
    return Store(folder)


@pytest.fixture
def detector_file(tmp_path: Path, write_ir: Callable[..., None], detector: nn.Module) -> Path:
    write_ir(detector, tmp_path / "pose.xml")
    return tmp_path / "pose.xml"


@pytest.fixture
def finder_file(tmp_path: Path, write_onnx: Callable[..., None]) -> Path:
    torch.manual_seed(0)
    write_onnx(create("rtmdet-nano"), tmp_path / "finder.onnx")
    return tmp_path / "finder.onnx"


def network_of(entry: Entry) -> nn.Module:
    module = create(entry.manifest.network, **entry.manifest.options)
    load_weights(module, entry.load(), entry.label)
    return module.eval()


def test_a_detector_becomes_an_entry_that_gives_its_heatmaps(
    store: Store, detector_file: Path, detector: nn.Module
) -> None:
    entry = import_file(detector_file, "my-detector", store)
    manifest = entry.manifest
    assert (manifest.label, manifest.role, manifest.network) == ("my-detector@1", "pose", "lite-hrnet")
    assert manifest.joints == "coco17"
    crops = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        here, there = network_of(entry)(crops), detector(crops)
    torch.testing.assert_close(here, there, rtol=0, atol=0.02 * float(there.abs().max()))  # 16 bits
    assert store.find("my-detector").label == entry.label
    assert store.check() == []


def test_a_finder_becomes_an_entry_in_all_of_its_32_bits(store: Store, finder_file: Path) -> None:
    entry = import_file(finder_file, "my-finder", store)
    assert (entry.manifest.role, entry.manifest.network, entry.manifest.joints) == ("person", "rtmdet-nano", "")
    converted = convert(finder_file)
    stored = entry.load()
    assert stored.keys() == converted.arrays.keys()
    for name, array in converted.arrays.items():
        np.testing.assert_array_equal(stored[name], array)


def test_the_manifest_is_enough_to_frame_pictures(store: Store, detector_file: Path, finder_file: Path) -> None:
    pose = import_file(detector_file, "pose", store).manifest
    framing = PoseFraming(pose.input)
    assert framing.example().shape == (1, 256, 192, 3)
    assert from_pixels(create(pose.network), pose.input).bgr is False
    person = import_file(finder_file, "person", store).manifest
    assert FinderFraming(person.input, 480).example().shape == (1, 480, 480, 3)
    assert from_pixels(create(person.network), person.input).bgr is True


def test_presets_of_both_colour_orders_say_the_same_of_each_colour() -> None:
    rgb, bgr = PRESETS["lite-hrnet"], PRESETS["rtmdet-nano"]
    assert rgb["colour"] == "rgb" and bgr["colour"] == "bgr"
    assert rgb["mean"] == bgr["mean"][::-1]


def test_a_file_that_nobody_published_is_of_unknown_licence_and_not_permissive(
    store: Store, detector_file: Path
) -> None:
    entry = import_file(detector_file, "mine", store)
    assert entry.manifest.weights.licence == "unknown"
    assert not entry.permissive
    assert "ask their publisher" in (entry.folder / CARD).read_text()
    assert "unknown" in (entry.folder / NOTICE).read_text()


def test_a_published_file_carries_origin_licence_and_data(
    store: Store, detector_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = convert(detector_file).sha256
    monkeypatch.setitem(ORIGINS, digest, next(iter(ORIGINS.values())))
    entry = import_file(detector_file, "known", store, (Score("COCO val, labelled boxes", "AP", 0.658),))
    manifest = entry.manifest
    assert manifest.weights.licence == "Apache-2.0" and entry.permissive
    assert manifest.training["sha256"] == digest
    assert {source.name for source in manifest.data} >= {"COCO train2017"}
    told, notice = (entry.folder / CARD).read_text(), (entry.folder / NOTICE).read_text()
    for text in (told, notice):
        assert "PaddlePaddle" in text and "Apache-2.0" in text
    assert "| COCO val, labelled boxes | AP | 0.658 |" in told
    assert "batch norm" in notice  # what was changed


def test_an_import_becomes_nobody_s_default_and_says_when_it_came(store: Store, finder_file: Path) -> None:
    """A store of its own: what is there first serves on, whatever name or version comes later."""
    first = import_file(finder_file, "m-finder", store)
    for name in ("a-finder", "z-finder", "z-finder"):
        import_file(finder_file, name, store)
    when = datetime.fromisoformat(first.manifest.training[IMPORTED])
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=10)
    assert Store(store.folder).default("person").label == "m-finder@1"
    released = replace(first.manifest, name="y-finder", training={})
    store.add(released, first.load(), "# Card\n")
    assert Store(store.folder).default("person").label == "y-finder@1"


def test_imports_change_no_default_of_the_embedded_store(tmp_path: Path) -> None:
    """Of manifests alone: whatever is imported, of every role, highest version, first name, permissive licence."""
    shutil.copytree(embedded_store(), tmp_path / "store")
    before = {p: [Store(tmp_path / "store").default(r, p).label for r in ROLES] for p in (False, True)}
    assert before == {
        False: ["rtmdet-nano@1", "lite-hrnet@2", "lift-1@2"],
        True: ["rtmdet-nano@1", "lite-hrnet-public@1", "lift-1@2"],
    }
    store = Store(tmp_path / "store")
    for role in ROLES:
        for name in ("a", "zz", store.default(role).manifest.name, store.default(role, True).manifest.name):
            training = {"origin": "elsewhere", IMPORTED: "2026-01-01T00:00:00.000+00:00"}
            new = Manifest(name, 9, role, "network", "New.", WeightsFile("Apache-2.0", False), training=training)
            if not (store.folder / name / "9").exists():
                store.add(new, {"w": np.ones(1, np.float32)}, "# Card\n")
    assert {p: [Store(store.folder).default(r, p).label for r in ROLES] for p in (False, True)} == before


def test_what_a_file_did_not_tell_stands_in_manifest_and_card(store: Store, detector_file: Path) -> None:
    converted = replace(convert(detector_file), notes=("taken for something",))
    entry = import_file(detector_file, "pose", store)
    assert "notes" not in entry.manifest.training
    assert "- **Not told by the file**: taken for something.\n" in card(entry.manifest, converted)


def test_the_next_import_of_a_name_is_its_next_version(store: Store, detector_file: Path) -> None:
    first = import_file(detector_file, "pose", store)
    second = import_file(detector_file, "pose", store)
    assert (first.label, second.label) == ("pose@1", "pose@2")
    assert import_file(detector_file, "other", store).label == "other@1"
    assert store.find("pose").label == "pose@2"


def test_what_is_no_such_file_leaves_the_store_empty(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "notes.txt", tmp_path / "missing.onnx"):
        with pytest.raises(Unreadable):
            import_file(path, "pose", store)
    assert store.entries() == ()


@pytest.mark.parametrize("name", ["", "Pose", "../pose", "a/b", "pose model"])
def test_a_name_that_cannot_be_one_is_refused(store: Store, detector_file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="`name`"):
        import_file(detector_file, name, store)
    assert list(store.folder.iterdir()) == []


def test_weights_that_do_not_run_are_not_stored(detector_file: Path) -> None:
    converted = convert(detector_file)
    arrays = dict(converted.arrays)
    arrays["head.last.bias"] = np.full_like(arrays["head.last.bias"], np.inf)
    with pytest.raises(ValueError, match=r"pose\.bin: .* not finite"):
        run_once(replace(converted, arrays=arrays))
    del arrays["head.last.bias"]
    with pytest.raises(StoreBroken, match=r"head\.last\.bias"):
        run_once(replace(converted, arrays=arrays))


def test_a_card_without_scores_says_so(store: Store, detector_file: Path) -> None:
    entry = import_file(detector_file, "pose", store)
    converted: Converted = replace(convert(detector_file), data=(DataSource("Photos", "CC0-1.0", "none"),))
    told = card(entry.manifest, converted)
    assert told.startswith("# pose@1\n")
    assert "Not scored yet." in told
    assert "Photos (CC0-1.0: none)" in told
