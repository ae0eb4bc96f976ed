"""What the workflow would do, by dry runs."""

from __future__ import annotations

import pytest
import yaml

from tests.workflow.conftest import ROOT

METHODS, BACKBONES = 7, 2  # of the demo; a convolutional network and a transformer
ONCE = {"summarise": 1, "write_report": 1, "sync_tracking": 1, "all": 1}


def test_the_demo_trains_and_evaluates_every_method_in_both_variants(project):
    networks = 2 * METHODS + BACKBONES
    assert project.planned() == ONCE | {
        "fetch_data": 1,
        "prepare_data": 1,
        "prepare_transfer": 1,
        "prepare_scenes": 1,
        "choose_labels": 2,
        "train_tokenizer": 1,
        "pretrain_baseline": METHODS,
        "pretrain_hirl": METHODS,
        "extract_features": networks,
        "evaluate_frozen": networks,
        "evaluate_trained": networks,
        "evaluate_hierarchy": METHODS,
    }


def test_config_narrows_a_study(project):
    assert project.planned(methods="dino,ibot", variants="baseline", seeds="0,1,2", tasks="knn") == ONCE | {
        "fetch_data": 1,
        "prepare_data": 1,
        "pretrain_baseline": 2 * 3,
        "extract_features": 2 * 3 + 1,
        "evaluate_frozen": 2 * 3 + 1,
    }


def test_a_tokenizer_of_the_users_is_not_trained(project):
    (project.folder / "encoder.pkl").touch()
    planned = project.planned(methods="beit", tasks="knn", tokenizer="encoder.pkl")
    assert planned["pretrain_baseline"] == planned["pretrain_hirl"] == 1
    assert "train_tokenizer" not in planned


def test_published_weights_need_no_training(project):
    (project.folder / "weights.dvc").touch()
    planned = project.planned(methods="dino", tasks="knn", pretrained="weights")
    assert planned == ONCE | {
        "fetch_data": 1,
        "prepare_data": 1,
        "fetch_weights": 1,
        "extract_features": 3,
        "evaluate_frozen": 3,
    }


def test_trainings_of_image_files_are_jobs_of_their_own(project):
    planned = project.planned(methods="dino", tasks="linear,semisup-1,detection", set="data.storage=files")
    own = {f"evaluate_{task}": 3 for task in ("linear", "semisup_1", "detection")}
    assert {rule: count for rule, count in planned.items() if rule.startswith("evaluate")} == own
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


@pytest.mark.parametrize("profile", ["gpu", "slurm"])
@pytest.mark.parametrize("storage", ["memory", "files"])
def test_a_profile_gives_a_gpu_to_every_job_that_runs_a_network(project, profile, storage):
    planned = project.planned("--workflow-profile", profile, methods="beit", set=f"data.storage={storage}")
    without = {"evaluate_frozen", "evaluate_hierarchy"}
    networks = {rule for rule in planned if rule.startswith(("train", "pretrain", "extract", "evaluate"))} - without
    settings = yaml.safe_load((ROOT / "workflow" / "profiles" / profile / "profile.yaml").read_text())
    with_gpu = {rule for rule, resources in settings["set-resources"].items() if resources["gpu"] == 1}
    assert networks <= with_gpu
    assert not without & with_gpu
