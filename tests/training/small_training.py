"""A training of twelve short steps, by `fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hirl.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from hirl.training.fit import fit

PER_EPOCH = 3
CONFIG = TrainingConfig(
    epochs=4,
    batch_size=128,
    precision="fp32",
    optimizer=OptimizerConfig(base_lr=0.1, weight_decay=0.01),
    schedule=ScheduleConfig(warmup_epochs=1),
)


def new_network() -> nn.Sequential:
    """With all that a resumed training must bring back: weights, running statistics, random numbers of its own."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))


def batches(epoch: int) -> Iterator[Tensor]:
    """Random inputs, from the default generator that `fit` seeds."""
    return (torch.randn(16, 4) for _ in range(PER_EPOCH))


def loss_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda batch: (network(batch)[:, 0] - batch.sum(dim=1)).square().mean()


def train(scratch: Path, network: nn.Module, loss: Callable[[Tensor], Tensor] | None = None, **changes: Any) -> list:
    arguments = {"config": CONFIG, "fingerprint": "f", "seed": 5} | changes
    groups = [{"params": list(network.parameters())}]
    return fit(
        "run", network, groups, batches, loss or loss_of(network), per_epoch=PER_EPOCH, scratch=scratch, **arguments
    )
