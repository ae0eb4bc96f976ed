from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hirl.config import OptimizerConfig
from hirl.training.optimizers import build_optimizer, set_rates

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
