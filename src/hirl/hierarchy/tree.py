"""The semantic tree: clusters of images, clusters of those clusters, and every image's path through them.

Shapes: N images, L levels (level 0 is the finest), K_l clusters of level l, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hirl.distributed.collectives import shard_range, total, world_size
from hirl.files import atomic_path

UNIT_TOLERANCE = 1e-5  # of a centroid's norm: float32 normalisation leaves about 1e-7


@dataclass(frozen=True, eq=False)
class SemanticTree:
    """A strictly nested clustering of the training images. It is checked on creation and cannot be changed.

    Attributes:
        centroids: one [K_l, D] tensor of unit rows per level, finest first.
        parents: one int64 [K_l] tensor per level but the last: each cluster's parent one level up.
        assignments: int64 [N, L], each image's cluster at every level.

    Raises:
        ValueError: the shapes disagree, an id is out of range, a path is not nested, a centroid is not a unit vector.

    Source: HIRL (https://arxiv.org/abs/2205.13159)
    """

    centroids: tuple[Tensor, ...]
    parents: tuple[Tensor, ...]
    assignments: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "centroids", tuple(self.centroids))
        object.__setattr__(self, "parents", tuple(self.parents))
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        levels = self.num_levels
        if levels == 0 or len(self.parents) != levels - 1:
            raise ValueError(f"a tree of {levels} levels has {len(self.parents)} parent tables: it needs one fewer")
        if self.assignments.ndim != 2 or self.assignments.shape[1] != levels:
            raise ValueError(f"assignments are {list(self.assignments.shape)}: give them as [N, {levels}]")
        width = self.centroids[0].shape[-1]
        for level, centroids in enumerate(self.centroids):
            if centroids.ndim != 2 or centroids.shape[1] != width or not len(centroids):
                raise ValueError(f"centroids of level {level} are {list(centroids.shape)}: give them as [K, {width}]")
        for level, parents in enumerate(self.parents):
            if parents.shape != self.centroids[level].shape[:1]:
                raise ValueError(f"parents of level {level} are {list(parents.shape)}: one per cluster is needed")
        if any(ids.dtype != torch.int64 for ids in (*self.parents, self.assignments)):
            raise ValueError("parents and assignments hold cluster ids: give them as int64")

    def _check_values(self) -> None:
        for level, centroids in enumerate(self.centroids):
            norms = torch.linalg.vector_norm(centroids, dim=1)
            if not ((norms - 1).abs() <= UNIT_TOLERANCE).all():  # NaN fails here too
                raise ValueError(f"centroids of level {level} are not finite unit vectors: normalise them")
            _check_range(f"assignments of level {level}", self.assignments[:, level], len(centroids))
        for level, parents in enumerate(self.parents):
            _check_range(f"parents of level {level}", parents, self.num_clusters[level + 1])
            if not torch.equal(parents[self.assignments[:, level]], self.assignments[:, level + 1]):
                raise ValueError(f"level {level + 1} is not assigned the parents of level {level}'s: paths must nest")

    @property
    def num_levels(self) -> int:
        """Return the number of levels, L."""
        return len(self.centroids)

    @property
    def num_clusters(self) -> tuple[int, ...]:
        """Return the number of clusters K_l of every level, finest first."""
        return tuple(len(centroids) for centroids in self.centroids)

    @property
    def device(self) -> torch.device:
        """Return the device of the tree's tensors."""
        return self.assignments.device

    @cached_property
    def paths(self) -> Tensor:
        """Return int64 [K_0, L], the path from each finest cluster to the coarsest level."""
        return follow_parents(torch.arange(self.num_clusters[0], device=self.device), self.parents)

    def to(self, device: torch.device | str) -> SemanticTree:
        """Return the tree on another device."""
        centroids = tuple(rows.to(device) for rows in self.centroids)
        parents = tuple(ids.to(device) for ids in self.parents)
        return SemanticTree(centroids, parents, self.assignments.to(device))

    def in_space_of(self, features: Tensor) -> SemanticTree:
        """Return the same clusters with centroids in another space: the mean directions of their images' features.

        An empty cluster gets its parent's centroid.

        Args:
            features: [N, D], one row per training image; of several ranks, those of the rank's shard of the images.
        """
        images = len(self.assignments)
        own, units = shard_range(images), F.normalize(features.float(), dim=1)
        assignments = self.assignments[own.start : own.stop]
        centroids: list[Tensor] = []
        above = total(units.sum(dim=0, keepdim=True)) / images
        for level in reversed(range(self.num_levels)):
            means, sizes = cluster_means(units, assignments[:, level], self.num_clusters[level], sharded=True)
            empty = (sizes == 0).nonzero().squeeze(1)
            top = level == self.num_levels - 1
            means[empty] = above[torch.zeros_like(empty) if top else self.parents[level][empty]]
            above = F.normalize(means, dim=1)
            centroids.insert(0, above)
        return SemanticTree(tuple(centroids), self.parents, self.assignments)

    def save(self, path: str | Path) -> None:
        """Save the tree as a snapshot: one safetensors file, written atomically."""
        tensors = {f"centroids.{level}": tensor for level, tensor in enumerate(self.centroids)}
        tensors |= {f"parents.{level}": tensor for level, tensor in enumerate(self.parents)}
        tensors["assignments"] = self.assignments
        with atomic_path(path) as temporary:
            save_file({name: _own_copy(tensor) for name, tensor in tensors.items()}, temporary)

    @classmethod
    def load(cls, path: str | Path) -> SemanticTree:
        """Load the tree of a snapshot.

        Raises:
            ValueError: the file is missing, is not a safetensors file, or holds no valid tree.
        """
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{path} is not a readable snapshot ({error}): correct the path, or train the run"
            ) from error
        levels = sum(name.startswith("centroids.") for name in tensors)
        try:
            centroids = [tensors[f"centroids.{level}"] for level in range(levels)]
            parents = [tensors[f"parents.{level}"] for level in range(levels - 1)]
            return cls(tuple(centroids), tuple(parents), tensors["assignments"])
        except KeyError as error:
            raise ValueError(
                f"{path} has no {error}, so it is no snapshot of a tree: give a file of snapshots/"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def cluster_means(points: Tensor, assignments: Tensor, k: int, sharded: bool = False) -> tuple[Tensor, Tensor]:
    """Return the mean [K, D] of each cluster's points, zero if it has none, and the clusters' sizes [K].

    Rows are summed in sorted order by embedding_bag: index_add would sum in a random order on a GPU.

    Args:
        sharded: the points are this rank's; the result is that of all ranks' points.
    """
    sizes = torch.bincount(assignments, minlength=k)
    members, starts = assignments.argsort(stable=True), sizes.cumsum(0) - sizes
    if not sharded or world_size() == 1:
        return F.embedding_bag(members, points, starts, mode="mean"), sizes
    sums, sizes = total(F.embedding_bag(members, points, starts, mode="sum")), total(sizes)
    return sums / sizes.clamp(min=1)[:, None], sizes


def follow_parents(clusters: Tensor, parents: Sequence[Tensor]) -> Tensor:
    """Return the paths, int64 [N, L], from clusters of the finest level [N] up through the parents of each level."""
    path = [clusters]
    for ids in parents:
        path.append(ids[path[-1]])
    return torch.stack(path, dim=1)


def _own_copy(tensor: Tensor) -> Tensor:
    """Return a contiguous copy in main memory: safetensors refuses tensors that share memory."""
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


def _check_range(name: str, ids: Tensor, count: int) -> None:
    if len(ids) and (ids.min() < 0 or ids.max() >= count):
        raise ValueError(f"{name} run from {ids.min().item()} to {ids.max().item()}: ids must be 0 to {count - 1}")
