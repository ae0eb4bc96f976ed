from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from hirl.config import ClusteringConfig, KMeansConfig
from hirl.evaluation.clustering import agreement, clustering, evaluate_features
from hirl.evaluation.contracts import FrozenInputs


def slow_accuracy(clusters: np.ndarray, classes: np.ndarray) -> float:
    """Try every one-to-one map."""
    size = max(clusters.max(), classes.max()) + 1
    return max(100 * np.mean(np.array(ids)[clusters] == classes) for ids in permutations(range(size)))


@pytest.mark.parametrize(("clusters", "classes"), [(4, 4), (6, 3), (3, 6)])
def test_accuracy_is_the_best_of_all_maps(clusters, classes):
    generator = np.random.default_rng(0)
    for _ in range(5):
        ids, truth = generator.integers(0, clusters, 40), generator.integers(0, classes, 40)
        assert agreement(ids, truth)["acc"] == pytest.approx(slow_accuracy(ids, truth))


def test_perfect_clusters_score_100_under_any_names():
    classes = np.arange(10).repeat(7)
    for clusters in (classes, 9 - classes, classes + 1, 3 * classes + 2):  # also with empty ids
        assert agreement(clusters, classes) == pytest.approx({"acc": 100, "nmi": 100, "ami": 100})


def test_hand_computed_case():
    """Two classes of two, one image misplaced: joint 1/4, 1/4, 1/2."""
    metrics = agreement(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    classes, clusters, joint = np.log(2), -0.25 * np.log(0.25) - 0.75 * np.log(0.75), 1.5 * np.log(2)
    assert metrics["acc"] == 75
    assert metrics["nmi"] == pytest.approx(100 * (classes + clusters - joint) / ((classes + clusters) / 2))
    assert metrics["ami"] < metrics["nmi"]


def test_a_single_cluster_has_no_mutual_information():
    metrics = agreement(np.zeros(30, dtype=int), np.arange(3).repeat(10))
    assert metrics == pytest.approx({"acc": 100 / 3, "nmi": 0, "ami": 0}, abs=1e-9)  # rounding of logarithms


def test_groups_that_lie_apart_are_found(make_cache):
    config = ClusteringConfig(kmeans=KMeansConfig(restarts=100))  # one start in 65 has a point of each of six groups
    assert clustering(make_cache(5, 200, noise=0.02), config) == pytest.approx({"acc": 100, "nmi": 100, "ami": 100})


def test_length_of_the_features_does_not_matter(make_cache):
    cache, config = make_cache(5, 200), ClusteringConfig()
    before = clustering(cache, config)
    cache.validation[:] *= 2.0 ** np.arange(200)[:, None].clip(max=20)  # powers of two: no rounding
    assert clustering(cache, config) == pytest.approx(before)


def test_result_holds_agreement_and_settings(make_cache):
    result = evaluate_features(FrozenInputs(make_cache(60, 50)), ClusteringConfig())
    assert set(result.metrics) == {"acc", "nmi", "ami"}
    assert result.settings["kmeans"]["restarts"] == 5
