"""Report the results of a benchmark, and time several implementations in turns.

A script's docstring becomes its section of docs/performance.md: the first line is its question, the rest describes the
peer and how time is taken. Its numbers are tables, lists of rows, each a dict from column to text or number:

    args = parser(__doc__).parse_args()
    report = Report(args)
    report.table([{"way": "ours", "seconds": 1.2}, {"way": "faiss", "seconds": 3.4}], "k-means, best of 3 rounds")
    report.goal("speed-up over faiss", 3.4 / 1.2, at_least=2)

All of it is printed at once. With `--json FILE` it is also saved; benchmarks/page.py writes the page from these files.
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
    """Return a parser with the options that every script has."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    options.add_argument("--json", type=Path, help="file to save the results in")
    options.set_defaults(doc=doc)
    return options


class Report:
    """The results of a script, printed as they come; the file is complete after every call."""

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
        """Report rows from column to text or number, named by the first column; a missing cell is blank."""
        lines = as_text(rows)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(f"\n{caption}" if caption else "")
        for first, *others in lines:
            others = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            print("  ".join([first.ljust(widths[0]), *others]))
        self._keep("tables", {"caption": caption, "rows": rows})

    def remark(self, text: str) -> None:
        """Report a sentence beneath the tables."""
        print(f"\n{text}")
        self._keep("remarks", text)

    def goal(self, what: str, value: float, at_least: float) -> None:
        """Report whether a number reaches its goal."""
        self.remark(f"{what}: {shown(value)}, goal at least {at_least:g}: {'met' if value >= at_least else 'missed'}")

    def _keep(self, kind: str, found: object) -> None:
        sys.stdout.flush()
        self.found[kind].append(found)
        if self.path is not None:
            write_json(self.path, self.found | {"seconds": time.monotonic() - STARTED})


def as_text(rows: list[Row]) -> list[list[str]]:
    """Return the cells of a table, its header first."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [columns, *([shown(row.get(column, "")) for column in columns] for row in rows)]


def shown(value: str | float) -> str:
    """Format a number with three significant digits; return text unchanged."""
    if isinstance(value, str) or (isinstance(value, int) and abs(value) < 10_000):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def crops(views: ViewsConfig) -> str:
    """Describe the crops of an image, such as "2 x 224 + 6 x 96"."""
    counts = {views.global_size: views.global_crops, views.local_size: views.local_crops}
    return " + ".join(f"{count} x {size}" for size, count in counts.items() if count)


def best_times(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the best time of each way in seconds of the clock; they take turns, after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            start = clock()
            way()
            times[name].append(clock() - start)
    return {name: min(taken[1:]) for name, taken in times.items()}


def memory_rise_mb(call: Callable[[], object]) -> float:
    """Return the rise of the resident peak during a call, in MB: Linux's VmHWM, reset before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kb()
    call()
    return (_peak_kb() - before) / 1024


def _peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
