"""What a plan says, against counts by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from hirl.cli import main
from hirl.config import BackboneConfig, load_study
from hirl.files import write_json
from hirl.hierarchy import SemanticTree
from hirl.models.backbones import build_backbone
from hirl.planning.cost import (
    Cost,
    Counts,
    Machine,
    check,
    cost,
    count,
    find_machine,
    hirl_operations,
    kmeans_operations,
    memory,
    number_of_images,
    snapshot_bytes,
    snapshots,
    task_operations,
    wall_seconds,
)

COUNTS = Counts(
    step=100.0, forward=10.0, activations=5.0, static=1000, weights=40, checkpoint=70, width=8, embedding_dim=4
)


def a_cost(seconds: float, embedding: float = 0.0, clustering: float = 0.0) -> Cost:
    return Cost("any", seconds, embedding, clustering, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("name", "multiplications"), [("resnet50", 4.09e9), ("vit_base_patch16", 17.56e9)])
def test_a_forward_pass_has_the_published_operations(name, multiplications):
    """He et al. and Dosovitskiy et al. by fvcore's count, at 224 pixels; attention's products included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        build_backbone(BackboneConfig(name=name), 224)(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() == pytest.approx(2 * multiplications, rel=0.02)  # counts of small layers differ


def test_a_step_of_simsiam_is_thrice_its_views_forward(tiny_run):
    counts = count(tiny_run("simsiam"))
    assert counts.width == 128
    assert counts.embedding_dim == 16
    # two views forward and backward; the first convolution has no gradient to its images, heads add little
    assert 5.5 * counts.forward < counts.step < 6.5 * counts.forward
    assert counts.static > 3 * counts.weights  # weights, gradients and momentum, of backbone and heads


def test_a_momentum_encoder_costs_forward_passes_more(tiny_run):
    counts = count(tiny_run("mocov2"))
    assert 3.5 * counts.forward < counts.step < 4.5 * counts.forward  # one view learns, the other makes keys


def test_projections_and_path_loss_by_hand(tiny_run):
    config = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3], "mlp_layers": 2})
    assert hirl_operations(config, 4) == 6 * 2 * 2 * 4 * 4 + 4 * 4 * (6 + 3)
    assert hirl_operations(tiny_run("simsiam"), 4) == 0


def test_kmeans_by_hand(tiny_run):
    kmeans = {"iterations": 5, "restarts": 2, "max_points_per_centroid": 10}
    config = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3], "kmeans": kmeans})
    assert snapshots(config) == 2  # of three epochs, the first has none
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


def test_a_run_takes_its_operations_over_the_rate_that_its_network_reaches(tiny_run):
    machine = Machine("any", 1.0, {"fp32": 1e-9, "bf16": 2e-9}, None)
    config = tiny_run("simsiam", data={"train_images": 64, "validation_images": 16})
    seconds = cost(config, COUNTS, machine, share=0.5, ranks=1, tasks=["linear"]).pretraining
    assert seconds == pytest.approx(6.0 + 3 * 64 * 100 / 500)  # 10^3 operations a second, half of which it reaches


def test_ranks_share_all_but_the_clustering():
    assert a_cost(80.0, embedding=16.0, clustering=10.0).wall(ranks=8) == 22.0


def test_runs_are_given_to_gpus_as_they_become_free():
    costs = [a_cost(seconds) for seconds in (3.0, 5.0, 4.0)]
    assert wall_seconds(costs, gpus=2, ranks=1) == 7.0  # 5, then 4 beside it, then 3 after the 4
    assert wall_seconds(costs, gpus=2, ranks=2) == 6.0  # one after the other, on both
    assert wall_seconds(costs, gpus=3, ranks=1) == 5.0


def test_a_snapshot_is_as_large_as_its_file(tiny_run, tmp_path):
    config = tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [60, 30, 20]})
    paths = torch.arange(1000).remainder(20)[:, None].expand(-1, 3).contiguous()
    unit = torch.nn.functional.one_hot(torch.zeros(60, dtype=torch.long), 16).float()
    tree = SemanticTree((unit, unit[:30], unit[:20]), (torch.arange(60) % 20, torch.arange(30) % 20), paths)
    tree.save(tmp_path / "tree.safetensors")
    header = 1000  # names, shapes and offsets: less than that
    assert 0 < (tmp_path / "tree.safetensors").stat().st_size - snapshot_bytes(config, 16, 1000) < header


def test_memory_is_the_larger_of_training_and_clustering(tiny_run):
    assert memory(tiny_run("simsiam"), COUNTS, 64, ranks=2) == 1000 + 5 * 16 / 2
    hirl = tiny_run("simsiam", "hirl")
    assert memory(hirl, COUNTS, 64, ranks=2) == snapshot_bytes(hirl, 4, 64) + 1000 + 2 * 4 * 64 * 4


def test_the_number_of_images_is_asked_prepared_or_known(tiny_run, tmp_path):
    assert number_of_images(load_study("imagenet").resolve("dino", "baseline").data) == (1_281_167, 50_000)
    folder = tiny_run("simsiam", data={"name": "folder"}).data
    with pytest.raises(ValueError, match="nobody knows how many images 'folder' has: prepare them, and add --data"):
        number_of_images(folder)
    write_json(tmp_path / "manifest.json", {"splits": {"train": 7, "validation": 3}})
    assert number_of_images(folder, tmp_path) == (7, 3)
    assert number_of_images(folder.model_copy(update={"train_images": 5}), tmp_path) == (5, 3)


def test_a_plan_is_checked_against_a_record(tmp_path):
    run = tmp_path / "runs" / "any"
    run.mkdir(parents=True)
    with (run / "history.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["epoch", "seconds"], [0, 4.0], [1, 6.0]])
    (found,) = check([a_cost(6.0 + 4.0, embedding=0.75, clustering=0.25)], tmp_path)
    assert (found.planned, found.measured) == (5.0, 10.0)
    assert found.error == 2.0
    with pytest.raises(ValueError, match=r"history\.csv is missing: --check wants the results of a study that was run"):
        check([a_cost(1.0)], Path(tmp_path, "elsewhere"))


def test_the_command_plans_a_study_and_refuses_an_unknown_gpu(tiny_study, capsys):
    assert main(["plan", "--study", tiny_study, "--gpu", "h200", "--count", "8", "--per-run", "2"]) == 0
    title, columns, *runs, total = capsys.readouterr().out.splitlines()
    assert title.split() == ["8", "x", "h200,", "2", "for", "each", "run"]
    assert columns.split()[0] == "run"
    assert len(runs) == 14
    assert total.startswith("all")
    assert main(["plan", "--study", tiny_study, "--gpu", "abacus"]) == 2
    assert "--gpu abacus is unknown: choose h200, h100, a100, here, or add it to" in capsys.readouterr().err
    assert main(["plan", "--study", tiny_study, "--gpu", "h200", "--count", "4", "--per-run", "8"]) == 2
    assert "--per-run 8 is not between 1 and --count 4: change either" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")  # which it sets, and would leave
def test_this_machine_is_measured():
    here = find_machine("here")
    assert here.share is None
    assert min(here.tflops.values()) > 1e-4  # any processor of this century
    assert here.memory_gib > 0.5
