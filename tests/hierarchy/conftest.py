from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from hirl.hierarchy import SemanticTree


@pytest.fixture
def make_tree() -> Callable[..., SemanticTree]:
    """Random valid trees: any nesting of any sizes, no clustering behind it."""

    def make(num_clusters: Sequence[int], images: int, width: int, dtype: torch.dtype = torch.float32) -> SemanticTree:
        centroids = [F.normalize(torch.randn(k, width, dtype=dtype), dim=1) for k in num_clusters]
        parents = [torch.randint(k, (below,)) for below, k in pairwise(num_clusters)]
        path = [torch.randint(num_clusters[0], (images,))]
        for parent in parents:
            path.append(parent[path[-1]])
        return SemanticTree(tuple(centroids), tuple(parents), torch.stack(path, dim=1))

    torch.manual_seed(0)
    return make
