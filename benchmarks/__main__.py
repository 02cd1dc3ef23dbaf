"""`python -m benchmarks [NAME ...]` (`make bench ARGS="NAME"`): measures this machine. Compare figures within one run.

Each prints a table with the machine beside it and keeps it as JSON in --out, curves as PNG too. They start services of
their own. A busy machine makes absolute figures void: the load average before and after is told.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from service.engines.engine import Engine
from service.loading import LONG as MOVING  # the other long ones here are benchmarks
from service.settings import Settings

from . import engines, overload, photos, report, saturation, soak
from .machine import load_average, machine
from .served import Served, served


class Bench:
    """What the benchmarks of one call share: services, started once, and the lifter's engine in this process."""

    def __init__(self, given: argparse.Namespace, stack: ExitStack) -> None:
        self.given = given
        self._stack = stack

    @cached_property
    def here(self) -> Served:
        """A service as it ships."""
        return self._stack.enter_context(served())

    @cached_property
    def wide(self) -> Served:
        """One whose queue holds what 64 callers of 16 windows each ask for."""
        return self._stack.enter_context(served("--queue-rows", str(2 * saturation.CALLERS * 16)))

    @cached_property
    def lifter(self) -> Engine:
        return engines.loaded(MOVING)


Measure = Callable[[Bench], report.Lines]


def _engines(bench: Bench) -> report.Lines:
    """what each network costs a row, by batch size"""
    return engines.row_times(Settings())


def _saturation(bench: Bench) -> report.Lines:
    """served over raw rows a second, CPU above the engine, loop lag: 64 callers, 1 and 16 windows a request"""
    return saturation.saturation(bench.wide, bench.lifter, bench.given.seconds, bench.given.pairs)


def _latency(bench: Bench) -> report.Lines:
    """what one caller of /v1/lift waits beyond the engine's own time"""
    return saturation.latency(bench.here, bench.lifter)


def _photo(bench: Bench) -> report.Lines:
    """a photo of two people above the sum of its networks"""
    return photos.photo(bench.here, Settings(), file=bench.given.photo)


def _callers(bench: Bench) -> report.Lines:
    """closed loops of 1 to 256 callers"""
    return saturation.callers(bench.here, bench.given.seconds)


def _overload(bench: Bench) -> report.Lines:
    """open loops at 50 to 150 % of the capacity, beside the simulated policy"""
    return overload.overload(bench.here, bench.lifter, 4 * bench.given.seconds)


def _soak(bench: Bench) -> report.Lines:
    """80 % of the capacity in windows, photos, clips and live streams, a fifth vanishing: memory, errors, leftovers"""
    return soak.soak(bench.here, bench.given.minutes)


BENCHMARKS: dict[str, Measure] = {
    "engines": _engines,
    "saturation": _saturation,
    "latency": _latency,
    "photo": _photo,
    "callers": _callers,
    "overload": _overload,
    "soak": _soak,
}
LONG = ("soak",)  # by name only


def main() -> None:
    names = "\n".join(f"  {name:<11} {measure.__doc__}" for name, measure in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"names:\n{names}\nbeside them: python -m benchmarks.precisions, .modules, .live, .fleet, .cuda, "
        ".simulation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; without one all but soak")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each closed loop; an open one takes four times")
    parser.add_argument("--pairs", type=int, default=5, help="of alternating runs at saturation")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--photo", type=Path, help="a JPEG with two people; without one, two rendered ones")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of the JSON files and plots")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    with ExitStack() as stack:
        bench = Bench(given, stack)
        for name in given.names or [name for name in BENCHMARKS if name not in LONG]:
            measure = BENCHMARKS[name]
            figures: dict[str, Any] = {"benchmark": name, "machine": machine()}
            print(f"\n## {name}: {measure.__doc__}\n{json.dumps(figures['machine'])}\n", flush=True)
            figures["lines"] = measure(bench)
            figures["load_average_after"] = load_average()
            report.keep(given.out, name, figures)
            print(
                f"{report.table(figures['lines'])}\n\nload average after: {figures['load_average_after']}", flush=True
            )


if __name__ == "__main__":
    main()
