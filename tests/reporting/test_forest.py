"""The forest plot places every gain and its interval on an axis that holds them all."""

from __future__ import annotations

import pandas as pd
import pytest

from hirl.config.tasks import TASKS
from hirl.reporting.forest import Line, Panel, forest
from hirl.reporting.judgement import judge
from hirl.reporting.table import COLUMNS, Cell, Row, Table, method_cells

KNN, NMI = TASKS["knn"].shown[0], TASKS["clustering"].shown[1]


def study_of(variants: list[str], seeds: int) -> tuple[Table, pd.DataFrame]:
    """Return table and verdicts of two methods; each variant is a point above the one before it."""
    rows = [
        ["study", "data", method, variant, "net", seed, "knn", "top1", 40.0 + above + 0.1 * seed * above]
        for method in ("dino", "swav")
        for above, variant in enumerate(["baseline", *variants])
        for seed in range(seeds)
    ]
    summary = pd.DataFrame(rows, columns=COLUMNS)
    table_rows = [
        Row(method, "net", method_cells(summary, method, [KNN], variant), variant)
        for method in ("dino", "swav")
        for variant in variants
    ]
    return Table([KNN], table_rows), judge(summary)


def test_few_variants_have_a_line_per_method_and_their_mean_last() -> None:
    (panel,) = forest(*study_of(["hirl", "hirl-flat"], seeds=3))
    assert {group: [line.title for line in lines] for group, lines in panel.groups.items()} == {
        "HIRL": ["DINO", "SwAV", "All methods"],
        "HIRL-flat": ["DINO", "SwAV", "All methods"],
    }
    assert [line.is_mean for line in panel.groups["HIRL"]] == [False, False, True]
    assert all(line.verdict and line.cell.half for line in panel.groups["HIRL"])


def test_many_variants_have_a_line_each_with_their_methods_as_dots() -> None:
    (panel,) = forest(*study_of(["hirl", "hirl-flat", "hirl-random"], seeds=3))
    (lines,) = panel.groups.values()
    assert [line.title for line in lines] == ["HIRL", "HIRL-flat", "HIRL-random"]
    assert lines[2].methods == pytest.approx((3.3, 3.3))  # three points and 0.3 per seed


def test_one_seed_has_neither_intervals_nor_verdicts() -> None:
    (panel,) = forest(*study_of(["hirl"], seeds=1))
    (lines,) = panel.groups.values()
    assert [(line.cell.half, line.verdict) for line in lines] == [(None, "")] * 3


def test_everything_lies_on_the_axis_and_zero_is_a_tick() -> None:
    panel = Panel(KNN, {"HIRL": [Line("DINO", Cell(-2.0, 3, 1.5)), Line("SwAV", Cell(1.0, 3, 0.5), methods=(4.0,))]})
    assert 0 < panel.place(-3.5) < panel.place(0) < panel.place(4.0) < 100
    assert panel.ticks == [-2, 0, 2, 4]


def test_a_study_without_an_outcome_shows_the_metrics_it_has() -> None:
    row = Row("dino", "net", {(NMI, "gain"): Cell(1.0, 1)})
    assert [panel.metric for panel in forest(Table([NMI], [row]), judge(pd.DataFrame(columns=COLUMNS)))] == [NMI]
