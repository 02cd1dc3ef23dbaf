"""Who may come in: keys, hosts, origins; and in whose name."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import HTTPConnection

from service.api.access import caller_name

from .conftest import client_of
from .fake import FakeService

pytestmark = pytest.mark.anyio

PROBES = ("/livez", "/readyz", "/metrics")


def connection(service: FakeService, **headers: str) -> HTTPConnection:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "client": ("10.0.0.7", 1), "path": "/"})


async def test_without_keys_all_may_come_in(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/info")).status_code == 200


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic one", "Bearer ", "one", "Bearer onetwo"])
async def test_a_wrong_key_is_refused_and_probes_need_none(given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    async with client_of(FakeService(keys=("one", "two"))) as client:
        answer = await client.get("/v1/info", headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["type"] == "/problems/unauthorised"
        for path in PROBES:
            assert (await client.get(path, headers=headers)).status_code == 200
        for key in ("one", "two"):
            assert (await client.get("/v1/info", headers={"Authorization": f"Bearer {key}"})).status_code == 200


async def test_a_foreign_host_is_refused_but_probes_come_by_address() -> None:
    async with client_of(FakeService(hosts=("poselift.test",))) as client:
        assert (await client.get("/v1/info", headers={"Host": "evil.test"})).status_code == 403
        assert (await client.get("/v1/info", headers={"Host": "poselift.test:8000"})).status_code == 200
        for path in PROBES:
            assert (await client.get(path, headers={"Host": "10.1.2.3:8000"})).status_code == 200


async def test_a_foreign_origin_is_refused_and_ones_own_and_a_named_one_are_not() -> None:
    async with client_of(FakeService(origins=("https://friend.test",))) as client:

        async def status(origin: str) -> int:
            return (await client.get("/v1/info", headers={"Origin": origin})).status_code

        assert await status("https://evil.test") == 403
        assert await status("http://poselift.test") == 200
        assert await status("https://friend.test") == 200
        allowed = await client.get("/v1/info", headers={"Origin": "https://friend.test"})
        assert allowed.headers["access-control-allow-origin"] == "https://friend.test"


def test_a_caller_is_its_key_or_else_its_address() -> None:
    keyed, free = FakeService(keys=("one",)), FakeService()
    named = caller_name(connection(keyed, authorization="Bearer one"), keyed.settings)
    assert named == caller_name(connection(keyed, authorization="Bearer one"), keyed.settings)
    assert "one" not in named and "10.0.0.7" not in named
    assert caller_name(connection(free), free.settings) == "10.0.0.7"
