"""Trees that no clustering made, for control studies: random ones, and the true classes with some labels permuted.

They show what a tree's quality is worth to the path loss. Both stay the same for a whole training; only their centroids
follow the embeddings (`SemanticTree.in_space_of`).

Shapes: N images, L levels, K_l clusters of level l.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hirl.hierarchy.tree import SemanticTree, follow_parents


def random_tree(images: int, num_clusters: Sequence[int], seed: int) -> SemanticTree:
    """Return a tree in which each image's finest cluster is drawn at random, and siblings are as even as possible.

    Args:
        images: N.
        num_clusters: K_l, fine to coarse.
    """
    parents = [torch.arange(fine) * coarse // fine for fine, coarse in pairwise(num_clusters)]
    drawn = torch.randint(num_clusters[0], (images,), generator=torch.Generator().manual_seed(seed))
    return _without_space(num_clusters, parents, follow_parents(drawn, parents))


def class_tree(labels: Tensor, noise: float, seed: int) -> SemanticTree:
    """Return the tree of the true classes, in which a part of the images has its labels permuted among itself.

    Args:
        labels: int64 [N, L], each image's class at every class level, finest first, strictly nested.
        noise: the part of the images, 0 to 1, whose labels are permuted.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(noise * len(labels))]
    paths = labels.clone()
    paths[chosen] = labels[chosen[torch.randperm(len(chosen), generator=generator)]]
    num_clusters = [int(level.max()) + 1 for level in labels.T]
    parents = [torch.zeros(count, dtype=torch.int64) for count in num_clusters[:-1]]
    for level, table in enumerate(parents):
        table[labels[:, level]] = labels[:, level + 1]
    return _without_space(num_clusters, parents, paths)


def _without_space(num_clusters: Sequence[int], parents: Sequence[Tensor], assignments: Tensor) -> SemanticTree:
    """Return a tree whose centroids say nothing: they are all the same unit vector of one dimension."""
    return SemanticTree(tuple(torch.ones(count, 1) for count in num_clusters), tuple(parents), assignments)
