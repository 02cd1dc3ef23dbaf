"""Every error has one answer, and it tells what its kind may tell."""

from __future__ import annotations

import httpx
import pytest

from service import errors
from service.api.problems import PAGES, PROBLEMS, problem_answer

from .fake import FakeService

pytestmark = pytest.mark.anyio


def leaves(kind: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    return [leaf for child in below for leaf in leaves(child)] if below else [kind]


def test_every_error_has_a_row() -> None:
    assert set(leaves(errors.ServiceError)) == set(PROBLEMS)


def test_no_two_rows_share_a_page() -> None:
    slugs = [row.slug for row in PROBLEMS.values()]
    assert len(set(slugs)) == len(slugs)


@pytest.mark.parametrize("wait_s, seconds", [(0.0, "1"), (0.2, "1"), (1.2, "2"), (7.0, "7")])
def test_busy_says_when_to_come_back_in_whole_seconds_of_at_least_one(wait_s: float, seconds: str) -> None:
    for kind in (errors.QueueFull, errors.ShareUsedUp, errors.NotReady):
        assert problem_answer(kind("later", retry_after_s=wait_s), "id").headers["retry-after"] == seconds


async def test_a_refusal_names_field_and_limit(client: httpx.AsyncClient, service: FakeService, photo: bytes) -> None:
    service.work.error = errors.OutOfRange("`boxes[0]` is outside", field="boxes[0]", limit=[64, 48])
    answer = await client.post("/v1/images", content=photo, headers={"X-Request-Id": "mine"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/problems/out-of-range",
        "title": PROBLEMS[errors.OutOfRange].title,
        "status": 422,
        "detail": "`boxes[0]` is outside",
        "field": "boxes[0]",
        "limit": [64, 48],
        "request_id": "mine",
    }


@pytest.mark.parametrize("error", [errors.NotFinite("secret"), errors.EngineFailed("secret"), RuntimeError("secret")])
async def test_a_failure_tells_no_inner_detail_but_the_log_does(
    client: httpx.AsyncClient, service: FakeService, photo: bytes, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    service.work.error = error
    answer = await client.post("/v1/images", content=photo, headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    assert "secret" not in answer.text and answer.json()["request_id"] == "find-me"
    assert any("find-me" in record.getMessage() and "secret" in record.getMessage() for record in caplog.records)
    service.work.error = None
    assert (await client.post("/v1/images", content=photo)).status_code == 200


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    missing, wrong = await client.get("/v2/nothing"), await client.get("/v1/images")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "/problems/method-not-allowed")
    assert wrong.headers["allow"] == "POST"


async def test_every_problem_has_its_page(client: httpx.AsyncClient) -> None:
    for slug, row in PAGES.items():
        page = await client.get(f"/problems/{slug}")
        assert page.status_code == 200 and row.title in page.text
        told = await client.get(f"/problems/{slug}", headers={"Accept": "application/json"})
        assert told.json()["status"] == row.status
    assert (await client.get("/problems/none")).json()["type"] == "/problems/unknown-name"
