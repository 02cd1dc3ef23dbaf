"""Every manifest that can be rendered keeps to its schema, strictly: Kubernetes' own, and ours for its extensions."""

from __future__ import annotations

import copy

import jsonschema
import kubernetes_validate
import pytest

from .rendering import COMPONENTS, KUBERNETES, OVERLAYS, SCHEMAS, Manifest, everything, only, render_with

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
    jsonschema.validate(manifest, SCHEMAS[kind] | {"$defs": SCHEMAS["$defs"]})
    if kind == "InferenceService":
        predictor = manifest["spec"]["predictor"]
        pod = {name: value for name, value in predictor.items() if name not in PREDICTOR}
        check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod})


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


@pytest.mark.parametrize("kind", ["ScaledObject", "PodMonitor", "PrometheusRule", "HTTPRoute", "InferenceService"])
def test_our_schemas_refuse_a_field_that_they_do_not_know(kind: str) -> None:
    component = {
        "ScaledObject": "keda",
        "PodMonitor": "monitoring",
        "PrometheusRule": "monitoring",
        "HTTPRoute": "gateway",
        "InferenceService": "kserve",
    }[kind]
    manifest = copy.deepcopy(only(render_with(component), kind))
    check(manifest)
    manifest["spec"]["repicas"] = 3
    with pytest.raises(jsonschema.ValidationError, match="repicas"):
        check(manifest)


def test_a_misspelt_limit_of_the_pod_is_refused_inside_a_predictor_too() -> None:
    manifest = copy.deepcopy(only(render_with("kserve"), "InferenceService"))
    manifest["spec"]["predictor"]["containers"][0]["resources"]["limitz"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(manifest)
