"""A run's folder is read by its name."""

from __future__ import annotations

import json

import pytest

from hirl.reporting.runs import Run, assignments, level_names, open_runs, trained_by_method
from hirl.reporting.table import collect
from hirl.tracking.record import Recorder
from tests.reporting.conftest import CHOSEN, EPOCHS, IMAGES, START, knn


def test_a_run_knows_its_method_variant_and_seed_by_its_name(evaluations) -> None:
    run = Run(evaluations({"mocov2-hirl-s3": knn(3.0)}), "mocov2-hirl-s3")
    assert (run.method, run.variant, run.seed, run.backbone, run.trained) == ("mocov2", "hirl", 3, "resnet18", True)
    assert run.title == "MoCo v2 + HIRL"
    assert Run(run.study_folder, "mocov2-baseline-s3").title == "MoCo v2 baseline"


def test_a_control_has_no_configuration_and_takes_its_backbone_from_its_name(tmp_path) -> None:
    control = Run(tmp_path, "untrained-resnet50-s0")
    assert (control.variant, control.backbone, control.trained) == ("control", "resnet50", False)
    assert control.title == "Untrained ResNet-50"


def test_the_epochs_of_the_baseline_are_not_counted_as_the_runs_own_time(tmp_path) -> None:
    run = Run(tmp_path, "mocov2-hirl-s0")
    run.folder.mkdir(parents=True)
    (run.folder / "history.csv").write_text("epoch,seconds\n0,5\n1,5\n2,7\n")
    recorder = Recorder(run.folder / "record.jsonl")
    recorder.params({"name": run.name, "config": {}, "stem": {"run": "mocov2-baseline-s0", "epochs": 2}})
    recorder.close(2)
    assert (run.epochs_taken_over, run.own_seconds) == (2, 7.0)


def test_an_evaluation_that_was_not_run_is_none(evaluations) -> None:
    run = Run(evaluations({"mocov2-hirl-s0": knn(3.0)}), "mocov2-hirl-s0")
    assert run.evaluation("knn")["metrics"] == {"top1": 3.0}
    assert run.evaluation("probe") is None


def test_an_evaluation_of_another_run_is_refused(evaluations):
    study = evaluations({"mocov2-hirl-s0": knn(3.0)})
    path = study / "runs" / "mocov2-hirl-s0" / "evaluation" / "knn.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 1}))
    with pytest.raises(ValueError, match=r"knn\.json belongs to another run: its seed is 1, not 0"):
        collect(study, ["mocov2-hirl-s0"], CHOSEN)


def test_trained_runs_are_grouped_by_method_without_controls(tmp_path) -> None:
    names = ["untrained-resnet18-s0", "swav-baseline-s0", "dino-hirl-s0", "swav-hirl-s0"]
    grouped = trained_by_method(open_runs(tmp_path, names))
    assert {method: [run.name for run in runs] for method, runs in grouped.items()} == {
        "swav": ["swav-baseline-s0", "swav-hirl-s0"],
        "dino": ["dino-hirl-s0"],
    }


def test_snapshots_come_oldest_first_and_hold_a_cluster_per_image_and_level(study) -> None:
    run = Run(study[0], "mocov2-hirl-s0")
    assert [path.stem for path in run.snapshots] == [f"epoch{epoch:03d}" for epoch in range(START, EPOCHS)]
    assert assignments(run.snapshots[0]).shape == (IMAGES, 3)
    assert not Run(study[0], "mocov2-baseline-s0").snapshots


def test_levels_have_the_names_of_the_data_where_it_is_at_hand(study, tmp_path) -> None:
    assert level_names(study[0]) == ["class", "group", "kingdom"]
    assert level_names(tmp_path) == []
