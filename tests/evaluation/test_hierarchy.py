from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from hirl.evaluation.contracts import FrozenInputs
from hirl.evaluation.hierarchy import evaluate_features, hierarchy, purity, read_snapshot
from hirl.hierarchy import SemanticTree


def true_tree(labels: np.ndarray) -> SemanticTree:
    """Return the class levels as a tree: class c of level 0 belongs to c // 2; one cluster of level 0 is empty."""
    fine = torch.eye(7)
    return SemanticTree([fine, fine[:4]], [torch.arange(7) // 2], torch.from_numpy(labels))


def test_true_tree_scores_100(make_cache):
    labels = make_cache(200, 5).train_labels
    metrics = hierarchy(labels, [7, 4], labels)
    perfect = {f"{name}_level{level}": 100 for name in ("nmi", "ami", "purity") for level in (0, 1)}
    assert metrics == pytest.approx(
        perfect | {"clusters_level0": 7, "clusters_level1": 4, "empty_level0": 1, "empty_level1": 1}
    )


def test_levels_are_compared_with_the_same_class_level():
    generator = np.random.default_rng(0)
    assignments, labels = generator.integers(0, 9, (100, 3)), generator.integers(0, 4, (100, 2))
    metrics = hierarchy(assignments, [9, 9, 9], labels)
    for level, class_level in [(0, 0), (1, 1), (2, 1)]:  # the third level has no class level of its own
        pair = labels[:, class_level], assignments[:, level]
        assert metrics[f"nmi_level{level}"] == pytest.approx(100 * normalized_mutual_info_score(*pair))
        assert metrics[f"ami_level{level}"] == pytest.approx(100 * adjusted_mutual_info_score(*pair))


def test_purity_counts_the_commonest_class_of_each_cluster():
    assert purity(np.array([0, 0, 0, 4, 4]), np.array([1, 1, 2, 0, 3])) == 3 / 5


def test_snapshot_is_read_without_torch(make_cache, tmp_path):
    tree = true_tree(make_cache(200, 5).train_labels)
    tree.save(tmp_path / "epoch007.safetensors")
    assignments, num_clusters = read_snapshot(tmp_path / "epoch007.safetensors")
    assert np.array_equal(assignments, tree.assignments.numpy())
    assert num_clusters == [7, 4]


def test_result_names_its_snapshot(make_cache, tmp_path):
    cache = make_cache(200, 5)
    true_tree(cache.train_labels).save(tmp_path / "epoch007.safetensors")
    result = evaluate_features(FrozenInputs(cache, tmp_path / "epoch007.safetensors"))
    assert result.settings == {"snapshot": "epoch007.safetensors"}
    assert result.metrics["nmi_level1"] == pytest.approx(100)


def test_unusable_snapshots_are_refused_in_one_line(make_cache, tmp_path):
    cache = make_cache(200, 5)
    cache.save(tmp_path / "features.safetensors")
    true_tree(cache.train_labels[:50]).save(tmp_path / "other.safetensors")
    (tmp_path / "noise").write_bytes(b"noise")
    messages = {"other.safetensors": "50 images", "features.safetensors": "assignments"}
    messages |= dict.fromkeys(("noise", "missing"), "no readable snapshot")
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message) as error:
            evaluate_features(FrozenInputs(cache, tmp_path / name))
        assert "\n" not in str(error.value)
