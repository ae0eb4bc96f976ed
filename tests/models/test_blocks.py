from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hirl.config import BackboneConfig, TrainingConfig
from hirl.distributed.device import seed_step
from hirl.methods.base import Step
from hirl.models.backbones import build_backbone
from hirl.models.blocks import blocks, checkpoint_blocks, compile_blocks, set_up_blocks
from hirl.training.loop import build_method
from hirl.training.optimizers import build_optimizer, set_rates

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def graphs_without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are traced and differentiated as ever, but run operation by operation: no compiler takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def two_steps(config: Any) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of two steps on noise, and the state they leave; drop path and masks are drawn."""
    method = build_method(config)
    set_up_blocks(method, config.training)
    optimizer = build_optimizer(method.parameter_groups(), config.training.optimizer)
    losses = []
    for number in range(2):
        seed_step(0, number)
        sizes = [config.views.global_size] * 2 + [config.views.local_size] * config.views.local_crops
        views, step = [torch.randn(8, 3, size, size) for size in sizes], Step(number, 2, 1, torch.arange(8))
        method.train().before_step(step)
        loss = method(views, step).loss
        optimizer.zero_grad()
        loss.backward()
        set_rates(optimizer, 1e-3, 1e-3, 0.0)
        optimizer.step()
        losses.append(loss.item())
    method.eval().embed(torch.randn(3, 3, 32, 32))
    return losses, {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}


@pytest.mark.parametrize(("method", "local_crops"), [("mocov2", 0), ("dino", 2)])
@pytest.mark.parametrize("switches", [("checkpoint_activations",), ("compile",), ("compile", "checkpoint_activations")])
def test_switches_change_nothing_of_what_is_computed(
    tiny_run: Callable[..., Any], graphs_without_code: None, method: str, local_crops: int, switches: tuple[str, ...]
) -> None:
    """To the bit where operations are the same; a compiler that joins them changes their rounding."""
    settings = {"views": {"local_crops": local_crops}, "backbone": {"drop_path": 0.3}}
    losses, state = two_steps(tiny_run(method, **settings))
    switched, other = two_steps(tiny_run(method, **settings, training=dict.fromkeys(switches, True)))
    assert switched == losses
    assert list(other) == list(state)
    assert all(torch.equal(other[name], value) for name, value in state.items())


def test_blocks_that_differ_in_their_drop_rate_share_a_graph(graphs_without_code: None) -> None:
    """One for a block without drop path, and one for each of the three parts that two drop paths leave of a block."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    network = build_backbone(BackboneConfig(name="vit_small_patch4", drop_path=0.1), 16)
    compile_blocks(network)
    network(torch.randn(2, 3, 16, 16))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1 + 3


def test_checkpointed_blocks_keep_their_inputs_alone() -> None:
    def kept(network: nn.Module) -> int:
        """Numbers that autograd keeps for the backward pass."""
        numbers: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: numbers.append(x.numel()) or x, lambda x: x):
            network(torch.randn(2, 3, 32, 32))
        return sum(numbers)

    for name in ("vit_narrow_patch8", "resnet8"):
        network = build_backbone(BackboneConfig(name=name), 32)
        everything = kept(network)
        checkpoint_blocks(network)
        assert kept(network) < everything / 2, name


def test_networks_without_blocks_are_told(tiny_run: Callable[..., Any]) -> None:
    assert not blocks(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"^compile is for the blocks of a ViT or a ResNet: set it to false$"):
        set_up_blocks(nn.Linear(1, 1), TrainingConfig(compile=True))


def test_switches_are_in_no_hash(tiny_run: Callable[..., Any]) -> None:
    """They change rounding, as another processor does: a finished run stays finished, a stopped one goes on."""
    plain, switched = tiny_run("dino"), tiny_run("dino", training={"compile": True, "checkpoint_activations": True})
    assert plain.pretraining_hash == switched.pretraining_hash
    assert plain.model_dump() != switched.model_dump()
