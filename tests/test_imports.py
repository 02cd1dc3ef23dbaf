"""Who may import whom: the arrows of the layout, read from the source without running it.

A layer is a file or folder of `service`, or one file in a folder (`media.drawing`). What is not in ARROWS is forbidden.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("service", "training", "benchmarks", "tests")

# Everybody may import errors and people, and a folder's files each other (but batching's). The longest name that fits a
# file is its entry.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "people": set(),
    "settings": set(),
    "logs": set(),
    "metrics": set(),
    # As metrics: whoever counts a batch or a request may tell its span. It alone knows OpenTelemetry.
    "tracing": set(),
    "geometry": set(),
    "networks": set(),
    "store": set(),
    "media": set(),
    "media.drawing": {"media", "geometry"},
    "media.scene": {"media", "geometry"},
    # Films come in planes, which crops are cut out of: docs/decisions/2026-11-27-planes.md.
    "media.decoded": {"media", "geometry.planes"},
    "media.videos": {"media", "geometry.planes"},
    "formats": {"geometry"},
    "engines": {"geometry", "metrics"},
    "importing": {"networks", "engines", "store"},
    "batching.policy": set(),
    "batching.batcher": {"batching.policy", "engines.engine", "engines.device", "metrics", "tracing"},
    "batching.scheduler": {
        "batching.policy",
        "batching.batcher",
        "engines.engine",
        "engines.device",
        "metrics",
        "tracing",
    },
    # engines.framing for the rows, which are what a pipeline speaks in; it brings no runtime.
    "pipelines": {"batching", "geometry", "media", "metrics", "engines.framing"},
    # geometry.cameras for the type in the answer that it writes.
    "api": {
        "pipelines",
        "media",
        "formats",
        "geometry.skeletons",
        "geometry.cameras",
        "store.manifest",
        "metrics",
        "tracing",
        "logs",
    },
    # A model of the store becomes a warm engine: the part of assembly that needs no service.
    "loading": {"engines", "networks", "store.manifest", "settings"},
    "assembly": {
        "loading",
        "batching",
        "engines",
        "networks",
        "pipelines",
        "store",
        "geometry",
        "media",
        "metrics",
        "tracing",
        "settings",
        "logs",
    },
    # pipelines for the options and calls of `predict` and `lift`, store for `models`.
    # What the engines find on this machine: their libraries and devices.
    "doctor": {"engines", "settings", "store", "tracing"},
    "cli": {"doctor", "assembly", "api", "settings", "importing", "formats", "media", "logs", "pipelines", "store"},
    "__main__": {"cli"},
}
ONLY_AS_TYPES = {"api": {"assembly", "settings"}}
# What a layer may use beside the standard library and numpy; others are free.
PACKAGES: dict[str, set[str]] = {
    "errors": set(),
    "people": set(),
    "geometry": {"cv2"},
    "networks": {"torch", "torchvision"},
    "store": {"safetensors"},
    "batching": set(),
    "pipelines": set(),
}
PURE = [f"pipelines.{name}" for name in ("tracking", "colours", "windows", "smoothing", "swaps", "world")]
TORCH = {"networks", "engines", "importing"}
# The device has the one await between the loop and its thread; assembly starts and ends it all, cli runs it.
ASYNC = {"batching.batcher", "batching.scheduler", "pipelines", "api", "engines.device", "assembly", "cli"}


@dataclass(frozen=True)
class Import:
    """One module imports another; `as_type` where only the type checker does."""

    by: str
    name: str
    as_type: bool


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*tops: str, root: Path = ROOT) -> dict[str, ast.Module]:
    """All modules under the folders, by dotted name."""
    paths = [path for top in tops for path in sorted((root / top).rglob("*.py"))]
    return {module_of(path, root): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def imports(name: str, tree: ast.Module, root: Path = ROOT) -> Iterator[Import]:
    """Every import of a module, wherever it stands in the file, relative ones resolved."""
    package = name if (root / name.replace(".", "/")).is_dir() else name.rpartition(".")[0]
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [
                f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}", root) else base for alias in node.names
            ]
        yield from (Import(name, each, id(node) in for_types) for each in names)


def is_module(name: str, root: Path) -> bool:
    path = root / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def layer_of(name: str) -> str:
    """The longest entry of ARROWS that a module of service falls under."""
    parts = name.split(".")[1:]
    fitting = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((each for each in fitting if each in ARROWS), ".".join(parts))


def within(name: str, layers: set[str]) -> bool:
    inner = name.removeprefix("service.")
    return any(inner == layer or inner.startswith(f"{layer}.") for layer in layers)


def forbidden(tree_by_name: dict[str, ast.Module], root: Path = ROOT) -> list[str]:
    """The imports among service's own modules for which there is no arrow."""
    found = []
    for name, tree in tree_by_name.items():
        layer = layer_of(name)
        allowed = ARROWS.get(layer, set()) | {"errors", "people"}
        folder = layer.split(".")[0]
        if folder != "batching":
            allowed = allowed | {folder}
        for each in imports(name, tree, root):
            if each.name.split(".")[0] not in OURS or each.name in ("service", name):
                continue
            typed = ONLY_AS_TYPES.get(folder, set()) if each.as_type else set()
            if not each.name.startswith("service.") or not within(each.name, allowed | typed):
                found.append(f"{name} imports {each.name}")
    return found


SERVICE = sources("service")


def users_of(package: str, trees: dict[str, ast.Module]) -> set[str]:
    return {name for name, tree in trees.items() for each in imports(name, tree) if each.name.split(".")[0] == package}


def test_service_follows_the_arrows() -> None:
    assert len(SERVICE) > 50
    assert forbidden(SERVICE) == []


def test_every_file_has_its_place_in_the_layout() -> None:
    places = {layer_of(name) for name in SERVICE if name != "service"}
    folders = {"batching"}  # its files have entries of their own
    assert places - set(ARROWS) - folders == set()


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("service.geometry.boxes", "from service.media import pictures", "service.media.pictures"),
        ("service.geometry.boxes", "def f():\n    import service.engines.engine", "service.engines.engine"),
        ("service.batching.policy", "from . import batcher", "service.batching.batcher"),
        ("service.batching.policy", "from .batcher import Batcher", "service.batching.batcher"),
        ("service.pipelines.photo", "from ..api import images", "service.api.images"),
        (
            "service.pipelines.photo",
            "from service.engines.torch_engine import torch_infer",
            "service.engines.torch_engine",
        ),
        ("service.api.images", "from service.assembly import Service", "service.assembly"),
        ("service.media.pictures", "import service.geometry.boxes", "service.geometry.boxes"),
        ("service.errors", "from service import settings", "service.settings"),
        ("service.assembly", "from training import loop", "training"),
        ("service.store.store", "import tests.conftest", "tests.conftest"),
    ],
)
def test_an_import_against_the_arrows_is_told(name: str, line: str, complaint: str) -> None:
    told = forbidden({name: ast.parse(line)})
    assert len(told) == 1 and told[0].startswith(f"{name} imports {complaint}")


def test_imports_along_the_arrows_are_not_told() -> None:
    fine = {
        "service.pipelines.photo": "from service.batching.batcher import Batcher\nfrom .lift import LiftPipeline",
        "service.api.images": "if TYPE_CHECKING:\n    from service.assembly import Service",
        "service.media.drawing": "from service.geometry import skeletons\nfrom service import people",
        "service.batching.scheduler": "import numpy\nfrom .policy import Line",
    }
    assert forbidden({name: ast.parse(text) for name, text in fine.items()}) == []


def test_errors_import_nothing_at_all() -> None:
    assert {each.name for each in imports("service.errors", SERVICE["service.errors"])} == {"__future__"}


def test_training_and_benchmarks_leave_command_line_and_api_alone() -> None:
    for name, tree in sources("training", "benchmarks").items():
        for each in imports(name, tree):
            assert not within(each.name, {"cli", "api"}) or not each.name.startswith("service."), f"{name}: {each.name}"


def test_nobody_imports_training_benchmarks_or_tests() -> None:
    for name, tree in sources("service", "training", "benchmarks").items():
        here = name.split(".")[0]
        for each in imports(name, tree):
            top = each.name.split(".")[0]
            assert top not in ("training", "benchmarks", "tests") or top == here, f"{name} imports {each.name}"


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_torch_lives_in_networks_engines_and_importing(package: str) -> None:
    assert [name for name in users_of(package, SERVICE) if not within(name, TORCH)] == []


def test_openvino_lives_in_engines() -> None:
    users = users_of("openvino", sources("service", "training", "benchmarks"))
    # What is measured beside the engines may not be served: a form that lost too much, or the network behind a peer.
    measured = {"benchmarks.precisions", "benchmarks.peers.engine_file", "benchmarks.peers.servers.peer_network"}
    assert [name for name in users if not within(name, {"engines"}) and name not in measured] == []


def test_opentelemetry_lives_in_tracing() -> None:
    assert users_of("opentelemetry", SERVICE) == {"service.tracing"}


def test_layers_use_no_packages_beside_their_own() -> None:
    strangers = []
    for name, tree in SERVICE.items():
        layer = layer_of(name).split(".")[0]
        if layer not in PACKAGES:
            continue
        known = PACKAGES[layer] | {"numpy", *OURS, *sys.stdlib_module_names}
        strangers += [f"{name}: {each.name}" for each in imports(name, tree) if each.name.split(".")[0] not in known]
    assert strangers == []


def test_only_the_queue_the_pipelines_and_the_doors_are_async() -> None:
    async_nodes = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    users = {name for name, tree in SERVICE.items() if any(isinstance(node, async_nodes) for node in ast.walk(tree))}
    users |= users_of("asyncio", SERVICE)
    assert [name for name in users if not within(name, ASYNC)] == []
    assert [name for name in users if within(name, set(PURE) | {"batching.policy"})] == []


def test_pure_files_know_numpy_and_geometry_alone() -> None:
    known = {"numpy", *sys.stdlib_module_names} - {"asyncio", "threading", "time", "socket"}
    for name in PURE:
        tree = SERVICE.get(f"service.{name}")
        for each in imports(f"service.{name}", tree) if tree else ():
            ours = within(each.name, {"geometry", "errors", "people", *PURE})
            assert each.name.split(".")[0] in known or ours, each


def loaded_by(statement: str) -> set[str]:
    """Top-level modules of a fresh interpreter after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_what_needs_no_network_starts_without_torch() -> None:
    light = [
        name
        for name in SERVICE
        if not within(name, TORCH | {"assembly", "loading", "doctor", "cli", "__main__", "batching.scheduler"})
    ]
    light += ["service.engines.engine", "service.engines.framing"]
    loaded = loaded_by(f"import {', '.join(light)}")
    assert loaded & {"torch", "torchvision", "openvino", "onnx"} == set()


def test_optional_packages_are_imported_only_where_they_are_used() -> None:
    assert loaded_by("import service.assembly, service.importing.entry") & {"openvino", "onnx", "training"} == set()
