"""Supervised training, for the evaluations that train a network and for the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hirl.config import TrainingConfig
from hirl.distributed.parallel import parallel
from hirl.training.core import Row, Trainer, descend, lock_scratch


def fit(
    name: str,
    network: nn.Module,
    groups: list[dict[str, Any]],
    batches: Callable[[int], Iterable[Any]],
    loss: Callable[[Any], Tensor],
    config: TrainingConfig,
    per_epoch: int,
    scratch: Path,
    fingerprint: str,
    seed: int = 0,
) -> list[Row]:
    """Train a network, or resume its training, as `Trainer` does; return one row per epoch.

    Args:
        name: of the training in lines of progress and errors.
        network: already on its device; the caller decides which of its parts are in training mode.
        groups: of the optimiser.
        batches: epoch -> its `per_epoch` batches, this rank's slice of each.
        loss: batch -> scalar, the mean over its rows; it runs under autocast.
        scratch: the folder of the checkpoints, locked while training.
        fingerprint: digest of everything that decides the result.

    Returns:
        One row per epoch: epoch, loss, learning_rate, seconds.

    Raises:
        ValueError: scratch holds the checkpoint of another training or is in use by another process, or the loss is
            not finite.
    """
    with lock_scratch(scratch):
        trainer = _SupervisedTrainer(name, network, groups, config, per_epoch, scratch, fingerprint, seed)
        trainer.draw_batches, trainer.loss = batches, parallel(_Loss(network, loss))
        return trainer.train()


class _SupervisedTrainer(Trainer):
    """A training that minimises a loss of the batches."""

    draw_batches: Callable[[int], Iterable[Any]]
    loss: nn.Module

    def batches(self, epoch: int) -> Iterable[Any]:
        return self.draw_batches(epoch)

    def step(self, batch: Any, number: int) -> dict[str, Tensor]:
        with self.autocast():
            loss = self.loss(batch)
        descend(loss, self.optimizer, self.network.parameters(), self.config.optimizer.clip_norm)
        return {"loss": loss.detach()}

    def row(self, totals: dict[str, Tensor], rate: float, seconds: float) -> Row:
        return {"loss": totals["loss"].item() / self.per_epoch, "learning_rate": rate}


class _Loss(nn.Module):
    """A loss as a forward pass: DistributedDataParallel averages the gradients of forward passes only."""

    def __init__(self, network: nn.Module, loss: Callable[[Any], Tensor]):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(batch)
