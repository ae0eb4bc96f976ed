"""Names, tags and descriptions say what a reader of MLflow's pages looks for."""

from __future__ import annotations

import shlex
from pathlib import Path

from hirl.cli.parser import build_parser
from hirl.config import METRICS, TASKS
from hirl.tracking.mlflow.texts import (
    BEST,
    KEY,
    evaluation_note,
    headlines,
    metric_names,
    run_tags,
    shared_view,
    training_note,
    view_address,
)
from tests.tracking.mlflow.conftest import BASELINE, CONTROL, HIRL, config_of

RESULTS = Path("results/demo/runs")


def test_curves_are_named_by_what_they_are_of():
    row = {"epoch": 1, "loss": 2.0, "seconds": 3.0, "threads": 1, "path_loss": None}
    assert metric_names("metrics", row) == {"train/loss": 2.0, "system/seconds": 3.0, "system/threads": 1}


def test_a_tree_has_no_curves_of_what_never_changes():
    row = {"clusters_level0": 8, "empty_level0": 1, "empty_level1": 2, "stability_level0": 50.0}
    assert metric_names("snapshot", row) == {"snapshot/empty_clusters": 3, "snapshot/stability_level0": 50.0}


def test_every_number_that_figures_draw_is_a_headline():
    for metric in METRICS:
        shown = headlines(metric.task, {metric.name: 12.345})
        assert shown == ({f"eval/{TASKS[metric.task].settings}_{metric.name}": 12.35} if metric.is_headline else {})


def test_a_trees_agreement_with_the_classes_is_a_headline():
    assert headlines("hierarchy", {"ami_level0": 1.0, "empty_level0": 0}) == {"eval/hierarchy_ami_level0": 1.0}


def test_settings_that_do_not_change_the_weights_make_no_other_run():
    config = config_of(BASELINE)
    other = {"evaluation": {"knn": 1}, "scenes": {}, "transfer_data": {}, "hash": "1"}
    other["data"] = config["data"] | {"label_lists": {"1": "list.txt"}}
    assert run_tags(BASELINE, config | other) == run_tags(BASELINE, config)
    assert run_tags(BASELINE, config | {"training": {}})[KEY] != run_tags(BASELINE, config)[KEY]


def test_the_view_of_the_results_shows_one_number_of_each_evaluation_and_sorts_by_the_headline():
    view = shared_view()
    assert view["orderByKey"] == f"metrics.`{BEST}`"
    assert f"metrics.`{BEST}`" in view["selectedColumns"]
    assert len(view["selectedColumns"]) == 1 + len([task for task in TASKS.values() if task.metrics])


def test_a_store_on_a_server_is_shown_there():
    assert view_address("3", "sqlite:///mlflow/mlflow.db").startswith("http://127.0.0.1:5000/#/experiments/3/runs?")
    assert view_address("3", "https://server/mlflow/").startswith("https://server/mlflow/#/experiments/3/runs?")


def test_a_training_says_how_to_train_it_again():
    note = training_note(RESULTS / HIRL, config_of(HIRL), "0a1b")
    assert "**mocov2** under HIRL, seed 0" in note
    assert f"rm -r scratch/demo/{HIRL}-0a1b" in note
    assert f"--config study=demo --force results/demo/runs/{HIRL}/weights.safetensors" in note
    published = training_note(Path("results/demo-published/runs") / HIRL, config_of(HIRL), "0a1b")
    assert "study=demo pretrained=weights" in published


def test_an_evaluation_says_how_to_evaluate_it_again_in_a_command_that_hirl_takes():
    for run in (HIRL, CONTROL):
        for task in ("knn", "hierarchy") if run == HIRL else ("knn",):
            path = RESULTS / run / "evaluation" / f"{task}.json"
            note = evaluation_note(path, {"study": "demo", "task": task})
            command = shlex.split(note.partition("```bash")[2].partition("```")[0].replace("\\\n", ""))
            args = build_parser().parse_args(command[1:])
            assert command[0] == "hirl"
            assert (args.tasks, args.out, args.seed) == ([task], path.parent, 0)
            assert (args.weights is None) == (run == CONTROL)
            assert (args.snapshot is None) == (task != "hierarchy")
