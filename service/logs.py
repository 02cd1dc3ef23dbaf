"""The log: JSON lines or text, one line a request, each with the request's id. Knows no HTTP server.

Times are UTC, durations milliseconds. Bodies, queries and keys are never logged.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

REQUEST_ID_CHARACTERS = 128
# Set while a request is answered; whatever is logged meanwhile bears it. Threads of a pool do not inherit it.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# Probes and scrapes come every few seconds, for ever.
QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
# They say on `info` or `debug` what is of no use to an operator: every request, every chunk, every step; the last one
# warns of each form that a caller has broken.
TALKATIVE = ("PIL", "asyncio", "httpcore", "httpx", "python_multipart")
SERVER = ("uvicorn", "uvicorn.error", "uvicorn.access")

_PRINTABLE = re.compile(rf"[\x20-\x7e]{{1,{REQUEST_ID_CHARACTERS}}}")
_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)
_requests = logging.getLogger("poselift.requests")
# Random once, then counted: the system's randomness costs as much as the rest of a request's frame.
_PROCESS = uuid.uuid4().hex[:24]
_NUMBERS = itertools.count()


def new_request_id() -> str:
    """An id that no other request has, of this process or another: 32 hexadecimal digits."""
    return f"{_PROCESS}{next(_NUMBERS):08x}"[-32:]


def accepted_request_id(given: str | None) -> str:
    """The caller's X-Request-Id if it is 1 to 128 printable ASCII characters, else a new one."""
    given = (given or "").strip(" ")
    return given if _PRINTABLE.fullmatch(given) else new_request_id()


def log_request(
    *,
    method: str,
    route: str,
    path: str,
    status: int,
    duration_ms: float,
    spent_ms: Mapping[str, float],
    **more: object,
) -> None:
    """The one line of a finished request, a warning if the fault is ours.

    Args:
        route: the template; health and metrics are logged on `debug`.
        path: what was asked for, without the query.
        status: 499 for a caller who went away.
        spent_ms: by stage.
        more: further fields, short ones.
    """
    level = logging.DEBUG if route in QUIET_ROUTES else logging.WARNING if status >= 500 else logging.INFO
    if not _requests.isEnabledFor(level):
        return
    fields: dict[str, object] = {"method": method, "route": route, "path": path, "status": status}
    fields["duration_ms"] = round(duration_ms, 2)
    fields |= {f"{stage}_ms": round(spent, 2) for stage, spent in spent_ms.items()}
    _requests.log(level, "%s %s %d", method, path, status, extra={"fields": fields | more})


def setup(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["auto", "json", "text"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Sends everything that is logged in this process to one stream (standard error), once; may be called again.

    The server's loggers are made to follow; its own access log is silenced, since it has no ids and no stages.
    """
    stream = stream or sys.stderr
    if format == "auto":
        format = "text" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if format == "json" else Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in SERVER:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"
        logger.disabled = name == "uvicorn.access"
        logger.addFilter(_worth_a_line)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR if name == "python_multipart" else logging.WARNING)
    logging.captureWarnings(True)


def _worth_a_line(record: logging.LogRecord) -> bool:
    """uvicorn takes each WebSocket that was refused with a proper answer for a fault of ours, and calls it an error.

    What it tells of a WebSocket has the query, in which somebody may have put a key: that is cut off.
    """
    if isinstance(record.args, tuple) and '"WebSocket %s"' in str(record.msg):
        record.args = tuple(each.partition("?")[0] if isinstance(each, str) else each for each in record.args)
    return not str(record.msg).startswith("ASGI callable returned without completing handshake")


class JsonLines(logging.Formatter):
    """One JSON object a line, ASCII only: time, level, logger, message, request_id, the fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (id_ := _id(record)) is not None:
            line["request_id"] = id_
        line = dict(_fields(record)) | line
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Text(logging.Formatter):
    """One line for people; a traceback follows on its own lines. What a caller sent cannot begin a new line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        words = {key: value for key, value in _fields(record).items() if key not in ("method", "path", "status")}
        if (id_ := _id(record)) is not None:
            words["request_id"] = id_
        message = record.getMessage()
        if not message.isprintable():
            message = json.dumps(message)
        line = f"{_time(record)} {record.levelname.lower():7} {record.name}: {message}"
        for key, value in words.items():
            text = str(value)
            line += f" {key}={text if _PLAIN.fullmatch(text) else json.dumps(text)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _id(record: logging.LogRecord) -> str | None:
    """The id that the record was given, else that of the request being answered."""
    given: str | None = getattr(record, "request_id", None)
    return given or request_id.get()


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields
