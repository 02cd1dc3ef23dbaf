"""docs/paper.md: everything that it names exists, and its counts are the networks'."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from training.paper.cost import NETWORKS, cost, line
from training.paper.rows import TABLES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:service|training)/[\w./]+)(?:::([\w.]+))?`", PAGE)))


def names_of(path: Path) -> set[str]:
    """Top-level names of a module, and `Class.member`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{each.name}" for each in inner if isinstance(each, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_the_page_names_exists(file: str, name: str) -> None:
    path = ROOT / file
    assert path.exists(), f"there is no {file}"
    if name:
        assert name in names_of(path), f"{file} has no {name}"


def test_it_has_every_equation_figure_and_table() -> None:
    assert len(NAMED) > 25
    equations = PAGE.split("## Equations")[1].split("## Figures")[0]
    told = {int(number) for cell in re.findall(r"^\| ([\d, ]+) \|", equations, re.M) for number in cell.split(",")}
    assert told == set(range(1, 16))
    tables = PAGE.split("## Tables")[1].split("### Table VII")[0]
    assert re.findall(r"^\| ([IVX]+) \|", tables, re.M) == [t for t in TABLES if t.isupper()]
    figures = PAGE.split("## Figures")[1].split("## Tables")[0]
    assert re.findall(r"^\| (\d) \|", figures, re.M) == list("12345")


LIGHT = [costed for costed in NETWORKS if not costed.network.startswith("hrnet")]


@pytest.mark.parametrize("costed", LIGHT, ids=lambda costed: costed.label)
def test_a_lifters_line_of_the_counts_is_true(costed: tuple[str, ...]) -> None:
    assert line(costed) in PAGE  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("costed", [c for c in NETWORKS if c not in LIGHT], ids=lambda costed: costed.label)
def test_a_detectors_line_of_the_counts_is_true(costed: tuple[str, ...]) -> None:
    assert line(costed) in PAGE  # type: ignore[arg-type]


def test_operations_are_counted_as_multiply_additions() -> None:
    """VideoPose3D of 3 frames: one convolution over frames (34 x 3 to 8), and the last one (8 to 51)."""
    parameters, operations = cost("videopose3d", {"frames": 3, "channels": 8}, (1, 3, 17, 2))
    assert operations == 34 * 3 * 8 + 8 * 51
    assert parameters == 34 * 3 * 8 + 2 * 8 + 8 * 51 + 51
