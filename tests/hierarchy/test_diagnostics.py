from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from hirl.hierarchy import SemanticTree
from hirl.hierarchy.control_trees import class_tree, random_tree
from hirl.hierarchy.diagnostics import (
    class_agreement,
    cluster_sizes,
    normalized_mutual_information,
    snapshot_metrics,
)


def test_sizes_count_every_image_once_per_level():
    tree = SemanticTree(
        [torch.eye(4), torch.eye(4)[:2]], [torch.tensor([0, 0, 1, 1])], torch.tensor([[0, 0]] * 3 + [[2, 1]])
    )
    assert [sizes.tolist() for sizes in cluster_sizes(tree)] == [[3, 0, 1, 0], [3, 1]]
    metrics = snapshot_metrics(tree)
    assert metrics == {
        "clusters_level0": 4, "empty_level0": 2, "largest_level0": 75,
        "clusters_level1": 2, "empty_level1": 0, "largest_level1": 75,
    }  # fmt: skip


def test_stability_is_the_nmi_with_the_previous_snapshot(make_tree):
    tree, previous = (make_tree((12, 4), images=50, width=3) for _ in range(2))
    assert "stability_level0" not in snapshot_metrics(tree)
    assert snapshot_metrics(tree, tree)["stability_level1"] == pytest.approx(100)
    for level in (0, 1):
        expected = normalized_mutual_info_score(tree.assignments[:, level], previous.assignments[:, level])
        assert snapshot_metrics(tree, previous)[f"stability_level{level}"] == pytest.approx(100 * expected)


@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (40, 2), (1, 1), (60, 60)])
def test_nmi_equals_sklearn(sizes):
    generator = np.random.default_rng(0)
    first, second = (3 * generator.integers(0, size, 80) for size in sizes)
    expected = normalized_mutual_info_score(first, second)
    assert normalized_mutual_information(first, second) == pytest.approx(expected, abs=1e-12)  # float64 sums


def test_a_tree_of_the_classes_agrees_with_them_and_a_coarser_level_with_the_coarsest_classes() -> None:
    labels = torch.tensor([[0, 0], [1, 0], [2, 1], [3, 1]]).repeat(5, 1)
    found = class_agreement(class_tree(labels, noise=0.0, seed=0), labels[:, :1])
    assert found["class_nmi_level0"] == found["class_purity_level0"] == 100
    assert found["class_purity_level1"] == 50  # two classes in each cluster


def test_agreement_with_the_classes_is_scikit_learns_and_purity_counts_the_commonest_class() -> None:
    tree, labels = random_tree(200, (7, 3), seed=0), torch.randint(5, (200, 1))
    found = class_agreement(tree, labels)
    for level in range(2):
        clusters = tree.assignments[:, level]
        expected = 100 * normalized_mutual_info_score(labels[:, 0], clusters)
        assert found[f"class_nmi_level{level}"] == pytest.approx(expected)
        commonest = sum(torch.bincount(labels[clusters == cluster, 0]).max() for cluster in clusters.unique())
        assert found[f"class_purity_level{level}"] == pytest.approx(100 * commonest.item() / 200)


def test_without_classes_there_is_no_agreement() -> None:
    assert class_agreement(random_tree(20, (7, 3), seed=0), torch.empty(20, 0, dtype=torch.int64)) == {}
