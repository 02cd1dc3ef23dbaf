"""What a benchmark prints and keeps: a table, the same as JSON beside it, and plots. Knows no measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Lines = Sequence[dict[str, Any]]


def table(lines: Lines) -> str:
    """Lines of equal fields as a Markdown table; of one line, a field a row, which is easier to read."""
    if len(lines) == 1:
        rows = [["", ""], *[[name, _shown(value)] for name, value in lines[0].items()]]
    else:
        rows = [list(lines[0]), *[[_shown(value) for value in line.values()] for line in lines]]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def keep(folder: Path, name: str, figures: dict[str, Any]) -> None:
    """Writes NAME.json, and NAME.png where its lines are drawn over load."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    if name == "callers":
        _plot(folder / "callers.png", figures["lines"], "callers", "requests_a_second", ("p50_ms", "p99_ms"))
    if name == "overload":
        latencies = ("p50_ms", "p99_ms", "simulated_p99_ms")
        _plot(folder / "overload.png", figures["lines"], "load", "goodput", latencies)


def _plot(file: Path, lines: Lines, over: str, rate: str, latencies: Sequence[str]) -> None:
    """Throughput above, latencies below, over load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 7))
    load = [line[over] for line in lines]
    above.plot(load, [line[rate] for line in lines], "o-")
    above.set_ylabel("answers a second")
    above.set_ylim(bottom=0)
    for name in latencies:
        below.plot(load, [line[name] for line in lines], "o-", label=name.replace("_", " "))
    below.set_xlabel("callers" if over == "callers" else "load, as a part of the capacity")
    below.set_ylabel("milliseconds")
    below.set_yscale("log")
    if over == "callers":
        below.set_xscale("log", base=2)
    below.legend()
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
