"""Agreement of a run's last semantic tree with the data's true class levels. Import costs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from hirl.evaluation.contracts import EvaluationResult, FrozenInputs


def evaluate_features(inputs: FrozenInputs, settings: None = None) -> EvaluationResult:
    """Return the metrics of `hierarchy` for the run's tree; the task has no settings.

    Raises:
        ValueError: the snapshot is unreadable, or clusters another number of images than the features' training split.
    """
    snapshot, labels = inputs.snapshot, inputs.cache.train_labels
    assert snapshot is not None
    assignments, num_clusters = read_snapshot(snapshot)
    if len(assignments) != len(labels):
        raise ValueError(
            f"{snapshot} clusters {len(assignments)} images, the features are of {len(labels)}: give one run's files"
        )
    return EvaluationResult(hierarchy(assignments, num_clusters, labels), {"snapshot": snapshot.name})


def read_snapshot(path: Path) -> tuple[NDArray[np.int64], list[int]]:
    """Read the assignments [N, L] and the number of clusters of every level from a file that `SemanticTree.save` wrote.

    Raises:
        ValueError: the file is missing or is not a snapshot.
    """
    try:
        with safe_open(path, "numpy") as tensors:
            assignments = tensors.get_tensor("assignments")
            shapes = [tensors.get_slice(f"centroids.{level}").get_shape() for level in range(assignments.shape[1])]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no readable snapshot ({error}): give a run's tree.safetensors") from error
    return assignments, [clusters for clusters, _ in shapes]


def hierarchy(assignments: NDArray[np.int64], num_clusters: list[int], labels: NDArray[np.int64]) -> dict[str, float]:
    """Compare every level of a tree with the same class level, finest first.

    Args:
        assignments: [N, L], the cluster of each training image at every level.
        num_clusters: clusters of every level, empty ones included.
        labels: [N, C], the class at every class level; tree levels above the coarsest one are compared with it.

    Returns:
        For each level, percentages nmi, ami (arithmetic normalisation) and purity, and the numbers of all and of empty
        clusters: `nmi_level0`, `ami_level0`, `purity_level0`, `clusters_level0`, `empty_level0`, ...
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
    """Return the fraction of images whose class is the most frequent one of their cluster."""
    table = contingency_matrix(clusters, classes, sparse=True)
    return float(table.max(axis=1).sum() / len(clusters))
