from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hirl.planning.step_benchmark import StepBenchmark, measure_matmul_flops
from tests.conftest import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_steps_without_data(tiny_run, method):
    benchmark = StepBenchmark(tiny_run(method, "hirl"), torch.device("cpu"))
    before = [parameter.clone() for parameter in benchmark.method.projections.parameters()]
    assert benchmark.seconds(2) > 0
    assert benchmark.method.tree.num_clusters == (6, 3, 2)  # of random clusters, in the run's numbers
    assert not all(map(torch.equal, before, benchmark.method.projections.parameters()))


def test_a_matrix_product_has_a_rate():
    assert measure_matmul_flops("fp32", torch.device("cpu")) > 1e8  # any processor of this century


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_finite_steps_on_the_gpu(tiny_run, method):
    benchmark = StepBenchmark(tiny_run(method, "hirl", training={"precision": "bf16"}), torch.device("cuda"))
    assert benchmark.seconds(2) > 0
    assert all(parameter.isfinite().all() for parameter in benchmark.method.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["simsiam", "mocov3"])  # whose loss has no random numbers of its own
def test_the_gpu_gives_the_loss_of_the_cpu(tiny_run, method):
    benchmark = StepBenchmark(tiny_run(method), torch.device("cpu"))
    views, at = benchmark.draw_views(), benchmark.at
    on_cpu = benchmark.method(views, at).loss.item()
    on_gpu = benchmark.method.cuda()([view.cuda() for view in views], replace(at, images=at.images.cuda())).loss.item()
    assert on_gpu == pytest.approx(on_cpu, abs=0.02)  # convolutions in TF32 keep ten bits
