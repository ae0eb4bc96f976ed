from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hirl.config import HierarchyConfig, TreeKMeansConfig
from hirl.hierarchy import hierarchical_kmeans, semantic_path_loss
from hirl.hierarchy.invariant import whiten
from hirl.hierarchy.wrapper import HIRL
from hirl.methods.base import EncodedViews, Method, MethodOutput, Step


def test_a_resumed_run_warm_starts_its_next_tree_from_the_same_last_tree():
    """The checkpoint holds the last tree, on which the next one depends."""
    kmeans = TreeKMeansConfig(warm_iterations=1)
    config = HierarchyConfig(num_clusters=(12, 4), start_epoch=0, kmeans=kmeans)
    first, second = torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(0))

    def wrapped() -> HIRL:
        method = Method()
        method.embedding_dim = 8
        method.head = nn.Linear(8, 8)
        return HIRL(method, config, seed=3)

    trained, resumed = wrapped(), wrapped()
    trained.before_epoch(0, lambda *_: first)
    resumed.load_state_dict(trained.state_dict())
    expected = hierarchical_kmeans(second, (12, 4), kmeans, 3, trained.tree)
    for network in (trained, resumed):
        network.before_epoch(1, lambda *_: second)
        assert torch.equal(network.tree.assignments, expected.assignments)
    anew = hierarchical_kmeans(second, (12, 4), kmeans, 3)
    assert not torch.equal(anew.assignments, expected.assignments)


# --- beyond the paper -------------------------------------------------------------------------------------------------


WIDTH, IMAGES = 8, 40


class Copies(Method):
    """A method whose backbone returns the images, [B, 8], and whose embeddings turn them round."""

    def __init__(self, views: int = 2):
        super().__init__()
        self.embedding_dim, self.views = WIDTH, views
        self.scale = nn.Parameter(torch.ones(()))

    @property
    def backbone(self):
        backbone = nn.Identity()
        backbone.num_features = WIDTH
        return backbone

    def embed(self, images):
        return images.flip(1) * self.scale

    def forward(self, views, step):
        encoded = [(view, self.embed(view)) for view in views[: self.views]]
        embedding = self.embed(views[0])
        return MethodOutput(embedding.mean(), embedding, encoded=EncodedViews.of(*encoded) if encoded else None)


def no_pass(*_):
    pytest.fail("images were encoded in a pass")


@pytest.mark.parametrize("features", ["embedding", "invariant"])
def test_after_the_first_tree_what_the_steps_encoded_is_clustered(features):
    """Against tensors that hold all steps: a row is half the pass's, half its step's."""
    generator = torch.Generator().manual_seed(0)
    of_pass, of_steps = torch.randn(2, 2, IMAGES, WIDTH, generator=generator)  # two views each
    settings = {"encode": "steps", "features": features, "views": 2, "negatives": 4}
    network = HIRL(Copies(), HierarchyConfig(num_clusters=(6, 2), start_epoch=1, **settings), seed=3)

    def encode_all(encode, width, views=0):
        return encode(of_pass if views else of_pass[0]).detach()

    def step(epoch, images):
        network(list(of_steps[:, images]), Step(4 * epoch, 4, 3, images))

    network.before_epoch(0, no_pass)
    step(0, torch.arange(10))  # before the first tree nothing is kept
    network.before_epoch(1, encode_all)
    for images in torch.arange(30).split(10):  # the last ten images are left out
        step(1, images)
    network.before_epoch(2, no_pass)

    units = F.normalize(of_steps[:, :30], dim=2)
    embeddings, means = F.normalize(of_pass[0].flip(1), dim=1), F.normalize(of_pass, dim=2).mean(dim=0)
    embeddings[:30] = (embeddings[:30] + units.mean(dim=0).flip(1)) / 2
    means[:30] = (means[:30] + units.mean(dim=0)) / 2
    centered = (units - units.mean(dim=0)).flatten(0, 1).double()
    clustered = embeddings if features == "embedding" else whiten(means, centered.T @ centered / 30, IMAGES)
    expected = hierarchical_kmeans(clustered, (6, 2), network.config.kmeans, 3)
    assert torch.equal(network.tree.assignments, expected.assignments)
    expected = expected if features == "embedding" else expected.in_space_of(embeddings)
    for found, wanted in zip(network.tree.centroids, expected.centroids, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize(("views", "features", "needed"), [(1, "invariant", 2), (0, "embedding", 1)])
def test_trees_from_steps_need_encoded_views(views, features, needed):
    config = HierarchyConfig(num_clusters=(6, 2), encode="steps", features=features)
    message = f"{features} features need {needed} encoded views .* gives {views}: set hierarchy.encode to pass"
    with pytest.raises(ValueError, match=message):
        HIRL(Copies(views), config, seed=3)([torch.randn(4, WIDTH)] * 2, Step(0, 4, 2, torch.arange(4)))


@pytest.fixture
def step_of(tiny_run):
    """Take one step of a tiny HIRL run in an epoch: step_of(epoch, hierarchy's settings) -> the method, the output."""
    from hirl.training.loop import build_method

    def take(epoch: int, **hierarchy):
        config = tiny_run("simsiam", "hirl", hierarchy={"start_epoch": 1, **hierarchy})
        network = build_method(config)
        generator = torch.Generator().manual_seed(0)
        rows = {width: torch.randn(64, width, generator=generator) for width in (network.embedding_dim, 128)}
        network.before_epoch(1, lambda encode, width, views=0: rows[width])
        images = torch.rand(8, 3, 32, 32, generator=generator)
        torch.manual_seed(0)
        output = network([images, images.flip(3)], Step(epoch, 1, 4, torch.arange(8)))
        output.loss.backward()
        return network, output

    return take


def test_the_weight_scales_the_path_loss_alone(step_of):
    _, whole = step_of(1)
    _, half = step_of(1, weight=0.5)
    assert half.metrics["path_loss"] == whole.metrics["path_loss"]
    assert half.loss.item() == pytest.approx((half.metrics["image_loss"] + 0.5 * half.metrics["path_loss"]).item())


def test_in_their_warm_up_only_the_projections_learn_from_the_path_loss(step_of):
    plain, _ = step_of(1, weight=1e-30)  # whose backbone learns from the image loss alone
    warming, _ = step_of(2, projection_warmup_epochs=2)
    after, _ = step_of(3, projection_warmup_epochs=2)
    first = [network.backbone.conv1.weight.grad for network in (plain, warming, after)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert all(parameter.grad.abs().max() > 0 for parameter in warming.projections.parameters() if parameter.ndim > 1)


# --- in a training loop of one's own ----------------------------------------------------------------------------------


class Flattened(nn.Module):
    """A module that is no Method, and counts whether it embeds in evaluation mode."""

    embedding_dim = 12

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(12)

    def embed(self, images):
        assert not self.training
        return self.norm(images.flatten(1))


def test_a_loop_of_ones_own_clusters_batches_and_adds_the_path_loss_of_its_images():
    config = HierarchyConfig(num_clusters=(6, 2), negatives="all", weight=0.5)
    torch.manual_seed(0)
    hierarchy, images = HIRL(Flattened(), config), torch.randn(40, 3, 2, 2)
    assert hierarchy.path_loss(torch.randn(5, 12), torch.arange(5)) == 0
    with pytest.raises(ValueError, match="num_clusters 6 is more than the 5 images"):
        hierarchy.cluster([images[:5]])
    tree = hierarchy.cluster(iter(images.split(16)))
    assert hierarchy.method.training
    expected = hierarchical_kmeans(hierarchy.method.eval().embed(images), (6, 2), config.kmeans, 0)
    assert torch.equal(tree.assignments, expected.assignments)

    embedding, index = torch.randn(8, 12, requires_grad=True), torch.randperm(40)[:8]
    loss = hierarchy.path_loss(embedding, index)
    projected = torch.stack([projection(embedding) for projection in hierarchy.projections], dim=1)
    assert loss.item() == pytest.approx(0.5 * semantic_path_loss(projected, tree, index, None).item())
    loss.backward()
    assert embedding.grad.abs().sum() > 0


def test_a_loop_of_ones_own_has_no_views_for_invariant_features():
    hierarchy = HIRL(Flattened(), HierarchyConfig(num_clusters=(6, 2), features="invariant"))
    with pytest.raises(ValueError, match="in a loop of your own, use embedding"):
        hierarchy.cluster([torch.randn(8, 3, 2, 2)])
