"""What the atlas page shows of a tree is what a slow, obvious count finds."""

from __future__ import annotations

import gzip
from itertools import pairwise

import numpy as np
import pytest
import torch

from hirl.hierarchy.tree import SemanticTree, follow_parents
from hirl.reporting.atlas_data import PICKS, AtlasClasses, Pack, choose_shown, nearest_images, pack_tree

IMAGES, CLUSTERS = 300, (12, 4, 2)


def unpacked(pack: Pack) -> list[np.ndarray]:
    """Return the arrays of a pack, as the page reads them."""
    block = gzip.decompress(pack.block())
    types = {2: "<u2", 4: "<u4"}
    return [np.frombuffer(block, types[size], length, start).astype(int) for size, start, length in pack.table()]


def random_tree(features: torch.Tensor, clusters: tuple[int, ...] = CLUSTERS, seed: int = 0) -> SemanticTree:
    generator = torch.Generator().manual_seed(seed)
    parents = [torch.arange(k) * above // k for k, above in pairwise(clusters)]
    fine = torch.randint(clusters[0], (len(features),), generator=generator)
    centroids = [torch.nn.functional.normalize(torch.randn(k, features.shape[1]), dim=1) for k in clusters]
    return SemanticTree(tuple(centroids), tuple(parents), follow_parents(fine, parents)).in_space_of(features)


@pytest.fixture
def features() -> torch.Tensor:
    points = torch.randn(IMAGES, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(points, dim=1)


def test_a_pack_keeps_arrays_of_both_widths_aligned():
    pack = Pack()
    given = [np.array([1, 2, 3]), np.array([70_000, 5]), np.array([65_535]), np.array([], int)]
    assert [pack.add(array) for array in given] == [0, 1, 2, 3]
    for array, found in zip(given, unpacked(pack), strict=True):
        assert found.tolist() == array.tolist()
    assert all(start % size == 0 for size, start, _ in pack.table())
    assert [size for size, _, _ in pack.table()] == [2, 4, 2, 2]


def test_central_pictures_are_nearest_to_their_centroid_and_doubtful_ones_lead_least(features):
    tree, pack = random_tree(features), Pack()
    found = pack_tree(pack, tree, np.arange(IMAGES), features, None)
    arrays = unpacked(pack)
    for level, k in enumerate(CLUSTERS):
        cosines = features @ tree.centroids[level].T
        for cluster in range(k):
            members = torch.nonzero(tree.assignments[:, level] == cluster).squeeze(1)
            own = cosines[members, cluster]
            rivals = cosines[members].clone()
            rivals[:, cluster] = -2
            doubtful = members[(own - rivals.amax(dim=1)).argsort()][:PICKS].tolist()
            assert [i - 1 for i in arrays[found["doubtful"][level]].reshape(k, -1)[cluster] if i] == doubtful
            central = members[own.argsort(descending=True)].tolist()
            if level > 0:
                picked = [i - 1 for i in arrays[found["central"][level]].reshape(k, -1)[cluster] if i]
                assert picked == central[:PICKS]
            else:
                start = arrays[found["counts"]][:cluster].sum()
                assert arrays[found["order"]][start : start + len(members)].tolist() == central


def test_sizes_and_classes_count_all_images_though_few_are_shown(features):
    labels = np.random.default_rng(0).integers(0, 5, (IMAGES, 2))
    classes = AtlasClasses(["class", "kind"], [list("abcde"), list("abcde")], labels)
    tree, shown, pack = random_tree(features), choose_shown(IMAGES, 50), Pack()
    found = pack_tree(pack, tree, shown, features, classes)
    arrays = unpacked(pack)
    assert sorted(arrays[found["order"]]) == list(range(50))
    assert arrays[found["counts"]].sum() == 50
    for level, k in enumerate(CLUSTERS):
        common, images = (arrays[place].reshape(k, 2) for place in found["classes"][level])
        for cluster in range(k):
            members = np.flatnonzero(tree.assignments[:, level] == cluster)
            assert arrays[found["sizes"][level]][cluster] == len(members)
            counts = np.stack([np.bincount(labels[members, at], minlength=5) for at in range(2)])
            assert images[cluster].tolist() == counts.max(axis=1).tolist()
            assert common[cluster].tolist() == counts.argmax(axis=1).tolist()


def test_a_tree_without_features_keeps_the_datas_order(features):
    tree, pack = random_tree(features), Pack()
    found = pack_tree(pack, tree, np.arange(IMAGES), None, None)
    assert found["central"] is found["doubtful"] is found["classes"] is None
    order, counts = (unpacked(pack)[found[name]] for name in ("order", "counts"))
    for members in np.split(order, np.cumsum(counts)[:-1]):
        assert (np.diff(members) > 0).all()


def test_similar_siblings_are_neighbors_in_the_sequence():
    angles = torch.tensor([0.0, 2.0, 0.1, 2.1])
    centroids = torch.stack([angles.cos(), angles.sin()], dim=1)
    top = torch.ones(1, 2) / 2**0.5
    tree = SemanticTree(
        (centroids, top), (torch.zeros(4, dtype=torch.int64),), torch.tensor([[i, 0] for i in range(4)])
    )
    pack = Pack()
    found = pack_tree(pack, tree, np.arange(4), None, None)
    sequence = unpacked(pack)[found["sequence"]].tolist()
    assert {frozenset(sequence[:2]), frozenset(sequence[2:])} == {frozenset({0, 2}), frozenset({1, 3})}


def test_a_sample_is_sorted_seeded_and_no_larger_than_asked():
    shown = choose_shown(1000, 100)
    assert len(shown) == len(set(shown.tolist())) == 100
    assert (np.diff(shown) > 0).all()
    assert (shown == choose_shown(1000, 100)).all()
    assert choose_shown(80, 100).tolist() == list(range(80))


def test_nearest_images_are_those_of_the_largest_cosines(features, monkeypatch):
    cosines = features @ features.T - 3 * torch.eye(IMAGES)
    expected = cosines.argsort(dim=1, descending=True)[:, :5].numpy()
    monkeypatch.setattr("hirl.reporting.atlas_data.SIMILARITIES_PER_CHUNK", 7 * IMAGES)  # several chunks
    assert (nearest_images(features, 5) == expected).all()
