"""The optimisers of the six methods, torch's and timm's, with rates set from outside at every step."""

from __future__ import annotations

from typing import Any

import torch

from hirl.config import OptimizerConfig


def build_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimiser over a method's parameter groups; `set_rates` gives it its rates before each step."""
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    if config.name == "lars":
        from timm.optim.lars import Lars  # timm takes seconds to import and only SwAV needs it here

        return Lars(
            groups, lr=0.0, momentum=config.momentum, trust_coeff=config.trust_coefficient, eps=1e-8, always_adapt=True
        )
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, peak_lr: float, weight_decay: float) -> None:
    """Gives every group its learning rate times its `lr_scale`, and its decay; `fixed_lr` groups stay at the peak."""
    for group in optimizer.param_groups:
        group["lr"] = (peak_lr if group.get("fixed_lr") else lr) * group.get("lr_scale", 1.0)
        group["weight_decay"] = weight_decay if group.get("decay", True) else 0.0
