"""A whole study by one command, and what a second command does with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from hirl.config import CONTROL
from tests.workflow.conftest import Project, own_profile

PATH_WITH_DVC = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
RUNS = [f"{method}-{variant}-s0" for method in ("mocov2", "dino") for variant in ("baseline", "hirl")]
CONTROLS = ["untrained-resnet8-s0", "untrained-vit_narrow_patch8-s0"]
SUMMARY = {"summarise": 1, "sync_tracking": 1, "all": 1}
ATLAS = {"draw_atlas": 1}
ONCE = {"draw_figures": 1} | ATLAS | SUMMARY


@pytest.fixture
def edited(finished, tmp_path) -> Project:
    """Copy the finished project, to change it."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, finished.server, **finished.environment)


def edit(project: Project, old: str, new: str) -> None:
    study = project.folder / "tiny.yaml"
    assert study.read_text().count(old) == 1
    study.write_text(study.read_text().replace(old, new))


def test_one_command_leaves_every_number_the_pictures_and_the_report(finished):
    results = finished.folder / "results" / "tiny"
    summary = pd.read_csv(results / "summary.csv")
    assert list(summary) == ["study", "dataset", "method", "variant", "backbone", "seed", "task", "metric", "value"]
    kinds = summary.variant.where(summary.variant != CONTROL, summary.backbone)
    found = set(summary.method + "-" + kinds + "-s" + summary.seed.astype(str) + " " + summary.task)
    expected = {f"{run} knn" for run in RUNS + CONTROLS} | {f"{run} hierarchy" for run in RUNS if "hirl" in run}
    assert found == expected
    assert {path.name for path in results.glob("figures/*")} == {
        *("gains.png", "training.png", "hierarchy.png"),
        *(f"atlas-{run}.png" for run in RUNS if "hirl" in run),
    }
    assert "MoCo v2" in (results / "report.html").read_text()
    assert "DINO + HIRL" in (results / "atlas.html").read_text()
    assert (results / "table.txt").read_text() in finished.said


def test_a_training_has_the_threads_of_its_rule(finished):
    histories = [pd.read_csv(finished.folder / "results" / "tiny" / "runs" / run / "history.csv") for run in RUNS]
    assert {threads for history in histories for threads in history["threads"]} == {1}


def test_hirl_runs_take_the_first_epoch_over_from_their_baselines(finished):
    for run in (finished.folder / "results/tiny/runs").glob("*-hirl-s0"):
        settings = json.loads((run / "record.jsonl").read_text().splitlines()[0])
        baseline = run.name.replace("hirl", "baseline")
        assert settings["values"]["stem"] == {"run": baseline, "epochs": 1}
        assert [path.name for path in (run.with_name(baseline) / "stems").glob("*.pt")] == ["epoch0001.pt"]


def test_a_second_command_runs_nothing(finished, pictures):
    assert finished.planned(study="tiny.yaml", data_root=pictures) == {}


def test_other_numbers_of_gpus_make_nothing_stale(finished, pictures, tmp_path):
    profile = own_profile(tmp_path / "ours", "gpu", pretrain_hirl=2, evaluate_hirl=4)
    given = ("--workflow-profile", str(profile), "--resources", "gpu=4")
    assert finished.planned(*given, study="tiny.yaml", data_root=pictures) == {}


def test_a_comment_makes_nothing_stale(edited, pictures):
    edit(edited, "tasks:", "# said anew\ntasks:")
    assert edited.planned(study="tiny.yaml", data_root=pictures) == {}


def test_a_changed_evaluation_runs_that_evaluation_alone(edited, pictures):
    edit(edited, "neighbours: [1, 5]", "neighbours: [1]")
    planned = edited.planned(study="tiny.yaml", data_root=pictures)
    assert planned == SUMMARY | ATLAS | {"evaluate": 4, "evaluate_hirl": 2}


def test_a_changed_method_trains_that_method_alone(edited, pictures):
    edit(edited, "prototypes: 16", "prototypes: 32")
    assert edited.planned(study="tiny.yaml", data_root=pictures) == ONCE | {
        "pretrain_baseline": 1,
        "pretrain_hirl": 1,
        "evaluate": 1,
        "evaluate_hirl": 1,
    }


def test_a_changed_hierarchy_trains_hirl_alone(edited, pictures):
    planned = edited.planned(study="tiny.yaml", data_root=pictures, set="hierarchy.negatives=2")
    assert planned == ONCE | {"pretrain_hirl": 2, "evaluate_hirl": 2}


def test_another_start_epoch_trains_hirl_alone(edited, pictures):
    planned = edited.planned(study="tiny.yaml", data_root=pictures, set="hierarchy.start_epoch=2")
    assert {rule: count for rule, count in planned.items() if "pretrain" in rule} == {"pretrain_hirl": 2}


@pytest.mark.parametrize("variant", ["hirl", "baseline"])
def test_asking_for_one_variant_of_a_finished_study_trains_nothing(finished, pictures, variant):
    planned = finished.planned(study="tiny.yaml", data_root=pictures, variants=variant)
    assert not [rule for rule in planned if "pretrain" in rule or "stem" in rule or "evaluate" in rule]


def test_hirl_alone_trains_all_epochs_to_the_same_weights(finished, project, pictures):
    asked = {"study": "tiny.yaml", "data_root": pictures, "methods": "mocov2", "tasks": "knn"}
    weights = "results/tiny/runs/mocov2-hirl-s0/weights.safetensors"
    said = project.snakemake(weights, variants="hirl", **asked)
    assert said.returncode == 0, said.stdout
    assert "mocov2-hirl-s0  trains all epochs" in said.stdout
    whole, forked = (load_file(home / weights) for home in (project.folder, finished.folder))
    assert all(np.array_equal(whole[name], forked[name]) for name in whole)


def test_names_with_spaces_and_umlauts_are_names_like_others(project, pictures, warm_jobs):
    (project.folder / "tiny.yaml").rename(project.folder / "mein ü study.yaml")
    (project.folder / "meine bilder").symlink_to(pictures)
    project.environment |= warm_jobs
    asked = {"study": "mein ü study.yaml", "data_root": "meine bilder", "methods": "mocov2", "tasks": "knn,hierarchy"}
    said = project.snakemake(**asked)
    assert said.returncode == 0, said.stdout
    assert (project.folder / "results" / "mein ü study" / "report.html").is_file()
    made = {"results", "logs", "scratch", "mlflow", ".snakemake"}
    assert {path.name for path in project.folder.iterdir()} == made | {"mein ü study.yaml", "meine bilder", "data.dvc"}


def test_a_second_seed_leaves_the_first_alone(edited, pictures):
    planned = edited.planned(study="tiny.yaml", data_root=pictures, seeds="0,1", variants="baseline")
    assert planned == {rule: 1 for rule in ONCE if rule != "draw_atlas"} | {"pretrain_baseline": 2, "evaluate": 2}


def test_losing_the_tracker_trains_nothing(edited, pictures):
    shutil.rmtree(edited.folder / "mlflow")
    (edited.folder / "results" / "tiny" / "tracked").unlink()
    assert edited.planned(study="tiny.yaml", data_root=pictures) == {"sync_tracking": 1, "all": 1}


def test_an_interrupted_training_resumes_to_the_same_weights(finished, edited, pictures):
    run = "results/tiny/runs/mocov2-hirl-s0"
    asked = {"study": "tiny.yaml", "data_root": pictures}
    shutil.rmtree(edited.folder / run)
    shutil.rmtree(edited.folder / "scratch")
    command = [sys.executable, "-m", "snakemake", *edited.arguments(f"{run}/weights.safetensors", **asked)]
    call = subprocess.Popen(command, cwd=edited.folder, stdout=subprocess.DEVNULL)
    kill_trainer(call.pid, once_there="scratch/tiny/mocov2-hirl-s0-*/checkpoint00001.pt", folder=edited.folder)
    assert call.wait() != 0
    assert not (edited.folder / run / "weights.safetensors").exists()

    said = edited.snakemake(f"{run}/weights.safetensors", **asked)
    assert said.returncode == 0, said.stdout
    assert "resumes after epoch 1/3" in said.stdout
    resumed, whole = (load_file(home / run / "weights.safetensors") for home in (edited.folder, finished.folder))
    assert resumed.keys() == whole.keys()
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)


def kill_trainer(scheduler: int, once_there: str, folder: Path) -> None:
    """Kill the trainer below a scheduler with signal 9, as soon as a file exists."""
    deadline = time.monotonic() + 120
    while not list(folder.glob(once_there)):
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.005)
    for process in psutil.Process(scheduler).children(recursive=True):
        if process.name() == "hirl" or "pretrain" in process.cmdline():
            process.kill()


def test_published_weights_give_the_published_numbers_and_altered_ones_are_refused(edited, pictures):
    asked = {"study": "tiny.yaml", "data_root": pictures, "methods": "mocov2", "variants": "hirl", "tasks": "knn"}
    for command in ("git init -q", "dvc init -q", "dvc remote add -q --default bundled bundled"):
        subprocess.run(command.split(), cwd=edited.folder, env=PATH_WITH_DVC, check=True)
    run = Path("results/tiny-published/runs/mocov2-hirl-s0")
    said = edited.snakemake("publish", **asked)
    assert said.returncode == 0, said.stdout
    published = (edited.folder / run / "evaluation" / "knn.json").read_text()

    for folder in ("weights", "results", "scratch", ".dvc/cache"):
        shutil.rmtree(edited.folder / folder)
    said = edited.snakemake(f"{run}/evaluation/knn.json", pretrained="weights", **asked)
    assert said.returncode == 0, said.stdout
    assert (edited.folder / run / "evaluation" / "knn.json").read_text() == published

    shutil.rmtree(edited.folder / run)
    weights = edited.folder / "weights" / "tiny" / "mocov2-hirl-s0" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    said = edited.snakemake(f"{run}/features.safetensors", pretrained="weights", **asked)
    assert said.returncode != 0
    assert str(weights.relative_to(edited.folder)) in said.stdout
    assert not (edited.folder / run / "weights.safetensors").exists()
