"""The benchmarks' own tools, against the served fake: what they send is accepted, what they tell adds up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import orjson
import pytest

from benchmarks import bodies, report
from benchmarks.poisson import LEFT, open_loop
from benchmarks.served import since, under

from .conftest import Served
from .fake import FakeService

Serve = Callable[[FakeService], AbstractContextManager[Served]]
WINDOW = bodies.windows(1)


def test_an_open_loop_asks_at_its_rate_and_hears_every_answer(served: Serve) -> None:
    with served(FakeService()) as here:
        heard = open_loop(here.port, "/v1/lift", WINDOW, bodies.JSON, 100.0, 1.0)
    assert 60 < len(heard.status) < 140  # five standard deviations
    assert heard.count(200) == len(heard.status) and heard.failed == 0
    assert (heard.took >= heard.late).all() and (heard.late > -0.002).all()  # timers are rounded to a millisecond
    assert (np.diff(np.sort(heard.due)) > 0).all() and heard.due.max() < 1.0


def test_callers_who_vanish_are_told_from_answers_and_from_failures(served: Serve) -> None:
    service = FakeService()
    service.work.gate = threading.Event()  # nobody is answered before the gate opens
    opening = threading.Timer(2.0, service.work.gate.set)
    opening.start()
    with served(service) as here:
        heard = open_loop(here.port, "/v1/lift", WINDOW, bodies.JSON, 60.0, 1.0, vanish=0.5)
        opening.join()
    assert 0 < service.work.cancelled <= heard.count(LEFT)  # some are gone before their work begins
    assert heard.count(200) == len(heard.status) - heard.count(LEFT) > 5
    assert heard.failed == 0


def test_refusals_are_counted_apart(served: Serve) -> None:
    with served(FakeService("starting")) as here:
        here.server._service.state = "draining"
        here.server._doors.closing.set()
        heard = open_loop(here.port, "/v1/lift", WINDOW, bodies.JSON, 50.0, 0.5)
    assert heard.count(503) == len(heard.status) > 5
    assert heard.latency_ms(200, 0.5) is None
    assert (heard.latency_ms(503, 0.5) or 0) > 0


def test_a_body_of_many_windows_is_one_person_each() -> None:
    assert len(orjson.loads(bodies.windows(1))["keypoints"]) == bodies.WINDOW_FRAMES
    people = orjson.loads(bodies.windows(16))["people"]
    assert [len(person) for person in people] == [bodies.WINDOW_FRAMES] * 16


def test_what_came_between_two_scrapes_has_its_quantile() -> None:
    before = {f'lag_bucket{{le="{bound}"}}': 100.0 for bound in ("0.1", "1.0", "+Inf")} | {"lag_count": 100.0}
    after = {'lag_bucket{le="0.1"}': 190.0, 'lag_bucket{le="1.0"}': 199.0, 'lag_bucket{le="+Inf"}': 200.0}
    after["lag_count"] = 200.0
    assert since(before, after, "lag_count") == 100
    assert under(before, after, "lag", 0.9) == 0.1
    assert under(before, after, "lag", 0.99) == 1.0
    assert under(before, after, "lag", 0.999) == float("inf")


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([{"a": 1, "b": 2.50}, {"a": 3, "b": None}], "| a | b |\n| --- | --- |\n| 1 | 2.5 |\n| 3 |  |"),
        ([{"a": [0.5, 1.25]}], "|  |  |\n| --- | --- |\n| a | 0.5, 1.25 |"),
    ],
)
def test_a_table_has_a_row_a_line_and_of_one_line_a_row_a_field(lines: report.Lines, wanted: str) -> None:
    assert report.table(lines) == wanted
