"""`make release`: what a release consists of, into dist/: wheel, SBOM, changelog section, image tags. Uploads nothing.

The version is pyproject.toml's alone. Refuses a changelog without a section for it, and a store that is not whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def version() -> str:
    """From the one place where it stands."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def changelog_section(text: str, of: str) -> str:
    """The lines below `## <of>`, up to the next section. Raises SystemExit if there are none."""
    match = re.search(rf"^## \[?{re.escape(of)}\]?(?: [^\n]*)?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if match is None or not match[1].strip():
        raise SystemExit(f"CHANGELOG.md has no section `## {of}`: rename `## Unreleased` to it, and begin a new one")
    return match[1].strip() + "\n"


def pinned(lock: str) -> list[tuple[str, str, str]]:
    """(name, version, SHA-256) of each line of a lock file."""
    return re.findall(r"^([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", lock, re.MULTILINE)


def models(store: Path) -> list[dict[str, Any]]:
    """The manifests of the model store, each with the folder's own reading of it."""
    manifests = sorted(store.glob("*/*/manifest.toml"))
    return [tomllib.loads(path.read_text()) for path in manifests]


def sbom(of: str, packages: list[tuple[str, str, str]], torch: dict[str, str], store: list[dict[str, Any]]) -> str:
    """CycloneDX 1.6 as JSON: the packages of the image, and the models as what they are.

    Args:
        torch: name to version of what is pinned without a hash.
        store: manifests, see `models`.
    """
    components: list[dict[str, Any]] = [
        {
            "type": "library",
            "name": name,
            "version": number,
            "purl": f"pkg:pypi/{name}@{number}",
            "bom-ref": f"pkg:pypi/{name}@{number}",
            **({"hashes": [{"alg": "SHA-256", "content": sha256}]} if sha256 else {}),
        }
        for name, number, sha256 in [*packages, *((name, number, "") for name, number in torch.items())]
    ]
    components += [
        {
            "type": "machine-learning-model",
            "name": manifest["name"],
            "version": str(manifest["version"]),
            "bom-ref": f"model:{manifest['name']}@{manifest['version']}",
            "hashes": [{"alg": "SHA-256", "content": manifest["weights"]["sha256"]}],
            "licenses": [{"license": {"name": manifest["weights"]["licence"]}}],
        }
        for manifest in store
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # Of the content, so that the same release has the same number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([of, components], sort_keys=True))}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "poselift",
                "version": of,
                "bom-ref": f"pkg:pypi/poselift@{of}",
                "purl": f"pkg:pypi/poselift@{of}",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": f"pkg:pypi/poselift@{of}", "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def torch_pins(dockerfile: str) -> dict[str, str]:
    names = {"torch": "TORCH_VERSION", "torchvision": "TORCHVISION_VERSION"}
    return {name: re.findall(rf"^ARG {arg}=(\S+)$", dockerfile, re.MULTILINE)[0] for name, arg in names.items()}


def packages_of(target: str) -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """Of an image: what is pinned with a hash, as `pinned` has it, and name to version of what is without."""
    packages = pinned((ROOT / f"docker/requirements-{target}.lock").read_text())
    if target == "cuda":
        return [*packages, *pinned((ROOT / "docker/requirements-torch-cuda.lock").read_text())], {}
    return packages, torch_pins((ROOT / "Dockerfile").read_text())


def image_tags(of: str, registry: str) -> list[str]:
    """What the images are called: the version and its minor line; the CPU's, the default, also without a suffix."""
    minor = of.rsplit(".", 1)[0]
    name = f"{registry.rstrip('/')}/poselift" if registry else "poselift"
    return [f"{name}:{tag}" for tag in (f"{of}-cpu", f"{of}-cuda", f"{minor}-cpu", f"{minor}-cuda", of)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="docker/release.py", description=__doc__)
    parser.add_argument("--registry", default="", help="that the images' names begin with")
    given = parser.parse_args()
    of = version()
    section = changelog_section((ROOT / "CHANGELOG.md").read_text(), of)
    subprocess.run([sys.executable, "-m", "service", "models", "check"], cwd=ROOT, check=True)
    DIST.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(DIST)], check=True
    )
    wheel = DIST / f"poselift-{of}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        inside = [name for name in opened.namelist() if name.endswith("weights.safetensors")]
    for target in ("cpu", "cuda"):
        packages, by_version = packages_of(target)
        text = sbom(of, packages, by_version, models(ROOT / "model_store"))
        (DIST / f"poselift-{of}-{target}.cdx.json").write_text(text)
    (DIST / f"CHANGELOG-{of}.md").write_text(section)
    tags = image_tags(of, given.registry)
    (DIST / f"images-{of}.txt").write_text("\n".join(tags) + "\n")
    files = sorted(path for path in DIST.iterdir() if of in path.name and path.suffix != ".sha256")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    (DIST / f"poselift-{of}.sha256").write_text("\n".join(sums) + "\n")
    print(f"poselift {of}: {wheel.stat().st_size / 2**20:.1f} MB with {len(inside)} models; in dist/:")
    for path in files:
        print(f"  {path.name}")


if __name__ == "__main__":
    main()
