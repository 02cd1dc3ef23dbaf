"""Who may come in, and until when: keys, Host and Origin, deadlines, and the doors that close at the end.

Knows no bodies and no pipelines. Deadlines are seconds on the clock of the event loop.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from service.errors import DeadlinePassed, Forbidden, NotReady, OutOfRange, Unauthorised, Unreadable
from service.pipelines.call import Call, Class

from .connections import LEFT
from .keys import Holder, Keyring
from .problems import CallerLeft

if TYPE_CHECKING:
    from service.assembly import Service
    from service.settings import Settings

T = TypeVar("T")

# Probes and scrapes come by pod address and without a key.
EXEMPT = frozenset({"/livez", "/readyz", "/metrics"})
# The protocol's health asks for no key either, but unlike the others it is for callers, too.
KEYLESS = EXEMPT | {"/v2/health/live", "/v2/health/ready"}
# A browser's WebSocket has no header for a key; what it has is subprotocols, whose letters are fewer than a key's: so
# behind this comes the key in base64url without padding. It is never the subprotocol that is chosen.
KEY_PROTOCOL = "poselift.bearer."
# The demo page holds nothing of anybody, and a browser cannot show a key before it has the page that asks for one.
PAGE_FILES = "/page/"
_HOLDER = "poselift.holder"  # in a scope, once it is let in: who holds its key, or None where none is asked for
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# For what has no deadline of its own (a clip is answered as it goes): still a number that any timer takes.
NO_DEADLINE_S = 86400.0
# The queue answers at the deadline itself, and counts it; this net is for what is not in a queue just then.
NET_S = 0.05
STOPPED = "the service stopped before this was done; its time to drain was up"


class Doors:
    """Who is inside, and whether more are let in.

    closing: set once new work is refused; live streams then say goodbye.
    inside: requests and streams that have begun and not ended, probes left out.
    """

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.inside = 0
        self._running: set[Callable[[type[Exception]], None]] = set()

    def admit(self, service: Service) -> None:
        """Raises NotReady unless new work is taken: from the warm models on, and while the drain's delay lasts."""
        if self.closing.is_set():
            raise NotReady("the service is stopping and takes no new work", retry_after_s=1.0)
        if service.state not in ("ready", "draining"):
            raise NotReady(f"the service is not ready: {service.reason or service.state}", retry_after_s=2.0)

    async def see_through(self, request: Request, deadline: float, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, whose caller is watched meanwhile. The body must have been read to its end.

        Raises, with `work` cancelled:
            CallerLeft: the connection closed.
            DeadlinePassed: at `deadline`, or NET_S after it.
            NotReady: the drain's time was up (`give_up`).
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        cause: type[Exception] | None = None
        over = False

        def end(why: type[Exception]) -> None:
            nonlocal cause
            if not over and cause is None:
                cause = why
                task.cancel()

        def gone(_: asyncio.Future[Any]) -> None:
            end(CallerLeft)

        # Our connections tell by themselves; under another server what comes after the body is the caller's leaving.
        told: asyncio.Future[None] | None = request.scope.get(LEFT)
        left = told if told is not None else asyncio.ensure_future(request.receive())
        left.add_done_callback(gone)
        net = loop.call_at(deadline + NET_S, end, DeadlinePassed)
        self._running.add(end)
        try:
            return await work
        except asyncio.CancelledError:
            if cause is None:
                raise
            raise _ended(cause) from None
        finally:
            over = True
            if cause is not None:
                task.uncancel()
            self._running.discard(end)
            net.cancel()
            left.remove_done_callback(gone)
            if left is not told:
                left.cancel()

    def give_up(self) -> None:
        """Ends all work that is seen through; each caller gets NotReady."""
        for end in list(self._running):
            end(NotReady)


def _ended(cause: type[Exception]) -> Exception:
    if cause is NotReady:
        return NotReady(STOPPED, retry_after_s=1.0)
    if cause is DeadlinePassed:
        return DeadlinePassed("the deadline passed before the answer was there", field="Request-Timeout-Ms")
    return CallerLeft()


def guard(scope: Scope, settings: Settings, keys: Keyring) -> None:
    """Raises Unreadable, Forbidden or Unauthorised for who may not come in. Health and metrics are open to all.

    A browser names the page that asks in `Origin`: one that is not ours gets nothing, also where there are no keys, for
    it may be any page that the reader of a service on this machine has open. A foreign `Host` on loopback is the same
    page under a name that it has pointed here.
    """
    if scope["path"] in KEYLESS:
        return
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    # HTTP 1.1 asks for exactly one; of two a gateway may have believed the other.
    if len(hosts) > 1 or (not hosts and scope.get("http_version", "1.1") != "1.0"):
        raise Unreadable(f"a request must have one `Host`; {len(hosts)} came", field="Host", limit=1)
    host = hosts[0] if hosts else ""
    if not _serves(host, settings):
        raise Forbidden(f"the Host {host[:100]!r} is none that is served here", field="Host")
    origin = headers.get("origin")
    if origin is not None and origin not in settings.origins and _place(origin) != host:
        raise Forbidden(f"the Origin {origin[:100]!r} is none that is let in", field="Origin")
    page = scope["path"] == "/" or scope["path"].startswith(PAGE_FILES)
    asked = keys.required and not page
    holder = scope[_HOLDER] = keys.holder(_shown_key(scope)) if asked else None
    if asked and holder is None:
        raise Unauthorised("`Authorization` must be `Bearer` and a key of this service", field="Authorization")


def require_admin(connection: HTTPConnection) -> None:
    """Raises Forbidden unless the caller may change what is served: an admin's key, or no keys at all on loopback."""
    keys: Keyring = connection.app.state.keys
    settings: Settings = connection.app.state.service.settings
    holder = keys.holder(_shown_key(connection.scope))
    if holder.admin if holder else not keys.required and settings.on_loopback:
        return
    raise Forbidden("models are loaded and unloaded with an admin's key only (see `key_file`)", field="Authorization")


def _serves(host: str, settings: Settings) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if settings.hosts:
        return host in settings.hosts or name in settings.hosts
    # Without a Host it is no browser that asks.
    return not settings.on_loopback or not host or name.lower() in (*LOOPBACK_NAMES, settings.host)


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # brackets that are no address
        return ""


def _shown_key(scope: Scope) -> str:
    """The key that a caller shows, whoever's it is; empty where there is none, or none that can be read."""
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    offered: list[str] = scope.get("subprotocols", [])  # a WebSocket's alone
    coded = next((one.removeprefix(KEY_PROTOCOL) for one in offered if one.startswith(KEY_PROTOCOL)), "")
    try:
        return base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        return ""


def caller_name(connection: HTTPConnection, keys: Keyring) -> str:
    """Whose share the work counts in: the key's holder, else the client's address."""
    scope = connection.scope
    holder: Holder | None = scope[_HOLDER] if _HOLDER in scope else keys.holder(_shown_key(scope))
    if holder:
        return holder.name
    return connection.client.host if connection.client else "unknown"


def begin_call(connection: HTTPConnection, klass: Class, default_ms: float | None = None) -> Call:
    """Lets a request in, with its deadline; where Server-Timing finds it.

    Args:
        default_ms: the deadline without the header Request-Timeout-Ms; None: the settings' own.

    Raises:
        NotReady: new work is not taken.
        OutOfRange: Request-Timeout-Ms is no whole number of milliseconds from 1 to the limit.
    """
    service: Service = connection.app.state.service
    try:
        connection.app.state.doors.admit(service)
    except NotReady:
        service.metrics.shed_total.labels(NotReady.__name__).inc()
        raise
    settings = service.settings
    name, limit = "Request-Timeout-Ms", [1, settings.max_deadline_ms]
    text = connection.headers.get(name)
    milliseconds: float = settings.deadline_ms if default_ms is None else default_ms
    if text is not None:
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and 1 <= int(text) <= limit[1]):
            message = f"`{name}` must be a whole number of milliseconds from 1 to {limit[1]}; got {text[:40]!r}"
            raise OutOfRange(message, field=name, limit=limit)
        milliseconds = int(text)
    caller = caller_name(connection, connection.app.state.keys)
    call = Call(caller, klass, asyncio.get_running_loop().time() + milliseconds / 1000)
    connection.scope["call"] = call
    return call
