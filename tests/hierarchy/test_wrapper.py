from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hirl.config import HierarchyConfig, TreeKMeansConfig
from hirl.hierarchy import hierarchical_kmeans
from hirl.hierarchy.invariant import whiten
from hirl.hierarchy.wrapper import HIRL
from hirl.methods.base import Method, MethodOutput, Step


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


class TwoViews(Method):
    """A method that embeds two views, each image of a view being its embedding."""

    def __init__(self, views: int = 2):
        super().__init__()
        self.embedding_dim, self.views = WIDTH, views
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, views, step):
        embedding = views[0] * self.scale
        return MethodOutput(embedding.mean(), embedding, second_embedding=views[1] if self.views == 2 else None)


def no_pass(*_):
    pytest.fail("images were encoded in a pass")


@pytest.mark.parametrize("features", ["embedding", "invariant"])
def test_after_the_first_tree_the_embeddings_of_the_steps_are_clustered(features):
    """Against one tensor that holds all steps: half of a row is what its step found, half is the pass's."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(IMAGES, WIDTH, generator=generator)
    config = HierarchyConfig(num_clusters=(6, 2), start_epoch=1, encode="steps", features="embedding", negatives=4)
    network = HIRL(TwoViews(), config, seed=3)
    network.before_epoch(0, no_pass)
    views = torch.randn(2, IMAGES, WIDTH, generator=generator)
    network(list(views[:, :10]), Step(0, 4, 2, torch.arange(10)))  # before the first tree nothing is kept
    network.before_epoch(1, lambda *_: first)
    assert torch.equal(network.tree.assignments, hierarchical_kmeans(first, (6, 2), config.kmeans, 3).assignments)
    network.config = config.model_copy(update={"features": features})
    for batch in torch.arange(30).split(10):  # the last ten images are left out
        network(list(views[:, batch]), Step(4, 4, 2, batch))
    units, rows = F.normalize(views[:, :30], dim=2), F.normalize(first, dim=1)
    rows[:30] = (rows[:30] + units.mean(dim=0)) / 2
    features_to_cluster = rows
    if features == "invariant":
        centered = (units - units.mean(dim=0)).flatten(0, 1).double()
        features_to_cluster = whiten(rows, centered.T @ centered / 30, IMAGES)
    expected = hierarchical_kmeans(features_to_cluster, (6, 2), config.kmeans, 3)
    network.before_epoch(2, no_pass)
    assert torch.equal(network.tree.assignments, expected.assignments)
    wanted = expected if features == "embedding" else expected.in_space_of(rows)
    for found, centroids in zip(network.tree.centroids, wanted.centroids, strict=True):
        torch.testing.assert_close(found, centroids, rtol=0, atol=1e-5)  # float32 sums in another order


def test_invariant_features_from_steps_need_two_views():
    config = HierarchyConfig(num_clusters=(6, 2), encode="steps", features="invariant")
    network = HIRL(TwoViews(views=1), config, seed=3)
    with pytest.raises(ValueError, match=r"embeds one view of an image in a step: set hierarchy\.encode to pass"):
        network([torch.randn(4, WIDTH)], Step(0, 4, 2, torch.arange(4)))


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
