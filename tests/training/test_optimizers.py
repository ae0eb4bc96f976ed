from __future__ import annotations

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from hirl.config import BackboneConfig, OptimizerConfig
from hirl.models.backbones import build_backbone
from hirl.training.optimizers import build_optimizer, layer_groups, set_rates

NAMES = ("sgd", "lars", "adamw")


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_every_group_gets_its_rates(name: str) -> None:
    groups = [
        {"params": [weight(1)]},
        {"params": [weight(1)], "fixed_lr": True},
        {"params": [weight(1)], "decay": False},
    ]
    optimizer = build_optimizer(groups, OptimizerConfig(name=name))
    set_rates(optimizer, lr=0.2, peak_lr=0.5, weight_decay=0.01)
    rates = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert rates == [(0.2, 0.01), (0.5, 0.01), (0.2, 0.0)]


def test_a_scaled_rate_follows_the_schedule_or_stays_at_its_peak() -> None:
    groups = [{"params": [weight(1)], "lr_scale": 4.0}, {"params": [weight(1)], "lr_scale": 4.0, "fixed_lr": True}]
    optimizer = build_optimizer(groups, OptimizerConfig())
    for rate in (0.5, 0.1):
        set_rates(optimizer, lr=rate, peak_lr=0.5, weight_decay=0.0)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([4 * rate, 2.0])


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_parameter_neither_moves_nor_decays(name: str) -> None:
    parameter = weight(1, 2)
    optimizer = build_optimizer([{"params": [parameter]}], OptimizerConfig(name=name))
    set_rates(optimizer, lr=0.2, peak_lr=0.2, weight_decay=0.1)
    optimizer.step()
    assert parameter.tolist() == [1, 2]


def steps(name: str, gradients: list[list[float]], decay: float, **options: float) -> list[Tensor]:
    """A parameter [3, 4] after each step at rate 0.1, computed by the optimiser."""
    parameter = weight(3, 4)
    optimizer = build_optimizer([{"params": [parameter]}], OptimizerConfig(name=name, **options))
    seen = []
    for gradient in gradients:
        set_rates(optimizer, lr=0.1, peak_lr=0.1, weight_decay=decay)
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        seen.append(parameter.detach().clone())
    return seen


def test_lars_is_larc_without_clipping() -> None:
    """A layer's step has length trust * |w| / (|g| + decay * |w|), whatever the gradient's scale."""
    gradients = [[1.0, 0.0], [0.0, 2.0]]
    parameter, velocity = torch.tensor([3.0, 4.0], dtype=torch.float64), 0
    found = steps("lars", gradients, decay=0.5, momentum=0.9, trust_coefficient=0.02)
    for gradient, value in zip(gradients, found, strict=True):
        gradient = torch.tensor(gradient, dtype=torch.float64)
        trust = 0.02 * parameter.norm() / (gradient.norm() + 0.5 * parameter.norm() + 1e-8)
        velocity = 0.9 * velocity + trust * (gradient + 0.5 * parameter)
        parameter = parameter - 0.1 * velocity
        torch.testing.assert_close(value, parameter, rtol=1e-12, atol=0)


def test_lars_adapts_without_decay_too() -> None:
    small, large = (steps("lars", [[scale, 0.0]], decay=0, trust_coefficient=0.02)[0] for scale in (1e-3, 1e3))
    # they differ by the 1e-8 beside the gradient's norm
    torch.testing.assert_close(small, large, rtol=1e-5, atol=0)
    torch.testing.assert_close(small, torch.tensor([3 - 0.1 * 0.02 * 5, 4], dtype=torch.float64), rtol=1e-5, atol=0)


def test_sgd_has_momentum_and_decay_in_the_gradient() -> None:
    first, second = steps("sgd", [[1.0, 0.0], [1.0, 0.0]], decay=0.5, momentum=0.9)
    assert first.tolist() == pytest.approx([3 - 0.1 * (1 + 1.5), 4 - 0.1 * 2])
    velocity = [0.9 * 2.5 + 1 + 0.5 * 2.75, 0.9 * 2 + 0.5 * 3.8]
    assert second.tolist() == pytest.approx([2.75 - 0.1 * velocity[0], 3.8 - 0.1 * velocity[1]])


def test_adamw_decays_apart_from_the_gradient() -> None:
    (first,) = steps("adamw", [[1.0, -1.0]], decay=0.5)
    # the first step is the gradient's sign; Adam's 1e-8 sits beside a gradient of 1
    assert first.tolist() == pytest.approx([3 * 0.95 - 0.1, 4 * 0.95 + 0.1], rel=1e-7)


# --- layers -----------------------------------------------------------------------------------------------------------


def by_name(backbone: nn.Module, groups: list[dict]) -> dict[str, tuple[float, bool]]:
    """Every parameter's scale, and whether it decays."""
    names = {parameter: name for name, parameter in backbone.named_parameters()}
    return {names[p]: (group["lr_scale"], group["decay"]) for group in groups for p in group["params"]}


def test_rates_shrink_from_layer_to_layer_of_a_vit() -> None:
    backbone = build_backbone(BackboneConfig(name="vit_narrow_patch8"), 32)
    scales = by_name(backbone, layer_groups(backbone, 0.5))
    assert scales.keys() == {name for name, _ in backbone.named_parameters()}
    expected = {  # four blocks: 5 layers up to the norm and the head, which have 0.5 to the power 0
        "cls_token": (1 / 32, False),
        "pos_embed": (1 / 32, False),
        "patch_embed.proj.weight": (1 / 32, True),
        "patch_embed.proj.bias": (1 / 32, False),
        "blocks.0.norm1.weight": (1 / 16, False),
        "blocks.0.attn.qkv.weight": (1 / 16, True),
        "blocks.1.mlp.fc2.weight": (1 / 8, True),
        "blocks.2.attn.proj.bias": (1 / 4, False),
        "blocks.3.mlp.fc1.weight": (1 / 2, True),
        "norm.weight": (1.0, False),
        "norm.bias": (1.0, False),
    }
    assert {name: scales[name] for name in expected} == expected


def test_layers_are_those_of_timm_but_for_the_last_norm() -> None:
    """timm counts down from the head, and has the norm in the last block's layer; BEiT and MAE in the head's."""
    backbone = build_backbone(BackboneConfig(name="vit_narrow_patch8"), 32)
    ours = by_name(backbone, layer_groups(backbone, 0.65))
    backbone.head = nn.Linear(96, 10)
    groups = param_groups_layer_decay(backbone, 0.05, ("pos_embed", "cls_token"), layer_decay=0.65)
    theirs = by_name(backbone, [group | {"decay": group["weight_decay"] > 0} for group in groups])
    assert theirs.keys() - ours.keys() == {"head.weight", "head.bias"}
    for name, (scale, decays) in ours.items():
        assert theirs[name] == (pytest.approx(0.65 if name.startswith("norm") else scale), decays)


@pytest.mark.parametrize("name", ["resnet8", "vit_narrow_patch8"])
def test_without_layer_decay_all_rates_are_full(name: str) -> None:
    backbone = build_backbone(BackboneConfig(name=name), 32)
    scales = by_name(backbone, layer_groups(backbone, None))
    assert {scale for scale, _ in scales.values()} == {1.0}
    for key, parameter in backbone.named_parameters():
        assert scales[key][1] == (parameter.ndim > 1 and key not in ("cls_token", "pos_embed"))


def test_a_resnet_has_no_layers_to_decay() -> None:
    with pytest.raises(ValueError, match="layer_decay is for the blocks of a ViT: set it to null for a ResNet"):
        layer_groups(build_backbone(BackboneConfig(name="resnet8"), 32), 0.65)
