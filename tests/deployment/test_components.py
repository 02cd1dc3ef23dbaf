"""What components bring beside the pods: autoscalers, the way in, KServe. Their numbers and paths are the service's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount

from service.api.access import EXEMPT
from service.api.app import create_app
from service.assembly import build
from service.settings import Settings

from .rendering import BASE, OVERLAYS, Manifest, container_of, only, render, render_with

QUEUE_SHARE, STREAM_SHARE = 0.25, 0.75
KEDA = only(render_with("keda"), "ScaledObject")["spec"]
HPA = only(render_with("hpa"), "HorizontalPodAutoscaler")["spec"]
PREDICTOR = only(render_with("kserve"), "InferenceService")["spec"]["predictor"]


def app_paths() -> set[str]:
    """The path of every route of the service, a mount's with a slash at its end; no model is loaded."""

    def path(route: BaseRoute) -> str:
        text: str = route.path  # type: ignore[attr-defined]
        return text + "/" if isinstance(route, Mount) else text

    return {path(route) for route in create_app(build(Settings())).routes}


PATHS = app_paths()


def routed(path: str) -> Manifest | None:
    """The rule of the gateway that takes a path: an exact one, else the longest prefix of whole segments."""
    best: tuple[int, Manifest] | None = None
    for rule in only(render_with("gateway"), "HTTPRoute")["spec"]["rules"]:
        for match in rule["matches"]:
            value = match["path"]["value"]
            exact = match["path"]["type"] == "Exact"
            fits = path == value if exact else path == value or path.startswith(value.rstrip("/") + "/")
            if fits and (best is None or len(value) > best[0]):
                best = (len(value), rule)
    return best and best[1]


def test_what_probes_and_scrapes_ask_for_is_a_route() -> None:
    container = container_of(render(BASE))
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    (endpoint,) = only(render_with("monitoring"), "PodMonitor")["spec"]["podMetricsEndpoints"]
    asked.add(endpoint["path"])
    assert asked == EXEMPT
    assert asked <= PATHS


def test_the_gateway_lets_in_every_route_but_probes_and_metrics() -> None:
    closed = {path for path in PATHS if routed(re.sub(r"{[^}]+}", "x", path)) is None}
    assert closed == EXEMPT


def test_the_gateway_waits_longer_than_any_deadline_and_for_streams_without_end() -> None:
    def wait(path: str) -> str:
        rule = routed(path)
        assert rule is not None
        text: str = rule["timeouts"]["request"]
        return text

    assert wait("/v1/clips") == wait("/v1/live/keypoints") == "0s"
    for path in ("/v1/images", "/v1/lift"):
        assert float(wait(path).removesuffix("s")) > Settings().max_deadline_ms / 1000


def test_the_gateway_sends_to_the_service_of_the_base() -> None:
    service = only(render(BASE), "Service")
    for rule in only(render_with("gateway"), "HTTPRoute")["spec"]["rules"]:
        (backend,) = rule["backendRefs"]
        assert backend["name"] == service["metadata"]["name"]
        assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]


def test_keda_scales_well_before_a_queue_or_the_streams_are_full() -> None:
    settings = Settings()
    queue, streams = KEDA["triggers"]
    assert float(queue["metadata"]["threshold"]) == QUEUE_SHARE * settings.queue_rows
    assert float(streams["metadata"]["threshold"]) == STREAM_SHARE * settings.live_streams
    assert KEDA["scaleTargetRef"]["name"] == only(render(BASE), "Deployment")["metadata"]["name"]


def test_the_two_autoscalers_and_kserve_scale_on_the_same_numbers() -> None:
    thresholds = [trigger["metadata"]["threshold"] for trigger in KEDA["triggers"]]
    assert [metric["pods"]["target"]["averageValue"] for metric in HPA["metrics"]] == thresholds
    queries = [(trigger["metadata"]["query"], trigger["metadata"]["threshold"]) for trigger in KEDA["triggers"]]
    externals = [metric["external"] for metric in PREDICTOR["autoScaling"]["metrics"]]
    assert [(external["metric"]["query"], external["target"]["value"]) for external in externals] == queries
    assert KEDA["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == HPA["behavior"]
    counts = (KEDA["minReplicaCount"], KEDA["maxReplicaCount"])
    assert (HPA["minReplicas"], HPA["maxReplicas"]) == counts
    assert (PREDICTOR["minReplicas"], PREDICTOR["maxReplicas"]) == counts


def test_replicas_go_one_by_one_and_only_after_a_quiet_time() -> None:
    down = HPA["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 300
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]


@pytest.mark.parametrize("component", ["keda", "hpa"])
def test_an_autoscaler_owns_the_number_of_replicas(component: str) -> None:
    assert "replicas" not in only(render_with(component), "Deployment")["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda folder: folder.name)
def test_an_overlay_has_at_most_one_autoscaler_and_its_queries_look_into_its_namespace(overlay: Path) -> None:
    manifests = render(overlay)
    scalers = [manifest for manifest in manifests if manifest["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    assert len(scalers) <= 1
    for scaler in scalers:
        for trigger in scaler["spec"]["triggers"]:
            assert f'namespace="{scaler["metadata"]["namespace"]}"' in trigger["metadata"]["query"]


def test_kserve_runs_the_pod_of_the_base_in_place_of_the_deployment() -> None:
    kinds = [manifest["kind"] for manifest in render_with("kserve")]
    assert "Deployment" not in kinds
    assert "Service" not in kinds
    pod: dict[str, Any] = dict(only(render(BASE), "Deployment")["spec"]["template"]["spec"])
    assert {name: PREDICTOR.get(name) for name in pod if name != "containers"} == {
        name: value for name, value in pod.items() if name != "containers"
    }
    (container,) = PREDICTOR["containers"]
    # The generated name of the ConfigMap and the image's tag arrive here as well.
    assert container == container_of(render(BASE)) | {"name": "kserve-container"}
    assert PREDICTOR["deploymentStrategy"] == only(render(BASE), "Deployment")["spec"]["strategy"]
    assert PREDICTOR["labels"].items() >= {"app.kubernetes.io/name": "poselift"}.items()
