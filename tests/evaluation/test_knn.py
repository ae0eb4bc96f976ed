from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from hirl.config import KNNConfig
from hirl.evaluation import knn as module
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.contracts import FrozenInputs
from hirl.evaluation.knn import class_rank, evaluate_features, knn


def slow_knn(cache: FeatureCache, k: int, level: int, temperature: float) -> tuple[float, float]:
    """Compute top1 and top5 image by image and vote by vote."""
    hits = {1: 0, 5: 0}
    for image, truth in zip(cache.validation, cache.validation_labels[:, level], strict=True):
        cosine = [float(image @ other / np.linalg.norm(image) / np.linalg.norm(other)) for other in cache.train]
        votes: dict[int, float] = {}
        for neighbour in sorted(range(len(cosine)), key=lambda i: -cosine[i])[:k]:
            label = int(cache.train_labels[neighbour, level])
            votes[label] = votes.get(label, 0) + math.exp(cosine[neighbour] / temperature)
        order = sorted(votes, key=lambda label: -votes[label])
        for top in hits:
            hits[top] += truth in order[:top]
    return tuple(100 * hits[top] / len(cache.validation) for top in (1, 5))


@pytest.mark.parametrize("validation", [1, 37, 101])
def test_equals_the_loop_for_every_k_and_level(make_cache, validation):
    cache = make_cache(150, validation, classes=12, noise=2.0)
    config = KNNConfig(neighbours=(3, 10, 150))
    metrics = knn(cache, config)
    slow = {k: slow_knn(cache, k, 0, config.temperature) for k in config.neighbours}
    best = max(slow, key=lambda k: slow[k][0])
    expected = {f"top1_k{k}": top1 for k, (top1, _) in slow.items()}
    expected |= {"top1": slow[best][0], "top5": slow[best][1]}
    expected["top1_level1"] = slow_knn(cache, best, 1, config.temperature)[0]
    assert metrics == pytest.approx(expected)  # counts over the same number of images


def test_top5_counts_no_class_without_a_vote(make_cache):
    """One neighbour votes for one class: top5 cannot be more than top1."""
    metrics = knn(make_cache(60, 50, classes=6, noise=3.0), KNNConfig(neighbours=(1,)))
    assert metrics["top5"] == metrics["top1"] < 90


def test_ties_go_to_the_lower_class():
    labels, weights = np.array([[2, 1], [2, 1], [2, 1]]), np.ones((3, 2))
    assert class_rank(labels, weights, np.array([1, 2, 0])).tolist() == [0, 1, np.inf]


def test_classes_missing_on_one_side_are_no_error(make_cache):
    cache = make_cache(60, 50)
    keep = cache.train_labels[:, 0] != 5
    partial = FeatureCache(cache.train[keep], cache.validation, cache.train_labels[keep], cache.validation_labels)
    absent = 100 * (cache.validation_labels[:, 0] == 5).mean()
    assert knn(partial, KNNConfig(neighbours=(5,)))["top5"] <= 100 - absent


def test_chunks_do_not_change_the_result(make_cache, monkeypatch):
    cache, config = make_cache(60, 50, noise=2.0), KNNConfig(neighbours=(7,))
    whole = knn(cache, config)
    monkeypatch.setattr(module, "SIMILARITIES_PER_CHUNK", 60 * 3)
    assert knn(cache, config) == whole


def test_low_temperature_does_not_overflow(make_cache):
    """exp(1 / 0.001) is more than a double holds; the nearest neighbour then decides alone."""
    cache = make_cache(60, 50, noise=2.0)
    cold = knn(cache, KNNConfig(neighbours=(20,), temperature=1e-3))
    assert cold["top1"] == pytest.approx(knn(cache, KNNConfig(neighbours=(1,)))["top1"], abs=4)  # two of 50 near ties


def test_more_neighbours_than_images_are_refused(make_cache):
    with pytest.raises(ValueError, match=r"evaluation\.knn\.neighbours 200 exceeds the 150 training images"):
        knn(make_cache(150, 5), KNNConfig())


def test_result_names_the_best_k(make_cache):
    inputs = FrozenInputs(make_cache(60, 50, noise=2.0))
    result = evaluate_features(inputs, KNNConfig(neighbours=(5, 20)))
    metrics, settings = result.metrics, result.settings
    assert list(metrics) == ["top1_k5", "top1_k20", "top1", "top5", "top1_level1"]
    assert metrics["top1"] == metrics[f"top1_k{settings['k']}"] == max(metrics["top1_k5"], metrics["top1_k20"])
    assert settings == {"neighbours": [5, 20], "temperature": 0.07, "k": settings["k"]}


def test_job_starts_without_torch():
    code = "import sys, hirl.evaluation.knn; print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
