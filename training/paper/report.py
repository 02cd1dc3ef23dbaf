"""A table's rows beside the paper's: for the terminal, as Markdown, as JSON, and as a plot (SVG). Knows no network.

Ours are measured or absent; printed figures are the paper's, as printed. Nothing is rounded in the JSON.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .rows import Row, Table

NOTHING = "-"
COCOS = re.compile(r"(^|_)a[pr](\d+|_\w+)?$")  # ap, ar50, ap_large, hidden_ap: -1 (here -100) where nothing is labelled
BAR_PX, ROW_PX, LABEL_PX = 420, 34, 260


def figure_of(figures: Mapping[str, Any], name: str) -> float | None:
    """A figure by its name; `p1.Walking` is of one action. None where there is none, and for COCO's -1."""
    value: Any = figures.get(name)
    if value is None and "." in name:
        figure, action = name.split(".", 1)
        value = figures.get("actions", {}).get(action, {}).get(figure)
    return None if value is None or (COCOS.search(name) and value < 0) else float(value)


def _cell(value: float | None, name: str, spread: float = 0.0) -> str:
    if value is None:
        return NOTHING
    digits = 2 if name in ("params", "velocity") else 1
    return f"{value:.{digits}f} ± {spread:.{digits}f}" if spread else f"{value:.{digits}f}"


def _both(row: Row, ours: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """A cell: ours, with its spread over seeds where there are several, and the printed one."""
    told = ours.get(row.name, {})
    mine = _cell(figure_of(told, name), name, float(told.get("spread", {}).get(name, 0.0)))
    return f"{mine} ({_cell(figure_of(row.printed, name), name)})"


def markdown(table: Table, ours: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a row; each figure as `ours (printed)`.

    Args:
        ours: figures by the row's name, for those that were run.
    """
    lines = [
        f"# {table.title}",
        "",
        "Each figure: ours (printed); ± is the standard deviation over seeds. A dash: not run here, or not printed.",
        "",
    ]
    lines.append("| row | " + " | ".join(table.figures) + " | remark |")
    lines.append("| --- |" + " --- |" * (len(table.figures) + 1))
    for row in table.rows:
        cells = [_both(row, ours, name) for name in table.figures]
        lines.append(f"| {row.label} | " + " | ".join(cells) + f" | {_remark(row, ours)} |")
    return "\n".join(lines) + "\n"


def _remark(row: Row, ours: Mapping[str, Mapping[str, Any]]) -> str:
    told = ours.get(row.name, {})
    trained = f"{told['steps']:,} steps" if told.get("steps") else ""
    if "seeds" in told:
        trained = f"{trained}, {told['seeds']} seeds"
    return "; ".join(part for part in (row.note, str(told.get("missing", "")), trained) if part)


def terminal(table: Table, ours: Mapping[str, Mapping[str, Any]]) -> str:
    """The same for a terminal; of the actions' columns only the mean is shown."""
    names = [name for name in table.figures if "." not in name]
    head = ["row", *names]
    body = []
    for row in table.rows:
        cells = [_both(row, ours, name) for name in names]
        body.append([row.label, *cells, _remark(row, ours)])
    widths = [max(len(line[n]) for line in (head, *body)) for n in range(len(head))]
    lines = [table.title, "  ".join(cell.ljust(width) for cell, width in zip(head, widths, strict=True))]
    for line in body:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        lines.append("  ".join([*cells, line[-1]]).rstrip())
    return "\n".join([*lines, "ours (printed)"])


def as_json(table: Table, ours: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        {
            "name": row.name,
            "label": row.label,
            "training": row.key if row.trained else None,
            "ours": dict(ours.get(row.name, {})) or None,
            "printed": dict(row.printed) or None,
            "note": row.note,
        }
        for row in table.rows
    ]
    return json.dumps({"table": table.number, "title": table.title, "rows": rows}, indent=1) + "\n"


def plot(table: Table, ours: Mapping[str, Mapping[str, Any]]) -> str:
    """An SVG of the primary figure: a bar for ours, one for the printed value, a row each."""
    name = table.primary
    pairs = [(row, figure_of(ours.get(row.name, {}), name), figure_of(row.printed, name)) for row in table.rows]
    pairs = [(row, mine, theirs) for row, mine, theirs in pairs if mine is not None or theirs is not None]
    most = max([value for _, *values in pairs for value in values if value is not None], default=1.0) or 1.0
    height = 44 + ROW_PX * len(pairs)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL_PX + BAR_PX + 70}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="18" font-weight="bold">{html.escape(table.title)}</text>',
        f'<text x="8" y="36" fill="#555">{name}: ours dark, printed light</text>',
    ]
    for number, (row, mine, theirs) in enumerate(pairs):
        top = 44 + ROW_PX * number
        parts.append(f'<text x="8" y="{top + 18}">{html.escape(row.label[:42])}</text>')
        for offset, value, colour in ((2, mine, "#1f4e79"), (15, theirs, "#b7c9dd")):
            if value is not None:
                wide = BAR_PX * value / most
                parts.append(
                    f'<rect x="{LABEL_PX}" y="{top + offset}" width="{wide:.1f}" height="11" fill="{colour}"/>'
                    f'<text x="{LABEL_PX + wide + 4:.1f}" y="{top + offset + 10}" font-size="10">'
                    f"{_cell(value, name)}</text>"
                )
    return "\n".join([*parts, "</svg>"]) + "\n"


def write_report(table: Table, ours: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Writes table_N.md, .json and .svg into the folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for suffix, text in (("md", markdown(table, ours)), ("json", as_json(table, ours)), ("svg", plot(table, ours))):
        path = folder / f"table_{table.number}.{suffix}"
        path.write_text(text, encoding="utf-8")
        files.append(path)
    return files
