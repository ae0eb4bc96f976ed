from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.distributed.collectives import local_slice, shard_range
from hirl.hierarchy.memory_bank import RATE, MemoryBank
from tests.run_on_ranks import on_two_ranks

IMAGES, WIDTH = 7, 3
Step = tuple[Tensor, Tensor]  # the indices of its images [B], and the embeddings of their views [V, B, D]


@pytest.fixture
def first() -> Tensor:
    """Unit rows of all images, with which a bank starts."""
    return F.normalize(torch.randn(IMAGES, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture
def steps() -> list[Step]:
    """Two epochs of two steps of two images each, two views of each image; image 0 is always left out."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.tensor(batch) for batch in ([3, 1], [6, 2], [1, 5], [4, 3])]
    return [(batch, 5 * torch.randn(2, 2, WIDTH, generator=generator)) for batch in images]


def filled(first: Tensor, steps: list[Step]) -> MemoryBank:
    """The bank of this rank after the steps, of which it takes its slice of each batch."""
    own = shard_range(IMAGES)
    bank = MemoryBank(first[own.start : own.stop], IMAGES)
    for images, views in steps:
        bank.update(local_slice(images), local_slice(views, dim=1))
    return bank


def slow_bank(first: Tensor, steps: list[Step]) -> tuple[np.ndarray, np.ndarray]:
    """Image by image in float64: the rows, and the covariance within images."""
    rows, scatter, freedom = first.double().numpy().copy(), np.zeros((WIDTH, WIDTH)), 0
    for images, views in steps:
        for place, image in enumerate(images.tolist()):
            units = [view[place].double().numpy() for view in views]
            units = [unit / np.linalg.norm(unit) for unit in units]
            mean = sum(units) / len(units)
            rows[image] = (1 - RATE) * rows[image] + RATE * mean
            scatter += sum(np.outer(unit - mean, unit - mean) for unit in units)
            freedom += len(units) - 1
    return rows, scatter / freedom


def test_rows_and_covariance_are_those_of_a_loop(first, steps):
    bank = filled(first, steps)
    rows, covariance = slow_bank(first, steps)
    assert bank.rows.numpy() == pytest.approx(rows, abs=1e-6)  # float32's rounding
    assert bank.take_covariance().numpy() == pytest.approx(covariance, abs=1e-6)


def test_an_image_that_no_step_saw_keeps_its_row(first, steps):
    assert torch.equal(filled(first, steps).rows[0], first[0])


def test_a_tree_takes_the_covariance_of_the_steps_since_the_last_one(first, steps):
    bank = filled(first, steps[:2])
    bank.take_covariance()
    for step in steps[2:]:
        bank.update(*step)
    assert bank.take_covariance().numpy() == pytest.approx(slow_bank(first, steps[2:])[1], abs=1e-6)


def test_a_bank_goes_on_from_its_state(first, steps):
    whole, half = filled(first, steps), filled(first, steps[:2])
    resumed = MemoryBank.of_state(half.state(), torch.device("cpu"))
    for step in steps[2:]:
        resumed.update(*step)
    assert torch.equal(resumed.rows, whole.rows)
    assert torch.equal(resumed.take_covariance(), whole.take_covariance())


def rows_and_covariance(first: Tensor, steps: list[Step]) -> dict[str, Tensor]:
    """What a rank has after two steps, a checkpoint and two more."""
    bank = MemoryBank.of_state(filled(first, steps[:2]).state(), torch.device("cpu"))
    for images, views in steps[2:]:
        bank.update(local_slice(images), local_slice(views, dim=1))
    return {"rows": bank.rows, "covariance": bank.take_covariance()}


def test_ranks_keep_the_rows_of_their_shards(first, steps):
    expected: Callable[..., dict[str, Tensor]] = rows_and_covariance(first, steps)
    found = on_two_ranks(rows_and_covariance, first, steps)
    assert [len(rank["rows"]) for rank in found] == [4, 3]
    assert torch.equal(torch.cat([rank["rows"] for rank in found]), expected["rows"])
    for rank in found:
        assert torch.allclose(rank["covariance"], expected["covariance"], rtol=1e-12)  # float64 sums in two parts
