"""Unsupervised classification: k-means on the validation features, with as many clusters as classes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from hirl.config import ClusteringConfig
from hirl.distributed.device import choose_device
from hirl.evaluation.cache import FeatureCache, unit_rows
from hirl.evaluation.contracts import EvaluationResult, FrozenInputs
from hirl.hierarchy.kmeans import kmeans

SEED = 0  # of k-means, the same for every run


def evaluate_features(inputs: FrozenInputs, settings: ClusteringConfig) -> EvaluationResult:
    """Return the metrics of `clustering`."""
    return EvaluationResult(clustering(inputs.cache, settings), settings.model_dump(mode="json"))


def clustering(cache: FeatureCache, config: ClusteringConfig) -> dict[str, float]:
    """Cluster the l2-normalised validation features and compare the clusters with the finest classes.

    Returns:
        Percentages acc, nmi and ami, as `agreement` gives them.

    Raises:
        ValueError: there are fewer validation images than classes.

    Source: HIRL (arXiv 2205.13159)
    """
    classes = cache.validation_labels[:, 0]
    points = torch.from_numpy(unit_rows(cache.validation)).to(choose_device())
    _, clusters, _ = kmeans(points, len(np.unique(classes)), config.kmeans, SEED)
    return agreement(clusters.numpy(force=True), classes)


def agreement(clusters: NDArray[np.int64], classes: NDArray[np.int64]) -> dict[str, float]:
    """Measure how well clusters match classes; ids are any non-negative integers.

    Returns:
        Percentages: acc under the best one-to-one map of clusters to classes, nmi and ami (arithmetic normalisation).
    """
    table = contingency_matrix(clusters, classes)
    hits = table[linear_sum_assignment(table, maximize=True)].sum()
    return {
        "acc": 100 * float(hits / len(classes)),
        "nmi": 100 * float(normalized_mutual_info_score(classes, clusters)),
        "ami": 100 * float(adjusted_mutual_info_score(classes, clusters)),
    }
