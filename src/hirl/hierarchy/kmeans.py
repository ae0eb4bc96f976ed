"""Hierarchical k-means: cluster the images, then the clusters, and so on; and the k-means below it.

There are two backends with one contract: faiss on a CPU, and torch on any device.

Shapes: N points, K clusters, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.config import KMeansConfig, TreeKMeansConfig
from hirl.distributed.device import float32_matmul
from hirl.hierarchy.tree import SemanticTree, cluster_means, follow_parents

# similarities of points to centroids that are held at a time: 1 MiB, about the cache of a core, and 256 MiB
SIMILARITIES_PER_CHUNK = {"cpu": 2**18, "cuda": 2**26}
LEAST_ROWS = 128  # points of a chunk: a product of fewer is slow
SPLIT_SCALE = 1 / 1024  # how far the halves of a split cluster are pushed apart, as in faiss


def hierarchical_kmeans(
    features: Tensor,
    num_clusters: Sequence[int],
    config: TreeKMeansConfig,
    seed: int = 0,
    last: SemanticTree | None = None,
) -> SemanticTree:
    """Cluster the images, then the clusters, level by level; return the tree.

    Level 0 is k-means on the l2-normalised features, level l > 0 on the l2-normalised centroids of level l - 1. The
    cluster of a centroid is its parent, and an image's path follows the parents, so that paths are strictly nested.

    With config.warm_iterations, level 0 is warm-started from the last tree: it starts once, from the means of that
    tree's finest clusters over the new features. The upper levels always start at random: they are cheap, and with
    about three points per cluster a warm start would not leave its local optimum.

    Memory: a float32 copy of the features, 4 N D bytes, beside that of `kmeans`.

    Args:
        features: [N, D], one row per training image, in the images' order; any float dtype.
        num_clusters: K_l, fine to coarse.
        config: how each level is clustered.
        seed: of level 0; level l has seed + l.
        last: the last tree, of the same images and numbers of clusters; None starts level 0 at random.

    Raises:
        ValueError: there are fewer images than clusters, or a feature is not finite or a zero vector.

    Source: HIRL (https://arxiv.org/abs/2205.13159)
    """
    points = _unit_features(features, num_clusters[0])
    centroids, memberships = [], []
    for level, count in enumerate(num_clusters):
        if level == 0 and last is not None and config.warm_iterations is not None:
            warm = config.model_copy(update={"iterations": config.warm_iterations})
            raw, membership, _ = kmeans(points, count, warm, seed, last.assignments[:, 0])
        else:
            raw, membership, _ = kmeans(points, count, config, seed + level)
        points = F.normalize(raw, dim=1)
        centroids.append(points)
        memberships.append(membership)
    clusters, *parents = memberships
    return SemanticTree(tuple(centroids), tuple(parents), follow_parents(clusters, parents))


def _unit_features(features: Tensor, count: int) -> Tensor:
    """Return l2-normalised features in float32, after checking that they can form `count` clusters."""
    if count > len(features):
        raise ValueError(f"num_clusters {count} is more than the {len(features)} images: lower hierarchy.num_clusters")
    points = F.normalize(features.detach().float(), dim=1)
    if not points.any(dim=1).all():
        raise ValueError(
            "the features to cluster have all-zero rows, since the network has collapsed: lower optimizer.base_lr"
        )
    return points


def kmeans(
    points: Tensor, k: int, config: KMeansConfig, seed: int, groups: Tensor | None = None
) -> tuple[Tensor, Tensor, float]:
    """Run Euclidean k-means: the best of several random starts, or one start from a grouping of the points.

    Both backends start from k of the points, iterate on at most max_points_per_centroid * k of them, and refill an
    empty cluster by splitting a large one. Both draws are random, so the order of the points does not matter.

    Memory of the torch backend, beside the points: 4 bytes for each of SIMILARITIES_PER_CHUNK, about 16 K D and 60 N
    bytes, and 4 D for each sampled point if they are sampled. On a GPU its iterations multiply in TF32, several times
    as fast; the returned assignment is computed in float32.

    Args:
        points: [N, D], any float dtype, on any device; the work is done in float32.
        k: number of clusters.
        config: iterations, restarts, sample size and backend.
        seed: of the random draws; the points, the seed and the backend decide the result.
        groups: int64 [N] in 0 to k - 1; k-means then starts once, from the means of these groups.

    Returns:
        The centroids [K, D] as k-means leaves them, each point's nearest centroid int64 [N], and the sum of squared
        distances between the two.

    Raises:
        ValueError: there are fewer points than clusters, a point is not finite, or the backend is not installed.
    """
    points = points.detach().float()
    if k > len(points):
        raise ValueError(f"{k} clusters are more than the {len(points)} points: set fewer clusters")
    if not torch.stack(points.aminmax()).isfinite().all():  # isfinite of the points would allocate [N, D]
        raise ValueError("the features to cluster hold NaN or infinity: lower optimizer.base_lr, or use fp32")
    backend = ("torch" if points.is_cuda else "faiss") if config.backend == "auto" else config.backend
    start = None if groups is None else _update(points, groups, k)
    find_centroids = _faiss_centroids if backend == "faiss" else _torch_centroids
    centroids = find_centroids(points, k, config, seed, start)
    with float32_matmul("ieee"):
        assignments, distances = nearest(points, centroids)
    return centroids, assignments, distances.double().sum().item()


def _faiss_centroids(points: Tensor, k: int, config: KMeansConfig, seed: int, start: Tensor | None) -> Tensor:
    """Return the centroids that faiss finds, from random points or from `start` [K, D]."""
    try:
        import faiss
    except ImportError as error:
        raise ValueError("kmeans.backend faiss is not installed: install faiss-cpu, or set it to torch") from error
    clustering = faiss.Kmeans(
        points.shape[1],
        k,
        niter=config.iterations,
        nredo=config.restarts if start is None else 1,
        seed=seed,
        max_points_per_centroid=config.max_points_per_centroid,
        min_points_per_centroid=1,  # faiss would warn below 39
    )
    clustering.train(points.cpu().numpy(), init_centroids=None if start is None else start.cpu().numpy())
    return torch.from_numpy(clustering.centroids).to(points.device)


def _torch_centroids(points: Tensor, k: int, config: KMeansConfig, seed: int, start: Tensor | None) -> Tensor:
    """Return the best centroids of several random starts, or those of one start from `start` [K, D]."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws for every device
    sample_size = k * config.max_points_per_centroid
    if len(points) > sample_size:
        sample = torch.randperm(len(points), generator=generator)[:sample_size]
        points = points[sample.to(points.device)]
    if start is not None:
        return _lloyd(points, start, config.iterations)[0]
    best, best_inertia = None, float("inf")
    for _ in range(config.restarts):
        drawn = torch.randperm(len(points), generator=generator)[:k]
        centroids, inertia = _lloyd(points, points[drawn.to(points.device)], config.iterations)
        if best is None or inertia < best_inertia:
            best, best_inertia = centroids, inertia
    assert best is not None
    return best


@float32_matmul("tf32")
def _lloyd(points: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Run Lloyd's iterations; return the centroids and the inertia of the last assignment, as faiss does."""
    previous = None
    for _ in range(iterations):
        assignments, distances = nearest(points, centroids)
        if previous is not None and torch.equal(assignments, previous):
            break
        centroids, previous = _update(points, assignments, len(centroids)), assignments
    return centroids, distances.double().sum().item()


def nearest(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's nearest centroid, int64 [N], and its squared distance [N].

    |p - c|^2 = |p|^2 - 2 (p . c - |c|^2 / 2): the nearest centroid has the largest similarity p . c - |c|^2 / 2. The
    [N, K] similarities are computed in chunks of points.
    """
    rows = max(LEAST_ROWS, SIMILARITIES_PER_CHUNK[points.device.type] // max(centroids.shape))
    offset = -centroids.square().sum(dim=1) / 2
    assignments, distances = [], []
    for chunk in points.split(rows):
        similarity, assignment = _largest(torch.addmm(offset, chunk, centroids.T))
        assignments.append(assignment)
        distances.append((chunk.square().sum(dim=1) - 2 * similarity).clamp(min=0))
    return torch.cat(assignments), torch.cat(distances)


def _largest(similarities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value of each row, and the first column that has it."""
    if similarities.is_cuda:
        return similarities.max(dim=1)
    columns = torch.from_numpy(similarities.numpy().argmax(axis=1))  # numpy's argmax is vectorised, torch's is not
    return similarities.gather(1, columns[:, None]).squeeze(1), columns


def _update(points: Tensor, assignments: Tensor, k: int) -> Tensor:
    """Return the mean of each cluster's points; an empty cluster is refilled by splitting a large one."""
    centroids, sizes = cluster_means(points, assignments, k)
    empty = (sizes == 0).nonzero().squeeze(1)
    if len(empty):
        _split(centroids, sizes, empty)
    return centroids


def _split(centroids: Tensor, sizes: Tensor, empty: Tensor) -> None:
    """Refill empty clusters in place: each copies the centroid of a large cluster, and the two are pushed apart."""
    donors = sizes.argsort(descending=True, stable=True)[: len(centroids) - len(empty)]
    order = torch.arange(len(empty), device=sizes.device)
    donors, rounds = donors[order % len(donors)], order // len(donors) + 1
    push = torch.full_like(centroids[0], SPLIT_SCALE)
    push[1::2] *= -1
    centroids[empty] = centroids[donors] * (1 + push * rounds[:, None])
    centroids[donors[rounds == 1]] *= 1 - push
