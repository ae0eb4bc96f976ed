"""The formulas of a run's cost, against counts by hand."""

from __future__ import annotations

import pytest
import torch

from hirl.config import load_study
from hirl.files import write_json
from hirl.hierarchy import SemanticTree
from hirl.planning.cost import (
    JOB_OVERHEAD_S,
    encoded_views,
    gpu_memory,
    hirl_operations,
    kmeans_operations,
    num_snapshots,
    number_of_images,
    run_cost,
    snapshot_bytes,
    step_seconds,
    task_operations,
)
from hirl.planning.count import Counts
from hirl.planning.machine import Machine

COUNTS = Counts(
    step=100.0, forward=10.0, activations=5.0, static=1000, weights=40, checkpoint=70, width=8, embedding_dim=4
)


def test_projections_and_path_loss_by_hand(tiny_run):
    config = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3], "mlp_layers": 2})
    assert hirl_operations(config, 4) == 6 * 2 * 2 * 4 * 4 + 4 * 4 * (6 + 3)
    assert hirl_operations(tiny_run("simsiam"), 4) == 0


def test_a_step_by_hand(tiny_run):
    machine = Machine("any", 1.0, {"fp32": 1e-9, "tf32": 2e-9}, {"resnet": 0.5})  # 1000 and 2000 operations a second
    config = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3], "mlp_layers": 2})
    operations = 100 + 6 * 2 * 2 * 4 * 4 + 4 * 4 * (6 + 3)  # of an image
    assert step_seconds(config, COUNTS, machine, 0.5, batch=5) == pytest.approx(5 * operations / (2000 * 0.5))


def test_kmeans_by_hand(tiny_run):
    kmeans = {"iterations": 5, "restarts": 2, "max_points_per_centroid": 10}
    config = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3], "kmeans": kmeans})
    assert num_snapshots(config) == 2  # of three epochs, the first has none
    fine = 2 * 4 * 6 * (60 * 5 * 2 + 64)  # 60 of 64 images are learnt from, all are assigned
    coarse = 2 * 4 * 3 * (6 * 5 * 2 + 6)
    assert kmeans_operations(config, 4, images=64) == 2 * (fine + coarse)
    warm = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3], "kmeans": kmeans | {"warm_iterations": 3}})
    assert kmeans_operations(warm, 4, images=64) == 2 * coarse + fine + 2 * 4 * 6 * (60 * 3 + 64)


def test_evaluations_by_hand(tiny_run):
    config = tiny_run("simsiam", evaluation={"linear": {"epochs": 3}, "finetune": {"epochs": 2}})
    assert task_operations("linear", config, COUNTS, 64, 16) == (3 * 64 + 16) * 10
    assert task_operations("finetune", config, COUNTS, 64, 16) == (3 * 2 * 64 + 16) * 10
    assert task_operations("knn", config, COUNTS, 64, 16) == (64 + 16) * 10 + 2 * 64 * 16 * 8
    assert task_operations("probe", config, COUNTS, 64, 16) == 0


def test_seconds_are_operations_over_the_flops_that_the_network_reaches(tiny_run):
    machine = Machine("any", 1.0, {"fp32": 1e-9, "bf16": 2e-9}, None)
    config = tiny_run("simsiam", data={"train_images": 64, "validation_images": 16})
    seconds = run_cost(config, COUNTS, machine, mfu=0.5, ranks=1, tasks=["linear"]).pretraining
    assert seconds == pytest.approx(JOB_OVERHEAD_S + 3 * 64 * 100 / 500)  # 10^3 FLOP/s, at an MFU of one half


def test_epochs_before_the_first_tree_cost_those_of_the_baseline_and_count_once(tiny_run):
    machine = Machine("any", 1.0, {"fp32": 1e-9, "bf16": 2e-9, "tf32": 1e-9}, None)
    config = tiny_run("simsiam", "hirl", data={"train_images": 64, "validation_images": 16})  # starts at epoch 1 of 3
    costs = [run_cost(config, COUNTS, machine, 0.5, 1, ["knn"], forks=forks) for forks in (False, True)]
    hirl = 2 * 64 * (100 + hirl_operations(config, 4)) / 500
    start = JOB_OVERHEAD_S
    assert [cost.pretraining for cost in costs] == pytest.approx([start + 64 * 100 / 500 + hirl, start + hirl])
    assert [cost.taken_over for cost in costs] == pytest.approx([0.0, 64 * 100 / 500])
    assert [cost.baseline for cost in costs] == [None, "simsiam-baseline-s0"]
    assert costs[0].trees == costs[1].trees


def test_a_baseline_keeps_its_state_in_results_and_scratch(tiny_run):
    machine = Machine("any", 1.0, {"fp32": 1e-9}, None)
    config = tiny_run("simsiam", data={"train_images": 64, "validation_images": 16})
    without, one = (run_cost(config, COUNTS, machine, 0.5, 1, ["linear"], stems=stems).disk for stems in (0, 1))
    assert one - without == 2 * COUNTS.checkpoint


def test_a_snapshot_is_as_large_as_its_file(tiny_run, tmp_path):
    config = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [60, 30, 20]})
    paths = torch.arange(1000).remainder(20)[:, None].expand(-1, 3).contiguous()
    unit = torch.nn.functional.one_hot(torch.zeros(60, dtype=torch.long), 16).float()
    tree = SemanticTree((unit, unit[:30], unit[:20]), (torch.arange(60) % 20, torch.arange(30) % 20), paths)
    tree.save(tmp_path / "tree.safetensors")
    header = 1000  # names, shapes and offsets: less than that
    assert 0 < (tmp_path / "tree.safetensors").stat().st_size - snapshot_bytes(config, 16, 1000) < header


def test_memory_is_the_larger_of_training_and_clustering(tiny_run):
    assert gpu_memory(tiny_run("simsiam"), COUNTS, 64, ranks=2) == 1000 + 5 * 16 / 2
    hirl = tiny_run("simsiam", "hirl")
    assert gpu_memory(hirl, COUNTS, 64, ranks=1) == snapshot_bytes(hirl, 4, 64) + 1000 + 2 * 4 * 64 * 4
    assert gpu_memory(hirl, COUNTS, 64, ranks=2) == snapshot_bytes(hirl, 4, 64) + 1000 + 2 * 4 * 64 * 4 / 2
    steps = tiny_run("simsiam", "hirl", hierarchy={"encode": "steps"})
    assert gpu_memory(steps, COUNTS, 64, ranks=2) == gpu_memory(hirl, COUNTS, 64, ranks=2) + 4 * 64 * 4 / 2
    steps = tiny_run("simsiam", "hirl", hierarchy={"encode": "steps", "features": "invariant"})
    assert gpu_memory(steps, COUNTS, 64, ranks=2) == gpu_memory(hirl, COUNTS, 64, ranks=2) + 4 * 64 * (4 + 8) / 2


def test_trees_from_the_steps_encode_images_once(tiny_run):
    def views(**hierarchy):
        return encoded_views(tiny_run("simsiam", "hirl", hierarchy=hierarchy))

    assert views() == 2  # trees
    assert views(features="invariant", views=8) == 2 * 9
    assert views(encode="steps") == 1
    assert views(encode="steps", features="invariant", views=8) == 9
    assert encoded_views(tiny_run("simsiam")) == 0


def test_the_number_of_images_is_asked_prepared_or_known(tiny_run, tmp_path):
    assert number_of_images(load_study("imagenet").resolve("dino", "baseline").data) == (1_281_167, 50_000)
    folder = tiny_run("simsiam", data={"name": "folder"}).data
    with pytest.raises(ValueError, match="the number of images of 'folder' is unknown: prepare them, then add --data"):
        number_of_images(folder)
    write_json(tmp_path / "manifest.json", {"splits": {"train": 7, "validation": 3}})
    assert number_of_images(folder, tmp_path) == (7, 3)
    assert number_of_images(folder.model_copy(update={"train_images": 5}), tmp_path) == (5, 3)
