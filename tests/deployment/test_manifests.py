"""Every manifest that can be rendered keeps to its schema, strictly: Kubernetes' own, and its extensions' own, too.

Those of the extensions come from the types that public packages have of them (crds.json); ours beside them say what no
type does, such as the form of a duration.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from .rendering import COMPONENTS, CRDS, KUBERNETES, OVERLAYS, SCHEMAS, Manifest, everything, only, render_with

# What a predictor has beside a pod's fields.
PREDICTOR = {"labels", "minReplicas", "maxReplicas", "autoScaling", "deploymentStrategy"}
EXPECTED = 1 + len(OVERLAYS) + len(COMPONENTS)


def check(manifest: Manifest) -> None:
    """Raises a ValidationError of the schema's library."""
    kind = manifest["kind"]
    if kind not in SCHEMAS:
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
        return
    public(manifest)
    jsonschema.validate(manifest, SCHEMAS[kind] | {"$defs": SCHEMAS["$defs"]})
    if kind == "InferenceService":
        predictor = manifest["spec"]["predictor"]
        pod = {name: value for name, value in predictor.items() if name not in PREDICTOR}
        check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod})


def public(manifest: Manifest) -> None:
    """Raises a ValidationError where the packages' types do not have such a manifest."""
    jsonschema.validate(manifest, CRDS[manifest["kind"]] | {"$defs": CRDS["$defs"]})


def test_whatever_is_rendered_keeps_to_its_schema() -> None:
    rendered = list(everything())
    assert len(rendered) == EXPECTED
    for _, manifests in rendered:
        for manifest in manifests:
            check(manifest)


def test_no_two_manifests_of_an_overlay_bear_one_name() -> None:
    for name, manifests in everything():
        names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
        assert len(set(names)) == len(names), name


COMPONENT_OF = {
    "ScaledObject": "keda",
    "PodMonitor": "monitoring",
    "PrometheusRule": "monitoring",
    "HTTPRoute": "gateway",
    "InferenceService": "kserve",
}


def test_every_kind_that_is_not_kubernetes_own_is_one_that_public_packages_know() -> None:
    groups = {
        manifest["kind"]: manifest["apiVersion"].partition("/")[0]
        for _, manifests in everything()
        for manifest in manifests
    }
    # Kubernetes' own are under no domain, or under k8s.io; the Gateway API is there too.
    foreign = {kind for kind, group in groups.items() if "." in group and not group.endswith(".k8s.io")}
    assert foreign | {"HTTPRoute"} == set(COMPONENT_OF) == set(SCHEMAS) - {"$defs"}
    assert set(COMPONENT_OF) <= set(CRDS) and set(CRDS["sources"]) >= {"kserve", "@kubernetes-models/keda"}
    for schema in COMPONENT_OF:
        jsonschema.Draft202012Validator.check_schema(CRDS[schema] | {"$defs": CRDS["$defs"]})


@pytest.mark.parametrize("kind", COMPONENT_OF)
@pytest.mark.parametrize("judge", [check, public])
def test_a_field_that_its_schema_does_not_know_is_refused(kind: str, judge: Callable[[Manifest], None]) -> None:
    manifest = copy.deepcopy(only(render_with(COMPONENT_OF[kind]), kind))
    judge(manifest)
    manifest["spec"]["repicas"] = 3
    with pytest.raises(jsonschema.ValidationError, match="repicas"):
        judge(manifest)


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("ScaledObject", ["triggers", 0, "metadata", "threshold"], 64),
        (
            "ScaledObject",
            ["advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleUp", "policies", 0, "kind"],
            "Pods",
        ),
        ("PodMonitor", ["podMetricsEndpoints", 0, "timeout"], "5s"),
        ("PodMonitor", ["selector"], "poselift"),
        ("PrometheusRule", ["groups", 0, "rules", 0, "description"], "slow"),
        ("HTTPRoute", ["rules", 0, "matches", 0, "path", "type"], "Prefix"),
        ("HTTPRoute", ["rules", 0, "backendRefs", 0, "port"], "8000"),
        ("InferenceService", ["predictor", "minReplicas"], "2"),
        (
            "InferenceService",
            ["predictor", "autoScaling", "metrics", 0, "external", "metric", "address"],
            "http://here",
        ),
    ],
)
def test_what_is_wrong_deep_inside_is_refused_by_the_public_types(
    kind: str, path: list[str | int], wrong: object
) -> None:
    manifest = copy.deepcopy(only(render_with(COMPONENT_OF[kind]), kind))
    place: Any = manifest["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        public(manifest)


def test_a_misspelt_limit_of_the_pod_is_refused_inside_a_predictor_too() -> None:
    manifest = copy.deepcopy(only(render_with("kserve"), "InferenceService"))
    manifest["spec"]["predictor"]["containers"][0]["resources"]["limitz"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(manifest)
