"""The models' repository under /v2: its index, and versions that are loaded and unloaded."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import client_of

from .conftest import asked, pose
from .fake import TinyService

pytestmark = pytest.mark.anyio


async def test_the_index_tells_what_is_in_use_and_what_only_lies_in_the_store(door: httpx.AsyncClient) -> None:
    rows = (await door.post("/v2/repository/index")).json()
    states = {(row["name"], row["version"]): row["state"] for row in rows}
    assert states["pose", "3"] == states["bright", "3"] == states["photo", "1"] == "READY"
    reasons = {(row["name"], row["version"]): row["reason"] for row in rows if row["state"] == "UNAVAILABLE"}
    assert reasons["spare", "1"] == reasons["bright", "2"] == "in the store, not loaded"
    assert reasons["bright", "6"] == "bright/6/manifest.toml: no such file"
    ready = (await door.post("/v2/repository/index", json={"ready": True})).json()
    assert {row["state"] for row in ready} == {"READY"} and len(ready) == len(rows) - len(reasons)


async def states(door: httpx.AsyncClient) -> dict[str, tuple[str, str]]:
    """Of `bright` by version: state and reason."""
    rows = (await door.post("/v2/repository/index")).json()
    return {row["version"]: (row["state"], row["reason"]) for row in rows if row["name"] == "bright"}


async def test_a_loaded_version_takes_over_and_an_unloaded_one_gives_back(door: httpx.AsyncClient) -> None:
    assert (await door.post("/v2/repository/models/bright/load")).json() == {}
    assert (await door.get("/v2/models/pose")).json()["versions"] == ["4"]
    assert (await states(door))["4"][0] == "READY" and (await states(door))["3"][0] == "UNAVAILABLE"
    assert (await door.get("/v2/models/bright/versions/3")).status_code == 404
    assert (await door.post("/v2/repository/models/bright/unload")).status_code == 200
    assert (await door.get("/v2/models/pose")).json()["versions"] == ["3"]


async def test_what_began_with_the_old_version_ends_with_it(door: httpx.AsyncClient, tiny: TinyService) -> None:
    tiny.network.gate.clear()
    old = [asyncio.create_task(asked(door, "pose", pose()))]
    async with asyncio.timeout(10):
        while not tiny.network.begun:
            await asyncio.sleep(0.005)
        old += [asyncio.create_task(asked(door, "pose", pose())) for _ in range(2)]
        while tiny.photo.pose.line.rows < 2:
            await asyncio.sleep(0.005)
    assert (await door.post("/v2/repository/models/bright/load")).status_code == 200
    assert (await states(door))["3"] == (
        "UNLOADING",
        "replaced; requests that began with it are being finished",
    )
    new = asyncio.create_task(asked(door, "pose", pose()))
    await asyncio.sleep(0.05)
    tiny.network.gate.set()
    answers = [(await one).json() for one in old]
    assert [answer["model_version"] for answer in answers] == ["3"] * 3
    assert (await new).json()["model_version"] == "4"
    gc.collect()
    assert (await states(door))["3"] == ("UNAVAILABLE", "in the store, not loaded") and not tiny.models_leaving


async def test_a_version_that_breaks_keeps_the_old_one_and_the_index_says_why(door: httpx.AsyncClient) -> None:
    broken = await door.post("/v2/repository/models/bright/load", json={"parameters": {"version": 5}})
    assert broken.status_code == 400 and "bright@3 serves on" in broken.json()["error"]
    assert (await door.get("/v2/models/pose")).json()["versions"] == ["3"]
    assert (await states(door))["5"] == ("UNAVAILABLE", "could not be loaded: a weight is not finite")
    assert (await asked(door, "pose", pose())).status_code == 200


POLICY = '{"version_policy": {"specific": {"versions": ["2"]}}}'


@pytest.mark.parametrize(
    ("name", "parameters", "label"),
    [
        ("bright", {}, "bright"),
        ("bright@2", {}, "bright@2"),
        ("bright", {"version": 2}, "bright@2"),
        ("bright", {"version": "2"}, "bright@2"),
        ("bright", {"config": POLICY}, "bright@2"),
        ("bright", {"config": "{}"}, "bright"),
    ],
)
async def test_a_load_names_its_version_in_every_clients_way(
    door: httpx.AsyncClient, tiny: TinyService, name: str, parameters: dict[str, Any], label: str
) -> None:
    await door.post(f"/v2/repository/models/{name}/load", json={"parameters": parameters})
    assert tiny.asked_for == [label]


@pytest.mark.parametrize(
    ("name", "body", "status", "told"),
    [
        ("pose", b"", 404, "stands for the model in use"),
        ("nobody", b"", 404, "no model"),
        ("bright", b"[]", 400, "JSON object"),
        ("bright", b"{", 400, "not JSON"),
        ("bright", b'{"parameters": [1]}', 400, "must be an object; got list"),
        ("bright", b'{"parameters": {"file:1/model.pt": "AAAA"}}', 422, "from the store alone"),
        ("bright", b'{"parameters": {"version": 0}}', 422, "a whole number from 1"),
        ("bright", b'{"parameters": {"version": true}}', 422, "a whole number from 1"),
        ("bright", b'{"parameters": {"version": "../1"}}', 422, "a whole number from 1"),
        ("bright", b'{"parameters": {"config": "]"}}', 400, "not JSON"),
        ("bright", b'{"parameters": {"config": "{\\"version_policy\\": 3}"}}', 422, "one version"),
        ("bright", b'{"parameters": {"config": "{\\"version_policy\\": {\\"specific\\": 3}}"}}', 422, "one version"),
    ],
)
async def test_a_load_that_asks_for_what_is_not_done_is_told_so(
    door: httpx.AsyncClient, tiny: TinyService, name: str, body: bytes, status: int, told: str
) -> None:
    answer = await door.post(f"/v2/repository/models/{name}/load", content=body)
    assert answer.status_code == status and told in answer.json()["error"]
    assert tiny.labels["pose"] == "bright@3"


@pytest.mark.parametrize("step", ["load", "unload"])
async def test_only_an_admin_changes_what_is_served(step: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\nboss admin\n")
    service = TinyService(key_file=tmp_path / "keys")
    await service.start()
    async with client_of(service) as door:
        for key, status in (("wrong", 401), ("one", 403), ("boss", 200)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = await door.post(f"/v2/repository/models/bright/{step}", headers=headers)
            assert answer.status_code == status
    await service.close()


async def test_beyond_loopback_without_keys_nobody_changes_what_is_served() -> None:
    service = TinyService(host="0.0.0.0", allow_keyless=True)
    await service.start()
    async with client_of(service) as door:
        assert (await door.post("/v2/repository/models/bright/load")).status_code == 403
    await service.close()
