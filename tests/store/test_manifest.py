"""Manifests: what is written is read again, and nothing else is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import StoreBroken
from service.store.manifest import DataSource, Manifest, Score, WeightsFile, read, to_toml

SHA256 = "0123456789abcdef" * 4
WEIGHTS = WeightsFile(licence="Apache-2.0", restricted=True, sha256=SHA256, bytes=123)
LEAST = Manifest("lift-27", 1, "lift", "lifter", "", WEIGHTS)
FULL = Manifest(
    name="lite-hrnet",
    version=12,
    role="pose",
    network="lite-hrnet",
    summary='For CPUs: "wide naive",\nback\\slash, tab\t, DEL\x7f, \x00, é, 人',
    weights=WEIGHTS,
    options={"joints": 17, "attention": [["stage2", 0, 1], {"gate": 0.119, "open": True}], "nothing": [], "none": {}},
    input={"mean": [0.485, 1e-05, 1e22, -0.0, 2.0], "a key with spaces": "x", "ü": "=", "": 1, "exact": False},
    data=(DataSource("COCO", "CC-BY-4.0", "research photos"), DataSource("own", "MIT", "")),
    presence={"lite-hrnet@2": {"offset": -1.5, "weights": {"finder": 2.8}}},
    training={"recipe": "lift-27.toml", "seed": 7, "rates": {"first": 1e-3, "last": 1e-5}},
    scores=(Score("coco_val, labelled boxes", "AP", 0.658), Score("x", "y", 1.0)),
    joints="coco17",
    default=True,
)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "manifest.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("manifest", [LEAST, FULL], ids=["least", "full"])
def test_what_is_written_is_read_again(tmp_path: Path, manifest: Manifest) -> None:
    assert read(written(tmp_path, to_toml(manifest))) == manifest


def test_numbers_keep_their_kind_and_their_last_digit(tmp_path: Path) -> None:
    values = {"whole": 3, "real": 3.0, "small": 5e-324, "third": 1 / 3, "numpy": np.float64(0.1), "far": math.inf}
    again = read(written(tmp_path, to_toml(replace(LEAST, training=values)))).training
    assert {key: (type(value), value) for key, value in again.items()} == {
        key: (int if key == "whole" else float, value) for key, value in values.items()
    }


@pytest.mark.parametrize("value", [None, np.float32(1), np.zeros(2), b"bytes", {1, 2}])
def test_a_value_without_a_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a manifest holds"):
        to_toml(replace(LEAST, options={"key": value}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "lift"\n', "", "lacks `role`"),
        ("bytes = 123\n", "", "lacks `weights.bytes`"),
        ('role = "lift"', 'role = "lifter"', "`role` must be one of person, pose, lift, got 'lifter'"),
        ("version = 1", "version = true", "`version` must be int, got bool True"),
        ("version = 1", 'version = "1"', "`version` must be int, got str '1'"),
        ("version = 1", "version = 0", "`version` must be 1 or more, got 0"),
        ('name = "lift-27"', 'name = "../lift"', "`name` must be lower-case"),
        ('summary = ""', "sumary = 1\nsummary = ''", "`sumary` is not known"),
        ("restricted = true", "restricted = 1", "`weights.restricted` must be bool"),
        ("restricted = true", "restricted = true\nmd5 = ''", "`weights.md5` is not known"),
        (SHA256, "ABC", "`weights.sha256` must be 64 hexadecimal digits, got 'ABC'"),
        ("bytes = 123", "bytes = 0", "`weights.bytes` must be 1 or more"),
        ('file = "weights.safetensors"', 'file = "../../x"', "`weights.file` must be a plain file name"),
        ('file = "weights.safetensors"', 'file = ".x"', "`weights.file` must be a plain file name"),
        ("[weights]", "[[data]]\nname = 'a'\nlicence = 'b'\n[weights]", "lacks `data[0].terms`"),
        ("[weights]", "[[scores]]\nprotocol='a'\nmetric='b'\nvalue='c'\n[weights]", "`scores[0].value` must be float"),
        ("[weights]", "[[scores]]\nprotocol='a'\nmetric='b'\nvalue=1\nn=2\n[weights]", "`scores[0].n` is not known"),
        ('summary = ""', "summary = ''\ndata = [1]", "`data[0]` must be a table, got 1"),
        ("[weights]", "[weights", "cannot be read"),
    ],
)
def test_a_wrong_manifest_is_refused_by_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = to_toml(LEAST)
    assert old in text
    file = written(tmp_path, text.replace(old, new))
    with pytest.raises(StoreBroken) as broken:
        read(file)
    assert message in str(broken.value)
    assert str(file) in str(broken.value)


def test_a_missing_manifest_is_a_broken_store(tmp_path: Path) -> None:
    with pytest.raises(StoreBroken, match="cannot be read"):
        read(tmp_path / "manifest.toml")


@pytest.mark.parametrize(
    ("licence", "restricted", "permissive"),
    [("Apache-2.0", False, True), ("Apache-2.0", True, False), ("CC-BY-NC-4.0", False, False), ("MIT", False, True)],
)
def test_weights_are_permissive_by_licence_and_by_what_they_learned_from(
    licence: str, restricted: bool, permissive: bool
) -> None:
    assert replace(LEAST, weights=WeightsFile(licence, restricted)).permissive is permissive
