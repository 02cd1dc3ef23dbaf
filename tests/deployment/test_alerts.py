"""Each alert fires when it should and is silent when it should be, as Prometheus' own promtool sees it.

Series are in promtool's notation, one value a minute: `0+60x20` begins at 0 and adds 60, 20 times.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import find_tool
from .test_monitoring import ALERTS, RECORDS, RULES, expressions

pytestmark = pytest.mark.slow

REPLICA = 'namespace="pose", job="poselift", pod="a", instance="a"'
OTHER = 'namespace="pose", job="poselift", pod="b", instance="b"'
REQUESTS = "poselift_request_duration_seconds"


@dataclass(frozen=True)
class Case:
    """`alert` fires (or not) at `minute`, given the values of series by `metric{labels}`."""

    alert: str
    fires: bool
    minute: int
    series: dict[str, str]
    why: str = ""


def of(metric: str, labels: str = "", replica: str = REPLICA) -> str:
    return f"{metric}{{{replica}{', ' if labels else ''}{labels}}}"


def histogram(metric: str, below: dict[str, str], labels: str = "") -> dict[str, str]:
    """Series of buckets by their upper bound."""
    comma = ", " if labels else ""
    return {of(f"{metric}_bucket", f'{labels}{comma}le="{bound}"'): values for bound, values in below.items()}


def answers(status: str, route: str = "/v1/images") -> str:
    return of(f"{REQUESTS}_count", f'route="{route}", status="{status}"')


PHOTO, PERSON, LIFT = 'route="/v1/images", status="200"', 'network="person"', 'role="lift", name="lift-27"'
HALF_SLOW = ("0+50x40", "0+100x40", "0+100x40")
ALL_FAST = ("0+100x40", "0+100x40", "0+100x40")
CASES = [
    Case("PoseliftAbsent", True, 7, {}),
    Case("PoseliftAbsent", False, 7, {of("up"): "1x10"}),
    Case("PoseliftDown", True, 5, {of("up"): "1 0x10", of("up", replica=OTHER): "1x10"}),
    Case("PoseliftDown", False, 8, {of("up"): "1x4 0 0 1x10"}, "two scrapes failed"),
    Case("PoseliftNoneReady", True, 4, {of("poselift_ready"): "0x10", of("poselift_ready", replica=OTHER): "0x10"}),
    Case("PoseliftNoneReady", False, 9, {of("poselift_ready"): "0x10", of("poselift_ready", replica=OTHER): "1x10"}),
    Case("PoseliftNoneReady", True, 4, {of("up"): "0x10", of("up", replica=OTHER): "0x10"}, "none answers a scrape"),
    Case("PoseliftNoneReady", False, 9, {of("up"): "0x10", of("up", replica=OTHER): "1x10"}, "one answers"),
    Case("PoseliftNotReady", True, 12, {of("poselift_ready"): "0x20", of("poselift_ready", replica=OTHER): "1x20"}),
    Case("PoseliftNotReady", False, 9, {of("poselift_ready"): "0x5 1x20"}, "a start"),
    Case("PoseliftRestarts", True, 10, {of("process_start_time_seconds"): "100 200 300 400x20"}),
    Case("PoseliftRestarts", False, 10, {of("process_start_time_seconds"): "100x4 200x20"}, "one deployment"),
    Case("PoseliftErrors", True, 15, {answers("200"): "0+100x20", answers("500"): "0+3x20"}),
    Case("PoseliftErrors", False, 15, {answers("200"): "0+1000x20", answers("500"): "0+3x20"}),
    Case(
        "PoseliftErrors",
        False,
        15,
        {answers("200"): "0+9x20", answers("503"): "0+9x20", answers("503", "/readyz"): "0+9x20"},
        "503 is a refusal, and a probe's is no request",
    ),
    Case("PoseliftErrors", False, 15, {}, "no traffic yet"),
    Case("PoseliftErrors", False, 15, {answers("200"): "7x20"}, "no traffic any more"),
    Case(
        "PoseliftSlowPhotos",
        True,
        20,
        histogram(REQUESTS, dict(zip(("5.0", "7.5", "+Inf"), HALF_SLOW, strict=True)), PHOTO),
    ),
    Case(
        "PoseliftSlowPhotos",
        False,
        20,
        histogram(REQUESTS, dict(zip(("2.5", "5.0", "+Inf"), ALL_FAST, strict=True)), PHOTO)
        | histogram(REQUESTS, dict(zip(("5.0", "60.0", "+Inf"), HALF_SLOW, strict=True)), 'route="/v1/clips"'),
        "clips may last",
    ),
    Case(
        "PoseliftQueueWait",
        True,
        20,
        histogram("poselift_queue_wait_seconds", dict(zip(("2.5", "5.0", "+Inf"), HALF_SLOW, strict=True)), PERSON),
    ),
    Case(
        "PoseliftQueueWait",
        False,
        20,
        histogram("poselift_queue_wait_seconds", dict(zip(("1.0", "2.5", "+Inf"), ALL_FAST, strict=True)), PERSON),
    ),
    Case("PoseliftShedding", True, 12, {of("poselift_shed_total", 'reason="QueueFull"'): "0+60x20"}),
    Case(
        "PoseliftShedding",
        False,
        12,
        {
            of("poselift_shed_total", 'reason="QueueFull"'): "0+2x20",
            of("poselift_shed_total", 'reason="NotReady"'): "0+60x20",
        },
        "a replica that starts",
    ),
    Case("PoseliftDeadlinesPassed", True, 12, {of("poselift_expired_total"): "0+60x20"}),
    Case("PoseliftDeadlinesPassed", False, 12, {of("poselift_expired_total"): "0+2x20"}),
    Case(
        "PoseliftRowsFail",
        True,
        8,
        {of("poselift_failed_rows_total", 'network="pose", reason="NotFinite"'): "0x5 1x20"},
    ),
    Case(
        "PoseliftRowsFail", False, 20, {of("poselift_failed_rows_total", 'network="pose", reason="NotFinite"'): "7x20"}
    ),
    Case("PoseliftOutOfMemory", True, 8, {of("poselift_oom_total"): "0x5 1x20"}),
    Case("PoseliftOutOfMemory", False, 20, {of("poselift_oom_total"): "7x20"}),
    Case("PoseliftBatchCapReduced", True, 60, {of("poselift_batch_cap_rows", PERSON): "64x10 32x60"}),
    Case(
        "PoseliftBatchCapReduced", False, 60, {of("poselift_batch_cap_rows", PERSON): "64x10 32x20 64x60"}, "recovered"
    ),
    Case("PoseliftBatchCapReduced", False, 60, {of("poselift_batch_cap_rows", PERSON): "0x5 64x60"}, "a start"),
    Case("PoseliftDeviceMemoryGrows", True, 260, {of("poselift_device_memory_bytes"): "1e9+5e6x300"}),
    Case("PoseliftDeviceMemoryGrows", False, 260, {of("poselift_device_memory_bytes"): "0x5 2e9x300"}, "a start"),
    Case(
        "PoseliftStreamsNearlyFull",
        True,
        8,
        {of("poselift_live_streams"): "60x10", of("poselift_live_streams_limit"): "64x10"},
    ),
    Case(
        "PoseliftStreamsNearlyFull",
        False,
        8,
        {of("poselift_live_streams"): "64x10", of("poselift_live_streams_limit"): "64x10"}
        | {
            of("poselift_live_streams", replica=OTHER): "9x10",
            of("poselift_live_streams_limit", replica=OTHER): "64x10",
        },
        "another replica has room",
    ),
    Case(
        "PoseliftLiveFramesOld",
        True,
        15,
        histogram("poselift_live_frame_age_seconds", dict(zip(("0.25", "0.5", "+Inf"), HALF_SLOW, strict=True))),
    ),
    Case(
        "PoseliftLiveFramesOld",
        False,
        15,
        histogram("poselift_live_frame_age_seconds", dict(zip(("0.1", "0.25", "+Inf"), ALL_FAST, strict=True))),
    ),
    Case(
        "PoseliftLoopBlocked",
        True,
        15,
        histogram("poselift_loop_lag_seconds", dict(zip(("0.1", "0.25", "+Inf"), HALF_SLOW, strict=True))),
    ),
    Case(
        "PoseliftLoopBlocked",
        False,
        15,
        histogram("poselift_loop_lag_seconds", dict(zip(("0.05", "0.1", "+Inf"), ALL_FAST, strict=True))),
    ),
    Case(
        "PoseliftModelsDiffer",
        True,
        90,
        {of("poselift_model_info", f'{LIFT}, version="1"'): "1x100"}
        | {of("poselift_model_info", f'{LIFT}, version="2"', OTHER): "1x100"},
    ),
    Case(
        "PoseliftModelsDiffer",
        False,
        40,
        {of("poselift_model_info", f'{LIFT}, version="1"'): "1x100"}
        | {of("poselift_model_info", f'{LIFT}, version="2"', OTHER): "1x100"},
        "a rollout that is under way",
    ),
    Case(
        "PoseliftModelsDiffer",
        False,
        90,
        {of("poselift_model_info", f'{LIFT}, version="1"'): "1x20 stale"}
        | {of("poselift_model_info", f'{LIFT}, version="2"', OTHER): "1x100"},
        "a rollout that ended",
    ),
]


def promtool(*arguments: str) -> str:
    """What promtool says; an AssertionError with it where it is not content."""
    tool = find_tool("promtool", "apt-get install prometheus (Debian, Ubuntu), or Prometheus' own release archive")
    answer = subprocess.run([tool, *arguments], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def as_promtool_reads(case: Case) -> dict[str, Any]:
    """A case as promtool reads it: which alerts of that name fire then, and that none did before its `for` was over."""
    asked = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    expected = {case.minute: [{"labels": "{}", "value": 1}] if case.fires else []}
    if patience := minutes(ALERTS[case.alert].get("for", "0m")):
        expected[patience - 1] = []
    return {
        "name": f"{case.alert}: {'fires' if case.fires else 'silent'} {case.why}",
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {"expr": asked, "eval_time": f"{minute}m", "exp_samples": samples} for minute, samples in expected.items()
        ],
    }


def minutes(text: str) -> int:
    return int(text[:-1]) * {"m": 1, "h": 60}[text[-1]]


def write_rules(folder: Path, groups: list[dict[str, Any]]) -> Path:
    file = folder / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    return file


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    assert {case.alert for case in CASES if case.fires} == ALERTS.keys()
    assert {case.alert for case in CASES if not case.fires} == ALERTS.keys()


def test_promtool_takes_every_rule_and_every_query_of_the_board(tmp_path: Path) -> None:
    # A board's query becomes a rule, with its variables filled in.
    queries = [expression.replace("$__rate_interval", "1m").replace("$", "") for _, expression in expressions()]
    asked = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = write_rules(tmp_path, [{"name": "rules", "rules": RULES}, {"name": "queries", "rules": asked}])
    assert f"{len(RULES) + len(asked)} rules found" in promtool("check", "rules", str(file))
    assert len(RECORDS) + len(ALERTS) == len(RULES)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_never_else(alert: str, tmp_path: Path) -> None:
    rules = write_rules(tmp_path, [{"name": "rules", "rules": RULES}])
    cases = [as_promtool_reads(case) for case in CASES if case.alert == alert]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": cases}))
    assert "SUCCESS" in promtool("test", "rules", str(file))
