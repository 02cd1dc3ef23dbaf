"""The rules of the line, as tables: no asyncio, and time is a number."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest

from service.batching.policy import REGAIN_S, WEIGHT, Cap, Class, Limits, Line, Waiting, retry_after_s, urgency
from service.errors import QueueFull, ShareUsedUp

FOREVER = math.inf
LIVE, PHOTO, CLIP = Class.LIVE, Class.PHOTO, Class.CLIP


def row(
    name: str,
    *,
    caller: str = "a",
    klass: Class = PHOTO,
    cost: int = 1,
    deadline: float = FOREVER,
    arrived: float = 0,
    held: int = 0,
) -> Waiting:
    return Waiting(name, cost, klass, caller, deadline, arrived, None, held)


def line_of(*rows: Waiting, queue: int = 64, share: float = 0.5, budget: int = 8) -> Line:
    line = Line(Limits(queue, share, budget))
    for waiting in rows:
        line.add(waiting)
    return line


def names(rows: list[Waiting]) -> list[str]:
    return [str(waiting.row) for waiting in rows]


def taken(line: Line, now: float = 1.0) -> list[str]:
    return names(line.take(now)[0])


# ---- Whose turn it is


def test_callers_of_a_class_take_turns() -> None:
    a, b, c = ([f"{caller}{n}" for n in range(3)] for caller in "abc")
    line = line_of(*(row(name, caller=name[0]) for name in [*a, *b, *c]))
    assert taken(line) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2"]
    assert taken(line) == ["c2"]


def test_the_turn_goes_on_where_the_last_batch_ended() -> None:
    line = line_of(*(row(name, caller=name[0]) for name in ("a0", "a1", "a2", "b0", "b1")), budget=1)
    assert [taken(line)[0] for _ in range(5)] == ["a0", "b0", "a1", "b1", "a2"]


def test_rows_of_one_caller_stay_in_their_order() -> None:
    line = line_of(*(row(str(n)) for n in range(20)), budget=7)
    assert [*taken(line), *taken(line), *taken(line)] == [str(n) for n in range(20)]


def test_of_a_callers_live_rows_the_oldest_frame_goes_first() -> None:
    deadlines = {"a": 1.30, "b": 1.32, "c": 1.29, "d": 1.32, "e": 1.31}
    live = [row(name, klass=LIVE, deadline=deadline, arrived=n) for n, (name, deadline) in enumerate(deadlines.items())]
    assert taken(line_of(*live)) == ["c", "a", "e", "b", "d"]
    others = [row(name, deadline=deadline, arrived=n) for n, (name, deadline) in enumerate(deadlines.items())]
    assert taken(line_of(*others)) == [*deadlines]


@pytest.mark.parametrize(
    ("waits", "first"),
    [
        ({LIVE: 1.0, PHOTO: 1.0, CLIP: 1.0}, LIVE),
        ({PHOTO: 1.0, CLIP: 1.0}, PHOTO),
        ({LIVE: 0.0, PHOTO: 0.0, CLIP: 0.0}, LIVE),
        ({LIVE: 1.0, PHOTO: 3.9}, LIVE),
        ({LIVE: 1.0, PHOTO: 4.1}, PHOTO),
        ({PHOTO: 1.0, CLIP: 3.9}, PHOTO),
        ({PHOTO: 1.0, CLIP: 4.1}, CLIP),
        ({LIVE: 1.0, CLIP: 15.0}, LIVE),
        ({LIVE: 1.0, CLIP: 17.0}, CLIP),
    ],
)
def test_the_urgent_go_first_until_others_have_waited_long(waits: dict[Class, float], first: Class) -> None:
    rows = [row(klass.name, klass=klass, arrived=100.0 - wait) for klass, wait in waits.items()]
    for order in (rows, rows[::-1]):
        line = line_of(*(row(each.row, klass=each.klass, arrived=each.arrived) for each in order), budget=1)
        assert line.urgency(100.0) == pytest.approx(urgency(first, waits[first]))
        assert taken(line, 100.0) == [first.name]


def test_a_flood_of_live_rows_does_not_starve_a_clip() -> None:
    line = line_of(row("clip", klass=CLIP, arrived=0.0), queue=8, budget=1)
    waited = 0
    while line.rows:
        waited += 1
        for caller in "abc":  # three live rows for each that the device can do; the full line refuses the rest
            with suppress(QueueFull, ShareUsedUp):
                line.admit(1, caller)
                line.add(row("live", caller=caller, klass=LIVE, arrived=float(waited)))
        if taken(line, float(waited)) == ["clip"]:
            break
    assert waited <= 8 * WEIGHT[LIVE] / WEIGHT[CLIP]


def test_nobody_waiting_is_not_urgent() -> None:
    assert line_of().urgency(5.0) == 0
    assert line_of().take(5.0) == ([], [])


def test_a_clock_that_stood_still_does_not_hide_a_row() -> None:
    line = line_of(row("a", arrived=5.0))
    assert line.urgency(5.0) > 0
    assert line.urgency(4.0) > 0


# ---- What a batch holds


@pytest.mark.parametrize(
    ("costs", "budget", "batches"),
    [
        ([], 4, []),
        ([1], 4, [[1]]),
        ([1, 1, 1, 1, 1], 4, [[1, 1, 1, 1], [1]]),
        ([2, 2, 2], 4, [[2, 2], [2]]),
        ([2, 1, 2], 4, [[2, 1], [2]]),  # what does not fit waits, in its place
        ([1, 2, 2, 1], 4, [[1, 2], [2, 1]]),
        ([9], 4, [[9]]),  # dearer than the budget: alone
        ([1, 9, 1], 4, [[1], [9], [1]]),
        ([2], 1, [[2]]),
    ],
)
def test_a_batch_keeps_to_the_budget(costs: list[int], budget: int, batches: list[list[int]]) -> None:
    line = line_of(*(row(str(n), cost=cost) for n, cost in enumerate(costs)), budget=budget)
    formed = []
    while batch := line.take(1.0)[0]:
        formed.append([waiting.cost for waiting in batch])
    assert formed == batches
    assert line.rows == 0


def test_late_rows_are_told_and_not_in_the_batch() -> None:
    line = line_of(row("late", deadline=1.0), row("in time", deadline=3.0), row("just late", deadline=2.0), budget=1)
    batch, late = line.take(2.0)
    assert (names(batch), names(late)) == (["in time"], ["late"])
    batch, late = line.take(2.0)
    assert (names(batch), names(late)) == ([], ["just late"])
    assert line.rows == 0


def test_late_rows_take_no_room_however_dear() -> None:
    line = line_of(row("late", cost=100, deadline=1.0), row("a"), row("b"), budget=2)
    assert taken(line, 2.0) == ["a", "b"]


# ---- Who left


def test_who_leaves_frees_the_count_at_once() -> None:
    rows = [row(str(n), cost=2) for n in range(4)]
    line = line_of(*rows, queue=8)
    with pytest.raises(QueueFull):
        line.admit(2, "b")
    line.leave(rows[1])
    assert line.rows == 6
    line.admit(2, "b")


def test_who_left_is_not_in_the_batch() -> None:
    rows = [row(f"{caller}{n}", caller=caller) for n in range(3) for caller in "ab"]
    line = line_of(*rows)
    for gone in (rows[0], rows[3], rows[4]):
        line.leave(gone)
    assert sorted(taken(line)) == ["a1", "b0", "b2"]


def test_leaving_twice_or_after_the_batch_was_formed_changes_nothing() -> None:
    rows = [row("a"), row("b"), row("c")]
    line = line_of(*rows, budget=1)
    line.take(1.0)
    line.leave(rows[0])
    line.leave(rows[2])
    line.leave(rows[2])
    assert line.rows == 1
    assert taken(line) == ["b"]


def test_a_caller_who_left_does_not_cost_the_next_of_its_class_the_turn() -> None:
    rows = [row("a", caller="a"), row("b", caller="b")]
    line = line_of(*rows)
    line.leave(rows[0])
    assert taken(line) == ["b"]


def test_emptying_takes_everybody_out() -> None:
    rows = [row(f"{klass.name}{n}", caller=str(n), klass=klass) for klass in Class for n in range(3)]
    line = line_of(*rows)
    line.leave(rows[4])
    assert sorted(names(line.empty())) == sorted(names(rows[:4] + rows[5:]))
    assert line.rows == 0
    assert line.empty() == []
    assert taken(line) == []
    line.admit(64, "a")


# ---- Who is let in


@pytest.mark.parametrize(
    ("queued", "asked", "refused"),
    [
        ({}, ("a", 1), None),
        ({}, ("a", 1000), None),  # an empty line takes anything: what is split can never be too much
        ({"a": 5}, ("a", 3), None),  # alone: the whole line
        ({"a": 5}, ("a", 4), QueueFull),
        ({"a": 5}, ("b", 3), None),
        ({"a": 5}, ("b", 4), QueueFull),
        ({"a": 4, "b": 1}, ("a", 1), ShareUsedUp),  # the share is 4 of 8
        ({"a": 3, "b": 1}, ("a", 1), None),
        ({"a": 3, "b": 1}, ("a", 2), ShareUsedUp),
        ({"a": 4, "b": 1}, ("b", 3), None),
        ({"a": 4, "b": 1}, ("c", 3), None),
        ({"a": 4, "b": 4}, ("c", 1), QueueFull),
    ],
)
def test_who_is_let_in(
    queued: dict[str, int], asked: tuple[str, int], refused: type[QueueFull] | type[ShareUsedUp] | None
) -> None:
    line = line_of(*(row(caller, caller=caller) for caller, count in queued.items() for _ in range(count)), queue=8)
    caller, cost = asked
    if refused is None:
        line.admit(cost, caller)
        return
    with pytest.raises(refused) as error:
        line.admit(cost, caller)
    assert error.value.retry_after_s >= 1
    assert error.value.limit == (8 if refused is QueueFull else 4)
    assert line.rows == sum(queued.values())


def test_a_share_stops_binding_when_the_others_have_left() -> None:
    mine, other = [row(str(n)) for n in range(4)], row("b", caller="b")
    line = line_of(*mine, other, queue=8)
    with pytest.raises(ShareUsedUp):
        line.admit(1, "a")
    line.leave(other)
    line.admit(4, "a")


def test_a_share_is_free_again_when_its_rows_have_run() -> None:
    line = line_of(*(row(str(n)) for n in range(4)), row("b", caller="b"), row("c", caller="c"), queue=8, budget=3)
    with pytest.raises(ShareUsedUp):
        line.admit(1, "a")
    assert taken(line) == ["0", "b", "c"]
    line.add(row("b", caller="b"))
    line.admit(1, "a")


def test_a_refusal_names_the_limit_and_what_came() -> None:
    line = line_of(*(row(str(n)) for n in range(6)), queue=8)
    with pytest.raises(QueueFull, match="holds 6 of 8 rows; 3 more"):
        line.admit(3, "b")


def test_a_line_is_full_of_bytes_before_it_is_full_of_rows() -> None:
    line = Line(Limits(64, 1.0, 2, bytes=100))
    line.admit(1, "a", held=500)  # an empty line takes anything
    for name in "abc":
        line.admit(1, name, held=30)
        line.add(row(name, caller=name, held=30))
    with pytest.raises(QueueFull, match="holds 90 of 100 bytes; 11 more") as refused:
        line.admit(1, "d", 0.5, held=11)
    assert (refused.value.field, refused.value.limit, refused.value.retry_after_s) == ("queue_mb", 100, 6.0)
    line.admit(1, "d", held=10)
    assert taken(line) == ["a", "b"] and line.bytes == 30
    line.admit(1, "d", held=70)
    for waiting in line.empty():
        assert waiting.gone
    assert line.bytes == 0


@pytest.mark.parametrize(
    ("rows", "rate", "seconds"),
    [(256, None, 1.0), (256, 0.0, 1.0), (10, 100.0, 1.0), (256, 64.0, 4.0), (256, 0.1, 60.0), (0, 5.0, 1.0)],
)
def test_the_time_to_come_back_is_what_the_line_needs(rows: int, rate: float | None, seconds: float) -> None:
    assert retry_after_s(rows, rate) == seconds


# ---- The cap


def test_a_cap_is_halved_by_what_ran_never_under_one() -> None:
    cap = Cap(32)
    cap.halve(20, 0.0)
    assert cap.rows == 10
    cap.halve(32, 0.0)
    assert cap.rows == 10
    for _ in range(6):
        cap.halve(cap.rows, 0.0)
    assert cap.rows == 1


def test_a_cap_follows_its_budget_and_memory_holds_it_down() -> None:
    cap = Cap(4)
    assert not cap.follow(4)
    assert cap.follow(8) and cap.rows == 8
    assert cap.follow(2) and cap.rows == 2
    assert cap.follow(8) and cap.rows == 8
    cap.halve(8, 0.0)
    assert cap.follow(32) and cap.rows == 4
    assert cap.follow(2) and cap.rows == 2
    assert cap.follow(32) and cap.rows == 32


def test_a_cap_comes_back_step_by_step_and_no_further_than_the_budget() -> None:
    cap = Cap(24)
    cap.halve(12, 100.0)
    assert not cap.regain(100.0 + REGAIN_S / 2)
    steps, now = [], 100.0
    for _ in range(4):
        now += REGAIN_S
        steps.append((cap.regain(now), cap.rows))
    assert steps == [(True, 12), (True, 24), (False, 24), (False, 24)]


def test_a_batch_that_live_rows_lead_is_short_and_one_that_they_follow_is_not() -> None:
    live = [row(f"l{n}", caller=f"l{n}", klass=LIVE, arrived=0.9) for n in range(5)]
    line = line_of(*live, row("p0", arrived=0.9), budget=8)
    assert names(line.take(1.0, live_rows=2)[0]) == ["l0", "l1"]
    line.add(row("c0", klass=CLIP, arrived=-100))  # has waited so long that it goes first
    assert names(line.take(1.0, live_rows=2)[0]) == ["c0", "l2", "l3", "l4", "p0"]
    line.add(row("l5", klass=LIVE, cost=3))
    assert names(line.take(1.0, live_rows=2)[0]) == ["l5"]  # dearer than that, it runs alone rather than never


def test_live_rows_never_pass_the_cap() -> None:
    line = line_of(*(row(f"l{n}", klass=LIVE) for n in range(5)), budget=3)
    assert len(line.take(1.0, live_rows=10)[0]) == 3


def test_a_line_forms_batches_by_its_cap() -> None:
    line, now = Line(Limits(64, 0.5, 8)), 1.0
    for n in range(8):
        line.add(Waiting(n, 1, Class.PHOTO, "a", 99.0, now))
    line.cap.halve(6, now)
    assert [len(line.take(now)[0]) for _ in range(3)] == [3, 3, 2]
