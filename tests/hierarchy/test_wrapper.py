from __future__ import annotations

import pytest
import torch
from torch import nn

from hirl.config import HierarchyConfig, TreeKMeansConfig
from hirl.hierarchy import hierarchical_kmeans
from hirl.hierarchy.wrapper import HIRL
from hirl.methods.base import Method


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


@pytest.fixture
def step_of(tiny_run):
    """Take one step of a tiny HIRL run in an epoch: step_of(epoch, hierarchy's settings) -> the method, the output."""
    from hirl.methods.base import Step
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
