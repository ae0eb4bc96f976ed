from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.hierarchy import SemanticTree
from hirl.hierarchy.invariant import RIDGE, CovarianceWithin, whiten
from tests.run_on_ranks import on_two_ranks

WIDTH = 5


@pytest.fixture
def features() -> Tensor:
    """Features of 3 views of 12 images, before normalisation: [V, N, C]."""
    return torch.randn(3, 12, WIDTH, generator=torch.Generator().manual_seed(0)) * torch.tensor([3, 1, 1, 0.5, 0.1])


def gather_features(features: Tensor, batch_size: int) -> tuple[Tensor, CovarianceWithin]:
    """Return the means of all images, taken in batches, and the covariance so far."""
    gathered = CovarianceWithin(features.shape[2], torch.device("cpu"))
    return torch.cat([gathered.add(batch) for batch in features.split(batch_size, dim=1)]), gathered


def slow_covariance(features: Tensor) -> np.ndarray:
    """Sum over images and views, one by one, in float64."""
    rows = F.normalize(features, dim=2).double().numpy()
    views, images, width = rows.shape
    scatter = np.zeros((width, width))
    for image in range(images):
        mean = rows[:, image].mean(axis=0)
        for view in range(views):
            scatter += np.outer(rows[view, image] - mean, rows[view, image] - mean)
    return scatter / (images * (views - 1))


@pytest.mark.parametrize("batch_size", [12, 5, 1])
def test_means_and_covariance_are_those_of_a_loop(features, batch_size):
    means, gathered = gather_features(features, batch_size)
    assert torch.allclose(means, F.normalize(features, dim=2).mean(dim=0), rtol=0, atol=1e-7)  # float32's rounding
    assert gathered.value().numpy() == pytest.approx(slow_covariance(features), rel=1e-5)


def test_whitening_makes_the_covariance_within_images_round(features):
    means, gathered = gather_features(features, 12)
    covariance = gathered.value()
    values, vectors = np.linalg.eigh(slow_covariance(features))
    whitening = vectors @ np.diag((values + RIDGE * values.mean()) ** -0.5) @ vectors.T
    expected = (means - means.mean(dim=0)).double().numpy() @ whitening
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert whiten(means, covariance, 12).numpy() == pytest.approx(expected, abs=1e-4)  # of float32 sums, whitened
    assert whitening @ slow_covariance(features) @ whitening.T == pytest.approx(np.eye(WIDTH), abs=0.01)  # the ridge


def test_a_direction_that_augmentation_moves_counts_little():
    """Images differ in both directions alike; views of an image differ in the first alone."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 2, generator=generator)
    moved = torch.stack([images, images]) + torch.randn(2, 200, 2, generator=generator) * torch.tensor([3.0, 0.05])
    lifted = F.pad(moved, (0, 1), value=30.0)  # so that unit length hardly bends the plane
    means, gathered = gather_features(lifted, 200)
    whitened = whiten(means, gathered.value(), 200)
    assert whitened[:, 0].std() < 0.2 * whitened[:, 1].std()


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_features_that_do_not_vary_are_refused(value):
    means, gathered = gather_features(torch.full((2, 4, WIDTH), value), 4)
    with pytest.raises(ValueError, match="the backbone has collapsed, or diverged"):
        whiten(means, gathered.value(), 4)


def features_of_a_shard(features: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance, and the shard's whitened features."""
    from hirl.distributed.collectives import shard_range

    means, gathered = gather_features(features[:, list(shard_range(12))], 4)
    return gathered.value(), whiten(means, gathered.value(), 12)


def test_two_ranks_find_the_features_of_one(features):
    covariance, whitened = features_of_a_shard(features)
    results = on_two_ranks(features_of_a_shard, features)
    assert all(torch.allclose(found, covariance, rtol=1e-12) for found, _ in results)
    # the mean of all rows is a float32 sum in another order
    torch.testing.assert_close(torch.cat([shard for _, shard in results]), whitened, rtol=0, atol=1e-5)


def tree_in_the_space_of_a_shard(tree: SemanticTree, features: Tensor) -> SemanticTree:
    from hirl.distributed.collectives import shard_range

    return tree.in_space_of(features[list(shard_range(len(features)))])


def test_a_tree_takes_its_clusters_into_another_space():
    """Of 4 fine clusters the last is empty, and so gets its parent's centroid."""
    assignments = torch.tensor([[0, 0], [0, 0], [1, 0], [2, 1], [2, 1]])
    parents = (torch.tensor([0, 0, 1, 1]),)
    tree = SemanticTree((torch.eye(4), torch.eye(4)[:2]), parents, assignments)
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    units = F.normalize(features, dim=1)
    moved = tree.in_space_of(features)
    fine = F.normalize(torch.stack([units[:2].mean(0), units[2], units[3:].mean(0), units[3:].mean(0)]), dim=1)
    coarse = F.normalize(torch.stack([units[:3].mean(0), units[3:].mean(0)]), dim=1)
    assert torch.allclose(moved.centroids[0], fine, atol=1e-6)
    assert torch.allclose(moved.centroids[1], coarse, atol=1e-6)
    assert torch.equal(moved.assignments, assignments)
    assert torch.equal(moved.parents[0], parents[0])
    for other in on_two_ranks(tree_in_the_space_of_a_shard, tree, features):
        for rows, wanted in zip(other.centroids, moved.centroids, strict=True):
            torch.testing.assert_close(rows, wanted, rtol=0, atol=1e-6)  # means of five float32 rows
