"""The process from its first signal handler to its exit code: open, load, serve, drain, end. Knows no requests.

One owner of SIGTERM and SIGINT. The first drains, the second ends at once. Times are seconds.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from service.errors import ServiceError
from service.metrics import Metrics

from .access import Doors
from .app import create_app
from .connections import bounded_protocol
from .keys import Keyring
from .live_frames import MAX_FRAME_MESSAGE_BYTES

if TYPE_CHECKING:
    import socket

    from service.assembly import Service
    from service.settings import Settings

log = logging.getLogger(__name__)

DRAINED, WRONG_SETTING, BROKEN, DEVICE_LOST = 0, 2, 1, 70
# Above the idle time of every usual proxy, which would else send a request into a connection that is being closed.
KEEP_ALIVE_S = 75
# How long those who were given up have to send their answers, and then how long uvicorn waits for sockets to close.
LAST_WORDS_S = 2.0
NET_S = 5
LAG_PERIOD_S = 0.25
# How long a thread may keep the interpreter from another that waits. With Python's 5 ms the device's thread, back from
# a batch of 20 ms, would stand that long behind the parsing of bodies before it could begin the next.
SWITCH_S = 0.0005
# So many objects more than at the last look, and rings are looked for that nobody holds. With Python's 700 what a few
# dozen callers have open at once sets it off at every tenth request, a twentieth of its time; and requests leave none.
LOOK_FOR_RINGS_AFTER = 5000


def run(service: Service, settings: Settings) -> int:
    """Serves until a signal, and returns the process's exit code: 0 drained, 2 a setting or the store, 70 no device."""
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(LOOK_FOR_RINGS_AFTER, *gc.get_threshold()[1:])
    server = Server(service, settings)
    try:
        server.run()
    except SystemExit:  # uvicorn's, and it has logged why: the port is taken, or not ours
        return WRONG_SETTING
    if server.abandoned:
        # A thread that still loads would hold the interpreter; nothing that it does is needed any more.
        end_at_once(server.exit_code)
    return server.exit_code


def end_at_once(code: int) -> None:
    """Ends the process without waiting for threads."""
    logging.shutdown()
    os._exit(code)


class Server(uvicorn.Server):
    """uvicorn's server with our beginning and our end. The port opens first; /readyz says 503 until models are warm.

    exit_code: of the process, once it has run.
    abandoned: whether a thread may still be busy.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        app = create_app(service)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                http=bounded_protocol(settings.max_sockets, settings.header_timeout_s),
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=NET_S,
                ws_per_message_deflate=False,  # 4 GB for some thousand sockets, and poses hardly shrink
                # Above the stream's own limit, which closes with 1009; uvicorn resets, and the client may see no code.
                ws_max_size=2 * MAX_FRAME_MESSAGE_BYTES,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=list(settings.trusted_proxies),
            )
        )
        self.exit_code = DRAINED
        self.abandoned = False
        self._service, self._settings = service, settings
        self._doors: Doors = app.state.doors
        self._keys: Keyring = app.state.keys
        self._stopping = False
        self._starting: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._watching: list[asyncio.Task[None]] = []

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: readiness falls at once, the rest is the loop's. uvicorn would close the port first."""
        if self._stopping:
            end_at_once(128 + sig)
        self._stopping = True
        if self._service.state != "ready":  # there are no models that could serve on
            self._doors.closing.set()
        if self._service.state != "failed":
            self._service.state, self._service.reason = "draining", "the service is stopping"
        self._service.metrics.ready.set(0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens the port, and begins to load."""
        await super().startup(sockets)
        self._watching = [
            asyncio.create_task(watch_loop_lag(self._service.metrics)),
            asyncio.create_task(self._keys.watch()),
        ]
        self._starting = asyncio.create_task(self._service.start())

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: has a signal come, has the start failed, is the device lost?"""
        done = self._starting is not None and self._starting.done()
        if self._stopping and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        elif done and self._draining is None:
            self._watch()
        return await super().on_tick(counter)

    def _watch(self) -> None:
        """Ends the process where it can no longer serve."""
        assert self._starting is not None
        if error := self._starting.exception():
            if isinstance(error, ServiceError):
                log.error("the service cannot start: %s", error)
                self.exit_code = WRONG_SETTING
            else:
                log.error("the service cannot start", exc_info=error)
                self.exit_code = BROKEN
            self.should_exit = self.abandoned = True
        elif self._lost:
            self._draining = asyncio.create_task(self._end(0.0))

    @property
    def _lost(self) -> bool:
        """Whether the device is, after a start that went well."""
        starting = self._starting
        began = starting is not None and starting.done() and not starting.cancelled() and starting.exception() is None
        return began and self._service.state == "failed"

    async def _drain(self) -> None:
        """Serves on until load balancers have noticed, then finishes what was admitted."""
        assert self._starting is not None
        if not self._starting.done():
            log.info("stopped while loading")
            self._starting.cancel()
            self.should_exit = self.abandoned = True
            return
        log.info("draining: %g s more as before, then %g s", self._settings.drain_delay_s, self._settings.drain_grace_s)
        await _until(lambda: self._lost, self._settings.drain_delay_s)
        await self._end(self._settings.drain_grace_s)

    async def _end(self, grace_s: float) -> None:
        """Closes the doors, waits for who is inside, and answers who is still there when the time is up."""
        try:
            self._doors.closing.set()
            for server in self.servers:
                server.close()
            await _until(lambda: self._lost or not self._doors.inside, grace_s)
            if self._doors.inside:
                log.warning("%d requests were not done in time and get 503", self._doors.inside)
                self._doors.give_up()
                await _until(lambda: not self._doors.inside, LAST_WORDS_S)
            await self._service.drain(0.0)
        finally:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's end of the connections, then the service's own."""
        if self._lost:  # in a drain or out of one: the supervisor must hear of it
            log.error("the service cannot go on: %s", self._service.reason)
            self.exit_code, self.abandoned = DEVICE_LOST, True
        await super().shutdown(sockets)
        for task in (*self._watching, self._starting, self._draining):
            if task is not None:
                task.cancel()
        await self._service.close()


async def _until(done: Callable[[], bool], patience_s: float) -> None:
    """Returns once it is done, or the time is up."""
    until = time.monotonic() + patience_s
    while not done() and time.monotonic() < until:
        await asyncio.sleep(0.02)


async def watch_loop_lag(metrics: Metrics) -> None:
    """Measures for ever how late the loop wakes: what blocks it shows here."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        metrics.loop_lag_seconds.observe(max(0.0, loop.time() - due))
