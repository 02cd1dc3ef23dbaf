"""Errors as problem documents (RFC 9457): one table from error to status, one place that answers. Knows no pipeline.

A refusal is told whole, with field and limit. Of a failure, a caller learns the request's id; the log has the rest.
"""

from __future__ import annotations

import html
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
CALLER_LEFT_STATUS = 499  # nobody is there to read it: for log and metrics only
NO_MEMORY = "There is no memory for this just now."
OUR_FAULT = "The fault is on our side. The log has the cause, under this request's id."


class CallerLeft(Exception):
    """The caller closed its connection before it had its answer. There is nobody to answer."""


@dataclass(frozen=True)
class Problem:
    """A row of the table. `meaning` is what the problem's page says."""

    status: int
    slug: str
    title: str
    meaning: str


NOT_FOUND = Problem(
    404, "not-found", "Nothing is at this path", "The path is not one of the service's. /docs lists them."
)
METHOD_NOT_ALLOWED = Problem(
    405,
    "method-not-allowed",
    "Not with this method",
    "The path exists; the header Allow names the methods that it takes.",
)
UNEXPECTED = Problem(
    500, "unexpected", "Something broke", "A bug. `request_id` finds it in the log; nothing inner is told here."
)
PROBLEMS: dict[type[Exception], Problem] = {
    errors.Unreadable: Problem(
        400,
        "unreadable",
        "The body cannot be read",
        "The body is empty, broken, cut off, or not what it claims to be. `field` names the part.",
    ),
    errors.UnknownKind: Problem(
        415,
        "unknown-kind",
        "Not a kind that is read here",
        "The Content-Type or the first bytes are of a kind that is not read here; `limit` lists those that are.",
    ),
    errors.TooLarge: Problem(
        413,
        "too-large",
        "Over a limit of size",
        "Bytes, pixels, frames or people over the limit in `limit`. GET /v1/info lists all limits.",
    ),
    errors.OutOfRange: Problem(
        422,
        "out-of-range",
        "A value is out of its range",
        "The body was read, but the option or value named in `field` is unknown or outside `limit`.",
    ),
    errors.Unknown: Problem(
        404,
        "unknown-name",
        "No such model, version or page",
        "There is nothing of that name. GET /v1/models and GET /v1/skeletons list what there is.",
    ),
    errors.Unauthorised: Problem(
        401,
        "unauthorised",
        "A key is needed",
        "The operator asks for a key: `Authorization: Bearer KEY`. There was none, or a wrong one.",
    ),
    errors.Forbidden: Problem(
        403, "forbidden", "Not from there", "The Host or Origin of the request is none that the operator named."
    ),
    errors.ShareUsedUp: Problem(
        429,
        "share-used-up",
        "Your share of the queue is used up",
        "Others wait, and this caller has as many rows queued as its share allows. Retry-After says when to come back.",
    ),
    errors.QueueFull: Problem(
        503,
        "queue-full",
        "The queue is full",
        "More work is queued than will be done in time. Retry-After is an estimate from the measured rate.",
    ),
    errors.NotReady: Problem(
        503,
        "not-ready",
        "Not in service",
        "The service is starting or draining, or has lost its device. Another replica may be in service.",
    ),
    errors.DeadlinePassed: Problem(
        504,
        "deadline-passed",
        "The deadline passed",
        "The answer would have come after Request-Timeout-Ms (or the default). What was not computed yet never is.",
    ),
    errors.SettingWrong: Problem(500, "setting-wrong", "A setting is wrong", "The operator has to correct a setting."),
    errors.NotFinite: Problem(
        500, "not-finite", "A network gave no number", "A network's output held NaN or an infinity for this input."
    ),
    errors.EngineFailed: Problem(
        500, "engine-failed", "An engine broke", "The network could not be run on this input."
    ),
    errors.StoreBroken: Problem(
        500, "store-broken", "The model store is broken", "A file of the model store is not what its manifest says."
    ),
}
PAGES = {row.slug: row for row in (*PROBLEMS.values(), NOT_FOUND, METHOD_NOT_ALLOWED, UNEXPECTED)}


def row_of(error: Exception) -> Problem:
    """The table's row for an error: its own class's, else its nearest ancestor's."""
    if isinstance(error, HTTPException):
        known = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(error.status_code)
        return known or Problem(error.status_code, "refused", str(error.detail), str(error.detail))
    if isinstance(error, MemoryError):  # of one large picture; others go on, and this one may later
        return PROBLEMS[errors.QueueFull]
    return next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), UNEXPECTED)


def problem_document(error: Exception, request_id: str) -> dict[str, Any]:
    """The problem document of an error, and for a failure the line in the log that the document does not tell."""
    row = row_of(error)
    document: dict[str, Any] = {"type": f"/problems/{row.slug}", "title": row.title, "status": row.status}
    if isinstance(error, errors.Refused):
        document["detail"] = str(error)
        document |= {name: value for name in ("field", "limit") if (value := getattr(error, name)) is not None}
    elif isinstance(error, HTTPException):
        document["detail"] = row.meaning
    else:
        log.error("request %s failed: %s", request_id, error, exc_info=error, extra={"request_id": request_id})
        document["detail"] = NO_MEMORY if isinstance(error, MemoryError) else OUR_FAULT
    return document | {"request_id": request_id}


def problem_headers(error: Exception) -> dict[str, str]:
    """What an error adds to the headers."""
    if isinstance(error, errors.Busy):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, MemoryError):
        return {"Retry-After": "5"}
    if isinstance(error, errors.Unauthorised):
        return {"WWW-Authenticate": 'Bearer realm="poselift"'}
    if isinstance(error, errors.UnknownKind) and error.field == "Content-Encoding":
        return {"Accept-Encoding": ", ".join(error.limit) if isinstance(error.limit, list) else ""}
    if isinstance(error, HTTPException):
        return dict(error.headers or {})
    return {}


def problem_answer(error: Exception, request_id: str, path: str = "") -> Response:
    """The HTTP answer to an error; there is no other place that makes one. `path` is the request's."""
    document = problem_document(error, request_id)
    if path == "/v2" or path.startswith("/v2/"):
        document["error"] = document["detail"]  # the one member that the Open Inference Protocol's clients read
    body = orjson.dumps(document, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, document["status"], problem_headers(error), MEDIA_TYPE)


async def http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such path, wrong method), in the form of all others."""
    return problem_answer(error, request.scope.get("request_id", ""), request.scope["path"])


async def problem_page(request: Request) -> Response:
    """GET /problems/{slug}: what a problem means; JSON for those who ask for it, else a small page."""
    slug: str = request.path_params["slug"]
    row = PAGES.get(slug)
    if row is None:
        raise errors.Unknown(
            f"there is no problem {slug!r}; there are {', '.join(PAGES)}", field="slug", limit=list(PAGES)
        )
    if "application/json" in request.headers.get("accept", ""):
        page: Mapping[str, Any] = {
            "type": f"/problems/{row.slug}",
            "title": row.title,
            "status": row.status,
            "meaning": row.meaning,
        }
        return Response(orjson.dumps(page), media_type="application/json")
    title, meaning = html.escape(row.title), html.escape(row.meaning)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<body><h1>{title}</h1><p>Status {row.status}</p><p>{meaning}</p></body></html>"
    )


def openapi_responses(*kinds: type[Exception]) -> dict[int | str, dict[str, Any]]:
    """The error answers of a door for the OpenAPI document, from the table."""
    answers: dict[int | str, dict[str, Any]] = {}
    for row in [PROBLEMS[kind] for kind in kinds] + [UNEXPECTED]:
        known = answers.get(row.status)
        text = f"{known['description']}; {row.title}" if known else row.title
        answers[row.status] = {"description": text, "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}}
    return answers


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "example": "/problems/out-of-range"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what was wrong, the limit, and what came"},
        "field": {"type": "string"},
        "limit": {"description": "what would have been right: a number, a range or a list"},
        "request_id": {"type": "string"},
    },
}
