"""Torchvision's person finders: recognised, imported, and the published rows are torchvision's own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from service.importing.checkpoints import read_checkpoint
from service.importing.entry import import_file
from service.importing.recognise import public_files
from service.networks import TORCHVISION, create
from service.store.store import Store

from .test_checkpoints import hollow

# By our name, torchvision's enum of weights.
ENUMS = {
    "ssdlite320-mobilenet": "SSDLite320_MobileNet_V3_Large_Weights",
    "fasterrcnn-mobilenet-320": "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights",
    "fasterrcnn-mobilenet": "FasterRCNN_MobileNet_V3_Large_FPN_Weights",
    "fasterrcnn-resnet50-v2": "FasterRCNN_ResNet50_FPN_V2_Weights",
    "fcos-resnet50": "FCOS_ResNet50_FPN_Weights",
}
ROWS = {row.name: row for row in public_files() if row.preset == "torchvision"}


@pytest.mark.parametrize("name", TORCHVISION)
def test_address_digest_and_score_are_the_enums(name: str) -> None:
    from torchvision.models import detection

    weights = getattr(detection, ENUMS[name]).COCO_V1
    row = ROWS[name]
    assert row.address == weights.url
    assert row.scores[0].value == pytest.approx(weights.meta["_metrics"]["COCO-val2017"]["box_map"] / 100)
    assert weights.meta["categories"][1] == "person"
    assert row.permissive


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_file_of_each_is_recognised_by_its_published_name(tmp_path: Path, name: str) -> None:
    torch.save(hollow(name), tmp_path / ROWS[name].file)
    read = read_checkpoint(tmp_path / ROWS[name].file)
    assert (read.role, read.network, read.preset) == ("person", name, "torchvision")


def test_one_becomes_an_entry_of_the_store_with_all_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = create("ssdlite320-mobilenet").state_dict()
    torch.save(state, tmp_path / "finder.pth")
    (tmp_path / "store").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entry = import_file(tmp_path / "finder.pth", "ssdlite", Store(tmp_path / "store"))
    manifest = entry.manifest
    assert (manifest.role, manifest.network, manifest.joints) == ("person", "ssdlite320-mobilenet", "")
    arrays = entry.load()
    assert all(np.array_equal(arrays[key], value.numpy()) for key, value in state.items())
