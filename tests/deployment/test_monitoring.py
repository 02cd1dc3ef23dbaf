"""Rules, board and scalers speak of metrics and labels that a service shows from its first scrape on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.api.app import create_app
from service.assembly import build
from service.metrics import MODEL_LABELS, NETWORKS, SHED_REASONS, Metrics
from service.settings import Settings

from .rendering import ROOT, load, only, render_with

RULES: list[dict[str, Any]] = [
    rule for group in only(render_with("monitoring"), "PrometheusRule")["spec"]["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
BOARD: dict[str, Any] = json.loads((ROOT / "k8s/components/dashboard/poselift.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
# Prometheus makes these itself, of every target; `namespace` and `pod` are the operator's, `le` a histogram's.
MADE_BY_PROMETHEUS = {"up"}
OF_THE_TARGET = {"job", "namespace", "pod", "instance", "le"}
# Series that nobody can name beforehand: statuses and routes show with the first request of each, models once they are
# warm. What is asked of them must bear that there are none.
UNNAMED = {
    "poselift_request_duration_seconds": {"route", "status"},
    "poselift_model_info": set(MODEL_LABELS),
}


def first_scrape() -> dict[str, list[dict[str, str]]]:
    """Name of each sample of a service without traffic, with its label sets; a family without samples has none."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(Metrics(CollectorRegistry()).render()[0].decode()):
        for ending in ("_bucket", "_count", "_sum") if family.type == "histogram" else ("",):
            found.setdefault(family.name + ending, [])
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


SCRAPE = first_scrape()


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of rules, board and scalers, with where it stands."""
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for trigger in only(render_with("keda"), "ScaledObject")["spec"]["triggers"]:
        yield trigger["name"], trigger["metadata"]["query"]
    for metric in only(render_with("hpa"), "HorizontalPodAutoscaler")["spec"]["metrics"]:
        yield "hpa", metric["pods"]["metric"]["name"]


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """(name, label to its matched text) of every series that a query asks for."""
    found = []
    for name, inside in re.findall(r"\b((?:[a-z_]+:)?(?:poselift|process)_[a-z_:0-9]+|up)\b(?:{([^}]*)})?", expression):
        found.append((name, dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', inside))))
    return found


def test_every_series_that_is_asked_for_is_there_before_any_traffic() -> None:
    asked = [(where, *selector) for where, expression in expressions() for selector in selectors(expression)]
    assert len(asked) > 60
    for where, name, labels in asked:
        if ":" in name:
            assert name in RECORDS, f"{where} asks for {name}, which no rule records"
        elif name not in MADE_BY_PROMETHEUS:
            assert name in SCRAPE, f"{where} asks for {name}, which no scrape has"
            unnamed = next((labels for start, labels in UNNAMED.items() if name.startswith(start)), None)
            assert SCRAPE[name] or unnamed, f"{name} has no series yet"
            own = unnamed or {label for series in SCRAPE[name] for label in series}
            assert labels.keys() - OF_THE_TARGET <= own, where


@pytest.mark.parametrize(("where", "expression"), [*expressions()], ids=lambda text: text[:30])
def test_every_query_looks_at_this_job_alone(where: str, expression: str) -> None:
    if where != "hpa":  # the adapter's rules say it
        raw = [(name, labels) for name, labels in selectors(expression) if ":" not in name]
        assert all(labels.get("job") == "poselift" for _, labels in raw), where


def test_the_routes_of_the_rules_are_routes_and_leave_probes_and_scrapes_out() -> None:
    paths = {route.path for route in create_app(build(Settings())).routes}  # type: ignore[attr-defined]
    exact = {
        labels["route"]
        for _, expression in expressions()
        for _, labels in selectors(expression)
        if labels.get("route", "").startswith("/v1")
    }
    assert exact == {"/v1/images"}
    assert exact <= paths
    (pattern,) = {
        labels["route"]
        for _, expression in expressions()
        for _, labels in selectors(expression)
        if "route" in labels and labels["route"] not in exact
    }
    work = {path for path in paths if re.fullmatch(pattern, path)}
    assert {"/v1/images", "/v1/clips", "/v1/lift"} <= work
    assert not work & {"/livez", "/readyz", "/metrics", "/"}


def test_the_reasons_and_networks_that_rules_name_are_those_of_the_service() -> None:
    named = [labels for _, expression in expressions() for _, labels in selectors(expression)]
    assert {labels["reason"] for labels in named if "reason" in labels} <= set(SHED_REASONS)
    assert {labels["network"] for labels in named if "network" in labels} <= set(NETWORKS)


def test_every_alert_says_what_how_grave_and_what_to_do() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    sections = {title.lower() for title in re.findall(r"^#+ (\w+)$", page, re.MULTILINE)}
    assert len(ALERTS) == len([rule for rule in RULES if "alert" in rule])
    for name, rule in ALERTS.items():
        assert name.startswith("Poselift")
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        file, _, section = rule["annotations"]["runbook_url"].partition("#")
        assert file == "docs/operations.md"
        assert section == name.lower()
        assert section in sections, f"{name} has no runbook"


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    assert set(re.findall(r"^#+ (Poselift\w+)$", page, re.MULTILINE)) == ALERTS.keys()


def test_the_start_of_a_pod_is_no_alarm() -> None:
    (container,) = only(render_with("monitoring"), "Deployment")["spec"]["template"]["spec"]["containers"]
    startup = container["startupProbe"]
    minutes = int(ALERTS["PoseliftNotReady"]["for"].removesuffix("m"))
    assert minutes * 60 > startup["periodSeconds"] * startup["failureThreshold"]


@pytest.mark.parametrize(
    "metric",
    [
        "request_duration_seconds",
        "stage_duration_seconds",
        "queue_wait_seconds",
        "batch_rows",
        "shed_total",
        "expired_total",
        "device_memory_bytes",
        "live_streams",
        "live_frame_age_seconds",
        "loop_lag_seconds",
    ],
)
def test_the_board_shows_what_operators_look_at_first(metric: str) -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name, _ in selectors(target["expr"])}
    assert any(name.startswith(f"poselift_{metric}") for name in shown)


def test_the_panels_of_the_board_lie_side_by_side_and_have_one_number_each() -> None:
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_board_asks_the_source_that_its_reader_chooses_and_knows_every_variable() -> None:
    variables = {variable["name"] for variable in BOARD["templating"]["list"]} | {"__rate_interval"}
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables


def test_the_config_map_carries_the_board_under_the_label_that_grafana_looks_for() -> None:
    (carrier,) = (m for m in render_with("dashboard") if m["metadata"]["name"] == "poselift-dashboard")
    assert carrier["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(carrier["data"]["poselift.json"]) == BOARD


def test_the_operator_scrapes_each_pod_once_and_under_the_name_that_compose_uses() -> None:
    template = only(render_with("monitoring"), "Deployment")["spec"]["template"]["metadata"]
    assert not template.get("annotations")
    label = only(render_with("monitoring"), "PodMonitor")["spec"]["jobLabel"]
    (job,) = load(ROOT / "docker/prometheus.yml")["scrape_configs"]
    assert template["labels"][label] == job["job_name"] == "poselift"
