"""Hierarchical k-means: cluster the images, then the clusters, and so on; and the k-means below it.

There are two backends with one contract: faiss on a CPU, and torch on any device. Several ranks share the work of
torch's: each assigns its shard of the points, and sums over the ranks give the means. faiss runs on rank 0.

Shapes: N points, K clusters, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.config import KMeansConfig, TreeKMeansConfig
from hirl.distributed.collectives import (
    all_gather_shards,
    broadcast_object,
    gather_shards,
    shard_range,
    total,
)
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
    count: int | None = None,
) -> SemanticTree:
    """Cluster the images, then the clusters, level by level; return the tree.

    Level 0 is k-means on the l2-normalised features, level l > 0 on the l2-normalised centroids of level l - 1. The
    cluster of a centroid is its parent, and an image's path follows the parents, so that paths are strictly nested.

    With config.warm_iterations, level 0 is warm-started from the last tree: it starts once, from the means of that
    tree's finest clusters over the new features. The upper levels always start at random: they are cheap, and with
    about three points per cluster a warm start would not leave its local optimum.

    Memory: a float32 copy of the features, 4 N D bytes (of a shard: its rows'), beside that of `kmeans`.

    Args:
        features: [N, D], one row per training image, in the images' order; any float dtype.
        num_clusters: K_l, fine to coarse.
        config: how each level is clustered.
        seed: of level 0; level l has seed + l.
        last: the last tree, of the same images and numbers of clusters; None starts level 0 at random.
        count: N, if the features are this rank's shard of the rows and all ranks call together; all get the same tree.

    Raises:
        ValueError: there are fewer images than clusters, or a feature is not finite or a zero vector.

    Source: HIRL (https://arxiv.org/abs/2205.13159)
    """
    points = _unit_features(features, num_clusters[0], count)
    centroids, memberships = [], []
    for level, k in enumerate(num_clusters):
        if level == 0 and last is not None and config.warm_iterations is not None:
            warm = config.model_copy(update={"iterations": config.warm_iterations})
            groups = last.assignments[:, 0] if count is None else _own(last.assignments[:, 0])
            raw, membership, _ = kmeans(points, k, warm, seed, groups, count)
        else:
            raw, membership, _ = kmeans(points, k, config, seed + level, count=count)
        memberships.append(membership if count is None else all_gather_shards(membership, count))
        points = F.normalize(raw, dim=1)
        centroids.append(points)
        if count is not None:  # all ranks hold the same centroids, which are the points of the next level
            points, count = _own(points), len(points)
    clusters, *parents = memberships
    return SemanticTree(tuple(centroids), tuple(parents), follow_parents(clusters, parents))


def _own(rows: Tensor) -> Tensor:
    """Return this rank's shard of rows that all ranks hold."""
    own = shard_range(len(rows))
    return rows[own.start : own.stop]


def _unit_features(features: Tensor, k: int, count: int | None) -> Tensor:
    """Return l2-normalised features in float32, after checking that they can form k clusters."""
    if k > (images := len(features) if count is None else count):
        raise ValueError(f"num_clusters {k} is more than the {images} images: lower hierarchy.num_clusters")
    points = F.normalize(features.detach().float(), dim=1)
    if not _everywhere(points.any(dim=1).all(), count is not None):
        raise ValueError(
            "the features to cluster have all-zero rows, since the network has collapsed: lower optimizer.base_lr"
        )
    return points


def _everywhere(flag: Tensor, sharded: bool) -> bool:
    """Return whether a flag is set, on all ranks if the points are sharded: an error then ends all of them."""
    unset = 1 - flag.int()
    return not (total(unset) if sharded else unset).item()


def kmeans(
    points: Tensor,
    k: int,
    config: KMeansConfig,
    seed: int,
    groups: Tensor | None = None,
    count: int | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Run Euclidean k-means: the best of several random starts, or one start from a grouping of the points.

    Both backends start from k of the points, iterate on at most max_points_per_centroid * k of them, and refill an
    empty cluster by splitting a large one. Both draws are random, so the order of the points does not matter.

    Memory of the torch backend, beside the points: 4 bytes for each of SIMILARITIES_PER_CHUNK, about 16 K D and 60 N
    bytes, and 4 D for each sampled point if they are sampled. On a GPU its iterations multiply in TF32, several times
    as fast; the returned assignment is computed in float32. With shards all these are those of the rank's points, and
    faiss needs all points on rank 0.

    Args:
        points: [N, D], any float dtype, on any device; the work is done in float32.
        k: number of clusters.
        config: iterations, restarts, sample size and backend.
        seed: of the random draws; the points, the seed and the backend decide the result.
        groups: int64 [N] in 0 to k - 1; k-means then starts once, from the means of these groups.
        count: N, if the points and their groups are this rank's shard (`shard_range`) and all ranks call together.

    Returns:
        The centroids [K, D] as k-means leaves them, each point's nearest centroid int64 [N], and the sum of squared
        distances between the two. With shards the centroids and the sum are those of all points, the assignment that
        of the rank's.

    Raises:
        ValueError: there are fewer points than clusters, a point is not finite, or the backend is not installed.
    """
    points = points.detach().float()
    sharded = count is not None
    count = len(points) if count is None else count
    if k > count:
        raise ValueError(f"{k} clusters are more than the {count} points: set fewer clusters")
    if not _everywhere(_finite(points), sharded):
        raise ValueError("the features to cluster hold NaN or infinity: lower optimizer.base_lr, or use fp32")
    backend = ("torch" if points.is_cuda else "faiss") if config.backend == "auto" else config.backend
    start = None if groups is None else _update(points, groups, k, sharded)
    shard = _Shard(points, count, sharded)
    find_centroids = _faiss_centroids if backend == "faiss" else _torch_centroids
    centroids = find_centroids(shard, k, config, seed, start)
    with float32_matmul("ieee"):
        assignments, distances = nearest(points, centroids)
    return centroids, assignments, shard.sum(distances)


def _finite(points: Tensor) -> Tensor:
    """Return whether all points are finite; isfinite of the points would allocate [N, D]."""
    return torch.stack(points.aminmax()).isfinite().all() if len(points) else torch.tensor(True, device=points.device)


@dataclass(frozen=True)
class _Shard:
    """The points that this rank holds: all of them, or a part of those of all ranks.

    Attributes:
        points: [n, D].
        count: of the points of all ranks.
        sharded: whether other ranks hold other points, and call everything together.
    """

    points: Tensor
    count: int
    sharded: bool

    def take(self, ids: Tensor) -> Tensor:
        """Return the points of these numbers, on all ranks. The points must be all, or a `shard_range`, in order."""
        rows, here = self._find(ids)
        taken = self.points.new_zeros(len(ids), self.points.shape[1])
        taken[here] = self.points[rows[here]]
        return total(taken) if self.sharded else taken  # of each row all summands but one are zero

    def sample(self, ids: Tensor) -> _Shard:
        """Return the shard of the points of these numbers, under the same condition."""
        rows, here = self._find(ids)
        return _Shard(self.points[rows[here]], len(ids), self.sharded)

    def sum(self, values: Tensor) -> float:
        """Return the sum of a number for each point, over all ranks."""
        summed = values.double().sum()
        return (total(summed) if self.sharded else summed).item()

    def _find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that points have here, and which of them are here."""
        rows = ids.to(self.points.device) - (shard_range(self.count).start if self.sharded else 0)
        return rows, (rows >= 0) & (rows < len(self.points))


def _faiss_centroids(shard: _Shard, k: int, config: KMeansConfig, seed: int, start: Tensor | None) -> Tensor:
    """Return the centroids that faiss finds, from random points or from `start` [K, D]; of several ranks, rank 0's."""
    points = gather_shards(shard.points, shard.count) if shard.sharded else shard.points

    def find() -> Tensor:
        assert points is not None
        return _run_faiss(points, k, config, seed, start)

    return (broadcast_object(find) if shard.sharded else find()).to(shard.points.device)


def _run_faiss(points: Tensor, k: int, config: KMeansConfig, seed: int, start: Tensor | None) -> Tensor:
    """Return the centroids that faiss finds for all points, in main memory."""
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
    return torch.from_numpy(clustering.centroids)


def _torch_centroids(shard: _Shard, k: int, config: KMeansConfig, seed: int, start: Tensor | None) -> Tensor:
    """Return the best centroids of several random starts, or those of one start from `start` [K, D]."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws for every device and rank
    sample_size, sample, sampled = k * config.max_points_per_centroid, None, shard
    if shard.count > sample_size:
        sample = torch.randperm(shard.count, generator=generator)[:sample_size]
        sampled = shard.sample(sample)
    if start is not None:
        return _lloyd(sampled, start, config.iterations)[0]
    best, best_inertia = None, float("inf")
    for _ in range(config.restarts):
        drawn = torch.randperm(sampled.count, generator=generator)[:k]
        drawn = drawn if sample is None else sample[drawn]
        centroids, inertia = _lloyd(sampled, shard.take(drawn), config.iterations)
        if best is None or inertia < best_inertia:
            best, best_inertia = centroids, inertia
    assert best is not None
    return best


@float32_matmul("tf32")
def _lloyd(shard: _Shard, centroids: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Run Lloyd's iterations; return the centroids and the inertia of the last assignment, as faiss does."""
    previous = None
    for _ in range(iterations):
        assignments, distances = nearest(shard.points, centroids)
        if previous is not None and _everywhere((assignments == previous).all(), shard.sharded):
            break
        centroids, previous = _update(shard.points, assignments, len(centroids), shard.sharded), assignments
    return centroids, shard.sum(distances)


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


def _update(points: Tensor, assignments: Tensor, k: int, sharded: bool = False) -> Tensor:
    """Return the mean of each cluster's points; an empty cluster is refilled by splitting a large one."""
    centroids, sizes = cluster_means(points, assignments, k, sharded)
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
