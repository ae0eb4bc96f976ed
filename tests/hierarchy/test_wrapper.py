from __future__ import annotations

import torch
from torch import nn

from hirl.config import HierarchyConfig, TreeKMeansConfig
from hirl.hierarchy import hierarchical_kmeans
from hirl.hierarchy.wrapper import HIRL
from hirl.methods.base import Method


def test_a_resumed_run_warm_starts_its_next_tree_from_the_same_last_tree():
    """The checkpoint holds the last tree, on which the next one depends."""
    kmeans = TreeKMeansConfig(warm_iterations=1)
    config = HierarchyConfig(num_clusters=(12, 4), start_epoch=0, kmeans=kmeans)
    first, second = torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(0))

    def wrapped() -> HIRL:
        method = Method()
        method.embedding_dim = 8
        method.head = nn.Linear(8, 8)
        return HIRL(method, config, seed=3)

    trained, resumed = wrapped(), wrapped()
    trained.before_epoch(0, lambda: first)
    resumed.load_state_dict(trained.state_dict())
    expected = hierarchical_kmeans(second, (12, 4), kmeans, 3, trained.tree)
    for network in (trained, resumed):
        network.before_epoch(1, lambda: second)
        assert torch.equal(network.tree.assignments, expected.assignments)
    anew = hierarchical_kmeans(second, (12, 4), kmeans, 3)
    assert not torch.equal(anew.assignments, expected.assignments)
