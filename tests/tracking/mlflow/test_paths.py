"""A model's paths are those of the tree, by the mean directions of their images' features."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file

from hirl.hierarchy import SemanticTree, hierarchical_kmeans
from hirl.hierarchy.tree import follow_parents
from hirl.tracking.mlflow import paths
from hirl.tracking.mlflow.paths import write_paths


def tree_of(features: torch.Tensor) -> SemanticTree:
    from hirl.config import TreeKMeansConfig

    return hierarchical_kmeans(features, (6, 3, 2), TreeKMeansConfig(), 0)


def test_the_centroids_are_those_of_the_tree_in_the_space_of_the_features(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROWS", 7)  # several blocks, the last one smaller
    torch.manual_seed(0)
    features, embedding = torch.randn(50, 5), torch.randn(50, 4)
    tree = tree_of(embedding)
    tree.save(tmp_path / "tree.safetensors")
    save_file({"train": features}, tmp_path / "features.safetensors")
    assert write_paths(tmp_path, tmp_path / "paths.safetensors")
    found = load_file(tmp_path / "paths.safetensors")
    finest = found["paths"][:, 0]
    assert torch.equal(found["paths"], follow_parents(finest, tree.parents))
    wanted = tree.in_space_of(features).centroids[0][finest]
    torch.testing.assert_close(found["centroids"], wanted)  # sums in double precision differ by rounding


def test_a_run_without_tree_or_features_has_no_paths(tmp_path):
    assert not write_paths(tmp_path, tmp_path / "paths.safetensors")
    assert not (tmp_path / "paths.safetensors").exists()
