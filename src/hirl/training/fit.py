"""Supervised training that can be killed: what every evaluation that trains a network shares.

The caller brings a network, its batches and a loss; rates, precision, checkpoints and progress are the same for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hirl.config import TrainingConfig
from hirl.distributed.collectives import broadcast_object, is_main_process, mean
from hirl.distributed.device import choose_precision, seed_step
from hirl.distributed.parallel import parallel, synchronise
from hirl.files import locked
from hirl.models.blocks import set_up_blocks
from hirl.training.checkpoint import load_checkpoint, save_checkpoint
from hirl.training.optimizers import build_optimizer, set_rates
from hirl.training.schedules import learning_rate, weight_decay

SECONDS_BETWEEN_LINES = 30  # of progress within an epoch


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
) -> list[dict[str, float]]:
    """Trains a network, or goes on with it after its last epoch, to the same bits on a CPU.

    Each rank brings its share of every batch; only the first has to do with `scratch`.

    Args:
        name: what the lines of progress call it.
        network: already on its device; the caller decides which of its parts are in training mode. On several ranks
            its batch norm becomes that of the whole batch, in place.
        groups: for the optimiser; `decay: False`, `fixed_lr: True` and `lr_scale: float` are heeded (`set_rates`).
        batches: epoch -> its batches, `per_epoch` of them; torch's default generator is seeded before each is drawn.
        loss: batch -> scalar, the mean over its rows, under autocast.
        scratch: keeps the checkpoints, locked while training.
        fingerprint: digest of all that decides the result.

    Returns:
        One row per epoch: epoch, loss, learning_rate, seconds.

    Raises:
        ValueError: scratch holds the state of something else, another process is at it, or the loss is not finite.
    """
    device = next(network.parameters()).device
    dtype = choose_precision(config.precision, device)
    optimizer = build_optimizer(groups, config.optimizer)
    synchronise(network)
    set_up_blocks(network, config)
    loss_of = parallel(_Loss(network, loss))
    with locked(scratch) if is_main_process() else nullcontext():
        history = _resume(scratch, fingerprint, network, optimizer)
        if history and is_main_process():
            print(f"{name}  goes on after epoch {len(history)}/{config.epochs}", flush=True)
        for epoch in range(len(history), config.epochs):
            progress, first = _Epoch(f"{name}  epoch {epoch + 1}/{config.epochs}"), epoch * per_epoch
            seed_step(seed, first)
            for number, batch in enumerate(batches(epoch), first):
                rate = learning_rate(config, number, per_epoch)
                set_rates(optimizer, rate, config.effective_lr, weight_decay(config, number, per_epoch))
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    value = loss_of(batch)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                if config.optimizer.clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
                optimizer.step()
                progress.add(value.detach())
                seed_step(seed, number + 1)
            assert progress.steps == per_epoch
            row = {"epoch": epoch, "loss": progress.mean(), "learning_rate": rate, "seconds": progress.seconds()}
            history.append(row)
            if is_main_process():
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
                save_checkpoint(scratch, epoch + 1, {"fingerprint": fingerprint} | state)
                print(f"{progress.label}  loss {row['loss']:.3f}", flush=True)
    return history


class _Loss(nn.Module):
    """A loss as the forward pass of its network: where gradients are averaged, it has to be."""

    def __init__(self, network: nn.Module, loss: Callable[[Any], Tensor]):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(batch)


class _Epoch:
    """The mean loss of an epoch so far, told now and then, with no wait for the device in between."""

    def __init__(self, label: str):
        self.label, self.steps, self.total = label, 0, 0.0
        self.started = self.told = time.monotonic()

    def add(self, loss: Tensor) -> None:
        self.total, self.steps = self.total + loss, self.steps + 1
        if is_main_process() and time.monotonic() - self.told > SECONDS_BETWEEN_LINES:
            self.told = time.monotonic()
            print(f"{self.label}  step {self.steps}  loss {self._per_step(self.total):.3f}", flush=True)

    def mean(self) -> float:
        """Of all ranks."""
        return self._per_step(mean(self.total))

    def _per_step(self, total: Tensor) -> float:
        loss = float(total) / self.steps
        if not math.isfinite(loss):
            raise ValueError(
                f"{self.label}: the loss is not finite: lower its optimizer.base_lr, or set its precision to fp32"
            )
        return loss

    def seconds(self) -> float:
        return time.monotonic() - self.started


def _resume(
    scratch: Path, fingerprint: str, network: nn.Module, optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    """Takes up the newest checkpoint, if there is one; returns its history."""
    state = broadcast_object(lambda: load_checkpoint(scratch))
    if state is None:
        return []
    if state["fingerprint"] != fingerprint:
        raise ValueError(f"{scratch} holds another configuration or other data: remove it, or give another --scratch")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]
