"""The rows of the paper's tables: a base recipe and what each row changes in it, from training/recipes/paper/*.toml.

A table's file names its base and lists `[[rows]]`; tables of a row are merged over the base's, deeply. Rows whose
recipes are equal are one training, whichever tables they stand in. Knows no network and no data.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.networks.attention import place_attention
from service.networks.hrnet import BLOCKS, BRANCHES, MODULES

FOLDER = Path(__file__).parents[1] / "recipes" / "paper"
TABLES = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "forms", "losses", "modules")
# What a row says beside its recipe.
WORDS = {"name", "label", "printed", "note", "base"}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    label: as the paper calls it. recipe: whole, merged. printed: the paper's figures by our names of them; empty where
    it prints none. note: what is different, if anything. trained: whether it is one of ours to train; the paper also
    quotes others' figures.
    """

    table: str
    name: str
    label: str
    recipe: Mapping[str, Any]
    printed: Mapping[str, Any]
    note: str = ""
    trained: bool = True

    @property
    def key(self) -> str:
        """The name of its training: equal for rows of one recipe, on whatever they are scored."""
        recipe = json.loads(json.dumps(self.recipe))
        recipe.get("takes", {}).pop("tested", None)
        network = recipe.get("network", {})
        if network.get("name", "").startswith("hrnet"):
            # Presets of several names may be the same places.
            places = place_attention(
                network.get("attention", "none"), "zero", MODULES, BRANCHES, network.get("blocks", BLOCKS)
            ).places
            network["attention"] = sorted(places)
            if not places:
                for option in ("gate", "variant", "gated"):
                    network.pop(option, None)
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        return f"{recipe['kind']}-{digest[:10]}"


@dataclass(frozen=True)
class Table:
    """figures: our names of the columns, in the printed order. primary: the one that the plot shows."""

    number: str
    title: str
    figures: tuple[str, ...]
    primary: str
    rows: tuple[Row, ...] = field(default_factory=tuple)


def read_table(number: str) -> Table:
    """A table by its number (I to X) or name; a ValueError lists those that there are."""
    if number not in TABLES:
        raise ValueError(f"there is no table {number!r}; there are {', '.join(TABLES)}")
    told = _read(FOLDER / f"table_{number}.toml")
    rows = []
    for row in told["rows"]:
        changes = {key: value for key, value in row.items() if key not in WORDS}
        trained = bool(changes.pop("trained", True))
        base = _read(FOLDER / row.get("base", told["base"]))
        recipe = merged(merged(base, told.get("all", {})), changes)
        label = row.get("label", row["name"])
        rows.append(Row(number, row["name"], label, recipe, row.get("printed", {}), row.get("note", ""), trained))
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise ValueError(f"table_{number}.toml has two rows of one name among {', '.join(names)}")
    return Table(number, told["title"], tuple(told["figures"]), told["primary"], tuple(rows))


def every_row() -> dict[str, Row]:
    """One row of each different training, by its key, in the tables' order."""
    found: dict[str, Row] = {}
    for number in TABLES:
        for row in read_table(number).rows:
            if row.trained:
                found.setdefault(row.key, row)
    return found


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, table by table; any other value replaces what was there. Both stay as they are."""
    out = dict(base)
    for key, value in changes.items():
        before = out.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        out[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return out


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)
