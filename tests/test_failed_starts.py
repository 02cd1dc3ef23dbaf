"""A start that fails: changed weights, manifests, stores and settings are named, and the service says so."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service import loading
from service.assembly import Service, build
from service.errors import ServiceError, SettingWrong, StoreBroken, Unknown
from service.settings import Settings
from service.store.manifest import Manifest
from service.store.store import Store, embedded_store

from .conftest import on_cpu

FINDER = "rtmdet-nano"


def store_of(folder: Path, change: Callable[[Manifest, dict[str, Any]], tuple[Manifest, dict[str, Any]]]) -> Path:
    """A store of the embedded models whose finder is changed."""
    entry = Store(embedded_store()).find(FINDER)
    manifest, arrays = change(entry.manifest, entry.load())
    Store(folder).add(manifest, arrays, "card")
    return with_others(folder)


def with_others(folder: Path) -> Path:
    """The store with a detector and a lifter beside its finder."""
    for role in ("pose", "lift"):
        source = Store(embedded_store()).default(role, permissive=True).folder
        shutil.copytree(source, folder / source.parent.name / source.name)
    return folder


def failing(settings: Settings, kind: type[ServiceError], *words: str) -> Service:
    """Starts a service that cannot start; its error and its reason must hold the words."""
    service = build(settings)

    async def start() -> None:
        try:
            with pytest.raises(kind) as caught:
                await service.start()
            for word in words:
                assert word in str(caught.value)
            assert (service.state, service.reason) == ("failed", str(caught.value))
            assert service.metrics.registry.get_sample_value("poselift_ready") == 0
        finally:
            await service.close()

    asyncio.run(start())
    assert service.state == "failed"
    return service


def test_a_changed_file_is_refused_by_its_checksum(tmp_path: Path) -> None:
    source = Store(embedded_store()).find(FINDER).folder
    copied = tmp_path / "store" / FINDER / source.name
    shutil.copytree(source, copied)
    weights = copied / "weights.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)
    failing(on_cpu(store=with_others(tmp_path / "store")), StoreBroken, str(weights), "sha256")


def test_a_missing_key_is_named_with_its_file(tmp_path: Path) -> None:
    gone: list[str] = []

    def change(manifest: Manifest, arrays: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
        gone.append(sorted(arrays)[3])
        return manifest, {name: array for name, array in arrays.items() if name != gone[0]}

    store = store_of(tmp_path / "store", change)
    failing(on_cpu(store=store), StoreBroken, gone[0], f"{FINDER}@1", "weights.safetensors")


def test_a_key_that_the_network_does_not_have_is_named_with_its_file(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", lambda m, arrays: (m, arrays | {"strange.weight": np.zeros(3, np.float32)}))
    failing(on_cpu(store=store), StoreBroken, "strange.weight", "weights.safetensors")


def test_a_misshaped_weight_is_named_with_its_file_and_both_shapes(tmp_path: Path) -> None:
    bent: list[str] = []

    def change(manifest: Manifest, arrays: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
        name = next(name for name, array in arrays.items() if array.ndim == 4)
        bent.extend([name, str(arrays[name].shape), str(arrays[name][1:].shape)])
        return manifest, arrays | {name: arrays[name][1:]}

    store = store_of(tmp_path / "store", change)
    failing(on_cpu(store=store), StoreBroken, *bent, "weights.safetensors")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"network": "rtmdet-huge"}, "rtmdet-huge"),
        ({"options": {"wings": 2}}, "wings"),
        ({"input": {"colour": "bgr", "suppress_iou": 0.6}}, "mean"),
        ({"input": {"colour": "cmyk", "mean": [0, 0, 0], "deviation": [1, 1, 1], "suppress_iou": 0.6}}, "cmyk"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_named(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    store = store_of(tmp_path / "store", lambda manifest, arrays: (replace(manifest, **change), arrays))
    failing(on_cpu(store=store), StoreBroken, f"{FINDER}@1", word)


def test_a_store_without_a_role_says_which(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    failing(on_cpu(store=tmp_path / "store"), Unknown, "`person`", str(tmp_path / "store"))


def test_a_store_that_is_not_there_says_where(tmp_path: Path) -> None:
    failing(on_cpu(store=tmp_path / "nowhere"), StoreBroken, str(tmp_path / "nowhere"))


def test_a_model_that_is_not_in_the_store_is_named() -> None:
    failing(on_cpu(person="yolo"), Unknown, "'yolo'", FINDER)


def test_a_model_of_another_role_is_refused() -> None:
    failing(on_cpu(person="lite-hrnet"), SettingWrong, "`person` is lite-hrnet", "role is pose")


def test_under_the_permissive_policy_a_restricted_model_is_refused_by_name(tmp_path: Path) -> None:
    def change(manifest: Manifest, arrays: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
        return replace(manifest, weights=replace(manifest.weights, restricted=True)), arrays

    store = store_of(tmp_path / "store", change)
    failing(on_cpu(store=store, licence_policy="permissive", person=FINDER), SettingWrong, FINDER, "permissive")
    failing(on_cpu(store=store, licence_policy="permissive"), Unknown, "permissive", "`person`")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_where_there_is_none_fails_and_is_never_the_cpu(device: str) -> None:
    service = failing(Settings(device=device), SettingWrong, f"`device` is {device}", "0 CUDA devices")
    assert service.engines_in_use() == {}


def test_an_error_of_any_kind_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the runtime is broken")

    monkeypatch.setattr(loading, "load_engine", broken)

    async def main() -> None:
        service = build(on_cpu())
        with pytest.raises(RuntimeError):
            await service.start()
        assert (service.state, service.reason) == ("failed", "the runtime is broken")
        await service.close()

    asyncio.run(main())
