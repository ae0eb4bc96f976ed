from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.config import KMeansConfig, TreeKMeansConfig
from hirl.distributed.collectives import shard_range
from hirl.hierarchy import SemanticTree, hierarchical_kmeans
from hirl.hierarchy import kmeans as module
from hirl.hierarchy.kmeans import kmeans
from tests.largest_tensor import LargestTensor
from tests.run_on_ranks import on_ranks, on_two_ranks

BACKENDS = ["faiss", "torch"]


def blobs(groups: int, each: int, width: int = 8, spread: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around random centers, sorted by group, and their groups."""
    generator = torch.Generator().manual_seed(seed)
    centers = F.normalize(torch.randn(groups, width, generator=generator), dim=1)
    group = torch.arange(groups).repeat_interleave(each)
    return centers[group] + spread * torch.randn(groups * each, width, generator=generator), group


@pytest.mark.parametrize("backend", BACKENDS)
def test_returns_nearest_raw_centroids_and_their_inertia(backend):
    points, _ = blobs(10, 40)
    centroids, assignments, inertia = kmeans(points, 15, KMeansConfig(backend=backend), seed=3)
    distances = torch.cdist(points.double(), centroids.double()).square()
    assert centroids.shape == (15, 8)
    assert assignments.dtype == torch.int64
    assert torch.equal(assignments, distances.argmin(1))
    assert inertia == pytest.approx(distances.min(1).values.sum().item(), rel=1e-5)  # float32 distances


@pytest.mark.parametrize("backend", BACKENDS)
def test_finds_groups_that_lie_apart(backend):
    points, group = blobs(3, 50, spread=0.02)
    config = KMeansConfig(backend=backend, restarts=20)  # two starts in nine draw one point of each group
    _, assignments, _ = kmeans(points, 3, config, seed=0)
    assert torch.stack([group, assignments], dim=1).unique(dim=0).shape == (3, 2)
    assert len(assignments.unique()) == 3


def test_backends_agree_in_quality():
    """Different starts end in different optima; with five restarts their inertias are within one per cent."""
    points, _ = blobs(30, 60)
    ratios = []
    for seed in range(5):
        inertia = [kmeans(points, 30, KMeansConfig(backend=backend), seed)[2] for backend in BACKENDS]
        ratios.append(inertia[1] / inertia[0])
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_seed_decides_the_result(backend):
    points, _ = blobs(10, 40)
    config = KMeansConfig(backend=backend, restarts=1, iterations=3)
    first, again, other = (kmeans(points, 15, config, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_sorted_by_class_cluster_as_well_as_shuffled_ones(backend):
    """With fewer points per centroid than there are, a biased sample would miss whole classes."""
    points, _ = blobs(20, 100, spread=0.1)
    config = KMeansConfig(backend=backend, max_points_per_centroid=20)
    shuffled = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(1))]
    inertia = [sum(kmeans(p, 20, config, seed)[2] for seed in range(5)) for p in (points, shuffled)]
    assert inertia[0] == pytest.approx(inertia[1], rel=0.1)  # a missed class alone would add more than a half


@pytest.mark.parametrize("backend", BACKENDS)
def test_centroids_come_from_a_sample_and_all_points_are_assigned(backend):
    points, _ = blobs(4, 500, spread=0.05)
    config = KMeansConfig(backend=backend, max_points_per_centroid=10)
    _, assignments, inertia = kmeans(points, 4, config, seed=0)
    assert len(assignments) == 2000
    full = kmeans(points, 4, KMeansConfig(backend=backend), seed=0)[2]
    assert full < inertia < 1.5 * full  # centroids of 40 points, worse than of 2000 by about 4 / 40


@pytest.mark.parametrize("backend", BACKENDS)
def test_as_many_clusters_as_points_and_equal_points_are_clustered_silently(backend, capfd):
    config = KMeansConfig(backend=backend)
    points = torch.randn(12, 5)
    assert kmeans(points, 12, config, seed=0)[2] == pytest.approx(0, abs=1e-5)  # float32: |p|² - 2pc + |c|² of size 5
    centroids, assignments, _ = kmeans(torch.ones(30, 5), 7, config, seed=0)
    assert centroids.isfinite().all()
    assert len(assignments) == 30
    assert capfd.readouterr() == ("", "")  # faiss warns of few points per centroid unless told


def test_empty_clusters_take_half_of_a_large_one():
    points = torch.tensor([[0.0, 1.0], [0.0, 1.1], [0.0, 0.9], [5.0, 5.0]])
    centroids = module._update(points, torch.tensor([0, 0, 0, 2]), 3)
    assert not torch.allclose(centroids[0], centroids[1])  # the halves have been pushed apart
    torch.testing.assert_close(centroids[:2].mean(0), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(centroids[2], points[3])
    many = module._update(points, torch.zeros(4, dtype=torch.int64), 6)
    assert len(many.unique(dim=0)) == 6


@pytest.mark.parametrize("rows", [1, 128, 10**6])
def test_chunks_do_not_change_the_nearest(monkeypatch, rows):
    points, centroids = torch.randn(300, 6), torch.randn(9, 6)
    monkeypatch.setattr(module, "LEAST_ROWS", 1)
    monkeypatch.setitem(module.SIMILARITIES_PER_CHUNK, "cpu", 9 * rows)
    assignments, distances = module.nearest(points, centroids)
    torch.testing.assert_close(distances, torch.cdist(points, centroids).square().min(1).values, rtol=1e-4, atol=1e-5)
    assert torch.equal(assignments, torch.cdist(points, centroids).argmin(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_trees_of_random_sizes_are_nested_and_normalised(backend):
    generator = torch.Generator().manual_seed(0)
    for seed in range(10):
        images, *sizes = torch.randint(1, 60, (4,), generator=generator).sort(descending=True).values.tolist()
        features = 5 * torch.randn(images, 6, generator=generator)
        tree = hierarchical_kmeans(
            features, sizes, KMeansConfig(backend=backend, restarts=1), seed
        )  # checked on creation
        assert tree.num_clusters == tuple(sizes)
        assert tree.assignments.shape == (images, 3)
        for level in (1, 2):
            expected = tree.parents[level - 1][tree.assignments[:, level - 1]]
            assert torch.equal(expected, tree.assignments[:, level])


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_are_kmeans_of_the_normalised_points_below(backend):
    points, _ = blobs(20, 30)
    config = KMeansConfig(backend=backend)
    tree = hierarchical_kmeans(10 * points, (12, 4), config, seed=5)
    fine, assignments, _ = kmeans(F.normalize(points, dim=1), 12, config, seed=5)
    coarse, parents, _ = kmeans(F.normalize(fine, dim=1), 4, config, seed=6)
    # ten times a float32 is rounded, so the same clusters are met up to that
    torch.testing.assert_close(tree.centroids[0], F.normalize(fine, dim=1), rtol=0, atol=1e-5)
    torch.testing.assert_close(tree.centroids[1], F.normalize(coarse, dim=1), rtol=0, atol=1e-5)
    assert torch.equal(tree.assignments[:, 0], assignments)
    assert torch.equal(tree.parents[0], parents)


# --- warm starts from the last tree -----------------------------------------------------------------------------------


def inertia(points: Tensor, tree: SemanticTree) -> float:
    return (F.normalize(points, dim=1) - tree.centroids[0][tree.assignments[:, 0]]).square().sum().item()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_warm_iterations_the_last_tree_is_ignored(backend):
    points, _ = blobs(20, 30)
    config = TreeKMeansConfig(backend=backend)
    last = hierarchical_kmeans(points, (12, 4), config, seed=1)
    anew, again = (hierarchical_kmeans(points, (12, 4), config, 0, tree) for tree in (None, last))
    assert torch.equal(anew.assignments, again.assignments)
    assert all(torch.equal(*rows) for rows in zip(anew.centroids, again.centroids, strict=True))
    first = hierarchical_kmeans(points, (12, 4), config.model_copy(update={"warm_iterations": 3}), 0)
    assert torch.equal(anew.assignments, first.assignments)  # there is no last tree yet


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_warm_start_improves_on_the_last_tree_if_points_moved_little(backend):
    points, _ = blobs(20, 30)
    last = hierarchical_kmeans(points, (12, 4), TreeKMeansConfig(backend=backend, restarts=1, iterations=2))
    moved = points + 0.02 * torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
    warm = TreeKMeansConfig(backend=backend, warm_iterations=5)
    tree, again = (hierarchical_kmeans(moved, (12, 4), warm, 0, last) for _ in range(2))
    assert inertia(moved, tree) < inertia(moved, last)
    assert torch.equal(tree.assignments, again.assignments)
    same = (tree.assignments[:, 0] == last.assignments[:, 0]).float().mean()
    assert same > 0.5  # clusters keep their numbers; after a random start one in twelve would by chance


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_warm_start_survives_a_rotation_of_the_embeddings(backend):
    """It starts from the images of each cluster, not from the old centroids: a network may rotate its embeddings."""
    points, _ = blobs(10, 40, spread=0.05)
    last = hierarchical_kmeans(points, (10, 3), TreeKMeansConfig(backend=backend))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    tree = hierarchical_kmeans(points @ turn, (10, 3), TreeKMeansConfig(backend=backend, warm_iterations=1), 0, last)
    assert torch.equal(tree.assignments[:, 0], last.assignments[:, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_warm_iteration_is_lloyds_from_the_means_of_the_groups(backend):
    points, group = blobs(6, 50)
    groups = (group + (torch.arange(300) % 7 == 0)) % 6
    means = torch.stack([points[groups == k].mean(0) for k in range(6)])
    nearest = torch.cdist(points, means).argmin(1)
    expected = torch.stack([points[nearest == k].mean(0) for k in range(6)])
    centroids, _, _ = kmeans(points, 6, KMeansConfig(backend=backend, iterations=1), seed=0, groups=groups)
    torch.testing.assert_close(centroids, expected, rtol=0, atol=1e-5)  # float32 sums of 50


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("most", [1000, 20])
def test_empty_groups_are_refilled_the_same_way_twice(backend, most):
    """With all points, and with a sample of them."""
    points, group = blobs(20, 30)
    config = KMeansConfig(backend=backend, iterations=5, max_points_per_centroid=most)
    results = [kmeans(points, 24, config, seed=0, groups=group // 2) for _ in range(2)]  # 14 of 24 groups are empty
    assert len(results[0][1].unique()) >= 20
    assert all(torch.equal(results[0][part], results[1][part]) for part in (0, 1))


# --- several ranks ----------------------------------------------------------------------------------------------------


def tree_of_a_shard(points: Tensor, config: TreeKMeansConfig) -> list[SemanticTree]:
    """The tree of all points, each rank giving its shard, and the next tree, warm-started; (12, 4, 2) clusters."""
    own = points[list(shard_range(len(points)))]
    first = hierarchical_kmeans(own, (12, 4, 2), config, 3, count=len(points))
    return [first, hierarchical_kmeans(own, (12, 4, 2), config, 4, first, len(points))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("most", [1000, 10])
def test_ranks_that_share_the_points_find_the_tree_of_one(backend, most):
    """Three ranks share 301 points unevenly; of two clusters at the top, and of a sample, a rank may hold none."""
    points = blobs(7, 43)[0]
    config = TreeKMeansConfig(backend=backend, restarts=2, warm_iterations=3, max_points_per_centroid=most)
    alone = tree_of_a_shard(points, config)
    for trees in on_ranks(3, tree_of_a_shard, points, config):
        for tree, expected in zip(trees, alone, strict=True):
            assert torch.equal(tree.assignments, expected.assignments)
            for rows, wanted in zip(tree.centroids, expected.centroids, strict=True):
                torch.testing.assert_close(rows, wanted, rtol=0, atol=1e-5)  # sums over ranks are rounded otherwise


def error_of_a_shard(points: Tensor) -> str:
    with pytest.raises(ValueError, match="features to cluster") as caught:
        tree_of_a_shard(points, TreeKMeansConfig())
    return str(caught.value)


@pytest.mark.parametrize(("value", "message"), [(0.0, "all-zero rows"), (float("nan"), "NaN or infinity")])
def test_a_bad_point_of_one_rank_is_an_error_of_all(value, message):
    points = blobs(5, 10)[0]
    points[-1] = value
    assert all(message in error for error in on_two_ranks(error_of_a_shard, points))


# --- memory and precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [False, True])
def test_no_tensor_is_as_large_as_points_times_clusters_or_as_the_points(monkeypatch, groups):
    monkeypatch.setitem(module.SIMILARITIES_PER_CHUNK, "cpu", 2**12)
    points, group = blobs(40, 50, width=64)
    config = KMeansConfig(backend="torch", restarts=2, iterations=3)
    with LargestTensor(points) as made:
        kmeans(points, 40, config, seed=0, groups=group if groups else None)
    chunk, centroids = 128 * 64, 40 * 64
    assert made.largest <= max(chunk, centroids, len(points))  # or a number for each point


def test_iterations_multiply_in_tf32_and_the_assignment_in_float32(monkeypatch):
    precisions, nearest = [], module.nearest

    def watched(*args: Tensor) -> tuple[Tensor, Tensor]:
        precisions.append(torch.backends.cuda.matmul.fp32_precision)
        return nearest(*args)

    monkeypatch.setattr(module, "nearest", watched)
    before = torch.backends.cuda.matmul.fp32_precision
    kmeans(blobs(10, 40)[0], 10, KMeansConfig(backend="torch", restarts=2, iterations=2), seed=0)
    assert precisions == ["tf32"] * 4 + ["ieee"]
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_impossible_requests_end_in_one_line(monkeypatch):
    features = torch.randn(20, 4)
    with pytest.raises(ValueError, match=r"num_clusters 30 is more than the 20 images: lower hierarchy\.num_clusters"):
        hierarchical_kmeans(features, (30, 10), KMeansConfig())
    with pytest.raises(ValueError, match="9 clusters are more than the 5 points"):
        kmeans(features[:5], 9, KMeansConfig(), seed=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        hierarchical_kmeans(features / 0, (10, 2), KMeansConfig())
    with pytest.raises(ValueError, match="all-zero rows"):
        hierarchical_kmeans(features * 0, (10, 2), KMeansConfig())
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="install faiss-cpu, or set it to torch"):
        kmeans(features, 3, KMeansConfig(backend="faiss"), seed=0)
    kmeans(features, 3, KMeansConfig(backend="torch"), seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_gives_the_same_tree_twice_and_as_good_a_one_as_the_cpu():
    points, _ = blobs(30, 60)
    first, again = (kmeans(points.cuda(), 30, KMeansConfig(), seed=0) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert first[2] == pytest.approx(kmeans(points, 30, KMeansConfig(backend="torch"), seed=0)[2], rel=0.01)
    tree = hierarchical_kmeans(points.cuda(), (12, 4), TreeKMeansConfig())
    assert tree.device.type == "cuda"
    warm = TreeKMeansConfig(warm_iterations=2)
    trees = [hierarchical_kmeans(points.cuda(), (12, 4), warm, 0, tree) for _ in range(2)]
    assert torch.equal(trees[0].assignments, trees[1].assignments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_memory_is_a_chunk_of_similarities_and_little_more():
    points, group = blobs(1000, 200, width=256)
    points, group = points.cuda(), group.cuda()
    chunk = 4 * module.SIMILARITIES_PER_CHUNK["cuda"]
    for groups in (None, group):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kmeans(points, 1000, KMeansConfig(restarts=1, iterations=2), seed=0, groups=groups)
        rise = torch.cuda.max_memory_allocated() - before
        assert rise < 1.2 * chunk + 16 * 1000 * 256 + 60 * len(points) + 2**26  # and what the libraries work in
