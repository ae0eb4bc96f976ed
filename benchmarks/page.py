"""Keep the results of the benchmarks, a file per processor, and write docs/performance.md from all of them.

    python benchmarks/page.py [scratch/benchmarks]

The results of a folder replace those of the same benchmarks on the same processor in benchmarks/results. Without a
folder the page alone is written. Its text comes from the scripts' docstrings.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from common import Row, as_text

from hirl.files import read_json, write_json, write_text

SCRIPTS = Path(__file__).parent
RESULTS = SCRIPTS / "results"
PAGE = SCRIPTS.parent / "docs" / "performance.md"
ORDER = ("study", "training", "hirl_cost", "path_loss", "kmeans", "knn", "views", "input", "busy")
INTRODUCTION = """\
# Performance

<!-- Written by `make bench` from benchmarks/. Do not edit. -->

Every ratio compares ours with a peer in one run on one machine, where both take turns. A figure is a figure of its
processor; `make bench` measures yours and adds its column. A goal that is not reached is marked **missed**.
"""
NUMBER = re.compile(r"(-?[\d.,]+(e-?\d+)?( ?[^\s\d]+)?)?")  # with a unit, or nothing
Result = dict[str, Any]


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        for path in sorted(folder.glob("*.json")):
            keep(path.stem, read_json(path))
    machines = [read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    write_text(PAGE, page(machines, documentation()))
    print(f"{PAGE}: {', '.join(label(machine) for machine in machines)}")


def documentation() -> dict[str, str]:
    """Return the docstrings of the benchmarks, in the order of the page."""
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in SCRIPTS.glob("*.py")}
    names = [name for name in docs if "    python benchmarks/" in docs[name] and name != Path(__file__).stem]
    places = {name: (ORDER.index(name) if name in ORDER else len(ORDER), name) for name in names}
    return {name: docs[name] for name in sorted(names, key=places.__getitem__)}


# --- the results ------------------------------------------------------------------------------------------------------


def keep(name: str, found: Result) -> None:
    """Put a benchmark's result into its processor's file; results of benchmarks that are gone leave it."""
    machine = found["where"]
    path = RESULTS / f"{slug(label(machine))}.json"
    results = read_json(path)["results"] if path.exists() else {}
    result = found | {"where": {key: machine[key] for key in ("git_commit", "date", "torch")}}
    results = {other: kept for other, kept in results.items() if other in documentation()} | {name: rounded(result)}
    constant = {key: machine[key] for key in ("processor", "family", "instructions", "cores", "memory_gb", "gpu")}
    write_json(path, constant | {"results": dict(sorted(results.items()))})


def rounded(value: Any) -> Any:
    """Return the value with every number in it rounded to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def label(machine: Result) -> str:
    """Return the machine's name, such as "AMD EPYC, family 26, 2 cores"."""
    gpu = "" if machine["gpu"] == "none" else f", {machine['gpu']}"
    name = " ".join(re.sub(r"\((R|TM)\)|CPU|Processor|@.*", " ", machine["processor"]).split())
    return f"{name}, family {machine['family']}, {machine['cores']} cores{gpu}"


def slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


# --- the page ---------------------------------------------------------------------------------------------------------


def page(machines: list[Result], docs: dict[str, str]) -> str:
    """Return the page: a summary of all processors, and each question answered by the last measurement of it."""
    machines = sorted(machines, key=last_date, reverse=True)
    parts = [INTRODUCTION, summary(machines, docs), "\n".join(map(described, machines)) + "\n"]
    for name, doc in docs.items():
        measured = [machine for machine in machines if name in machine["results"]]
        if measured:
            parts.append(section(doc, measured[0]["results"][name], label(measured[0]) if machines[1:] else ""))
    return "\n".join(parts)


def last_date(machine: Result) -> str:
    return max(result["where"]["date"] for result in machine["results"].values())


def described(machine: Result) -> str:
    """Return a line on the machine, and when and how long it was measured."""
    minutes = sum(result["seconds"] for result in machine["results"].values()) / 60
    last = max((result["where"] for result in machine["results"].values()), key=lambda where: where["date"])
    commit = re.sub(r"(\w{12})\w*", r"\1", last["git_commit"])  # "-dirty", if it ends so, stays
    return (
        f"- {label(machine)}: {machine['instructions']}, {machine['memory_gb']:.0f} GB, torch {last['torch']}; "
        f"`make bench` took {minutes:.1f} minutes, last on {last['date'][:10]} at commit {commit}"
    )


def summary(machines: list[Result], docs: dict[str, str]) -> str:
    """Return the table of all questions, with the first goal of each and a column per processor."""
    rows: list[Row] = []
    for name, doc in docs.items():
        found = [machine["results"].get(name) for machine in machines]
        goals = [goal for result in found if result for goal in result["goals"][:1]]
        if goals:
            row: Row = {"Question": f"[{question(doc)}](#{anchor(question(doc))})"}
            row |= {"Goal": f"{goals[0]['what']} {goals[0]['goal']}"}
            rows.append(row | {label(m): verdicts(result) for m, result in zip(machines, found, strict=True)})
    return markdown(rows) + "\n"


def verdicts(result: Result | None) -> str:
    """Return the first goal's result, and how many of several goals are met."""
    if not result or not result["goals"]:
        return ""
    first, *others = result["goals"]
    met = sum(goal["met"] for goal in result["goals"])
    return f"{first['result']} {verdict(first)}" + (f"; {met} of {1 + len(others)} goals met" if others else "")


def verdict(goal: Result) -> str:
    return "met" if goal["met"] else "**missed**"


def question(doc: str) -> str:
    return doc.splitlines()[0].rstrip(".")


def anchor(heading: str) -> str:
    """Return the anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(doc: str, found: Result, machine: str) -> str:
    """Return the section of one benchmark: the answer, how it was measured, and the details, folded."""
    _, *paragraphs = doc.strip().split("\n\n")
    prose = [textwrap.dedent(p) for p in paragraphs if not p.startswith("    ")]
    parts = [f"## {question(doc)}"]
    if found["goals"]:
        parts.append(markdown(answers(found["goals"])))
        parts += [f"*{goal['what']}*, the limit: {goal['limit']}." for goal in found["goals"] if goal["limit"]]
    parts += [captioned(table) for table in found["tables"] if not table["folded"]]
    parts += found["remarks"] + prose[:1]
    parts.append(f"`{found['command']}`, {took(found)}" + (f", on {machine}." if machine else "."))
    details = [captioned(table) for table in found["tables"] if table["folded"]] + prose[1:]
    if details:
        parts += ['<details markdown="1"><summary>Details</summary>', *details, "</details>"]
    return "\n\n".join(parts) + "\n"


def answers(goals: list[Result]) -> list[Row]:
    """Return a row for each goal; a column that is empty for all of them is left out."""
    rows: list[Row] = []
    for goal in goals:
        row = {"": goal["what"]} | {key: goal[key] for key in ("ours", "peer", "result")}
        rows.append(row | {"goal": f"{goal['goal']} {verdict(goal)}"})
    return [{column: row[column] for column in row if any(other[column] for other in rows)} for row in rows]


def captioned(table: Result) -> str:
    return "\n\n".join([*([table["caption"]] if table["caption"] else []), markdown(table["rows"])])


def markdown(rows: list[Row]) -> str:
    head, *lines = as_text(rows)
    numeric = [all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*lines, strict=True)]
    ruler = ["---:" if is_numeric else "---" for is_numeric in numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ruler, *lines])


def took(found: Result) -> str:
    seconds = f"{found['seconds'] / 60:.1f} minutes" if found["seconds"] > 90 else f"{found['seconds']:.0f} seconds"
    return f"{seconds}, {found['threads']} thread{'s'[: found['threads'] > 1]}"


if __name__ == "__main__":
    main()
