"""Recipes: one TOML file says everything about a run. Reads them into the tasks' own dataclasses, strictly."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe; a file that is none is a ValueError that names it."""
    with path.open("rb") as file:
        recipe = tomllib.load(file)
    if "kind" not in recipe or "network" not in recipe:
        raise ValueError(f"{path} is no recipe: it lacks `kind` or `[network]`")
    return recipe


def section(recipe: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A table of the recipe as a dataclass; an unknown key is a ValueError that lists the known ones."""
    return _filled(recipe.get(name, {}), f"[{name}]", kind)


def sections(recipe: Mapping[str, Any], name: str, kind: type[T]) -> tuple[T, ...]:
    """A list of tables of the recipe (`[[name]]`), each as `section` reads one."""
    return tuple(_filled(table, f"[[{name}]]", kind) for table in recipe.get(name, []))


def _filled(table: Mapping[str, Any], name: str, kind: type[T]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - known)
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return kind(**{key: _frozen(value) for key, value in table.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
