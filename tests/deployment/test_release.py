"""What a release is made of: its version, its changelog section, its tags, and a bill of materials that is whole."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "docker/release.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_section_of_a_version_is_its_own_lines_alone(release: ModuleType) -> None:
    text = "# Changelog\n\n## Unreleased\n\n## 1.2.0 (2026-11-25)\n### Added\n- b\n\n## 1.1.0\n- a\n"
    assert release.changelog_section(text, "1.2.0") == "### Added\n- b\n"
    assert release.changelog_section(text, "1.1.0") == "- a\n"
    for missing in ("1.3.0", "1.2", "Unreleased"):
        with pytest.raises(SystemExit, match="no section"):
            release.changelog_section(text, missing)


def test_the_images_are_named_by_version_and_line(release: ModuleType) -> None:
    assert release.image_tags("1.2.3", "registry.example/team/") == [
        f"registry.example/team/poselift:{tag}" for tag in ("1.2.3-cpu", "1.2.3-cuda", "1.2-cpu", "1.2-cuda", "1.2.3")
    ]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_bill_of_materials_names_every_package_and_model_and_is_the_same_each_time(
    release: ModuleType, target: str
) -> None:
    files = ["cpu"] if target == "cpu" else ["cuda", "torch-cuda"]
    lock = "".join((ROOT / f"docker/requirements-{name}.lock").read_text() for name in files)
    packages, torch = release.packages_of(target)
    assert len(packages) == sum(not line.startswith("#") for line in lock.splitlines())
    assert set(torch) == ({"torch", "torchvision"} if target == "cpu" else set())
    models = release.models(ROOT / "model_store")
    first, second = (release.sbom("1.0.0", packages, torch, models) for _ in range(2))
    assert first == second
    bill = json.loads(first)
    assert len(bill["components"]) == len(packages) + len(torch) + len(models)
    names = {component["name"] for component in bill["components"]}
    assert {"torch", "fastapi", "pillow"} <= names
    assert {"rtmdet-nano", "lite-hrnet", "lite-hrnet-public", "lift-1", "lift-27"} <= names
    refs = [component["bom-ref"] for component in bill["components"]]
    assert bill["dependencies"][0]["dependsOn"] == refs and len(set(refs)) == len(refs)


def test_the_bill_of_materials_is_cyclonedx(release: ModuleType) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    packages = release.pinned((ROOT / "docker/requirements-cpu.lock").read_text())
    text = release.sbom("1.0.0", packages, {"torch": "2.14.1"}, release.models(ROOT / "model_store"))
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text) is None
