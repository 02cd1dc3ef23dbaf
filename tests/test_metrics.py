"""Metrics: every name of the interface from the first scrape on, and few series for ever."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from service.metrics import BATCH_ROWS, MODEL_LABELS, NETWORKS, STAGES, Metrics, exemplar, exemplar_of

NAMES = [
    "request_duration_seconds",
    "stage_duration_seconds",
    "queue_wait_seconds",
    "queue_rows",
    "batch_rows",
    "batch_duration_seconds",
    "shed_total",
    "abandoned_total",
    "expired_total",
    "rows_total",
    "failed_rows_total",
    "live_streams",
    "live_streams_limit",
    "live_frame_age_seconds",
    "dropped_frames_total",
    "queue_limit_rows",
    "batch_cap_rows",
    "oom_total",
    "loop_lag_seconds",
    "device_memory_bytes",
    "model_info",
    "ready",
]
HISTOGRAMS = [name for name in NAMES if name.endswith("_seconds") or name == "batch_rows"]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def scrape(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render()[0].decode()
    samples = [sample for family in prometheus_text(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(metrics: Metrics, metric: str, /, **labels: str) -> float:
    return scrape(metrics)[f"poselift_{metric}", frozenset(labels.items())]


def test_every_name_of_the_interface_is_in_the_first_scrape_and_an_attribute(metrics: Metrics) -> None:
    text = metrics.render()[0].decode()
    for name in NAMES:
        assert f"# TYPE poselift_{name} " in text
        assert hasattr(metrics, name)


def test_every_label_set_known_beforehand_is_there_at_zero(metrics: Metrics) -> None:
    for network in NETWORKS:
        for name in ("queue_rows", "queue_limit_rows", "batch_cap_rows", "rows_total"):
            assert value(metrics, name, network=network) == 0
        for name in ("queue_wait_seconds", "batch_rows", "batch_duration_seconds"):
            assert value(metrics, f"{name}_count", network=network) == 0
        for reason in ("NotFinite", "EngineFailed"):
            assert value(metrics, "failed_rows_total", network=network, reason=reason) == 0
    assert all(value(metrics, "stage_duration_seconds_count", stage=stage) == 0 for stage in STAGES)
    assert all(value(metrics, "shed_total", reason=why) == 0 for why in ("QueueFull", "ShareUsedUp", "NotReady"))
    for name in ("abandoned_total", "expired_total", "dropped_frames_total", "oom_total", "ready", "live_streams"):
        assert value(metrics, name) == 0


def test_a_batch_is_counted_up_to_its_own_size(metrics: Metrics) -> None:
    metrics.batch_rows.labels("pose").observe(8)
    bounds = [str(float(rows)) for rows in BATCH_ROWS]
    counts = [value(metrics, "batch_rows_bucket", network="pose", le=bound) for bound in bounds]
    assert counts == [0, 0, 0, 1, 1, 1, 1]
    assert value(metrics, "batch_rows_sum", network="pose") == 8


def test_requests_without_a_route_are_one_series(metrics: Metrics) -> None:
    metrics.observe_request("/problems/{slug}", 200, 0.02)
    before = len(scrape(metrics))
    metrics.observe_request(None, 404, 0.001)
    after = len(scrape(metrics))
    for _ in range(5000):
        metrics.observe_request(None, 404, 0.001)
    assert before < after == len(scrape(metrics))
    assert value(metrics, "request_duration_seconds_count", route="unmatched", status="404") == 5001
    assert value(metrics, "request_duration_seconds_bucket", route="/problems/{slug}", status="200", le="0.025") == 1


def test_a_model_is_named_by_its_labels(metrics: Metrics) -> None:
    labels = dict(zip(MODEL_LABELS, ("pose", "lite-hrnet", "2", "lite-hrnet", "openvino", "cpu", "f32"), strict=True))
    metrics.model_info.labels(**labels).set(1)
    assert value(metrics, "model_info", **labels) == 1


def test_two_services_do_not_share_their_counts(metrics: Metrics) -> None:
    metrics.oom_total.inc()
    assert value(Metrics(CollectorRegistry()), "oom_total") == 0


def test_open_metrics_comes_only_when_it_is_asked_for(metrics: Metrics) -> None:
    body, kind = metrics.render("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in open_metrics(body.decode())}  # type: ignore[no-untyped-call]
    assert kind.startswith("application/openmetrics-text")
    assert {f"poselift_{name.removesuffix('_total')}" for name in NAMES} <= families
    assert metrics.render()[1].startswith("text/plain")
    assert metrics.render("text/html, */*")[1].startswith("text/plain")


@pytest.mark.parametrize("request_id", ["abc", 'a "quoted" \\ one', "x" * 118, "x" * 119, "x" * 128])
@pytest.mark.parametrize("trace_id", [None, "4bf92f3577b34da6a3ce929d0e0e4736"])
def test_a_buckets_exemplar_names_the_request_in_open_metrics_alone(
    metrics: Metrics, request_id: str, trace_id: str | None
) -> None:
    token = exemplar.set(exemplar_of(request_id, trace_id))
    try:
        metrics.observe_request("/v1/images", 200, 0.02)
    finally:
        exemplar.reset(token)
    metrics.observe_request("/v1/images", 200, 0.02)  # one of no request leaves it there
    body = metrics.render("application/openmetrics-text")[0].decode()
    samples = [sample for family in open_metrics(body) for sample in family.samples]  # type: ignore[no-untyped-call]
    found = [sample.exemplar for sample in samples if sample.exemplar]
    fits = len("request_id" + request_id + (f"trace_id{trace_id}" if trace_id else "")) <= 128
    wanted = ({"trace_id": trace_id} if trace_id else {}) | ({"request_id": request_id} if fits else {})
    assert [one.labels for one in found] == ([wanted] if wanted else [])
    assert all(one.value == 0.02 for one in found)
    assert "# {" not in metrics.render()[0].decode() and "trace_id" not in metrics.render()[0].decode()


def test_no_series_but_the_ones_that_are_read(metrics: Metrics) -> None:
    names = {name for name, _ in scrape(metrics)}
    assert not [name for name in names if name.endswith("_created")]
    assert {name for name in names if name.endswith("_bucket")} <= {f"poselift_{name}_bucket" for name in HISTOGRAMS}
