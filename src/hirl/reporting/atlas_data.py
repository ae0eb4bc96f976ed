"""Compute and pack what the atlas page shows of semantic trees: order, central and doubtful images, classes, neighbors.

Shapes: N images, S of them shown, L levels of a tree (level 0 is the finest), K_l clusters of level l, C class levels.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering

from hirl.hierarchy.tree import SemanticTree

PICKS = 12  # central and doubtful images per cluster
SIMILARITIES_PER_CHUNK = 2**24  # held at a time: 64 MiB
ORDERED_AT_MOST = 300  # siblings whose order is optimal; it takes time cubic in their number


@dataclass(frozen=True)
class AtlasClasses:
    """The true classes of the images.

    Attributes:
        levels: the levels' names, finest first.
        names: the class names of every level.
        labels: int64 [N, C], the class of every image at every level.
    """

    levels: Sequence[str]
    names: Sequence[Sequence[str]]
    labels: NDArray[np.int64]


@dataclass
class Pack:
    """Arrays of integers in one compressed block, each known by its place in the list."""

    arrays: list[NDArray[Any]] = field(default_factory=list)

    def add(self, array: NDArray[Any]) -> int:
        """Append an array as uint16 if its values allow it, otherwise as uint32; return its place."""
        assert array.size == 0 or array.min() >= 0
        small = array.size == 0 or array.max() < 2**16
        self.arrays.append(np.ascontiguousarray(array, np.uint16 if small else np.uint32).ravel())
        return len(self.arrays) - 1

    def table(self) -> list[tuple[int, int, int]]:
        """Return the bytes per value, the first byte and the length of every array, in the order of `add`."""
        starts, end = {}, 0
        for place, array in self._widest_first():
            starts[place] = end
            end += array.nbytes
        return [(array.itemsize, starts[place], len(array)) for place, array in enumerate(self.arrays)]

    def block(self) -> bytes:
        """Return all arrays, little-endian, compressed; the same arrays give the same bytes."""
        content = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for _, array in self._widest_first())
        return gzip.compress(content, compresslevel=6, mtime=0)

    def _widest_first(self) -> list[tuple[int, NDArray[Any]]]:
        """Return the arrays with their places, widest values first: each then starts at a multiple of its item size."""
        return sorted(enumerate(self.arrays), key=lambda item: -item[1].itemsize)


def choose_shown(count: int, at_most: int) -> NDArray[np.int64]:
    """Return the indices [S] of the images to show, increasing: all, or a seeded random sample."""
    if count <= at_most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, at_most, replace=False))


def pack_tree(
    pack: Pack,
    tree: SemanticTree,
    shown: NDArray[np.int64],
    features: torch.Tensor | None,
    classes: AtlasClasses | None,
) -> dict[str, Any]:
    """Add a tree to the pack; return where its arrays are.

    Returns:
        clusters: K_l per level.
        parents: arrays [K_l] per level but the last.
        sizes: arrays [K_l] per level, of all images.
        order: [S], the shown images by finest cluster, then central first; without features in the data's order.
        counts: [K_0], the shown images of every finest cluster.
        sequence: [K_0], the finest clusters, similar ones beside each other.
        central, doubtful: arrays [K_l, PICKS] per level of shown images plus one, zero where there are fewer; `order`
            has the central ones of the finest level. None without features.
        classes: per level, arrays [K_l, C] of the most common class and of its images; None without classes.
    """
    assignments = tree.assignments.numpy()
    own = assignments[shown]
    found = {
        "clusters": list(tree.num_clusters),
        "parents": [pack.add(parents.numpy()) for parents in tree.parents],
        "sizes": [
            pack.add(np.bincount(assignments[:, level], minlength=k)) for level, k in enumerate(tree.num_clusters)
        ],
        "counts": pack.add(np.bincount(own[:, 0], minlength=tree.num_clusters[0])),
        "sequence": pack.add(np.asarray(_sequence(tree, tree.num_levels - 1, None))),
        "central": None,
        "doubtful": None,
        "classes": None
        if classes is None
        else [_pack_classes(pack, tree, level, classes) for level in range(tree.num_levels)],
    }
    closeness = np.zeros(len(shown))
    if features is not None:
        centroids = tree.in_space_of(features).centroids
        units = features[torch.from_numpy(shown)]
        measured = [_closeness(units, centroids[level], own[:, level]) for level in range(tree.num_levels)]
        closeness = measured[0][0]
        found["central"] = [
            _pack_picks(pack, own[:, level], -measured[level][0], k) if level else None
            for level, k in enumerate(tree.num_clusters)
        ]
        found["doubtful"] = [
            _pack_picks(pack, own[:, level], measured[level][1], k) for level, k in enumerate(tree.num_clusters)
        ]
    found["order"] = pack.add(np.lexsort((np.arange(len(shown)), -closeness, own[:, 0])))
    return found


def _closeness(units: torch.Tensor, centroids: torch.Tensor, own: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Return every image's cosine with its own centroid, and its lead over that with the best other centroid, [S]."""
    close, margin = np.empty(len(units), np.float32), np.empty(len(units), np.float32)
    rows = max(1, SIMILARITIES_PER_CHUNK // len(centroids))
    for start in range(0, len(units), rows):
        part = slice(start, start + rows)
        cosines = units[part] @ centroids.T
        index = torch.from_numpy(own[part])[:, None]
        mine = cosines.gather(1, index)
        others = cosines.scatter(1, index, -2.0).amax(dim=1, keepdim=True)
        close[part] = mine[:, 0].numpy()
        margin[part] = (mine - others)[:, 0].numpy()
    return close, margin


def _pack_picks(pack: Pack, clusters: NDArray[np.int64], key: NDArray, count: int) -> int:
    """Add [count, PICKS]: for every cluster its images with the smallest keys, plus one; zero where there are fewer."""
    order = np.lexsort((key, clusters))
    starts = np.searchsorted(clusters[order], np.arange(count))
    place = np.arange(len(order)) - starts[clusters[order]]
    picks = np.zeros((count, PICKS), np.int64)
    chosen = place < PICKS
    picks[clusters[order][chosen], place[chosen]] = order[chosen] + 1
    return pack.add(picks)


def _pack_classes(pack: Pack, tree: SemanticTree, level: int, classes: AtlasClasses) -> tuple[int, int]:
    """Add the most common class [K_l, C] of every cluster at every class level, and how many of its images have it."""
    clusters, count = tree.assignments[:, level].numpy(), tree.num_clusters[level]
    common, images = [], []
    for names, labels in zip(classes.names, np.asarray(classes.labels).T, strict=True):
        table = np.bincount(clusters * len(names) + labels, minlength=count * len(names)).reshape(count, len(names))
        common.append(table.argmax(axis=1))
        images.append(table.max(axis=1))
    return pack.add(np.stack(common, axis=1)), pack.add(np.stack(images, axis=1))


def _sequence(tree: SemanticTree, level: int, parent: int | None) -> list[int]:
    """Return the finest clusters below a cluster, so that similar siblings are beside each other at every level."""
    siblings = np.arange(tree.num_clusters[level]) if parent is None else np.flatnonzero(tree.parents[level] == parent)
    ordered = siblings[_similar_first(tree.centroids[level][siblings].numpy())].tolist()
    return ordered if level == 0 else [leaf for cluster in ordered for leaf in _sequence(tree, level - 1, cluster)]


def _similar_first(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return an order of unit rows in which neighbors are similar."""
    if len(points) < 3:
        return np.arange(len(points))
    links = linkage(points.astype(np.float64), "average")
    return leaves_list(optimal_leaf_ordering(links, points) if len(points) <= ORDERED_AT_MOST else links)


def nearest_images(units: torch.Tensor, count: int) -> NDArray[np.int64]:
    """Return the indices [S, count] of every row's nearest other rows in cosine, nearest first."""
    found, rows = [], max(1, SIMILARITIES_PER_CHUNK // len(units))
    for start in range(0, len(units), rows):
        cosines = units[start : start + rows] @ units.T
        own = torch.arange(start, start + len(cosines))
        cosines[torch.arange(len(cosines)), own] = -2.0
        found.append(cosines.topk(count, dim=1).indices.numpy())
    return np.concatenate(found)
