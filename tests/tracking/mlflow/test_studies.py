"""A study's runs are in MLflow exactly once, however often they are copied."""

from __future__ import annotations

import subprocess
import sys

from hirl.tracking.mlflow.studies import found_runs, sync
from tests.tracking.mlflow.conftest import BASELINE, CONTROL, HIRL, RUNS, contents, stored, write_evaluation


def test_sync_stores_each_run_with_its_evaluations_as_children(study, uri):
    sync(study, RUNS, uri)
    runs = stored(uri)
    evaluations = {f"{BASELINE} knn", f"{BASELINE} probe", f"{HIRL} knn", f"{HIRL} probe", f"{CONTROL} knn"}
    assert set(runs) == {*RUNS, *evaluations, "report"}
    assert all(run.info.status == "FINISHED" for run in runs.values())


def test_tables_and_figures_are_artifacts_of_the_report_and_atlases_of_their_runs(study, uri):
    sync(study, RUNS, uri)
    found = contents(uri)
    assert set(found["report"]["files"]) == {"table.md", "figures"}
    assert f"atlas-{HIRL}.png" in found[HIRL]["files"]
    assert set(found[BASELINE]["files"]) == {"config.json", "history.csv"}


def test_syncing_twice_changes_nothing(study, uri):
    sync(study, RUNS, uri)
    before = contents(uri)
    sync(study, RUNS, uri)
    assert contents(uri) == before


def test_a_new_evaluation_replaces_the_old_one_and_moves_the_headline(study, uri):
    sync(study, RUNS, uri)
    write_evaluation(study / "runs" / BASELINE, "knn", {"top1": 60.0})
    sync(study, RUNS, uri)
    found = stored(uri)
    assert found[f"{BASELINE} knn"].data.metrics == {"top1": 60.0}
    assert found[BASELINE].data.metrics["eval/knn_top1"] == 60.0


def test_two_syncs_at_once_into_a_new_store_lose_and_duplicate_nothing(study, uri, tmp_path):
    program = "import sys; from hirl.tracking.mlflow import sync; sync(sys.argv[1], sys.argv[3:], sys.argv[2])"
    shared = f"sqlite:///{tmp_path}/shared/mlflow.db"
    command = [sys.executable, "-c", program, str(study), shared, *RUNS]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    sync(study, RUNS, uri)
    together, alone = contents(shared), contents(uri)
    # every run once, with the very metrics of a lone sync; the ids are MLflow's own
    assert {key: value["metrics"] for key, value in together.items()} == {
        key: value["metrics"] for key, value in alone.items()
    }


def test_all_runs_of_a_running_study_are_found(study, tmp_path):
    scratch = tmp_path / "scratch"
    for name in (f"{BASELINE}-0a1b", "dino-hirl-random-s1-0a1b-2c3d", "notes"):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "record.jsonl").touch()
    assert found_runs(study, scratch) == ["dino-hirl-random-s1", *RUNS]
    assert found_runs(tmp_path / "nowhere", None) == []
