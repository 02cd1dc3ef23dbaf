"""The log: one line a request, with its id, that a caller cannot forge."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from service import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def log_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, show = root.handlers[:], root.level, warnings.showwarning
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    warnings.showwarning = show
    for name in (*logs.TALKATIVE, *logs.SERVER):
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).disabled = False
        logging.getLogger(name).propagate = True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def request(route: str = "/v1/images", status: int = 200, path: str = "/v1/images", **more: object) -> None:
    spent = {"decode": 3.14159, "pose": 20.0}
    logs.log_request(method="POST", route=route, path=path, status=status, duration_ms=31.4159, spent_ms=spent, **more)


def test_a_request_is_one_json_line_with_its_id_and_stages() -> None:
    logs.setup("info", "json", stream := io.StringIO())
    token = logs.request_id.set("abc")
    request(people=2)
    logs.request_id.reset(token)
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "poselift.requests",
        "message": "POST /v1/images 200",
        "request_id": "abc",
        "method": "POST",
        "route": "/v1/images",
        "path": "/v1/images",
        "status": 200,
        "duration_ms": 31.42,
        "decode_ms": 3.14,
        "pose_ms": 20.0,
        "people": 2,
    }


def test_text_is_for_terminals_and_json_for_the_rest() -> None:
    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        logs.setup("info", "auto", stream)
        request()
        assert stream.getvalue().startswith("{") is is_json


@pytest.mark.parametrize("format", ["json", "text"])
def test_what_a_caller_sent_cannot_begin_a_new_line(format: Any) -> None:
    logs.setup("info", format, stream := io.StringIO())
    request(path='/x\n2026 error forged\r\u2028"\ud800')
    assert len(stream.getvalue().splitlines()) == 1


def test_an_error_brings_its_traceback_in_the_same_line() -> None:
    logs.setup("info", "json", stream := io.StringIO())
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("service.engines").exception("batch failed", extra={"request_id": "of-the-record"})
    (line,) = lines(stream)
    assert "RuntimeError: broken" in line["error"]
    assert (line["level"], line["request_id"]) == ("error", "of-the-record")


def test_a_traceback_follows_the_line_in_text() -> None:
    logs.setup("info", "text", stream := io.StringIO())
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("service.engines").exception("batch failed")
    assert "error   service.engines: batch failed\nTraceback" in stream.getvalue()
    assert "RuntimeError: broken" in stream.getvalue()


@pytest.mark.parametrize(
    ("route", "status", "level"),
    [("/livez", 200, "debug"), ("/readyz", 503, "debug"), ("/v1/lift", 422, "info"), ("/v1/lift", 500, "warning")],
)
def test_probes_are_quiet_and_our_own_faults_are_warnings(route: str, status: int, level: str) -> None:
    logs.setup("debug", "json", stream := io.StringIO())
    request(route, status)
    assert [line["level"] for line in lines(stream)] == [level]
    logs.setup("info", "json", stream := io.StringIO())
    request(route, status)
    assert bool(lines(stream)) is (level != "debug")


def test_the_servers_own_access_log_is_silent_and_the_rest_of_it_follows() -> None:
    logs.setup("info", "json", stream := io.StringIO())
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("httpx").info("HTTP Request")
    warnings.showwarning("old", DeprecationWarning, "file.py", 1)
    messages = [line["message"].strip() for line in lines(stream)]
    assert messages[0] == "started"
    assert "DeprecationWarning: old" in messages[1]
    assert len(messages) == 2


@pytest.mark.parametrize(
    ("message", "more"), [('%s - "WebSocket %s" [accepted]', ()), ('%s - "WebSocket %s" %d', (401,))]
)
def test_the_servers_lines_on_sockets_lose_the_query_that_may_hold_a_key(message: str, more: tuple[int, ...]) -> None:
    logs.setup("info", "json", stream := io.StringIO())
    logging.getLogger("uvicorn.error").info(message, "127.0.0.1:9", "/v1/live/keypoints?key=SECRET", *more)
    (line,) = lines(stream)
    assert "/v1/live/keypoints" in line["message"] and "SECRET" not in stream.getvalue()


def test_a_refused_upgrade_is_no_error_of_the_server() -> None:
    logs.setup("info", "json", stream := io.StringIO())
    logger = logging.getLogger("uvicorn.error")
    logger.error("ASGI callable returned without completing handshake.")
    assert stream.getvalue() == ""
    logger.error("ASGI callable should return None, but returned '%s'.", 1)
    assert "should return None" in stream.getvalue()


def test_setup_twice_logs_once() -> None:
    logs.setup("info", "json", io.StringIO())
    logs.setup("warning", "json", stream := io.StringIO())
    request()
    request(status=500)
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("given", ["x", "a" * 128, "8f14e45f-ceea", 'with space and "marks"'])
def test_a_printable_request_id_is_kept(given: str) -> None:
    assert logs.accepted_request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "   ", "a" * 129, "line\nbreak", "tab\t", "caf\xe9", "\x00"])
def test_any_other_request_id_is_made_anew(given: str | None) -> None:
    made = logs.accepted_request_id(given)
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    assert made != logs.accepted_request_id(given)
