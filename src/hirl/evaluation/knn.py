"""Weighted k-nearest-neighbour classification of the validation images by the training images.

Shapes: N training images, M validation images, D feature width, L class levels. Import costs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hirl.config import KNNConfig
from hirl.evaluation.cache import FeatureCache, unit_rows
from hirl.evaluation.contracts import EvaluationResult, FrozenInputs

SIMILARITIES_PER_CHUNK = 2**24  # of the [M, N] similarities, how many are held at once: 64 MiB


def evaluate_features(inputs: FrozenInputs, settings: KNNConfig) -> EvaluationResult:
    """Return the metrics of `knn`; the result's settings name the k of top1 and top5."""
    metrics = knn(inputs.cache, settings)
    return EvaluationResult(metrics, settings.model_dump(mode="json") | {"k": _best(metrics, settings)})


def knn(cache: FeatureCache, config: KNNConfig) -> dict[str, float]:
    """Classify by the k nearest training images in cosine, each voting exp(cosine / temperature) for its class.

    Returns:
        Percentages: `top1_k10` and so on for every k; `top1` and `top5` at the k with the best top1; at the same k,
        `top1_level1` and so on with the coarser class levels as classes.

    Raises:
        ValueError: a k exceeds the number of training images.

    Source: instance discrimination (arXiv 1805.01978); DINO (arXiv 2104.14294).
    """
    most, count = max(config.neighbours), len(cache.train)
    if most > count:
        raise ValueError(f"evaluation.knn.neighbours {most} exceeds the {count} training images: lower it")
    ids, cosines = nearest(unit_rows(cache.train), unit_rows(cache.validation), most)
    weights = np.exp((cosines - cosines[:, :1]) / config.temperature)  # relative to the nearest: no overflow

    def rank_of_truth(k: int, level: int) -> NDArray:
        return class_rank(cache.train_labels[ids[:, :k], level], weights[:, :k], cache.validation_labels[:, level])

    metrics = {f"top1_k{k}": percent(rank_of_truth(k, 0) < 1) for k in config.neighbours}
    best = _best(metrics, config)
    metrics |= {"top1": metrics[f"top1_k{best}"], "top5": percent(rank_of_truth(best, 0) < 5)}
    for level in range(1, cache.train_labels.shape[1]):
        metrics[f"top1_level{level}"] = percent(rank_of_truth(best, level) < 1)
    return metrics


def _best(metrics: Mapping[str, float], config: KNNConfig) -> int:
    """Return the k with the highest top1, the first of equals."""
    return max(config.neighbours, key=lambda k: metrics[f"top1_k{k}"])


def nearest(train: NDArray, validation: NDArray, k: int) -> tuple[NDArray[np.int64], NDArray]:
    """Return the indices [M, k] of the training rows with the largest dot product, largest first, and the products."""
    ids, products = [], []
    rows = max(1, SIMILARITIES_PER_CHUNK // len(train))
    for start in range(0, len(validation), rows):
        product = validation[start : start + rows] @ train.T
        best = np.argpartition(product, -k, axis=1)[:, -k:]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(product, best, 1), axis=1, kind="stable"), 1)
        ids.append(best)
        products.append(np.take_along_axis(product, best, 1))
    return np.concatenate(ids), np.concatenate(products)


def class_rank(labels: NDArray[np.int64], weights: NDArray, truth: NDArray[np.int64]) -> NDArray:
    """Return [M], how many classes have more votes than the true one; infinite where it has none.

    Ties go to the lower class id.
    """
    count, classes = len(labels), max(labels.max(), truth.max()) + 1
    cells = (np.arange(count)[:, None] * classes + labels).ravel()
    votes = np.bincount(cells, weights.ravel(), minlength=count * classes).reshape(count, classes)
    own = votes[np.arange(count), truth][:, None]
    ahead = (votes > own) | ((votes == own) & (np.arange(classes) < truth[:, None]))
    return np.where(own[:, 0] > 0, ahead.sum(axis=1), np.inf)


def percent(hits: NDArray[np.bool_]) -> float:
    """Return the percentage of hits."""
    return 100 * float(hits.mean())
