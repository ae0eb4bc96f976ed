"""What the benchmarks share: how a script says what it found, and how ways of doing one thing take turns.

A script's docstring is its section on docs/performance.md: the first line its question, the rest what the peer is and
how time is taken. Its numbers are tables, lists of rows, each a dict from column to text or number:

    args = parser(__doc__).parse_args()
    report = Report(args)
    report.table([{"way": "ours", "seconds": 1.2}, {"way": "faiss", "seconds": 3.4}], "k-means, best of 3 rounds")
    report.goal("times faster than faiss", 3.4 / 1.2, at_least=2)

All of it is printed at once; with `--json FILE` it is also kept, from which benchmarks/page.py writes the page.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch

from hirl.config import ViewsConfig
from hirl.files import write_json
from hirl.tracking.record import environment

Row = dict[str, str | float]
STARTED = time.monotonic()


def parser(doc: str) -> argparse.ArgumentParser:
    """A script's options, those of every script among them."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    options.add_argument("--json", type=Path, help="where to keep what was found")
    options.set_defaults(doc=doc)
    return options


class Report:
    """What a script found, told as it comes; the file is whole after every call."""

    def __init__(self, args: argparse.Namespace):
        self.path = args.json
        script = Path(sys.argv[0])
        options = [word for word in sys.argv[1:] if "--json" not in word and word != str(args.json)]
        self.found = {
            "doc": args.doc,
            "command": " ".join(["python", f"benchmarks/{script.name}", *options]),
            "where": environment() | {"date": date.today().isoformat()},
            "threads": torch.get_num_threads(),
            "tables": [],
            "remarks": [],
        }

    def table(self, rows: list[Row], caption: str = "") -> None:
        """Rows from column to text or number, the first column naming them; what a row lacks is blank."""
        lines = as_text(rows)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(f"\n{caption}" if caption else "")
        for first, *others in lines:
            others = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            print("  ".join([first.ljust(widths[0]), *others]))
        self._keep("tables", {"caption": caption, "rows": rows})

    def remark(self, text: str) -> None:
        """A sentence beneath the tables."""
        print(f"\n{text}")
        self._keep("remarks", text)

    def goal(self, what: str, value: float, at_least: float) -> None:
        """Whether a number reaches what was aimed at."""
        self.remark(f"{what}: {shown(value)}, goal at least {at_least:g}: {'met' if value >= at_least else 'missed'}")

    def _keep(self, kind: str, found: object) -> None:
        sys.stdout.flush()
        self.found[kind].append(found)
        if self.path is not None:
            write_json(self.path, self.found | {"seconds": time.monotonic() - STARTED})


def as_text(rows: list[Row]) -> list[list[str]]:
    """The lines of a table, its head first."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [columns, *([shown(row.get(column, "")) for column in columns] for row in rows)]


def shown(value: str | float) -> str:
    """Text as it is, a number with three digits that say something."""
    if isinstance(value, str) or (isinstance(value, int) and abs(value) < 10_000):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def crops(views: ViewsConfig) -> str:
    """Those of an image, in words."""
    counts = {views.global_size: views.global_crops, views.local_size: views.local_crops}
    return " + ".join(f"{count} x {size}" for size, count in counts.items() if count)


def best_times(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The shortest of so many rounds of each way, in seconds of the clock; they take turns, a first round is free."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            start = clock()
            way()
            times[name].append(clock() - start)
    return {name: min(taken[1:]) for name, taken in times.items()}


def memory_rise_mb(call: Callable[[], object]) -> float:
    """How far the resident peak rises during a call, in MB: Linux's VmHWM, reset to the present before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kb()
    call()
    return (_peak_kb() - before) / 1024


def _peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
