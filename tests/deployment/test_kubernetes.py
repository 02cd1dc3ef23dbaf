"""The pods as they are rendered: probes, grace arithmetic, security, devices, and what overlays change of the base."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from service.api.access import EXEMPT
from service.api.lifecycle import LAST_WORDS_S, NET_S
from service.settings import PREFIX, Settings

from .rendering import BASE, COMPONENTS, OVERLAYS, ROOT, Manifest, container_of, load, only, render, render_with

RENDERED = render(BASE)
DEPLOYMENT = only(RENDERED, "Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER = container_of(RENDERED)
SETTINGS = only(RENDERED, "ConfigMap")["data"]
PROBES = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
BYTES = {"Mi": 2**20, "Gi": 2**30}


def in_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * BYTES[unit]


def settings_of(manifests: tuple[Manifest, ...]) -> Settings:
    """The settings that a pod starts with: its ConfigMap over the defaults."""
    values: dict[str, Any] = only(manifests, "ConfigMap")["data"]
    return Settings.model_validate({name.removeprefix(PREFIX).lower(): value for name, value in values.items()})


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS, *COMPONENTS], ids=lambda folder: folder.name)
def test_every_file_of_a_folder_is_named_by_its_kustomization(folder: Path) -> None:
    kustomization = load(folder / "kustomization.yaml")
    named = [*kustomization.get("resources", []), *kustomization.get("configurations", [])]
    named += [patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
    named += [file for made in kustomization.get("configMapGenerator", []) for file in made.get("files", [])]
    files = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    assert files == {name for name in named if "/" not in name}


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_every_setting_that_is_deployed_is_one_and_its_value_is_taken(folder: Path) -> None:
    settings = settings_of(render(folder))  # unknown names and bad values are refused
    cpus = int(container_of(render(folder))["resources"]["requests"]["cpu"])
    assert 0 < settings.threads <= cpus


@pytest.mark.parametrize(("probe", "path"), PROBES.items())
def test_each_probe_names_an_open_path_and_its_own_time_limit(probe: str, path: str) -> None:
    asked = CONTAINER[probe]
    assert asked["httpGet"] == {"path": path, "port": "http"}
    assert path in EXEMPT  # probes hold no key and come by pod address
    # Kubernetes' default of one second kills busy pods.
    assert 1 < asked["timeoutSeconds"] <= asked["periodSeconds"]


def test_the_start_has_minutes_and_a_busy_pod_has_a_minute_before_it_is_killed() -> None:
    startup, liveness = CONTAINER["startupProbe"], CONTAINER["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


def test_a_pod_that_drains_is_unready_before_its_port_closes() -> None:
    readiness = CONTAINER["readinessProbe"]
    waits = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"] + float(SETTINGS["POSELIFT_DRAIN_DELAY_S"])
    assert waits >= readiness["periodSeconds"] * readiness["failureThreshold"]


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_the_grace_holds_pre_stop_and_the_whole_drain_with_a_margin(folder: Path) -> None:
    pod = only(render(folder), "Deployment")["spec"]["template"]["spec"]
    pre_stop = container_of(render(folder))["lifecycle"]["preStop"]["sleep"]["seconds"]
    settings = settings_of(render(folder))
    drain = settings.drain_delay_s + settings.drain_grace_s + LAST_WORDS_S + NET_S
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + drain + 5


def test_the_drain_that_is_deployed_is_the_one_of_the_defaults() -> None:
    assert float(SETTINGS["POSELIFT_DRAIN_DELAY_S"]) == Settings().drain_delay_s
    assert float(SETTINGS["POSELIFT_DRAIN_GRACE_S"]) == Settings().drain_grace_s


def test_the_pod_has_no_rights_that_it_does_not_use() -> None:
    (uid,) = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == pod["runAsGroup"] == int(uid)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False
    account = only(RENDERED, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert POD["serviceAccountName"] == account["metadata"]["name"]


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_the_keys_are_a_secrets_file_that_must_be_there_and_may_change_under_way(folder: Path) -> None:
    manifests = render(folder)
    spec = only(manifests, "Deployment")["spec"]["template"]["spec"]
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "keys")
    assert volume["secret"]["secretName"] == "poselift-keys" and not volume["secret"].get("optional")
    # The group that may read it is the one that the pod's files get.
    assert volume["secret"]["defaultMode"] == 0o440 and spec["securityContext"]["fsGroup"] == 10001
    (mount,) = (mount for mount in container_of(manifests)["volumeMounts"] if mount["name"] == "keys")
    assert mount["readOnly"] and "subPath" not in mount  # which would never see a change
    assert settings_of(manifests).key_file == Path(mount["mountPath"]) / "keys"


def test_tmp_can_be_written_to_and_holds_several_of_the_largest_clips() -> None:
    (mount,) = (mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "tmp")
    (volume,) = (volume for volume in POD["volumes"] if volume["name"] == "tmp")
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/tmp")
    # Over it a pod is evicted with everybody in it: clips that lie there, and files being made of some, stay below.
    made_files = 4 * 2 * Settings().max_spool_mb
    assert in_bytes(volume["emptyDir"]["sizeLimit"]) >= (Settings().max_clips_mb + made_files) * 2**20


def test_the_cluster_sets_no_variable_that_looks_like_a_setting() -> None:
    # A Service named poselift puts POSELIFT_PORT=tcp://... into every pod that has service links.
    assert POD["enableServiceLinks"] is False


def test_all_that_selects_pods_selects_these() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items()
    budget, policy = only(RENDERED, "PodDisruptionBudget")["spec"], only(RENDERED, "NetworkPolicy")["spec"]
    for selector in (
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        only(RENDERED, "Service")["spec"]["selector"],
        budget["selector"]["matchLabels"],
        policy["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in POD["topologySpreadConstraints"]),
        only(render_with("monitoring"), "PodMonitor")["spec"]["selector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels
    assert budget["maxUnavailable"] == 1


def test_replicas_are_spread_over_nodes_and_zones_but_never_kept_from_running() -> None:
    spreads = {spread["topologyKey"]: spread for spread in POD["topologySpreadConstraints"]}
    assert spreads.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert {spread["whenUnsatisfiable"] for spread in spreads.values()} == {"ScheduleAnyway"}


def test_only_the_port_can_be_reached_and_nothing_is_reached_from_the_pod() -> None:
    policy = only(RENDERED, "NetworkPolicy")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert not policy.get("egress")
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert rule["from"] == [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"poselift-access": "true"}}},
    ]


def test_every_port_is_the_one_that_the_image_exposes_and_the_settings_open() -> None:
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert int(exposed) == Settings().port
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": int(exposed)}]
    assert annotations["prometheus.io/port"] == exposed
    assert annotations["prometheus.io/path"] in EXEMPT
    (port,) = only(RENDERED, "Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (int(exposed), "http")


@pytest.mark.parametrize(
    ("manifests", "image", "resource"),
    [
        (RENDERED, "poselift:cuda", "nvidia.com/gpu"),
        (render_with("gpu"), "poselift:cuda", "nvidia.com/gpu"),
        (render_with("mig"), "poselift:cuda", "nvidia.com/mig-1g.10gb"),
        (render_with("cpu"), "poselift:cpu", None),
    ],
    ids=["base", "gpu", "mig", "cpu"],
)
def test_each_flavour_asks_for_its_one_device(
    manifests: tuple[Manifest, ...], image: str, resource: str | None
) -> None:
    container, pod = container_of(manifests), only(manifests, "Deployment")["spec"]["template"]["spec"]
    limits = container["resources"]["limits"]
    assert {name: count for name, count in limits.items() if "nvidia" in name} == ({resource: 1} if resource else {})
    assert container["image"] == image
    assert only(manifests, "ConfigMap")["data"]["POSELIFT_DEVICE"] == ("cuda" if resource else "cpu")
    assert ("tolerations" in pod) is bool(resource)
    assert in_bytes(container["resources"]["requests"]["memory"]) < in_bytes(limits["memory"])


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_a_changed_setting_rolls_the_pods(folder: Path) -> None:
    name = only(render(folder), "ConfigMap")["metadata"]["name"]
    assert re.fullmatch(r"poselift-settings-\w+", name)
    assert container_of(render(folder))["envFrom"] == [{"configMapRef": {"name": name}}]


def test_every_setting_that_is_deployed_stands_in_the_operators_page() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(ROOT / "k8s").rglob("*.yaml")]
    names = {name for file in files for name in re.findall(r"POSELIFT_([A-Z_]+)", file.read_text())}
    assert "DRAIN_GRACE_S" in names
    assert [name for name in sorted(names) if f"`{name.lower()}`" not in page] == []
