from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hirl.config import load_study
from hirl.config.sections import SWITCHES, digest
from tests.config.conftest import PLAIN, problem

# --- values -----------------------------------------------------------------------------------------------------------


def test_the_effective_rate_is_derived_and_never_written_back(study) -> None:
    config = load_study(study("methods: [mocov2]")).resolve("mocov2", "hirl", 0, {"training.batch_size": 1024})
    assert config.training.effective_lr == pytest.approx(0.12)
    assert config.training.optimizer.base_lr == 0.03
    with pytest.raises(ValidationError):
        config.training.epochs = 3


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"training.epoch": 5}, ["unknown key 'training.epoch'", "epochs"]),
        ({"training.optimizer.lr": 1}, ["unknown key 'training.optimizer.lr'", "base_lr"]),
        ({"model.tau": 1}, ["unknown key 'model.tau'", "temperature"]),
        ({"hierarchy.levels": 3}, ["unknown key 'hierarchy.levels'", "num_clusters"]),
        ({"hierarchy.kmeans.niter": 3}, ["unknown key 'hierarchy.kmeans.niter'", "iterations"]),
        ({"traning.epochs": 5}, ["unknown key 'traning'", "training"]),
        ({"training.epochs": 0}, ["training.epochs = 0", "greater than or equal to 1"]),
        ({"training.epochs": "many"}, ["training.epochs = 'many'", "integer"]),
        ({"training.epochs.first": 1}, ["training.epochs", "integer"]),
        ({"training.precision": "fp16"}, ["training.precision = 'fp16'", "'auto', 'fp32' or 'bf16'"]),
        ({"model.momentum": 1.5}, ["model.momentum = 1.5", "less than 1"]),
        ({"model.momentum": 1.0}, ["model.momentum = 1.0", "less than 1"]),
        ({"training.optimizer.momentum": 1}, ["training.optimizer.momentum = 1", "less than 1"]),
        ({"training.epochs": True}, ["training.epochs = True", "give a number"]),
        ({"training.schedule.factor": True}, ["training.schedule.factor = True", "give a number"]),
        ({"training.schedule.warmup_epochs": 6}, ["training: schedule.warmup_epochs is 6, but epochs is 5"]),
        ({"training.schedule.milestones": [4, 2]}, ["milestones is [4, 2]", "ascending"]),
        ({"training.schedule.min_lr": 9}, ["training: schedule.min_lr is 9, above the peak learning rate"]),
        ({"hierarchy.snapshot_epochs": 9}, ["hierarchy.snapshot_epochs is 9, but 4 epochs follow"]),
        ({"evaluation.knn.neighbours": []}, ["evaluation.knn.neighbours = []", "at least 1"]),
        ({"evaluation.knn.neighbours": [5, 5]}, ["evaluation.knn.neighbours = [5, 5]", "5 is repeated"]),
        ({"training.optimizer.base_lr": float("nan")}, ["training.optimizer.base_lr", "finite"]),
        ({"hierarchy.num_clusters": [10, 30]}, ["num_clusters is [10, 30]", "fine to coarse"]),
        ({"hierarchy.num_clusters": []}, ["num_clusters is []"]),
        ({"hierarchy.negatives": "some"}, ["hierarchy.negatives = 'some'", "integer", "'all'"]),
        ({"hierarchy": None}, ["hierarchy is empty", "baseline"]),
        ({"views.global_scale": [0.9, 0.1]}, ["global_scale is [0.9, 0.1]", "[low, high]"]),
        ({"seed": 4}, ["'seed' names a run"]),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named_with_what_is_allowed(study, overrides: dict[str, Any], parts: list[str]) -> None:
    path = study(PLAIN)
    variants = ["hirl"] if "hierarchy.snapshot_epochs" in overrides else ["baseline", "hirl"]
    for variant in variants:  # a baseline's hierarchy is read with the same care, but has no epochs to fit into
        message = problem(lambda v=variant: load_study(path).resolve("mocov2", v, 0, overrides))
        assert all(part in message for part in [*parts, "mocov2"]), message


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_hirl_run_that_ends_before_its_first_tree_is_refused_and_its_baseline_is_not(study, epochs: int) -> None:
    short = {"training.epochs": epochs, "hierarchy.start_epoch": 2}
    message = problem(lambda: load_study(study(PLAIN)).resolve("mocov2", "hirl", 0, short))
    assert f"hierarchy.start_epoch is 2, but training.epochs is {epochs}: " in message
    assert load_study(study(PLAIN)).resolve("mocov2", "baseline", 0, short).training.epochs == epochs


# --- hashes -----------------------------------------------------------------------------------------------------------

REWRITTEN = """# why
all:
  hierarchy: {start_epoch: 1}
  training:
    batch_size: 64  # fits
    epochs: 5
methods: [mocov2]
"""


def test_the_hash_sees_values_not_their_spelling(study) -> None:
    first = load_study(study(PLAIN)).resolve("mocov2", "hirl").pretraining_hash
    assert load_study(study(REWRITTEN)).resolve("mocov2", "hirl").pretraining_hash == first


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.epochs", 6), ("model.momentum", 0.5), ("hierarchy.negatives", "all"), ("views.jitter.hue", 0.2)],
)
def test_the_hash_changes_with_what_decides_the_weights(study, key: str, value: Any) -> None:
    path = study(PLAIN)
    changed = load_study(path).resolve("mocov2", "hirl", 0, {key: value})
    assert changed.pretraining_hash != load_study(path).resolve("mocov2", "hirl").pretraining_hash


def test_each_run_has_a_hash_of_its_own_and_a_baselines_leaves_the_hierarchy_out(study) -> None:
    path = study(PLAIN)
    runs = [("baseline", 0), ("hirl", 0), ("baseline", 1)]
    hashes = [load_study(path).resolve("mocov2", *run).pretraining_hash for run in runs]
    assert len(set(hashes)) == 3
    assert load_study(path).resolve("mocov2", "baseline", 0, {"hierarchy.negatives": 5}).pretraining_hash == hashes[0]


def test_evaluation_settings_have_hashes_of_their_own(study) -> None:
    path = study(PLAIN)
    first, second = (
        load_study(path).resolve("mocov2", "hirl", 0, {"evaluation.knn.temperature": t}) for t in (0.07, 0.1)
    )
    assert first.pretraining_hash == second.pretraining_hash
    assert first.task_hash("knn") != second.task_hash("knn")
    assert first.task_hash("linear") == second.task_hash("linear")


@pytest.mark.parametrize(
    "key", ["evaluation.linear.epochs", "transfer_data.train_images", "scenes.train_images", "data.label_lists"]
)
def test_what_comes_after_the_training_does_not_decide_its_weights(study, key: str) -> None:
    value = {1: "list.txt"} if key.endswith("lists") else 7
    changed = load_study(study(PLAIN)).resolve("mocov2", "hirl", 0, {key: value})
    assert changed.pretraining_hash == load_study(study(PLAIN)).resolve("mocov2", "hirl", 0).pretraining_hash


@pytest.mark.parametrize("switch", SWITCHES)
def test_execution_switches_are_not_hashed_at_any_depth(switch: str) -> None:
    assert digest({"tokenizer": [{"epochs": 3, switch: True}]}) == digest({"tokenizer": [{"epochs": 3}]})
    assert digest({switch: True, "epochs": 4}) != digest({"epochs": 3})
