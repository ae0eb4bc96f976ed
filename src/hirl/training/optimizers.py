"""Optimisers of torch and timm, their rates at every step, and parameter groups with layer decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hirl.config import OptimizerConfig

FIRST_LAYER = ("cls_token", "pos_embed", "patch_embed")


def build_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build an optimiser of parameter groups; `set_rates` sets its rates before each step."""
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    if config.name == "lars":
        from timm.optim.lars import Lars  # timm takes seconds to import, and only SwAV needs its LARS

        return Lars(
            groups, lr=0.0, momentum=config.momentum, trust_coeff=config.trust_coefficient, eps=1e-8, always_adapt=True
        )
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, peak_lr: float, weight_decay: float) -> None:
    """Set every group's learning rate, times its `lr_scale`, and weight decay; `fixed_lr` groups have the peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = (peak_lr if group.get("fixed_lr") else lr) * group.get("lr_scale", 1.0)
        group["weight_decay"] = weight_decay if group.get("decay", True) else 0.0


def layer_groups(backbone: nn.Module, layer_decay: float | None) -> list[dict[str, Any]]:
    """Group a backbone's parameters by rate: it shrinks by `layer_decay` from each layer of a ViT to the one below.

    Class token, positions and patch embedding are the first layer, each block is a layer, and everything else is the
    last one, with the full rate. With None every layer has the full rate. Vectors, class token and positions have no
    weight decay. timm's param_groups_layer_decay puts the last norm into the last block's layer, so its rates differ.

    Raises:
        ValueError: there is a layer decay, but the backbone has no blocks.

    Source: BEiT (arXiv 2106.08254), appendix H; MAE, util/lr_decay.py.
    """
    blocks = len(getattr(backbone, "blocks", ()))
    if layer_decay is not None and not blocks:
        raise ValueError("layer_decay is for the blocks of a ViT: set it to null for a ResNet")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        scale = (layer_decay or 1.0) ** (blocks + 1 - _layer(name, blocks))
        decays = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        groups.setdefault((scale, decays), []).append(parameter)
    return [{"params": group, "lr_scale": scale, "decay": decays} for (scale, decays), group in groups.items()]


def _layer(name: str, blocks: int) -> int:
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0 if name.startswith(FIRST_LAYER) else blocks + 1
