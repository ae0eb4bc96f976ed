"""The roofline of benchmarks/training.py: what an operation computes and moves, and the least time of all of them."""

import pytest
import torch

from tests.workflow.conftest import ROOT


@pytest.fixture
def training(monkeypatch):
    """Return benchmarks/training.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import training

    return training


def test_operations_have_their_flop_and_the_bytes_that_they_read_and_write(training):
    left, right, total = torch.ones(3, 4), torch.ones(4, 5), torch.ones(3, 5)
    with training.Operations() as operations:
        total += (left @ right).T.T.view(3, 5)  # the views in between cost nothing
        right[torch.tensor([1])]  # reads one of four rows
    floats = [(2 * 3 * 4 * 5, 12 + 20 + 15), (0, 15 + 15 + 15), (0, 5 + 5)]
    assert operations.found == [(flop, 4 * number) for flop, number in floats]


def test_an_expanded_tensor_has_the_bytes_of_its_storage(training):
    assert training.size(torch.ones(1).expand(100)) == 4
    assert training.size(torch.ones(100)[:10]) == 40


def test_the_limit_sums_the_longer_of_computing_and_moving(training):
    operations = training.Operations()
    operations.found = [(600, 100), (10, 2**20), (0, 2**20)]
    rates = dict.fromkeys(training.COPIES, 1.0) | {2**20: 2.0**19}
    # 600 FLOP at 100 a second take 6 s; each MiB takes 2 s, and its few FLOP less
    assert operations.limit(100.0, rates | {2**14: 100.0}) == (10.0, 0.6)
