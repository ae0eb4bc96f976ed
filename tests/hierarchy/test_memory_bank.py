from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.distributed.collectives import local_slice, shard_range
from hirl.hierarchy.memory_bank import RATE, MemoryBank
from hirl.methods.base import EncodedViews
from tests.run_on_ranks import on_two_ranks

IMAGES, CHANNELS, WIDTH = 7, 3, 2
CPU = torch.device("cpu")
Step = tuple[Tensor, Tensor, Tensor]  # images [B]; features [V, B, C] and embeddings [V, B, D] of their views


@pytest.fixture
def first() -> tuple[Tensor, Tensor]:
    """Embeddings and mean unit features of all images, with which a bank starts."""
    generator = torch.Generator().manual_seed(0)
    means = F.normalize(torch.randn(8, IMAGES, CHANNELS, generator=generator), dim=2).mean(dim=0)
    return torch.randn(IMAGES, WIDTH, generator=generator), means


@pytest.fixture
def steps() -> list[Step]:
    """Two epochs of two steps of two images each, two views of each image; image 0 is always left out."""
    generator = torch.Generator().manual_seed(1)

    def rows(width: int) -> Tensor:
        return 5 * torch.randn(2, 2, width, generator=generator)

    return [(torch.tensor(images), rows(CHANNELS), rows(WIDTH)) for images in ([3, 1], [6, 2], [1, 5], [4, 3])]


def take_steps(bank: MemoryBank, steps: list[Step]) -> MemoryBank:
    """Give a bank this rank's slices of some steps."""
    for images, *views in steps:
        bank.update(local_slice(images), EncodedViews(*(local_slice(rows, dim=1).unbind() for rows in views)))
    return bank


def filled(first: tuple[Tensor, Tensor], steps: list[Step]) -> MemoryBank:
    """The bank of this rank after some steps."""
    own = shard_range(IMAGES)
    embeddings, means = (rows[own.start : own.stop] for rows in first)
    return take_steps(MemoryBank(embeddings, means, IMAGES), steps)


def units(views: Tensor) -> np.ndarray:
    rows = views.double().numpy()
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def slow_bank(first: tuple[Tensor, Tensor], steps: list[Step]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image by image in float64: the embeddings, the means, and the covariance of features within images."""
    embeddings, means = units(first[0]), first[1].double().numpy().copy()
    scatter, freedom = np.zeros((CHANNELS, CHANNELS)), 0
    for images, features, embedded in steps:
        for place, image in enumerate(images.tolist()):
            of_image = units(features[:, place])
            mean = of_image.mean(axis=0)
            means[image] = (1 - RATE) * means[image] + RATE * mean
            embeddings[image] = (1 - RATE) * embeddings[image] + RATE * units(embedded[:, place]).mean(axis=0)
            scatter += sum(np.outer(unit - mean, unit - mean) for unit in of_image)
            freedom += len(of_image) - 1
    return embeddings, means, scatter / freedom


def test_rows_and_covariance_are_those_of_a_loop(first, steps):
    for found, expected in zip(filled(first, steps).take(), slow_bank(first, steps), strict=True):
        assert found.numpy() == pytest.approx(expected, abs=1e-6)  # float32's rounding


def test_without_invariant_features_only_embeddings_are_kept(first, steps):
    bank = take_steps(MemoryBank(first[0], None, IMAGES), steps)
    embeddings, means, covariance = bank.take()
    assert embeddings.numpy() == pytest.approx(slow_bank(first, steps)[0], abs=1e-6)
    assert means is covariance is None
    assert list(bank.state()) == ["embeddings"]
    assert torch.equal(MemoryBank.of_state(bank.state(), CPU).take()[0], embeddings)


def test_an_image_that_no_step_saw_keeps_its_rows(first, steps):
    embeddings, means, _ = filled(first, steps).take()
    assert torch.equal(embeddings[0], F.normalize(first[0], dim=1)[0])
    assert torch.equal(means[0], first[1][0])


def test_a_tree_takes_the_covariance_of_the_steps_since_the_last_one(first, steps):
    bank = filled(first, steps[:2])
    bank.take()
    covariance = take_steps(bank, steps[2:]).take()[2]
    assert covariance.numpy() == pytest.approx(slow_bank(first, steps[2:])[2], abs=1e-6)


def test_a_bank_goes_on_from_its_state(first, steps):
    resumed = MemoryBank.of_state(filled(first, steps[:2]).state(), CPU)
    for found, expected in zip(take_steps(resumed, steps[2:]).take(), filled(first, steps).take(), strict=True):
        assert torch.equal(found, expected)


def taken_after_a_resume(first: tuple[Tensor, Tensor], steps: list[Step]) -> tuple[Tensor, Tensor, Tensor]:
    """What a rank has after two steps, a checkpoint and two more."""
    return take_steps(MemoryBank.of_state(filled(first, steps[:2]).state(), CPU), steps[2:]).take()


def test_ranks_keep_the_rows_of_their_shards(first, steps):
    *rows, covariance = taken_after_a_resume(first, steps)
    ranks = on_two_ranks(taken_after_a_resume, first, steps)
    assert [len(embeddings) for embeddings, *_ in ranks] == [4, 3]
    for kind, expected in enumerate(rows):
        assert torch.equal(torch.cat([taken[kind] for taken in ranks]), expected)
    for taken in ranks:
        assert torch.allclose(taken[2], covariance, rtol=1e-12)  # float64 sums in two parts
