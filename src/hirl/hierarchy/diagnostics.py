"""Diagnostics of a tree: cluster sizes, changes since the last tree, agreement with the classes. No loss reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hirl.hierarchy.tree import SemanticTree


def snapshot_metrics(tree: SemanticTree, previous: SemanticTree | None = None) -> dict[str, float]:
    """Return for every level: clusters, empty clusters, share of images in the largest, and the NMI with the last tree.

    Shares and NMI are percentages, 0 to 100. Without a last tree there is no NMI.
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


def class_agreement(tree: SemanticTree, labels: Tensor) -> dict[str, float]:
    """Return how well every level agrees with the true classes: NMI and purity, in per cent.

    A level is compared with the same class level, or with the coarsest one. hirl.evaluation.hierarchy adds the AMI.

    Args:
        labels: int64 [N, C], the class of each image at every class level, finest first; without classes, C is 0 and
            nothing is returned.
    """
    metrics: dict[str, float] = {}
    for level in range(tree.num_levels if labels.shape[1] else 0):
        clusters = tree.assignments[:, level].numpy(force=True)
        classes = labels[:, min(level, labels.shape[1] - 1)].numpy(force=True)
        counts = np.zeros((clusters.max() + 1, classes.max() + 1), dtype=np.int64)
        np.add.at(counts, (clusters, classes), 1)
        metrics[f"class_nmi_level{level}"] = 100 * normalized_mutual_information(clusters, classes)
        metrics[f"class_purity_level{level}"] = 100 * counts.max(axis=1).sum() / len(classes)
    return metrics


def cluster_sizes(tree: SemanticTree) -> list[NDArray[np.int64]]:
    """Return the number of images in each cluster, one array per level."""
    assignments = tree.assignments.numpy(force=True)
    return [np.bincount(assignments[:, level], minlength=k) for level, k in enumerate(tree.num_clusters)]


def normalized_mutual_information(first: ArrayLike, second: ArrayLike) -> float:
    """Return the NMI of two labellings of the same items, in [0, 1]: mutual information over the mean of the entropies.

    It is 1 if both put all items into one cluster. scikit-learn has it too, but the training core runs without it.
    """
    first, second = (np.unique(labels, return_inverse=True)[1] for labels in (first, second))
    joint = first * (second.max() + 1) + second
    entropies = [_entropy(labels) for labels in (first, second, joint)]
    mean = (entropies[0] + entropies[1]) / 2
    return float((2 * mean - entropies[2]) / mean) if mean > 0 else 1.0


def _entropy(labels: NDArray[np.int64]) -> float:
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return -float((share * np.log(share)).sum())
