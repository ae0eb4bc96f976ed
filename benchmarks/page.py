"""Write docs/performance.md from the results of the benchmarks; `make bench` runs it at its end.

python benchmarks/page.py scratch/benchmarks docs/performance.md
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from common import Row, as_text

from hirl.files import read_json, write_text

ORDER = ("training", "views", "input", "path_loss", "kmeans", "hirl_cost", "clustering", "knn", "growth", "study")
INTRODUCTION = """\
# Performance

<!-- Written by `make bench` from benchmarks/. Do not edit. -->

Every ratio compares ours with a peer in one run on one machine, where both take turns, so that a busy machine slows
both. A speed-up or memory ratio above 1 means that ours is faster or smaller. Seconds are those of this machine.
Numbers that are counted, or read from a record, are described as such. A goal that is not reached is marked *missed*.
"""


def main() -> None:
    folder, page = map(Path, sys.argv[1:])
    sections = {path.stem: read_json(path) for path in folder.glob("*.json")}
    names = sorted(sections, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    machines = list(dict.fromkeys(machine(sections[name]["where"]) for name in names))
    here = machines[0] if len(machines) == 1 else None
    parts = [INTRODUCTION, *([f"Measured on {here}.\n"] if here else [])]
    parts += [section(sections[name], with_machine=here is None) for name in names]
    write_text(page, "\n".join(parts))
    print(f"{page}: {len(sections)} benchmarks")


def section(found: dict[str, Any], with_machine: bool) -> str:
    """Return the section of one benchmark: its question, its tables, its goals, how it measures."""
    question, *paragraphs = found["doc"].strip().split("\n\n")
    prose = [p for p in paragraphs if not p.startswith("    ") and not p.startswith("python ")]
    parts = [f"## {question.rstrip('.')}"]
    for table in found["tables"]:
        parts += [*([table["caption"]] if table["caption"] else []), markdown(table["rows"])]
    parts += ["\n".join(f"- {emphasised(remark)}" for remark in found["remarks"])] if found["remarks"] else []
    parts += [textwrap.dedent(p) for p in prose]
    took = f"{found['seconds'] / 60:.1f} minutes" if found["seconds"] > 90 else f"{found['seconds']:.0f} seconds"
    took += f", threads: {found['threads']}"
    parts.append(f"`{found['command']}`, {took}" + (f", on {machine(found['where'])}." if with_machine else "."))
    return "\n\n".join(parts) + "\n"


def markdown(rows: list[Row]) -> str:
    head, *lines = as_text(rows)
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ruler, *lines])


def emphasised(remark: str) -> str:
    return re.sub(r"\bmissed$", "**missed**", remark)


def machine(where: dict[str, Any]) -> str:
    commit = re.sub(r"(\w{12})\w*", r"\1", where["git_commit"])  # "-dirty", if it ends so, stays
    return (
        f"{where['cores']} cores of {where['processor']}, {where['memory_gb']:.0f} GB, GPU: {where['gpu']} "
        f"(torch {where['torch']}, commit {commit}, {where['date']})"
    )


if __name__ == "__main__":
    main()
