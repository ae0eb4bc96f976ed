"""The core of every training: epochs, seeds, rates, precision, progress and checkpoints.

Pretraining (hirl.training.loop) and supervised training (hirl.training.fit) define their batches and their steps.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hirl.config import TrainingConfig
from hirl.distributed.collectives import broadcast_object, is_main_process, mean
from hirl.distributed.device import choose_precision, resume_threads, seed_step
from hirl.distributed.parallel import synchronise
from hirl.files import locked
from hirl.models.blocks import set_up_blocks
from hirl.training.checkpoint import load_checkpoint, save_checkpoint
from hirl.training.optimizers import build_optimizer, set_rates
from hirl.training.progress import SHOWN, Progress
from hirl.training.schedules import learning_rate, weight_decay

Row = dict[str, float]  # the numbers of an epoch in the history


class Trainer:
    """The training of a network. After a kill it resumes from its last epoch.

    On a CPU the result is then bit-equal, if the number of threads is the same (`resume_threads`).

    Every rank trains on its slice of the batches; only rank 0 reads and writes `scratch`, and prints. A subclass
    defines `batches`, `step` and `row`.

    Args:
        name: of the training in lines of progress and errors.
        network: on its device; its state is in the checkpoints. On several ranks its batch norm becomes that of the
            whole batch, in place.
        groups: of the optimiser, which may have `decay: False`, `fixed_lr: True` and `lr_scale: float` (`set_rates`).
        per_epoch: steps of an epoch.
        scratch: the folder of the checkpoints.
        fingerprint: digest of everything that decides the result.
        seed: fixes, with the number of a step, the random numbers of that step.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        groups: list[dict[str, Any]],
        config: TrainingConfig,
        per_epoch: int,
        scratch: Path,
        fingerprint: str,
        seed: int,
    ):
        self.name, self.config, self.per_epoch, self.seed = name, config, per_epoch, seed
        self.scratch, self.fingerprint = scratch, fingerprint
        self.device = next(network.parameters()).device
        self.dtype = choose_precision(config.precision, self.device)
        self.network = synchronise(network)
        set_up_blocks(network, config)
        self.optimizer = build_optimizer(groups, config.optimizer)
        self.history: list[Row] = []

    # --- what a subclass defines --------------------------------------------------------------------------------------

    def before_training(self) -> None:
        """Do what is due on rank 0 once the history is known, before the first missing epoch."""

    def before_epoch(self, epoch: int) -> None:
        """Do what is due before an epoch; it has random numbers of its own."""

    def batches(self, epoch: int) -> Iterable[Any]:
        """Return the `per_epoch` batches of an epoch; each is drawn after the generators are seeded for its step."""
        raise NotImplementedError

    def step(self, batch: Any, number: int) -> dict[str, Tensor]:
        """Take one optimisation step; return detached scalars, `loss` among them, without waiting for the device."""
        raise NotImplementedError

    def row(self, totals: dict[str, Tensor], rate: float, seconds: float) -> Row:
        """Return the row of an epoch in the history.

        Args:
            totals: the sums of the steps' scalars, means over the ranks.
            rate: the learning rate of the last step.
            seconds: that the steps took.
        """
        raise NotImplementedError

    def record(self, row: Row) -> None:
        """Record a new row of the history, on rank 0, before the checkpoint of the epoch is written."""

    # --- what all trainings have in common ----------------------------------------------------------------------------

    def train(self) -> list[Row]:
        """Resume from the newest checkpoint, run the epochs that are missing, and return the history.

        Raises:
            ValueError: scratch holds the checkpoint of another training, or the loss is not finite.
        """
        self._resume()
        shape = (self.config.epochs, self.per_epoch, self.config.batch_size)
        with Progress(self.name, *shape, len(self.history), is_main_process()) as self.progress:
            self._train_missing_epochs()
        return self.history

    def _train_missing_epochs(self) -> None:
        for epoch in range(len(self.history), self.config.epochs):
            started = time.monotonic()
            self.progress.start_epoch()
            seed_step(self.seed, -1 - epoch)
            self.before_epoch(epoch)
            row = {"epoch": epoch} | self._train_epoch(epoch) | {"seconds": time.monotonic() - started}
            row["threads"] = torch.get_num_threads()
            self.history.append(row)
            state = self._state()  # on all ranks, which may gather parts of it
            if is_main_process():
                self.record(row)
                save_checkpoint(self.scratch, epoch + 1, state)
            self.progress.show_epoch(row)

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Take the steps of an epoch one by one, and yield the scalars of each."""
        first = epoch * self.per_epoch
        seed_step(self.seed, first)
        for number, batch in enumerate(self.batches(epoch), first):
            decay = weight_decay(self.config, number, self.per_epoch)
            set_rates(self.optimizer, self._learning_rate(number), self.config.effective_lr, decay)
            yield self.step(batch, number)
            seed_step(self.seed, number + 1)

    def autocast(self) -> AbstractContextManager:
        """Return the context in which forward passes have the precision of the training."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _train_epoch(self, epoch: int) -> Row:
        started = time.monotonic()
        self.progress.start_steps()
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        done = 0
        for done, scalars in enumerate(self.steps(epoch), 1):
            for name, value in scalars.items():
                totals[name] += value
            if self.progress.is_due():  # at most once a second, since it waits for the device
                self._check_finite(totals["loss"], epoch, done)
                self.progress.show_step(done, {name: totals[name].item() / done for name in SHOWN if name in totals})
        assert done == self.per_epoch
        totals = dict(zip(totals, mean(torch.stack(list(totals.values()))), strict=True))
        self._check_finite(totals["loss"], epoch, done)
        rate = self._learning_rate(epoch * self.per_epoch + done - 1)
        return self.row(totals, rate, time.monotonic() - started)

    def _learning_rate(self, number: int) -> float:
        return learning_rate(self.config, number, self.per_epoch)

    def _check_finite(self, loss: Tensor, epoch: int, done: int) -> None:
        if not loss.isfinite():
            raise ValueError(
                f"{self.name}: the loss is not finite in epoch {epoch + 1}, by step {done}; the state after "
                f"{len(self.history)} epochs is kept in {self.scratch}. Lower its optimizer.base_lr, or set its "
                "precision to fp32"
            )

    def _state(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one, on every rank."""
        state, remark = broadcast_object(lambda: load_checkpoint(self.scratch)), ""
        if state is not None:
            if state["fingerprint"] != self.fingerprint:
                raise ValueError(
                    f"{self.scratch} holds the checkpoint of another configuration, other data or another tokenizer: "
                    "remove it, or give another --scratch"
                )
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = state["history"]
            if self.device.type == "cpu":
                now = torch.get_num_threads()
                remark = resume_threads(int(self.history[-1].get("threads", now)))
        if is_main_process():
            self.before_training()
            self._announce(remark)

    def _announce(self, remark: str) -> None:
        """Say what is trained, and where it goes on."""
        done, epochs = len(self.history), self.config.epochs
        if done:
            parts = [f"resumes after epoch {done}/{epochs}", remark]
        else:
            threads = torch.get_num_threads()
            device = str(self.device) if self.device.type != "cpu" else f"cpu, {threads} thread{'s' * (threads > 1)}"
            precision = str(self.dtype).removeprefix("torch.")
            parts = [f"trains {epochs} epochs of {self.per_epoch} steps of {self.config.batch_size}", device, precision]
        print("  ".join(filter(None, (self.name, *parts))), flush=True)


def lock_scratch(scratch: Path) -> AbstractContextManager[None]:
    """Lock a scratch folder for this training; rank 0 does it for all ranks.

    Raises:
        ValueError: another process holds it, or it cannot be written.
    """
    return locked(scratch) if is_main_process() else nullcontext()


def descend(
    loss: Tensor, optimizer: torch.optim.Optimizer, clipped: Iterable[nn.Parameter], clip_norm: float | None
) -> None:
    """Take an optimisation step on a loss; the gradients of `clipped` are clipped to a global norm of `clip_norm`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(clipped, clip_norm)
    optimizer.step()
