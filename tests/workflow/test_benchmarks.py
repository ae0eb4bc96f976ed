"""The page of the benchmarks, written from the results of several processors, and the times of a study."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.workflow.conftest import ROOT

DOCS = {
    "knn": "How fast is kNN?\n\n    python benchmarks/knn.py\n\nThe peer is faiss.\n\nMemory is the peak's rise.",
    "views": "How fast are views?\n\n    python benchmarks/views.py\n\nThe peer is torchvision.",
}


@pytest.fixture
def benchmarks(monkeypatch) -> Callable[[str], ModuleType]:
    """Import scripts of benchmarks/ by name, until the end of the test."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (ROOT / "benchmarks" / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def page(benchmarks, monkeypatch, tmp_path) -> ModuleType:
    """Return benchmarks/page.py, with a folder of results of its own."""
    module = benchmarks("page")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    return module


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
    order = [
        "≥ 2× **missed**",
        "the limit: memory binds.",
        "A remark.",
        "The peer is faiss.",
        "<details",
        "All sizes",
        "Memory is",
    ]
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


def test_a_processor_is_named_without_its_makers_marks(page):
    found = machine("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz") | {"family": "6"}
    assert page.label(found) == "Intel Xeon Platinum 8481C, family 6, 2 cores"


def test_numbers_are_kept_with_four_digits(page):
    assert page.rounded({"rows": [{"ms": 12.345678, "n": 123456, "name": "ours"}]}) == {
        "rows": [{"ms": 12.35, "n": 123456, "name": "ours"}]
    }


def test_columns_of_numbers_are_aligned_to_the_right(page):
    rows = [{"": "ours", "time": "118 ms", "goal": "≥ 2× met", "MB": 3.5}]
    assert page.markdown(rows).splitlines()[1] == "| --- | ---: | --- | ---: |"


@pytest.mark.parametrize(("at_most", "met"), [(1, False), (2, True), (3, True)])
def test_an_upper_bound_is_met_from_below(benchmarks, at_most, met):
    common = benchmarks("common")
    report = common.Report.__new__(common.Report)
    report.path, report.found = None, {"goals": []}
    report.goal("Minutes", 2, at_most=at_most, unit=" min", limit="the disk")
    (found,) = report.found["goals"]
    assert (found["met"], found["limit"]) == (met, "" if met else "the disk")


def test_the_committed_page_is_made_from_the_committed_results(benchmarks):
    page = benchmarks("page")
    machines = [page.read_json(path) for path in sorted(page.RESULTS.glob("*.json"))]
    assert page.PAGE.read_text() == page.page(machines, page.documentation()), "run `python benchmarks/page.py`"


def test_pauses_between_jobs_do_not_count_and_parallel_jobs_count_once(benchmarks):
    study = benchmarks("study")
    times = [(0, 10), (5, 8), (9, 12), (100, 101)]
    assert study.seconds_with_a_job([study.Job("rule", start, end, ROOT) for start, end in times]) == 13


@pytest.mark.parametrize(("first_job", "seconds"), [(130, 30), (500, None)])
def test_installation_counts_if_the_first_job_follows_it(benchmarks, monkeypatch, tmp_path, first_job, seconds):
    study = benchmarks("study")
    monkeypatch.setattr(study, "ENVIRONMENT", tmp_path)
    for name, time in {"pyvenv.cfg": 100, ".synced": 120}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    assert study.seconds_before(first_job) == seconds


def test_a_training_starts_when_its_record_does(benchmarks, tmp_path):
    study = benchmarks("study")
    (tmp_path / "record.jsonl").write_text('{"time": 1.0}\n{"time": 16.0}\n{"time": 18.0}\n')  # the first: a run before
    job = study.Job("pretrain", 10.0, 20.0, tmp_path / "weights.safetensors")
    assert study.seconds_to_start([job]) == {job: 6.0}
