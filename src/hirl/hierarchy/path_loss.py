"""The semantic path discrimination (SPD) loss, "path loss" from here on: every image must recognise its own path.

The probability that an image with projections z_0 ... z_{L-1} lies on a path with centroids c_0 ... c_{L-1} is

    p(path) = product over the levels l of (1 + cos(z_l, c_l)) / 2

The loss of an image raises p of its own path and lowers p of negative paths; it is averaged over the batch:

    (-log p(own path) - mean over the negative paths of log(1 - p(path))) / 2

Shapes: N batch, L levels (level 0 is the finest), K_l clusters of level l, D embedding width, M negatives per image.

Source: HIRL (https://arxiv.org/abs/2205.13159). Deviations: docs/deviations.md.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.distributed.collectives import local_slice, world_size
from hirl.hierarchy.tree import SemanticTree

EPSILON = 1e-6  # keeps the logarithms finite, and the mean over no negative path


def semantic_path_loss(embeddings: Tensor, tree: SemanticTree, index: Tensor, negatives: Tensor | None) -> Tensor:
    """Return the path loss of a batch of training images, whose own paths are the tree's assignments.

    Args:
        embeddings: [N, L, D], the projections of each image for every level; any float dtype, any length.
        tree: the current tree, a constant to the gradient.
        index: int64 [N], the images' rows in tree.assignments.
        negatives: int64 [N, M, L] paths, as `sample_negative_paths` draws them; None takes all K_0 paths, exactly.

    Returns:
        A scalar of the embeddings' dtype.

    Raises:
        ValueError: the embeddings do not fit the tree.
    """
    return path_loss(embeddings, tree, tree.assignments[index], negatives)


def path_loss(embeddings: Tensor, tree: SemanticTree, own_paths: Tensor, negatives: Tensor | None) -> Tensor:
    """Return `semantic_path_loss` of images whose own paths are given, int64 [N, L]."""
    width = tree.centroids[0].shape[1]
    if embeddings.shape[1:] != (tree.num_levels, width):
        raise ValueError(f"embeddings are {list(embeddings.shape)}: this tree needs [N, {tree.num_levels}, {width}]")
    dtype = torch.promote_types(embeddings.dtype, torch.float32)  # EPSILON is lost in half precision
    with torch.autocast(embeddings.device.type, enabled=False):
        units = F.normalize(embeddings.to(dtype), dim=2).unbind(1)
        centroids = [_in_dtype(rows, dtype) for rows in tree.centroids]
        positive = -torch.log(_path_probabilities(units, centroids, own_paths[:, None]) + EPSILON).squeeze(1)
        if negatives is None:
            probabilities = _all_path_probabilities(units, centroids, tree.parents)
            is_own = own_paths[:, :1] == torch.arange(probabilities.shape[1], device=probabilities.device)
        else:
            probabilities = _path_probabilities(units, centroids, negatives)
            is_own = (negatives == own_paths[:, None]).all(dim=2)
        terms = torch.log(1 + EPSILON - probabilities).masked_fill_(is_own, 0)
        count = (~is_own).sum(dim=1).to(dtype)
        negative = -terms.sum(dim=1) / (count + EPSILON)
        return ((positive + negative).mean() / 2).to(embeddings.dtype)


def sample_negative_paths(tree: SemanticTree, index: Tensor, num: int) -> Tensor:
    """Draw negative paths, int64 [N, num, L], uniformly and with replacement; the loss leaves out an image's own path.

    The draws come from the default generator of the tree's device, for the batch of all ranks.
    """
    clusters = torch.randint(tree.num_clusters[0], (len(index) * world_size(), num), device=tree.device)
    return tree.paths[local_slice(clusters)]


def _in_dtype(centroids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return centroids in `dtype`, normalised anew if it is another: a wider dtype has a more exact unit length."""
    return centroids if centroids.dtype == dtype else F.normalize(centroids.to(dtype), dim=1)


def _path_probabilities(units: tuple[Tensor, ...], centroids: list[Tensor], paths: Tensor) -> Tensor:
    """Return p of the given paths int64 [N, M, L]: [N, M]."""
    levels = zip(units, centroids, paths.unbind(2), strict=True)
    return _clamp(reduce(torch.mul, ((1 + _cosines(*level)) / 2 for level in levels)))


def _cosines(unit: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    """Return [N, M], the cosines of image n with the rows ids[n] of its M paths.

    The whole [N, K] product reads K rows, and again in the backward pass; a gather moves N * M rows four times: from
    the centroids, into its copy, and out of it forward and backward. The gather is used where it moves less, which also
    keeps the copy [N, M, D] below half of the level's centroids.
    """
    if 2 * ids.numel() < len(rows):
        gathered = rows.index_select(0, ids.flatten()).view(*ids.shape, -1)
        # a row times a matrix: ten times as fast as a matrix times a column
        return torch.bmm(unit[:, None], gathered.transpose(1, 2)).squeeze(1)
    return (unit @ rows.T).gather(1, ids)


def _all_path_probabilities(units: tuple[Tensor, ...], centroids: list[Tensor], parents: tuple[Tensor, ...]) -> Tensor:
    """Return p of all paths, [N, K_0], from the coarsest level down: a cluster's factor times p of its parent."""
    probabilities = (1 + units[-1] @ centroids[-1].T) / 2
    for level in reversed(range(len(parents))):
        factors = (1 + units[level] @ centroids[level].T) / 2
        probabilities = probabilities.index_select(1, parents[level]) * factors
    return _clamp(probabilities)


def _clamp(probabilities: Tensor) -> Tensor:
    """Clamp to [0, 1]: rounding may leave it, and a logarithm of a negative number is NaN."""
    return probabilities.clamp(0, 1)
