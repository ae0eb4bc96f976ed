"""The last semantic tree against the data's true class levels. Import costs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from scipy.sparse import coo_array
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from hirl.evaluation.cache import FeatureCache, write_result


def evaluate(features: Path, out: Path, run: Mapping[str, Any], snapshot: Path) -> None:
    """Reads the training labels of a features file and a snapshot, and writes evaluation/hierarchy.json."""
    labels = FeatureCache.load(features).train_labels
    assignments, num_clusters = read_snapshot(snapshot)
    if len(assignments) != len(labels):
        raise ValueError(f"{snapshot} clusters {len(assignments)} images, {features} holds {len(labels)}: mixed runs")
    write_result(out, run, "hierarchy", hierarchy(assignments, num_clusters, labels), {"snapshot": snapshot.name})


def read_snapshot(path: Path) -> tuple[NDArray[np.int64], list[int]]:
    """The assignments [N, L] and the clusters of every level, of a file that `SemanticTree.save` wrote.

    Raises:
        ValueError: the file is missing or is no snapshot.
    """
    try:
        with safe_open(path, "numpy") as tensors:
            assignments = tensors.get_tensor("assignments")
            shapes = [tensors.get_slice(f"centroids.{level}").get_shape() for level in range(assignments.shape[1])]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no readable snapshot ({error}): give a file of snapshots/") from error
    return assignments, [clusters for clusters, _ in shapes]


def hierarchy(assignments: NDArray[np.int64], num_clusters: list[int], labels: NDArray[np.int64]) -> dict[str, float]:
    """Compares every level of a tree with the class level of the same rank, finest first.

    Args:
        assignments: [N, L], each training image's cluster at every level.
        num_clusters: K_l of every level.
        labels: [N, C], its class at every class level; levels above the coarsest are compared with that one.

    Returns:
        Per level, percentages nmi, ami (arithmetic normalisation) and purity, and the clusters, empty ones in all:
        `nmi_level0`, `ami_level0`, `purity_level0`, `clusters_level0`, `empty_level0`, ...
    """
    metrics: dict[str, float] = {}
    for level, count in enumerate(num_clusters):
        clusters, classes = assignments[:, level], labels[:, min(level, labels.shape[1] - 1)]
        metrics |= {
            f"nmi_level{level}": 100 * float(normalized_mutual_info_score(classes, clusters)),
            f"ami_level{level}": 100 * float(adjusted_mutual_info_score(classes, clusters)),
            f"purity_level{level}": 100 * purity(clusters, classes),
            f"clusters_level{level}": count,
            f"empty_level{level}": count - len(np.unique(clusters)),
        }
    return metrics


def purity(clusters: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    """The share of images whose class is the commonest of their cluster, 0 to 1."""
    table = coo_array((np.ones(len(clusters), dtype=np.int64), (clusters, classes))).tocsr()
    return float(table.max(axis=1).sum() / len(clusters))
