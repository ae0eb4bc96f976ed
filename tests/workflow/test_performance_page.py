"""The page of the benchmarks, written from the results of several processors."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.workflow.conftest import ROOT

DOCS = {
    "knn": "How fast is kNN?\n\n    python benchmarks/knn.py\n\nThe peer is faiss.\n\nMemory is the peak's rise.",
    "views": "How fast are views?\n\n    python benchmarks/views.py\n\nThe peer is torchvision.",
}


@pytest.fixture
def page(monkeypatch, tmp_path) -> ModuleType:
    """Return benchmarks/page.py, with a folder of results of its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("page")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    yield module
    for name in ("page", "common"):
        sys.modules.pop(name)


def machine(processor: str = "AMD EPYC", date: str = "2026-01-01T00:00") -> dict[str, Any]:
    named = {"processor": processor, "family": "26", "instructions": "AVX2", "cores": 2, "memory_gb": 24.0}
    return named | {"gpu": "none", "git_commit": "0123456789abcdef", "date": date, "torch": "2.15.0"}


def goal(result: float, met: bool, limit: str = "") -> dict[str, Any]:
    sides = {"ours": "1.0 s", "peer": "2.5 s"}
    return {"what": "Speed-up over faiss", "goal": "≥ 2×", "result": f"{result}×", "met": met, "limit": limit} | sides


def measured(*goals: dict[str, Any], **where: str) -> dict[str, Any]:
    table = {"caption": "All sizes", "rows": [{"": "ours", "seconds": 1.0}], "folded": True}
    found = {"command": "python benchmarks/knn.py", "threads": 2, "seconds": 12.0, "remarks": ["A remark."]}
    return found | {"where": machine(**where), "goals": list(goals), "tables": [table]}


def test_the_summary_has_a_row_per_question_and_a_column_per_processor(page, monkeypatch):
    monkeypatch.setattr(page, "documentation", lambda: DOCS)
    page.keep("knn", measured(goal(2.5, True), date="2026-01-01T00:00"))
    page.keep("knn", measured(goal(1.5, False), goal(3.0, True), processor="Xeon", date="2026-02-01T00:00"))
    page.keep("views", measured(goal(4.0, True)))
    monkeypatch.setattr(sys, "argv", ["page.py"])
    page.main()
    lines = page.PAGE.read_text().splitlines()
    table = [line for line in lines[: lines.index("## How fast is kNN?")] if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    links = ["[How fast is kNN?](#how-fast-is-knn)", "[How fast are views?](#how-fast-are-views)"]
    assert [row[0] for row in cells[2:]] == links
    assert [row[1:] for row in cells] == [
        ["Goal", "Xeon, family 26, 2 cores", "AMD EPYC, family 26, 2 cores"],
        ["---", "---", "---"],
        ["Speed-up over faiss ≥ 2×", "1.5× **missed**; 1 of 2 goals met", "2.5× met"],
        ["Speed-up over faiss ≥ 2×", "", "4.0× met"],
    ]


def test_a_question_shows_the_processor_measured_last(page):
    machines = []
    for name, result in {"AMD EPYC": 2.5, "Xeon": 3.5}.items():
        found = measured(goal(result, True), processor=name, date=f"2026-0{len(machines) + 1}-01T00:00")
        machines.append(found["where"] | {"results": {"knn": found}})
    section = page.page(machines, DOCS).partition("## How fast is kNN?")[2]
    assert "3.5×" in section
    assert "2.5×" not in section
    assert "on Xeon, family 26, 2 cores." in section


def test_a_question_shows_answer_then_method_then_folded_details(page):
    section = page.section(DOCS["knn"], measured(goal(1.5, False, limit="memory binds")), "")
    order = ["≥ 2× **missed**: memory binds", "A remark.", "The peer is faiss.", "<details", "All sizes", "Memory is"]
    assert [section.index(text) for text in order] == sorted(section.index(text) for text in order)
    assert "    python" not in section


def test_a_new_measurement_replaces_its_own_and_keeps_the_others(page):
    page.keep("knn", measured(goal(2.5, True)))
    page.keep("views", measured(goal(4.0, True)))
    page.keep("knn", measured(goal(2.6, True)))
    (path,) = page.RESULTS.glob("*.json")
    results = page.read_json(path)["results"]
    assert results["knn"]["goals"][0]["result"] == "2.6×"
    assert results["views"]["goals"][0]["result"] == "4.0×"


def test_results_of_a_benchmark_that_is_gone_leave_the_file(page, monkeypatch):
    monkeypatch.setattr(page, "documentation", lambda: {**DOCS, "gone": ""})
    page.keep("gone", measured(goal(2.5, True)))
    monkeypatch.setattr(page, "documentation", lambda: DOCS)
    page.keep("knn", measured(goal(2.5, True)))
    (path,) = page.RESULTS.glob("*.json")
    assert page.read_json(path)["results"].keys() == {"knn"}


def test_numbers_are_kept_with_four_digits(page):
    assert page.rounded({"rows": [{"ms": 12.345678, "n": 123456, "name": "ours"}]}) == {
        "rows": [{"ms": 12.35, "n": 123456, "name": "ours"}]
    }


def test_columns_of_numbers_are_aligned_to_the_right(page):
    rows = [{"": "ours", "time": "118 ms", "goal": "≥ 2× met", "MB": 3.5}]
    assert page.markdown(rows).splitlines()[1] == "| --- | ---: | --- | ---: |"


@pytest.mark.parametrize(("at_most", "met"), [(1, False), (2, True), (3, True)])
def test_an_upper_bound_is_met_from_below(page, at_most, met):
    common = sys.modules["common"]
    report = common.Report.__new__(common.Report)
    report.path, report.found = None, {"goals": []}
    report.goal("Minutes", 2, at_most=at_most, unit=" min", limit="the disk")
    (found,) = report.found["goals"]
    assert (found["met"], found["limit"]) == (met, "" if met else "the disk")


def test_every_committed_benchmark_is_on_the_page():
    text = (ROOT / "docs" / "performance.md").read_text()
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"common.py", "page.py", "recipes.py"}
    assert not [name for name in scripts if f"`python benchmarks/{name}" not in text]
