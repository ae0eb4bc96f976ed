from __future__ import annotations

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
