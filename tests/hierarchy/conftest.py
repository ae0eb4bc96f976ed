from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from hirl.hierarchy import SemanticTree
from hirl.hierarchy.tree import follow_parents


@pytest.fixture
def make_tree() -> Callable[..., SemanticTree]:
    """A function that makes random valid trees, with random parents instead of a clustering."""

    def make(num_clusters: Sequence[int], images: int, width: int, dtype: torch.dtype = torch.float32) -> SemanticTree:
        centroids = [F.normalize(torch.randn(k, width, dtype=dtype), dim=1) for k in num_clusters]
        parents = [torch.randint(k, (below,)) for below, k in pairwise(num_clusters)]
        paths = follow_parents(torch.randint(num_clusters[0], (images,)), parents)
        return SemanticTree(tuple(centroids), tuple(parents), paths)

    torch.manual_seed(0)
    return make
