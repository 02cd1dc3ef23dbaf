"""Laws of a request's head: who is let in, the deadline, the kind of answer, and the request's id. Knows no bodies."""

from __future__ import annotations

import asyncio
import base64
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from service.api.access import Doors, begin_call, guard
from service.api.images import wanted_kind
from service.api.keys import Keyring
from service.errors import Forbidden, OutOfRange, Unauthorised, Unreadable
from service.logs import accepted_request_id
from service.pipelines.call import Class
from service.settings import Settings
from tests.api.fake import FakeService

from .strangers import FEW, Strategy

KEY = "right-1"
LOOPBACK, BEYOND = Settings(), Settings(host="0.0.0.0", keys=(KEY,), hosts=("poselift.test",))
RINGS = {id(each): Keyring(each) for each in (LOOPBACK, BEYOND)}
PATHS = st.sampled_from(["/v1/info", "/", "/page/", "/v2", "/livez", "/v2/health/live", "/page/../v1/info", "//", ""])
HOSTS: Strategy = st.sampled_from(
    ["localhost", "localhost:1", "[::1]:80", "poselift.test", "poselift.test:9", "evil.test", "localhost.evil.test", ""]
) | st.text(max_size=12)
ORIGINS: Strategy = st.sampled_from(
    ["http://localhost", "https://poselift.test", "null", "https://[", "http://"]
) | st.text(max_size=12)
AUTHORISATIONS: Strategy = st.sampled_from(
    [f"Bearer {KEY}", f"bearer  {KEY} ", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY.upper()}", "Bearer"]
) | st.text(max_size=12)
CODED = base64.urlsafe_b64encode(KEY.encode()).rstrip(b"=").decode()
PROTOCOLS: Strategy = st.lists(
    st.sampled_from(
        [f"poselift.bearer.{CODED}", "poselift.bearer.", f"poselift.bearer.{CODED[:-1]}", "poselift.v1.json"]
    )
    | st.text(max_size=8).map("poselift.bearer.".__add__),
    max_size=3,
)


def in_bytes(text: str) -> bytes:
    return text.encode("latin-1", "replace")


@st.composite
def scopes(draw: st.DrawFn) -> dict[str, Any]:
    """A request's or a WebSocket's, with none, one or two of each header."""
    headers = [
        (name, in_bytes(value))
        for name, values in ((b"host", HOSTS), (b"origin", ORIGINS), (b"authorization", AUTHORISATIONS))
        for value in draw(st.lists(values, max_size=2))
    ]
    kind = draw(st.sampled_from(["http", "websocket"]))
    more = {"subprotocols": draw(PROTOCOLS)} if kind == "websocket" else {}
    version = draw(st.sampled_from(["1.0", "1.1"]))
    return {"type": kind, "path": draw(PATHS), "headers": headers, "http_version": version, **more}


@FEW
@given(scopes(), st.sampled_from([LOOPBACK, BEYOND]))
def test_whoever_is_let_in_has_a_host_of_ours_and_a_key_where_there_are_keys(
    scope: dict[str, Any], settings: Settings
) -> None:
    try:
        guard(scope, settings, RINGS[id(settings)])
    except (Forbidden, Unauthorised, Unreadable) as error:
        assert error.field in ("Host", "Origin", "Authorization")
        return
    if scope["path"] in ("/livez", "/v2/health/live"):
        return
    headers = dict(reversed(scope["headers"]))  # of two the first counts
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    assert len(hosts) == 1 or (not hosts and scope["http_version"] == "1.0" and settings is LOOPBACK)
    for host in hosts:
        names = (b"localhost", b"[::1]") if settings is LOOPBACK else (b"poselift.test",)
        assert host.startswith(names) or (settings is LOOPBACK and not host)
    if b"origin" in headers:
        assert headers[b"origin"].endswith(hosts[0] if hosts else b"")
    if settings is BEYOND and scope["path"] != "/" and not scope["path"].startswith("/page/"):
        shown = headers.get(b"authorization", b"").decode("latin-1")
        protocols = [each for each in scope.get("subprotocols", []) if each.startswith("poselift.bearer.")]
        assert shown.split()[1:] == [KEY] or protocols[:1] == [f"poselift.bearer.{CODED}"]


@FEW
@given(
    st.none() | st.integers(-5, 700_000).map(str) | st.text(max_size=6) | st.sampled_from(["1e3", "٣", "1" * 40, " 7"])
)
def test_a_deadline_is_within_its_limit_or_refused_by_its_header(text: str | None) -> None:
    service = FakeService()
    headers = [] if text is None else [(b"request-timeout-ms", in_bytes(text))]
    app = SimpleNamespace(state=SimpleNamespace(service=service, doors=Doors(), keys=Keyring(service.settings)))
    request = Request({"type": "http", "headers": headers, "client": ("10.0.0.7", 1), "path": "/", "app": app})

    async def begun() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        return loop.time(), begin_call(request, Class.PHOTO).deadline, loop.time()

    try:
        before, deadline, after = asyncio.run(begun())
    except OutOfRange as error:
        assert error.field == "Request-Timeout-Ms" and text is not None
        return
    milliseconds = service.settings.deadline_ms if text is None else int(text)
    assert before <= deadline - milliseconds / 1000 + 1e-6 and deadline - milliseconds / 1000 <= after + 1e-6
    assert 1 <= milliseconds <= service.settings.max_deadline_ms and request.scope["call"].caller == "10.0.0.7"


@FEW
@given(st.text(alphabet="image/*pngje,;q=0.1 \tapplicationjson", max_size=40) | st.text(max_size=20))
def test_any_accept_header_gives_a_kind_of_ours(accept: str) -> None:
    assert wanted_kind(accept) in ("application/json", "image/png", "image/jpeg")


@FEW
@given(st.none() | st.text(max_size=200))
def test_an_id_is_the_callers_own_where_it_can_stand_in_a_header_and_a_line(given_id: str | None) -> None:
    made = accepted_request_id(given_id)
    assert made == (given_id or "").strip(" ") or len(made) >= 16
    assert made and made.isascii() and made.isprintable() and len(made) <= 128
