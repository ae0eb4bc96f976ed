"""Dry runs plan the jobs that a study needs, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yte

from hirl.config import TASKS, TRAINED
from tests.workflow.conftest import ROOT, own_profile

METHODS, BACKBONES = 6, 2  # of the demo; a convolutional network and a transformer
ONCE = {"draw_figures": 1, "summarise": 1, "sync_tracking": 1, "all": 1}


def test_the_demo_trains_and_evaluates_every_method_in_both_variants(project):
    assert project.planned() == ONCE | {
        "draw_atlas": 1,
        "fetch_data": 1,
        "prepare_data": 1,
        "prepare_transfer": 1,
        "prepare_scenes": 1,
        "choose_labels": 1,
        "pretrain_baseline": METHODS,
        "pretrain_hirl": METHODS,
        "evaluate": METHODS + BACKBONES,
        "evaluate_hirl": METHODS,
    }


def test_config_narrows_a_study(project):
    assert project.planned(methods="dino,ibot", variants="baseline", seeds="0,1,2", tasks="knn") == ONCE | {
        "fetch_data": 1,
        "prepare_data": 1,
        "pretrain_baseline": 2 * 3,
        "evaluate": 2 * 3 + 1,
    }


def test_hirl_alone_trains_no_baseline(project):
    planned = project.planned(methods="mocov2,dino", variants="hirl", tasks="knn")
    trainings = {rule: count for rule, count in planned.items() if "pretrain" in rule or "stem" in rule}
    assert trainings == {"pretrain_hirl": 2, "no_stems": 2}
    planned = project.planned(methods="dino", variants="hirl", tasks="knn", set="hierarchy.start_epoch=0")
    assert "no_stems" not in planned


def test_a_hirl_run_goes_on_from_the_folder_that_its_baseline_fills(project):
    said = project.snakemake("--dry-run", "--printshellcmds", methods="mocov2", seeds=1, tasks="knn")
    stems = dict(re.findall(r"--method mocov2 --variant (\w+) --seed 1 --stems (\S+)", said.stdout))
    assert stems == dict.fromkeys(("baseline", "hirl"), "results/demo/runs/mocov2-baseline-s1/stems")


def test_a_tokenizer_of_the_users_is_not_trained(project):
    (project.folder / "encoder.pkl").touch()
    planned = project.planned(study="demo_beit", tasks="knn", tokenizer="encoder.pkl")
    assert planned["pretrain_baseline"] == planned["pretrain_hirl"] == 1
    assert "train_tokenizer" not in planned


def test_published_weights_need_no_training(project):
    (project.folder / "weights.dvc").touch()
    planned = project.planned(methods="dino", tasks="knn", pretrained="weights")
    assert planned == ONCE | {
        "fetch_data": 1,
        "prepare_data": 1,
        "fetch_weights": 1,
        "evaluate": 2,
        "evaluate_hirl": 1,
    }


def test_evaluations_of_image_files_are_jobs_of_their_own(project):
    tasks = "knn,probe,linear,semisup-1,detection,hierarchy"
    planned = project.planned(methods="dino", tasks=tasks, set="data.storage=files")
    own = {f"evaluate_{task}": 3 for task in ("frozen", "linear", "semisup_1", "detection")}
    assert {rule: count for rule, count in planned.items() if rule.startswith("evaluate")} == own | {
        "evaluate_hierarchy": 1
    }
    assert planned["extract_features"] == 3
    assert planned["choose_labels"] == 1


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"sturdy": "demo"}, "sturdy"),
        ({"study": "dmeo"}, "dmeo"),
        ({"methods": "mocov2,byol"}, "byol"),
        ({"set": "training.epoch=3"}, "training.epoch"),
        ({"study": "tiny.yaml"}, "data_root"),
        ({"set": "scenes.name=coco"}, "scenes_root"),
        ({"set": "transfer_data.name=folder"}, "transfer_root"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_in_config_is_one_line_that_names_it(project, config, named):
    said = project.snakemake("--dry-run", **config)
    lines = [line for line in said.stdout.splitlines() if not line.startswith("Using workflow specific profile")]
    assert said.returncode != 0
    assert len(lines) == 1, said.stdout
    assert named in lines[0]


def settings_of(profile: Path) -> dict[str, Any]:
    """Return the settings of a profile, its loops unrolled."""
    return yte.process_yaml((profile / "profile.yaml").read_text(), require_use_yte=True)


@pytest.mark.parametrize("profile", ["gpu", "slurm"])
@pytest.mark.parametrize("storage", ["memory", "files"])
def test_a_profile_gives_a_gpu_to_every_job_that_runs_a_network(project, profile, storage):
    planned = project.planned("--workflow-profile", profile, study="demo_beit", set=f"data.storage={storage}")
    without = {"evaluate_frozen", "evaluate_hierarchy"}
    networks = {rule for rule in planned if rule.startswith(("train", "pretrain", "extract", "evaluate"))} - without
    assert networks > {"train_tokenizer", "pretrain_baseline", "pretrain_hirl"}
    settings = settings_of(ROOT / "workflow" / "profiles" / profile)
    with_gpu = {rule for rule, resources in settings["set-resources"].items() if resources["gpu"] == 1}
    assert networks <= with_gpu == settings["set-threads"].keys()
    assert not without & with_gpu


@pytest.mark.parametrize("profile", ["gpu", "slurm"])
def test_a_profile_names_every_trained_task(profile):
    settings = settings_of(ROOT / "workflow" / "profiles" / profile)
    jobs = {f"evaluate_{TASKS[task].settings}" for task in TRAINED}
    assert jobs <= settings["set-resources"].keys()


def test_a_number_in_a_profile_gives_a_training_its_gpus_ranks_and_threads(project):
    profile = own_profile(project.folder / "ours", "gpu", pretrain_hirl=4)
    call = ("--dry-run", "--printshellcmds", "--workflow-profile", str(profile))
    said = project.snakemake(*call, methods="mocov2", tasks="knn")
    ranks = dict(re.findall(r"--method (\w+ --variant \w+).*--out.*runs/\S+/weights.*--ranks (\d)", said.stdout))
    assert ranks == {"mocov2 --variant hirl": "4", "mocov2 --variant baseline": "1"}
    assert settings_of(profile)["set-threads"]["pretrain_hirl"] == 4 * 8


def test_a_job_of_more_gpus_than_a_node_has_takes_nodes(tmp_path):
    profile = own_profile(tmp_path / "ours", "slurm", pretrain_hirl=16, evaluate_linear=2)
    settings = settings_of(profile)
    wide, narrow = (settings["set-resources"][rule] for rule in ("pretrain_hirl", "evaluate_linear"))
    assert (wide["gpu"], wide["nodes"], wide["tasks"], wide["mem_mb"]) == (16, 2, 2, 8 * 32000)
    assert narrow == {"gpu": 2, "mem_mb": 2 * 32000}
    assert settings["set-threads"]["pretrain_hirl"] == 8 * 8  # of each node
