"""Rounds of several servers to a table: medians, and ours over each, round by round. No measuring here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.wrk import Closed

OURS = "ours"


def compared(rounds: Sequence[Mapping[str, Closed]]) -> list[dict[str, Any]]:
    """A line a server, medians over the rounds, in each of which every server was measured once, ours too.

    ours_over: our answers a second over its; p99_over: our p99 over its. Each is the median of the rounds' own ratios,
    and lowest, highest are the ends of the first. answers, errors: of all rounds together.
    """
    if not rounds or any(OURS not in each for each in rounds):
        raise ValueError("each round needs a measurement of ours")
    return [_line(name, rounds) for name in rounds[0]]


def _line(name: str, rounds: Sequence[Mapping[str, Closed]]) -> dict[str, Any]:
    def median(value: Callable[[Closed], float]) -> float:
        return round(statistics.median(value(each[name]) for each in rounds), 1)

    rates = [each[OURS].requests_a_second / each[name].requests_a_second for each in rounds]
    tails = [each[OURS].p99_ms / each[name].p99_ms for each in rounds]
    return {
        "server": name,
        "answers_a_second": median(lambda each: each.requests_a_second),
        "p50_ms": median(lambda each: each.p50_ms),
        "p99_ms": median(lambda each: each.p99_ms),
        "ours_over": round(statistics.median(rates), 2),
        "lowest": round(min(rates), 2),
        "highest": round(max(rates), 2),
        "p99_over": round(statistics.median(tails), 2),
        "answers": sum(each[name].requests for each in rounds),
        "errors": sum(each[name].errors for each in rounds),
    }
