"""The words beside a figure hold its numbers."""

from __future__ import annotations

from hirl.reporting import describe
from hirl.reporting.runs import open_runs
from hirl.reporting.table import collect, hierarchy_table, tabulate
from tests.reporting.conftest import TASKS, knn


def test_gains_name_the_lowest_and_the_highest(evaluations) -> None:
    values = {"mocov2-baseline-s0": 50.0, "mocov2-hirl-s0": 51.5, "ibot-baseline-s0": 60.0, "ibot-hirl-s0": 58.0}
    study = evaluations({run: knn(value) for run, value in values.items()})
    table = tabulate(study, collect(study, values, ["knn"]), values)
    assert describe.gains(table) == (
        "1 panels, one per metric, each with a line per method from baseline to HIRL. HIRL is above in 1 of 2 "
        "comparisons and below in 1; the differences run from -2.0 (iBOT, kNN top-1) to +1.5 (MoCo v2, kNN top-1)."
    )


def test_curves_say_how_many_losses_fall(study) -> None:
    said = describe.training(open_runs(*study))  # eight runs, four of them with a path loss
    assert (
        "The image loss ends below its start in 8 of 8 runs. The path loss ends below its start in 4 of 4 runs." in said
    )
    assert "The lowest feature standard deviation at the end is 0.067" in said


def test_trees_say_how_well_they_agree_with_the_classes(study) -> None:
    folder, runs = study
    opened = open_runs(folder, runs)
    trees = hierarchy_table(folder, collect(folder, runs, TASKS), runs)
    assert "The finest level's last NMI with the classes runs from 0.60 (MoCo v2 + HIRL)" in describe.hierarchy(trees)
    run = next(run for run in opened if run.has_tree)
    assert describe.atlas(run, trees) == (
        "Rows of training images, each row a cluster of the last tree of MoCo v2 + HIRL, the largest first. The tree "
        "has 22 over 23 over 24 clusters. On average 70.0 % of a finest cluster's images and 68.0 % of a coarsest "
        "one's are of its most common class."
    )


def test_the_gate_names_the_trees_that_agree_least_and_most(evaluations) -> None:
    runs = {"swav-baseline-s0": knn(50.0)}
    for variant, gain, ami in (("hirl", 1.0, 40.0), ("hirl-random", -2.0, 0.0), ("hirl-classes", 5.0, 100.0)):
        runs[f"swav-{variant}-s0"] = knn(50.0 + gain) | {"hierarchy": {"ami_level0": ami}}
    study = evaluations(runs)
    summary = collect(study, runs, ["knn", "hierarchy"])
    said = describe.gate(summary, open_runs(study, runs), ["hirl", "hirl-random", "hirl-classes"])
    assert said.endswith("SwAV: -2.0 at AMI 0 (HIRL-random) and +5.0 at AMI 100 (HIRL-classes).")


def test_trees_without_an_evaluation_are_described_by_what_the_picture_shows(study) -> None:
    folder, runs = study
    summary = collect(folder, runs, TASKS)
    none = hierarchy_table(folder, summary[summary["task"] != "hierarchy"], runs)
    assert describe.hierarchy(none).endswith("and cluster sizes.")
    assert describe.atlas(open_runs(folder, runs)[-1], none).endswith("the largest first.")
