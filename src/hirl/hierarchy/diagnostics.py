"""What to watch in a tree: cluster sizes, density, and change since the last snapshot. No loss reads any of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hirl.hierarchy.tree import SemanticTree

DENSITY_PERCENTILES = (10, 90)
DENSITY_OFFSET = 10  # in ln(n + 10): keeps small clusters from looking dense


def snapshot_metrics(tree: SemanticTree, previous: SemanticTree | None = None) -> dict[str, float]:
    """Of every level: clusters, empty ones, the largest's share of the images, and the NMI with the previous snapshot.

    Shares and NMI are percentages, 0 to 100. Without a previous snapshot there is no NMI.
    """
    metrics: dict[str, float] = {}
    for level, sizes in enumerate(cluster_sizes(tree)):
        metrics[f"clusters_level{level}"] = len(sizes)
        metrics[f"empty_level{level}"] = int((sizes == 0).sum())
        metrics[f"largest_level{level}"] = 100 * sizes.max() / sizes.sum()
        if previous is not None:
            now, before = (t.assignments[:, level].numpy(force=True) for t in (tree, previous))
            metrics[f"stability_level{level}"] = 100 * normalized_mutual_information(now, before)
    return metrics


def cluster_sizes(tree: SemanticTree) -> list[NDArray[np.int64]]:
    """The number of images in each cluster, one array per level."""
    assignments = tree.assignments.numpy(force=True)
    return [np.bincount(assignments[:, level], minlength=k) for level, k in enumerate(tree.num_clusters)]


def cluster_density(points: Tensor, centroids: Tensor, assignments: Tensor, temperature: float) -> NDArray[np.float64]:
    """How widely each cluster spreads around its raw centroid: the larger, the looser; the mean is the temperature.

    Args:
        points: [N, D], what was clustered.
        centroids: [K, D], as `kmeans` returns them.
        assignments: int64 [N].
        temperature: the mean of the result.

    Returns:
        [K]. Clusters of at most one point take the largest density; all are clipped to the 10th to 90th percentile.

    Raises:
        ValueError: no cluster has two points.

    Source: PCL (arXiv 2005.04966), and HIRL's released code.
    """
    distances = (points - centroids[assignments]).norm(dim=1).double().numpy(force=True)
    clusters = assignments.numpy(force=True)
    sizes = np.bincount(clusters, minlength=len(centroids))
    if sizes.max() < 2:
        raise ValueError(f"none of the {len(centroids)} clusters has two points: density has no meaning, ask for fewer")
    spread = np.bincount(clusters, distances, minlength=len(centroids)) / np.maximum(sizes, 1)
    density = spread / np.log(sizes + DENSITY_OFFSET)
    density[sizes < 2] = density[sizes >= 2].max()
    density = density.clip(*np.percentile(density, DENSITY_PERCENTILES))
    return temperature * density / density.mean()


def normalized_mutual_information(first: ArrayLike, second: ArrayLike) -> float:
    """NMI of two labellings of the same items, 0 to 1, arithmetic normalisation; two undivided ones agree fully."""
    first, second = (np.unique(labels, return_inverse=True)[1] for labels in (first, second))
    joint = first * (second.max() + 1) + second
    entropies = [_entropy(labels) for labels in (first, second, joint)]
    mean = (entropies[0] + entropies[1]) / 2
    return float((2 * mean - entropies[2]) / mean) if mean > 0 else 1.0


def _entropy(labels: NDArray[np.int64]) -> float:
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return -float((share * np.log(share)).sum())
