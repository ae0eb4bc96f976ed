"""The long and the wide table hold the numbers that a computation by hand gives."""

from __future__ import annotations

import pytest

from hirl.config.tasks import METRICS, TASKS
from hirl.reporting.table import COLUMNS, collect, evaluated_runs, hierarchy_table, tabulate
from tests.reporting.conftest import CHOSEN, knn


def test_every_number_is_one_sorted_row(evaluations):
    study = evaluations({"mocov2-hirl-s0": {"probe": {"top5": 2.0, "top1": 1.0}, "knn": {"top1": 3.0}}})
    summary = collect(study, ["mocov2-hirl-s0"], CHOSEN)
    assert list(summary) == COLUMNS
    assert summary.values.tolist() == [
        ["demo", "taxonomy", "mocov2", "hirl", "resnet18", 0, "knn", "top1", 3.0],
        ["demo", "taxonomy", "mocov2", "hirl", "resnet18", 0, "probe", "top1", 1.0],
        ["demo", "taxonomy", "mocov2", "hirl", "resnet18", 0, "probe", "top5", 2.0],
    ]


def test_folders_and_tasks_that_are_not_expected_are_not_read(evaluations):
    study = evaluations({"mocov2-hirl-s0": {"knn": {"top1": 3.0}, "probe": {"top1": 9.0}}, "mocov2-hirl-s7": knn(8.0)})
    assert collect(study, ["mocov2-hirl-s0"], ["knn"])["value"].tolist() == [3.0]


def test_no_evaluation_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no evaluation"):
        collect(tmp_path, ["mocov2-hirl-s0"], CHOSEN)


def test_each_control_stands_above_the_methods_of_its_backbone(evaluations):
    runs = {"untrained-vit_tiny-s0": knn(30.0), "untrained-resnet18-s0": knn(31.0)}
    runs |= {f"{method}-baseline-s0": knn(50.0) for method in ("mocov2", "swav", "dino")}
    study = evaluations(runs)
    table = tabulate(study, collect(study, runs, CHOSEN), runs)
    titles = [row.title(table.metrics) for row in table.rows]
    assert titles == ["Untrained ResNet-18", "MoCo v2", "SwAV", "Untrained ViT-tiny", "DINO"]
    assert table.pair(table.rows[0], table.metrics[0]) == "31.0"


def test_superclass_levels_are_numbered_and_the_names_of_the_data_are_noted(study):
    folder, runs = study
    table = tabulate(folder, collect(folder, runs, CHOSEN), runs)
    superclasses = ["kNN superclass (level 1)", "kNN superclass (level 2)"]
    titles = [metric.title for metric in table.metrics]
    assert titles == ["kNN top-1", *superclasses, "Linear probe top-1", "Fine-tuning top-1"]
    assert table.levels_note == "Superclass levels of the data set: 1 = group, 2 = kingdom."
    assert [table.tooltip(metric) for metric in table.metrics[:3]] == ["", "class level: group", "class level: kingdom"]


def test_every_task_but_the_hierarchy_is_in_the_table():
    assert {metric.task for metric in METRICS} == set(TASKS) - {"hierarchy"}


def test_the_names_of_the_runs_can_be_read_from_the_summary(study):
    folder, runs = study
    assert sorted(evaluated_runs(collect(folder, runs, CHOSEN))) == sorted(runs)


def test_both_controls_of_a_study_keep_their_own_numbers(evaluations):
    runs = {"untrained-resnet18-s0": knn(31.0), "untrained-vit_tiny-s0": knn(30.0)}
    summary = collect(evaluations(runs), runs, CHOSEN)
    assert summary[["variant", "backbone", "value"]].values.tolist() == [
        ["control", "resnet18", 31.0],
        ["control", "vit_tiny", 30.0],
    ]


def test_trees_are_compared_level_by_level(evaluations):
    numbers = {"nmi_level0": 40.0, "ami_level0": 30.0, "purity_level0": 50.0, "clusters_level0": 8, "empty_level0": 1}
    runs = {"mocov2-hirl-s0": {"hierarchy": numbers}}
    study = evaluations(runs)
    frame = hierarchy_table(study, collect(study, runs, ["hierarchy"]), runs)
    wanted = {"Clusters": "8", "Empty": "1", "NMI": "40.0", "AMI": "30.0", "Purity": "50.0"}
    assert frame.to_dict("records") == [{"Run": "MoCo v2 + HIRL", "Level": "0", "True classes": "level 0", **wanted}]


def test_ap_at_one_threshold_is_shown_but_neither_counted_nor_drawn(evaluations):
    boxes = {"ap_box": 20.0, "ap50_box": 40.0, "ap75_box": 10.0}
    better = {name: value + 1 for name, value in boxes.items()}
    runs = {"mocov2-baseline-s0": {"detection": boxes}, "mocov2-hirl-s0": {"detection": better}}
    study = evaluations(runs)
    table = tabulate(study, collect(study, runs, ["detection"]), runs)
    assert [metric.title for metric in table.metrics] == ["AP^box", "AP50^box", "AP75^box"]
    assert [metric.title for metric in table.headline_metrics] == ["AP^box"]
    assert (table.verdict().above, table.verdict().total) == (1, 1)
