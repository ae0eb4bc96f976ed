"""The one pretraining loop. It never asks which method it trains, nor whether HIRL is around it.

It runs on one rank or on many, of which the first alone writes and talks.
"""

from __future__ import annotations

import csv
import resource
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.config import RunConfig, digest
from hirl.config.plugins import load_plugins
from hirl.data.images import load_images
from hirl.data.loader import check_shared_evenly, epoch_batches, ordered_batches
from hirl.data.views import Views, evaluation_view
from hirl.distributed.collectives import broadcast_object, gather_shards, is_main_process, mean, shard_range, world_size
from hirl.distributed.device import choose_device, choose_precision, seed_step
from hirl.distributed.parallel import parallel, synchronise
from hirl.files import atomic_path, locked, make_folder, read_json, sha256, write_json
from hirl.hierarchy.wrapper import HIRL
from hirl.methods import create_method
from hirl.methods.base import Method, MethodOutput, Step
from hirl.models.backbones import build_backbone
from hirl.models.blocks import set_up_blocks
from hirl.models.tokenizer import load_tokenizer
from hirl.models.weights import save_weights
from hirl.tracking.record import Follower, Recorder
from hirl.training.checkpoint import load_checkpoint, save_checkpoint
from hirl.training.optimizers import build_optimizer, set_rates
from hirl.training.schedules import learning_rate, weight_decay

SECONDS_BETWEEN_LINES = 30  # of progress within an epoch
FIRST_COLUMNS = ("epoch", "loss", "image_loss", "path_loss", "learning_rate", "images_per_second", "seconds")


def build_method(config: RunConfig, plugins: tuple[str, ...] = (), tokenizer: Path | None = None) -> Method:
    """The method of a run, with HIRL around it where the configuration has a hierarchy; initialised from its seed.

    Raises:
        ValueError: the views are too few for the method, or it uses a tokenizer, which is missing or does not fit.
    """
    load_plugins(plugins)
    parts = [load_tokenizer(tokenizer)] if config.uses_tokenizer else []
    torch.manual_seed(config.seed)
    backbone = build_backbone(config.backbone, config.views.global_size)
    method = create_method(config.algorithm, backbone, config.model, *parts)
    if config.views.global_crops < method.global_crops:
        raise ValueError(f"views.global_crops is 1, but {config.method} compares two views: set it to 2")
    return method if config.hierarchy is None else HIRL(method, config.hierarchy, config.seed)


def pretrain(
    config: RunConfig,
    data: Path,
    out: Path,
    scratch: Path,
    follower: Follower | None = None,
    plugins: tuple[str, ...] = (),
    tokenizer: Path | None = None,
) -> None:
    """Trains a run, or goes on with it, and leaves its results in `out`.

    Args:
        data: the prepared data.
        out: gets config.json, weights.safetensors, history.csv, record.jsonl, snapshots/ and, for hirl,
            tree.safetensors; all at the end.
        scratch: keeps the resume state, locked while training.
        follower: hears the run's records as they are written.
        tokenizer: the file of the tokenizer, for a method that uses one.

    Raises:
        ValueError: the data or the tokenizer do not fit, `out` cannot be written, another process trains this run, or
            the loss is not finite.
    """
    make_folder(out)
    with locked(scratch) if is_main_process() else nullcontext():
        recorder = Recorder(scratch / "record.jsonl", follower) if is_main_process() else None
        trainer = Trainer(config, data, scratch, recorder, plugins, tokenizer)
        trainer.train()
        if is_main_process():
            trainer.export(out)


class Trainer:
    """A run in training: the method, its optimiser, and what they have done so far."""

    def __init__(
        self,
        config: RunConfig,
        data: Path,
        scratch: Path,
        recorder: Recorder | None,
        plugins: tuple[str, ...] = (),
        tokenizer: Path | None = None,
    ):
        self.config, self.scratch, self.recorder = config, scratch, recorder
        self.images = load_images(data, "train")
        self._check_clusters()
        check_shared_evenly(config.training.batch_size)
        method = synchronise(build_method(config, plugins, tokenizer))
        decides = [config.pretraining_hash, read_json(data / "manifest.json")["digest"]]
        self.fingerprint = digest(decides + ([sha256(tokenizer)] if config.uses_tokenizer else []))
        self.device = choose_device()
        self.dtype = choose_precision(config.training.precision, self.device)
        self.per_epoch = len(self.images) // config.training.batch_size
        self.method = method.to(self.device, memory_format=torch.channels_last)
        set_up_blocks(self.method, config.training)
        self.network = parallel(self.method)
        self.optimizer = build_optimizer(self.method.parameter_groups(), config.training.optimizer)
        self.views = Views(config.views)
        self.history: list[dict[str, float]] = []
        self._resume()

    def train(self) -> None:
        """Runs the epochs that are missing."""
        for epoch in range(len(self.history), self.config.training.epochs):
            started = time.monotonic()
            seed_step(self.config.seed, -1 - epoch)
            snapshot = self.method.before_epoch(epoch, self._embed_all)
            if snapshot is not None and is_main_process():
                self._save_snapshot(epoch, snapshot)
            row = {"epoch": epoch} | self._train_epoch(epoch)
            row["seconds"] = time.monotonic() - started
            self.history.append(row)
            if is_main_process():
                self.recorder.metrics(epoch, row)
                save_checkpoint(self.scratch, epoch + 1, self._state())
                print(self._line(row), flush=True)

    def export(self, out: Path) -> None:
        """Writes the results, each whole; the weights last, since they say that the run is done."""
        self.recorder.close(len(self.history) - 1)
        write_json(out / "config.json", {"hash": self.config.pretraining_hash} | self.config.model_dump(mode="json"))
        _write_history(out / "history.csv", self.history)
        shutil.copyfile(self.recorder.path, out / "record.jsonl")
        shutil.rmtree(out / "snapshots", ignore_errors=True)
        snapshots = sorted(self.scratch.glob("snapshots/epoch*.safetensors"))
        for snapshot in snapshots:
            with atomic_path(out / "snapshots" / snapshot.name) as temporary:
                shutil.copyfile(snapshot, temporary)
        if snapshots:
            with atomic_path(out / "tree.safetensors") as temporary:
                shutil.copyfile(snapshots[-1], temporary)
        origin = {"method": self.config.method, "variant": self.config.variant}
        save_weights(self.method.backbone, self.config.backbone, out / "weights.safetensors", **origin)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the images; returns the epoch's means, over all ranks."""
        training = self.config.training
        self.method.train()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        started = last_line = time.monotonic()
        for number, (index, views) in self._batches(epoch):
            step = Step(number, self.per_epoch, training.epochs, index)
            rate = learning_rate(training, number, self.per_epoch)
            set_rates(self.optimizer, rate, training.effective_lr, weight_decay(training, number, self.per_epoch))
            for name, value in self._step(views, step).items():
                sums[name] += value
            if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                done = number % self.per_epoch + 1
                self._check_finite(sums["loss"], epoch, number)
                if is_main_process():
                    print(self._line({"epoch": epoch, "loss": sums["loss"].item() / done}, done), flush=True)
        sums = dict(zip(sums, mean(torch.stack(list(sums.values()))), strict=True))
        self._check_finite(sums["loss"], epoch, number)
        means = {name: (total / self.per_epoch).item() for name, total in sums.items()}
        images_per_second = self.per_epoch * training.batch_size / (time.monotonic() - started)
        return means | {
            "learning_rate": rate,
            "images_per_second": images_per_second,
            "memory_mb": _peak_memory_mb(self.device),
        }

    def _step(self, views: list[Tensor], step: Step) -> dict[str, Tensor]:
        """One optimisation step; returns detached scalars, with no wait for the device."""
        clip_norm = self.config.training.optimizer.clip_norm
        output = take_step(self.method, self.network, self.optimizer, views, step, self.dtype, clip_norm)
        loss = output.loss.detach()
        return {"loss": loss, "image_loss": loss, "feature_std": feature_std(output.embedding)} | output.metrics

    def _batches(self, epoch: int) -> Iterator[tuple[int, tuple[Tensor, list[Tensor]]]]:
        """(step number, (image indices, views)); the generators are seeded for a step before its views are drawn."""
        batch_size, first = self.config.training.batch_size, epoch * self.per_epoch
        seed_step(self.config.seed, first)
        batches = epoch_batches(self.images, batch_size, self.config.seed, epoch, self.views, self.device)
        for number, (index, views) in enumerate(batches, first):
            yield number, (index, [view.to(memory_format=torch.channels_last) for view in views])
            seed_step(self.config.seed, number + 1)

    @torch.no_grad()
    def _embed_all(self) -> Tensor | None:
        """[N, D] embeddings of the training images, in their order, each embedded once; the first rank's alone."""
        self.method.eval()
        number, batch_size = len(self.images), self.config.training.batch_size // world_size()
        embeddings = torch.empty(len(shard_range(number)), self.method.embedding_dim, device=self.device)
        batches = ordered_batches(self.images, batch_size, self.device)
        for rows, batch in zip(embeddings.split(batch_size), batches, strict=True):
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                rows.copy_(self.method.embed(evaluation_view(batch)))
        return gather_shards(embeddings, number)

    def _check_clusters(self) -> None:
        hierarchy = self.config.hierarchy
        if hierarchy is not None and hierarchy.num_clusters[0] > len(self.images):
            raise ValueError(
                f"hierarchy.num_clusters {hierarchy.num_clusters[0]} is more than the {len(self.images)} training "
                "images: lower it in the study, or give more images"
            )

    def _check_finite(self, loss: Tensor, epoch: int, number: int) -> None:
        if not loss.isfinite():
            raise ValueError(
                f"{self.config.name}: the loss is not finite in epoch {epoch}, by step {number}; the state after "
                f"{len(self.history)} epochs is kept in {self.scratch}. Lower training.optimizer.base_lr, or set "
                "training.precision to fp32"
            )

    def _save_snapshot(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.method.tree.save(self.scratch / "snapshots" / f"epoch{epoch:04d}.safetensors")
        self.recorder.snapshot(epoch, metrics)

    def _state(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }

    def _resume(self) -> None:
        """Takes up the newest checkpoint of this very configuration and data, if there is one."""
        state = broadcast_object(lambda: load_checkpoint(self.scratch))
        if state is not None and state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{self.scratch} holds another configuration, other data or another tokenizer: remove it, or give "
                "another --scratch"
            )
        if state is not None:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = state["history"]
        if is_main_process():
            self._go_on_recording()

    def _go_on_recording(self) -> None:
        done = len(self.history)
        self.recorder.truncate_after(done - 1)
        if done:
            print(f"{self.config.name}  goes on after epoch {done}/{self.config.training.epochs}", flush=True)
            return
        self.recorder.params(
            {"name": self.config.name, "config": self.config.model_dump(mode="json"), "precision": str(self.dtype)}
        )

    def _line(self, row: Mapping[str, float], steps_done: int | None = None) -> str:
        """One line of progress, the same in a terminal and in a log."""
        parts = [self.config.name, f"epoch {row['epoch'] + 1}/{self.config.training.epochs}"]
        if steps_done is not None:
            parts.append(f"step {steps_done}/{self.per_epoch}")
        parts += [
            f"{name.replace('_', ' ')} {row[name]:.3f}" for name in ("loss", "path_loss", "feature_std") if name in row
        ]
        if "images_per_second" in row:
            parts.append(f"{row['images_per_second']:.0f} images/s")
        return "  ".join(parts)


def take_step(
    method: Method,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    views: list[Tensor],
    step: Step,
    dtype: torch.dtype,
    clip_norm: float | None,
) -> MethodOutput:
    """One optimisation step on views [B, 3, S, S], with no wait for their device; `network` calls the method."""
    method.before_step(step)
    with torch.autocast(views[0].device.type, dtype, enabled=dtype != torch.float32):
        output = network(views, step)
    optimizer.zero_grad(set_to_none=True)
    output.loss.backward()
    if clip_norm is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    method.after_step(step)
    return output


def feature_std(embedding: Tensor) -> Tensor:
    """The collapse gauge: deviation per channel of l2-normalised embeddings, times sqrt(D); 0 collapsed, 1 spread."""
    units = F.normalize(embedding.detach().float(), dim=1)
    return units.std(dim=0).mean() * units.shape[1] ** 0.5


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**10 if sys.platform != "darwin" else 2**20)


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One row per epoch; a metric that some epochs lack is blank there."""
    columns = list(dict.fromkeys([*FIRST_COLUMNS, *(name for row in history for name in row)]))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        writer.writerows(history)
