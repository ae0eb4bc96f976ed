from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hirl.hierarchy import SemanticTree, semantic_path_loss
from hirl.hierarchy.path_loss import path_loss, sample_negative_paths
from tests.largest_tensor import LargestTensor

# few negatives of many clusters take the gather, many negatives take the whole product, None takes all paths
NEGATIVES = [2, 60, None]


def slow_loss(embeddings: Tensor, tree: SemanticTree, index: Tensor, negatives: Tensor | None) -> Tensor:
    """The formula, image by image and path by path."""
    eps = 1e-6

    def score(n: int, path: Tensor) -> Tensor:
        product = 1.0
        for level, cluster in enumerate(path.tolist()):
            u, c = embeddings[n, level], tree.centroids[level][cluster].to(embeddings.dtype)
            product = product * (1 + (u / u.norm()) @ (c / c.norm())) / 2
        return product

    total = 0.0
    for n, own in enumerate(tree.assignments[index]):
        others = tree.paths if negatives is None else negatives[n]
        counted = [path for path in others if path.tolist() != own.tolist()]
        negative = sum(-torch.log(1 - score(n, path) + eps) for path in counted) / (len(counted) + eps)
        total = total - torch.log(score(n, own) + eps) + negative
    return total / (2 * len(index))


def draw(tree: SemanticTree, index: Tensor, num: int | None) -> Tensor | None:
    return None if num is None else sample_negative_paths(tree, index, num)


@pytest.mark.parametrize("num", NEGATIVES)
@pytest.mark.parametrize("sizes", [(40, 10, 3), (40, 40), (12,)])
def test_value_and_gradient_equal_the_formula_in_float64(make_tree, sizes, num):
    tree, index = make_tree(sizes, images=30, width=6), torch.randperm(30)[:4]
    embeddings = torch.randn(4, len(sizes), 6, dtype=torch.float64, requires_grad=True)
    negatives = draw(tree, index, num)
    losses = [loss(embeddings, tree, index, negatives) for loss in (semantic_path_loss, slow_loss)]
    fast, slow = (torch.autograd.grad(loss, embeddings)[0] for loss in losses)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)  # float64 keeps 16 digits; some go in the sums
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)  # entries near zero are differences of larger ones


@pytest.mark.parametrize("num", NEGATIVES)
def test_float32_agrees_with_float64(make_tree, num):
    tree, index = make_tree((40, 10, 3), images=30, width=6), torch.arange(20)
    embeddings, negatives = torch.randn(20, 3, 6), draw(tree, index, num)
    exact = semantic_path_loss(embeddings.double(), tree, index, negatives)
    torch.testing.assert_close(
        semantic_path_loss(embeddings, tree, index, negatives).double(), exact, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_loss_has_the_embeddings_dtype_also_under_autocast(make_tree, dtype):
    tree, index = make_tree((40, 10), images=30, width=6), torch.arange(8)
    embeddings = torch.randn(8, 2, 6).to(dtype).requires_grad_()
    exact = semantic_path_loss(embeddings.double(), tree, index, None)
    with torch.autocast("cpu", torch.bfloat16):
        loss = semantic_path_loss(embeddings, tree, index, None)
    loss.backward()
    assert loss.dtype == embeddings.grad.dtype == dtype
    # The arithmetic is float32 at least, so the only error left is the rounding of the result.
    torch.testing.assert_close(loss.double(), exact, rtol=max(torch.finfo(dtype).eps, 1e-5), atol=0)


def test_gradient_is_that_of_the_value(make_tree):
    tree, index = make_tree((9, 4, 2), images=12, width=3, dtype=torch.float64), torch.arange(5)
    embeddings = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    for negatives in (None, sample_negative_paths(tree, index, 7)):
        assert torch.autograd.gradcheck(lambda e: semantic_path_loss(e, tree, index, negatives), embeddings)  # noqa: B023


def test_order_of_the_batch_and_length_of_embeddings_do_not_matter(make_tree):
    tree, index = make_tree((40, 10, 3), images=30, width=6), torch.arange(8)
    embeddings, negatives = torch.randn(8, 3, 6).double(), sample_negative_paths(tree, index, 9)
    order = torch.randperm(8)
    loss = semantic_path_loss(embeddings, tree, index, negatives)
    shuffled = semantic_path_loss(7 * embeddings[order], tree, index[order], negatives[order])
    torch.testing.assert_close(loss, shuffled, rtol=1e-12, atol=0)  # the same sums in another order


def test_own_path_among_the_negatives_changes_nothing(make_tree):
    tree, index = make_tree((40, 10, 3), images=30, width=6), torch.arange(8)
    embeddings = torch.randn(8, 3, 6).double()
    own = tree.assignments[index][:, None]
    negatives = sample_negative_paths(tree, index, 200)
    negatives = torch.stack([path[(path != mine).any(1)][:9] for path, mine in zip(negatives, own, strict=True)])
    with_own = torch.cat([negatives, own, own], dim=1)
    torch.testing.assert_close(
        semantic_path_loss(embeddings, tree, index, with_own),
        semantic_path_loss(embeddings, tree, index, negatives),
        rtol=1e-12,  # float64, the same terms
        atol=0,
    )


def test_images_without_a_negative_keep_a_finite_loss(make_tree):
    tree, index = make_tree((1, 1), images=4, width=6), torch.arange(4)
    embeddings = torch.randn(4, 2, 6, requires_grad=True)
    for negatives in (None, sample_negative_paths(tree, index, 3)):
        loss = semantic_path_loss(embeddings, tree, index, negatives)
        loss.backward()
        assert loss.isfinite()
        assert embeddings.grad.isfinite().all()


def test_a_collapsed_tree_gives_the_largest_finite_loss(make_tree):
    """A collapsed level has equal centroids: a perfect image cannot tell its path from others, and nothing is NaN."""
    tree = make_tree((6, 2), images=6, width=5)
    tree = SemanticTree([rows[:1].expand_as(rows) for rows in tree.centroids], tree.parents, tree.assignments)
    embeddings = torch.stack([tree.centroids[level][:1].expand(6, 5) for level in (0, 1)], dim=1)
    loss = semantic_path_loss(embeddings, tree, torch.arange(6), None)
    # pos = 0 and neg = -ln(1e-6), of which float32 knows 1 - s to 6e-8 of 1e-6
    assert loss.item() == pytest.approx(-math.log(1e-6) / 2, rel=0.02)
    opposite = semantic_path_loss(-embeddings, tree, torch.arange(6), None)
    assert opposite.item() == pytest.approx(-math.log(1e-6) / 2, rel=0.02)  # pos = -ln(1e-6) and neg = 0


def test_all_paths_are_the_expectation_of_sampled_ones(make_tree):
    tree, index = make_tree((20, 5, 2), images=30, width=6), torch.arange(8)
    embeddings = torch.randn(8, 3, 6)
    losses = [
        semantic_path_loss(embeddings, tree, index, sample_negative_paths(tree, index, 500)).item() for _ in range(200)
    ]
    losses = torch.tensor(losses)
    exact = semantic_path_loss(embeddings, tree, index, None)
    assert abs(losses.mean() - exact) < 4 * losses.std() / math.sqrt(200)  # four standard errors
    assert losses.std() > 0


def test_reassigned_images_discriminate_their_new_path(make_tree):
    tree, index = make_tree((20, 5, 2), images=30, width=6), torch.arange(8)
    embeddings, new = torch.randn(8, 3, 6), torch.randint(20, (8,))
    reassigned = torch.cat([tree.paths[new], tree.assignments[8:]])
    expected = semantic_path_loss(embeddings, SemanticTree(tree.centroids, tree.parents, reassigned), index, None)
    assert torch.equal(path_loss(embeddings, tree, tree.paths[new], None), expected)


def test_sampled_paths_are_uniform_paths_of_the_tree(make_tree):
    tree = make_tree((20, 5, 2), images=30, width=6)
    paths = sample_negative_paths(tree, torch.arange(100), 1000)
    assert paths.shape == (100, 1000, 3)
    assert torch.equal(paths, tree.paths[paths[..., 0]])
    share = paths[..., 0].flatten().bincount(minlength=20) / 100_000
    assert (share - 1 / 20).abs().max() < 5 * math.sqrt(0.05 * 0.95 / 100_000)  # five standard errors, for 20 clusters


@pytest.mark.parametrize("num", [3, 200, None])
def test_no_tensor_grows_with_negatives_times_width(make_tree, num):
    """Not even one level of [N, M, L, D] is held, unless it is smaller than the level's centroids."""
    tree, index = make_tree((300, 50, 10), images=64, width=128), torch.arange(16)
    embeddings, negatives = torch.randn(16, 3, 128, requires_grad=True), draw(tree, index, num)
    with LargestTensor() as made:
        semantic_path_loss(embeddings, tree, index, negatives).backward()
    assert made.largest <= max(tree.centroids[0].numel(), 16 * 300, 16 * (num or 0) * 3)


def test_embeddings_of_another_tree_are_refused(make_tree):
    tree = make_tree((20, 5), images=30, width=6)
    with pytest.raises(ValueError, match=r"embeddings are \[4, 3, 6\]: this tree needs \[N, 2, 6\]"):
        semantic_path_loss(torch.randn(4, 3, 6), tree, torch.arange(4), None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num", NEGATIVES)
def test_gpu_gives_the_cpu_value(make_tree, num):
    tree, index, embeddings = make_tree((40, 10, 3), images=30, width=6), torch.arange(20), torch.randn(20, 3, 6)
    negatives = draw(tree, index, num)
    moved = None if negatives is None else negatives.cuda()
    loss = semantic_path_loss(embeddings.cuda(), tree.to("cuda"), index.cuda(), moved)
    torch.testing.assert_close(loss.cpu(), semantic_path_loss(embeddings, tree, index, negatives), rtol=1e-5, atol=0)
