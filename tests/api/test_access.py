"""Who may come in: keys, hosts, origins; and in whose name."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.api.access import caller_name
from service.api.keys import Keyring
from service.settings import Settings

from .conftest import Served, client_of
from .fake import FakeService

pytestmark = pytest.mark.anyio

PROBES = ("/livez", "/readyz", "/metrics")


Serve = Callable[[FakeService], AbstractContextManager[Served]]


def connection(**headers: str) -> HTTPConnection:
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


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8000", "127.0.0.1.evil.test", "localhost.evil.test", "[::2]:80"]
)
async def test_on_loopback_a_foreign_host_is_refused_without_any_setting(host: str) -> None:
    async with client_of(FakeService()) as client:
        refused = await client.get("/v1/info", headers={"Host": host})
        assert refused.status_code == 403 and refused.json()["field"] == "Host"
        for path in PROBES:
            assert (await client.get(path, headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
async def test_on_loopback_its_own_names_are_served(host: str) -> None:
    async with client_of(FakeService()) as client:
        assert (await client.get("/v1/info", headers={"Host": host})).status_code == 200


def status_of(here: Served, head: str) -> int:
    """Of a request written by hand, since clients of ours never leave out a Host."""
    with socket.create_connection(("127.0.0.1", here.port), timeout=5) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("hosts", [0, 2])
def test_a_request_of_http_1_1_names_one_host_unless_it_is_a_probe(served: Serve, hosts: int) -> None:
    named = "Host: localhost\r\n" * hosts
    with served(FakeService()) as here:
        assert status_of(here, f"GET /v1/info HTTP/1.1\r\n{named}") == 400
        upgrade = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items() if name != "Connection")
        assert status_of(here, f"GET /v1/live/keypoints HTTP/1.1\r\n{named}{upgrade}Connection: Upgrade, ") == 400
        for path in (*PROBES, "/v2/health/live"):
            assert status_of(here, f"GET {path} HTTP/1.1\r\n{named}") == 200


def test_a_request_of_http_1_0_may_leave_its_host_out_but_not_name_two(served: Serve) -> None:
    with served(FakeService()) as here:
        assert status_of(here, "GET /v1/info HTTP/1.0\r\n") == 200
        assert status_of(here, "GET /v1/info HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n") == 400
        assert status_of(here, "GET /v1/info HTTP/1.0\r\nHost: evil.test\r\n") == 403


async def test_beyond_loopback_any_host_is_served_until_some_are_named() -> None:
    async with client_of(FakeService(host="0.0.0.0", keys=("one",))) as client:
        headers = {"Host": "whatever.test", "Authorization": "Bearer one"}
        assert (await client.get("/v1/info", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.test", "null", "http://localhost:1", "https://[", "", "http://evil@localhost"]
)
async def test_a_foreign_origin_is_refused_without_any_setting(origin: str) -> None:
    async with client_of(FakeService()) as client:
        refused = await client.post("/v1/images", headers={"Origin": origin})
        assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers


async def test_ones_own_origin_and_a_named_one_are_let_in() -> None:
    async with client_of(FakeService(origins=("https://friend.test",))) as client:

        async def status(origin: str) -> int:
            return (await client.get("/v1/info", headers={"Origin": origin})).status_code

        assert await status("https://evil.test") == 403
        assert await status("http://localhost") == 200
        assert await status("https://friend.test") == 200
        allowed = await client.get("/v1/info", headers={"Origin": "https://friend.test"})
        assert allowed.headers["access-control-allow-origin"] == "https://friend.test"


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


@pytest.mark.parametrize("path", ["/v1/live/nothing", "/metrics", "/v1/images", "/"])
def test_an_upgrade_where_no_stream_is_says_that_nothing_is_there(served: Serve, path: str) -> None:
    with served(FakeService()) as here:
        refused = httpx.get(f"{here.url}{path}", headers=UPGRADE)
    assert refused.status_code == 404 and refused.json()["type"] == "/problems/not-found"
    assert refused.headers["x-request-id"] == refused.json()["request_id"]


@pytest.mark.parametrize("foreign", [{"Host": "evil.test"}, {"Origin": "https://evil.test"}])
def test_a_foreign_page_gets_no_stream(served: Serve, foreign: dict[str, str]) -> None:
    with served(FakeService()) as here:
        refused = httpx.get(f"{here.url}/v1/live/keypoints", headers=UPGRADE | foreign)
    assert refused.status_code == 403 and refused.json()["field"] in foreign
    # The refusal of an upgrade is an answer like any other.
    assert refused.headers["x-request-id"] == refused.json()["request_id"]
    assert refused.headers["server-timing"].startswith("total;dur=")
    assert refused.headers["x-content-type-options"] == "nosniff"


def shown(key: str) -> str:
    """A key as a browser's WebSocket shows it."""
    return "poselift.bearer." + base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()


def test_a_browsers_stream_shows_its_key_as_a_subprotocol_and_the_key_is_not_told_back(served: Serve) -> None:
    key = "r2.d2~+/=-"
    with served(FakeService(keys=(key,))) as here:
        for door, protocol in (("keypoints", "poselift.v1.json"), ("frames", "poselift.v1.msgpack")):
            for protocols in ([protocol, shown(key)], [shown(key), protocol]):
                url = f"ws://127.0.0.1:{here.port}/v1/live/{door}"
                with connect(url, subprotocols=protocols, proxy=None) as socket:  # type: ignore[arg-type]
                    assert socket.subprotocol == protocol
                    assert socket.response is not None and shown(key) not in str(socket.response.headers)


@pytest.mark.parametrize("coded", ["", "poselift.bearer.", shown("wrong"), shown("right")[:-1], "poselift.bearer.!~|"])
def test_a_subprotocol_that_holds_no_key_of_ours_opens_nothing(served: Serve, coded: str) -> None:
    offered = ["poselift.v1.json", *([coded] if coded else [])]
    with served(FakeService(keys=("right",))) as here, pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{here.port}/v1/live/keypoints", subprotocols=offered, proxy=None)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 401


async def test_a_subprotocol_is_no_key_where_headers_can_be_set() -> None:
    async with client_of(FakeService(keys=("right",))) as client:
        answer = await client.get("/v1/info", headers={"Sec-WebSocket-Protocol": shown("right")})
    assert answer.status_code == 401


def test_a_streams_caller_is_the_holder_of_the_key_that_it_showed() -> None:
    keys = Keyring(Settings(keys=("one", "two")))
    scope = {"type": "websocket", "headers": [], "client": ("10.0.0.7", 1), "path": "/"}
    names = {caller_name(HTTPConnection(scope | {"subprotocols": [shown(key)]}), keys) for key in ("one", "two")}
    assert caller_name(connection(authorization="Bearer one"), keys) in names and len(names) == 2


def test_a_caller_is_its_key_or_else_its_address() -> None:
    keyed, free = Keyring(Settings(keys=("one",))), Keyring(Settings())
    named = caller_name(connection(authorization="Bearer one"), keyed)
    assert named == caller_name(connection(authorization="Bearer one"), keyed)
    assert "one" not in named and "10.0.0.7" not in named
    assert caller_name(connection(), free) == "10.0.0.7"


# 24 who should not come in, or not that way: a key each, a path, a method, and the status that tells nothing else.
STRANGERS = [
    *(
        (key, "/v1/info", "GET", 401)
        for key in ("", "Bearer", "Bearer ", "Bearer wrong", "Basic b25l", "Bearer one two")
    ),
    *(
        (key, "/v1/info", "GET", 401)
        for key in ("Bearer ONE", "Bearer one\u00e9", "Token one", "one", "Bearer " + "x" * 9000)
    ),
    ("Bearer wrong", "/v1/nothing-here", "GET", 401),  # who has no key does not learn what is there
    ("Bearer wrong", "/page/%2e%2e/v1/info", "GET", 404),  # the page needs no key, and is no way around one
    ("Bearer wrong", "/docs", "GET", 401),
    ("Bearer wrong", "/openapi.json", "GET", 401),
    ("Bearer wrong", "/v2", "GET", 401),
    ("Bearer wrong", "/v1/images", "POST", 401),
    ("Bearer one", "/v1/nothing-here", "GET", 404),
    ("Bearer one", "/docs/assets/../../pyproject.toml", "GET", 404),
    ("Bearer one", "/docs/assets/%2e%2e/%2e%2e/etc/passwd", "GET", 404),
    ("Bearer one", "/v1/images", "DELETE", 405),
    ("Bearer one", "/v1/info", "POST", 405),
    ("Bearer one", "/livez", "PUT", 405),
    ("Bearer one", "/v2/repository/models/pose/load", "POST", 403),  # a key, but no admin's
]


@pytest.mark.parametrize(("key", "path", "method", "status"), STRANGERS)
async def test_a_stranger_gets_the_right_status_and_learns_nothing(
    key: str, path: str, method: str, status: int
) -> None:
    async with client_of(FakeService(keys=("one",))) as client:
        headers = {b"Authorization": key.encode("latin-1")} if key else {}
        answer = await client.request(method, path, headers=headers)
    assert answer.status_code == status
    said = answer.json()
    assert said["status"] == status and said["request_id"]
    for inner in ("Traceback", "service/", ".py", "site-packages", "one two", "ONE", "passwd", "uvicorn", "starlette"):
        assert inner not in answer.text and inner not in str(answer.headers)
    assert "server" not in answer.headers


def test_there_are_24_strangers() -> None:
    assert len(STRANGERS) == 24


async def test_every_answer_bears_the_security_headers_and_runs_no_foreign_script(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/v1/info", "/livez", "/nothing", "/problems/not-found", "/docs/assets/swagger-ui.css"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy


@pytest.mark.parametrize("path", ["/", "/docs", "/problems/not-found"])
async def test_no_page_needs_what_its_policy_forbids(client: httpx.AsyncClient, path: str) -> None:
    page = (await client.get(path)).text
    assert not re.search(r"<script(?![^>]* src=)[^>]*>", page) and "<style" not in page
    assert not re.search(r"\s(on\w+|style)=", page) and "javascript:" not in page
