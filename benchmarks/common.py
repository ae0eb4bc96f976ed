"""Report the results of a benchmark, and time several implementations in turns.

A script's docstring becomes its section of docs/performance.md: the first line is its question, the next paragraph says
how it is measured, the others are folded. Its numbers are goals, the first of which stands in the page's summary, and
tables, lists of rows, each a dict from column to text or number:

    args = parser(__doc__).parse_args()
    report = Report(args)
    report.goal("speed-up over faiss", 3.4 / 1.2, at_least=2, ours="1.2 s", peer="3.4 s", unit="×")
    report.table([{"way": "ours", "seconds": 1.2}, {"way": "faiss", "seconds": 3.4}], "k-means, best of 3 rounds")

All of it is printed at once. With `--json FILE` it is also saved; benchmarks/page.py writes the page from these files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.files import write_json
from hirl.tracking.record import environment

NAMES = {
    "mocov2": "MoCo v2",
    "simsiam": "SimSiam",
    "swav": "SwAV",
    "mocov3": "MoCo v3",
    "dino": "DINO",
    "ibot": "iBOT",
    "beit": "BEiT",
}
if TYPE_CHECKING:
    from hirl.config import ViewsConfig

Row = dict[str, str | float]
STARTED = time.monotonic()
LIBRARIES = ("hirl", "faiss", "sklearn", "torch")  # take long to import
INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    options.add_argument("--json", type=Path, help="file to save the results in")
    return options


class Report:
    """The results of a script, printed as they come; the file is complete after every call."""

    def __init__(self, args: argparse.Namespace):
        import torch

        self.path = args.json
        script = Path(sys.argv[0])
        options = [word for word in sys.argv[1:] if "--json" not in word and word != str(args.json)]
        self.found: dict[str, Any] = {
            "command": " ".join(["python", f"benchmarks/{script.name}", *options]),
            "where": environment() | processor() | {"date": datetime.now(UTC).isoformat(timespec="minutes")},
            "threads": torch.get_num_threads(),
            "goals": [],
            "tables": [],
            "remarks": [],
        }

    def table(self, rows: list[Row], caption: str = "", folded: bool = True) -> None:
        """Report rows from column to text or number, named by the first column; a missing cell is blank.

        The page folds a table unless it belongs to the answer.
        """
        lines = as_text(rows)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(f"\n{caption}" if caption else "")
        for first, *others in lines:
            others = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            print("  ".join([first.ljust(widths[0]), *others]))
        self._keep("tables", {"caption": caption, "rows": rows, "folded": folded})

    def remark(self, text: str) -> None:
        """Report a sentence beneath the tables."""
        print(f"\n{text}")
        self._keep("remarks", text)

    def goal(
        self,
        what: str,
        value: float,
        at_least: float | None = None,
        *,
        at_most: float | None = None,
        ours: str = "",
        peer: str = "",
        unit: str = "",
        limit: str = "",
    ) -> None:
        """Report whether a number reaches its goal, with both sides of a ratio, and the limit if it is missed."""
        assert (at_least is None) != (at_most is None), "a goal is a lower or an upper bound"
        met = value >= at_least if at_most is None else value <= at_most
        bound = f"≥ {at_least:g}{unit}" if at_most is None else f"≤ {at_most:g}{unit}"
        print(f"\n{what}: {shown(value)}{unit}, goal {bound}: {'met' if met else 'missed'}")
        goal = {"what": what, "goal": bound, "ours": ours, "peer": peer, "result": f"{shown(value)}{unit}"}
        self._keep("goals", goal | {"met": met, "limit": "" if met else limit})

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


def in_own_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call in a new process, whose memory no earlier call has used.

    The process is a copy of one that has imported what this one has, and computed nothing: it starts at once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in sys.modules if name.partition(".")[0] in LIBRARIES])
    with context.Pool(1) as pool:
        return pool.apply(call, arguments)


def memory_rise_mb(call: Callable[[], object]) -> float:
    """Return the rise of the resident peak during a call, in MB: Linux's VmHWM, reset before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kb()
    call()
    return (_peak_kb() - before) / 1024


def _peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def processor() -> dict[str, str]:
    """Return the processor's family and the instructions that matter here; virtual machines hide its full name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    known = ", ".join(name for flag, name in INSTRUCTIONS.items() if flag in flags)
    return {"family": fields.get("cpu family", "unknown"), "instructions": known or "unknown"}
