"""Pretrain a method. The loop does not know which method it trains, or whether HIRL is around it."""

from __future__ import annotations

import csv
import hashlib
import resource
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.config import RunConfig, ViewsConfig, digest
from hirl.config.plugins import load_plugins
from hirl.data.images import ImageSet, load_images
from hirl.data.loader import check_shared_evenly, epoch_batches, ordered_batches
from hirl.data.views import Views, evaluation_view
from hirl.distributed.collectives import is_main_process, shard_range, world_size
from hirl.distributed.device import choose_device
from hirl.distributed.parallel import parallel
from hirl.files import atomic_path, make_folder, write_json
from hirl.hierarchy import SemanticTree
from hirl.hierarchy.control_trees import class_tree, random_tree
from hirl.hierarchy.diagnostics import class_agreement
from hirl.hierarchy.wrapper import HIRL
from hirl.methods import create_method
from hirl.methods.base import Method, MethodOutput, Step
from hirl.models.backbones import Backbone, build_backbone
from hirl.models.tokenizer import load_tokenizer
from hirl.models.weights import save_weights
from hirl.tracking.record import Follower, Recorder
from hirl.training.checkpoint import has_checkpoint, save_checkpoint, write_state
from hirl.training.core import Row, Trainer, descend, lock_scratch
from hirl.training.scratch import pretraining_fingerprint
from hirl.training.stem import find_stem, graft, load_stem, stem_path

FIRST_COLUMNS = ("epoch", "loss", "image_loss", "path_loss", "learning_rate", "images_per_second", "seconds")

STEMS = "stems"  # the folder in scratch

Batch = tuple[Tensor, list[Tensor]]  # the indices of its images, [B], and their views, each [B, 3, S, S]


def build_method(
    config: RunConfig, plugins: tuple[str, ...] = (), tokenizer: Path | None = None, backbone: Backbone | None = None
) -> Method:
    """Return the method of a run, initialised from the run's seed, with HIRL around it if there is a hierarchy.

    Args:
        backbone: in place of the one that the configuration names; the method trains it in place.

    Raises:
        ValueError: the views are too few for the method, or it uses a tokenizer, which is missing or does not fit.
    """
    load_plugins(plugins)
    parts = [load_tokenizer(tokenizer)] if config.uses_tokenizer else []
    torch.manual_seed(config.seed)
    if backbone is None:
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
    stems: Path | None = None,
    kept_epochs: Collection[int] = (),
    backbone: Backbone | None = None,
) -> Method:
    """Pretrain a run, or resume its training, write its results to `out`, and return the trained method.

    Args:
        data: the prepared data.
        out: gets config.json, weights.safetensors, history.csv, record.jsonl, snapshots/ and, for hirl,
            tree.safetensors; all at the end.
        scratch: the folder of the checkpoints, locked while training.
        follower: gets the run's records as they are written.
        tokenizer: the file of the tokenizer, for a method that uses one.
        stems: the folder that a baseline shares with its HIRL runs: it leaves its whole state after `kept_epochs`
            there, and they start from it, with the same bits as if they had trained these epochs.
        kept_epochs: numbers of epochs, of a baseline alone.
        backbone: with which the training starts, in place of the one that the configuration names.

    Raises:
        ValueError: the data, the tokenizer or the stem do not fit, `out` cannot be written, another process trains this
            run, or the loss is not finite.
    """
    make_folder(out)
    if stems is not None and config.hierarchy is None:
        make_folder(stems)
    with lock_scratch(scratch):
        recorder = Recorder(scratch / "record.jsonl", follower) if is_main_process() else None
        trainer = Pretrainer(config, data, scratch, recorder, plugins, tokenizer, kept_epochs, backbone)
        if stems is not None and config.hierarchy is not None:
            trainer.fork(stems, pretraining_fingerprint(config.baseline, data, tokenizer))
        trainer.train()
        if recorder is not None:
            recorder.close(len(trainer.history) - 1)
            write_results(trainer, recorder.path, out)
            if stems is not None and config.hierarchy is None:
                _write_stems(trainer, stems)
        return trainer.method


class Pretrainer(Trainer):
    """The training of a method on views of images, and the trees that it makes.

    Args:
        recorder: writes the run's record; None on all ranks but rank 0.
        kept_epochs: the numbers of epochs after which the state is kept in scratch, beside the checkpoints.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Path,
        scratch: Path,
        recorder: Recorder | None,
        plugins: tuple[str, ...] = (),
        tokenizer: Path | None = None,
        kept_epochs: Collection[int] = (),
        backbone: Backbone | None = None,
    ):
        self.run, self.recorder, self.kept_epochs = config, recorder, kept_epochs
        self.images = load_images(data, "train")
        _check_clusters(config, len(self.images))
        check_shared_evenly(config.training.batch_size)
        fingerprint = pretraining_fingerprint(config, data, tokenizer)
        if backbone is not None:
            fingerprint = digest([fingerprint, _state_digest(backbone)])
        method = build_method(config, plugins, tokenizer, backbone)
        if isinstance(method, HIRL):
            method.given = control_tree(config, self.images.labels)
        self.method = method.to(choose_device()).to(memory_format=torch.channels_last)
        per_epoch = len(self.images) // config.training.batch_size
        groups = self.method.parameter_groups()
        super().__init__(config.name, method, groups, config.training, per_epoch, scratch, fingerprint, config.seed)
        self.parallel_method = parallel(self.method)
        self.views = Views(config.views)

    def fork(self, stems: Path, fingerprint: str) -> None:
        """Write the first checkpoint from the baseline's longest stem in a folder, if there is one and no checkpoint.

        Args:
            fingerprint: of the baseline.

        Raises:
            ValueError: there is no such folder, or the stem cannot be read or is another baseline's.
        """
        if not is_main_process() or has_checkpoint(self.scratch):
            return
        if not stems.is_dir():
            raise ValueError(f"{stems} is missing: train the baseline with --stems first, or leave out --stems")
        if (path := find_stem(stems, self.run.stem_epochs)) is None:
            print(f"{self.name}  trains all epochs: {stems} has no state of its first ones", flush=True)
            return
        state = load_stem(path, fingerprint)
        assert isinstance(self.method, HIRL)
        graft(state, self.method, self.optimizer)
        self.history = state["history"]
        self._start_record(stem={"run": self.run.baseline.name, "epochs": len(self.history)})
        for row in self.history:
            self.record(row)
        save_checkpoint(self.scratch, len(self.history), self._state())
        print(f"{self.name}  takes over {len(self.history)} epochs from {self.run.baseline.name}", flush=True)

    def before_training(self) -> None:
        """Cut the record to the epochs of the history, or start it."""
        assert self.recorder is not None
        if self.history:
            self.recorder.truncate_after(len(self.history) - 1)
        else:
            self._start_record()

    def _start_record(self, **notes: Any) -> None:
        """Start the record with the run's settings and notes on how it is trained."""
        assert self.recorder is not None
        self.recorder.truncate_after(-1)
        settings = self.run.model_dump(mode="json")
        self.recorder.params({"name": self.name, "config": settings, "precision": str(self.dtype)} | notes)

    def before_epoch(self, epoch: int) -> None:
        """Let the method make a new tree if one is due, and save it as a snapshot."""
        metrics = self.method.before_epoch(epoch, self.encode_all)
        if metrics is not None and self.recorder is not None:
            assert isinstance(self.method.tree, SemanticTree)
            self.method.tree.save(self.scratch / "snapshots" / f"epoch{epoch:04d}.safetensors")
            self.recorder.snapshot(epoch, metrics | class_agreement(self.method.tree, self.images.labels))
        self.method.train()

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Return the shuffled batches of an epoch, their views drawn anew."""
        batch_size = self.config.batch_size
        for index, views in epoch_batches(self.images, batch_size, self.seed, epoch, self.views, self.device):
            yield index, [view.to(memory_format=torch.channels_last) for view in views]

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Take one optimisation step; return its losses and the method's metrics."""
        index, views = batch
        step, clip_norm = Step(number, self.per_epoch, self.config.epochs, index), self.config.optimizer.clip_norm
        output = take_step(self.method, self.parallel_method, self.optimizer, views, step, self.dtype, clip_norm)
        loss = output.loss.detach()
        return {"loss": loss, "image_loss": loss, "feature_std": feature_std(output.embedding)} | output.metrics

    def row(self, totals: dict[str, Tensor], rate: float, seconds: float) -> Row:
        """Return an epoch's means, speed and memory."""
        return {name: (total / self.per_epoch).item() for name, total in totals.items()} | {
            "learning_rate": rate,
            "images_per_second": self.per_epoch * self.config.batch_size / seconds,
            "memory_mb": _peak_memory_mb(self.device),
        }

    def record(self, row: Row) -> None:
        """Record an epoch's row, and keep the state after it if it is asked for."""
        assert self.recorder is not None
        self.recorder.metrics(int(row["epoch"]), row)
        if (epochs := int(row["epoch"]) + 1) in self.kept_epochs:
            write_state(stem_path(self.scratch / STEMS, epochs), self._state())

    @torch.no_grad()
    def encode_all(self, encode: Callable[[Tensor], Tensor], width: int, num_views: int = 0) -> Tensor:
        """Run all training images through `encode`, as hirl.methods.base.EncodeAll says."""
        self.method.eval()
        autocast = self.autocast
        return encode_images(self.images, encode, width, self.config.batch_size, self.run.views, autocast, num_views)


@torch.no_grad()
def encode_images(
    images: ImageSet,
    encode: Callable[[Tensor], Tensor],
    width: int,
    batch_size: int,
    views: ViewsConfig,
    autocast: Callable[[], AbstractContextManager],
    num_views: int = 0,
) -> Tensor:
    """Run images through `encode`, as hirl.methods.base.EncodeAll says; the caller sets the network's mode.

    Args:
        batch_size: over all ranks.
        views: of which random ones are drawn.
        autocast: returns the context of the forward passes.
    """
    device = choose_device()
    number, batch_size = len(images), max(1, batch_size // world_size())
    encoded = torch.empty(len(shard_range(number)), width, device=device)
    batches = ordered_batches(images, batch_size, device)
    for rows, batch in zip(encoded.split(batch_size), batches, strict=True):
        drawn = random_views(views, batch, num_views) if num_views else evaluation_view(batch)
        with autocast():
            rows.copy_(encode(drawn))
    return encoded


def random_views(config: ViewsConfig, images: Tensor, number: int) -> Tensor:
    """Draw `number` global views of uint8 images [B, 3, S, S]: float [number, B, 3, size, size]."""
    draw = Views(config.model_copy(update={"local_crops": 0}))
    rounds = -(-number // config.global_crops)
    drawn = [view for _ in range(rounds) for view in draw(images)]
    return torch.stack(drawn[:number])


def take_step(
    method: Method,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    views: list[Tensor],
    step: Step,
    dtype: torch.dtype,
    clip_norm: float | None,
) -> MethodOutput:
    """Take one optimisation step on views [B, 3, S, S], without waiting for their device.

    Args:
        network: what calls the method: the method itself, or `parallel` around it.
        dtype: of the forward pass, under autocast.
    """
    method.before_step(step)
    with torch.autocast(views[0].device.type, dtype, enabled=dtype != torch.float32):
        output = network(views, step)
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    descend(output.loss, optimizer, parameters, clip_norm)
    method.after_step(step)
    return output


def feature_std(embedding: Tensor) -> Tensor:
    """Return a collapse metric: the standard deviation per channel of l2-normalised embeddings, times sqrt(D).

    It is 0 when all embeddings are the same, and 1 when their directions are spread evenly.
    """
    units = F.normalize(embedding.detach().float(), dim=1)
    return units.std(dim=0).mean() * units.shape[1] ** 0.5


def write_results(trainer: Pretrainer, record: Path, out: Path) -> None:
    """Write a trained run's results, each atomically; the weights last, since they mark the run as done."""
    config = trainer.run
    write_json(out / "config.json", {"hash": config.pretraining_hash} | config.model_dump(mode="json"))
    _write_history(out / "history.csv", trainer.history)
    shutil.copyfile(record, out / "record.jsonl")
    shutil.rmtree(out / "snapshots", ignore_errors=True)
    snapshots = sorted(trainer.scratch.glob("snapshots/epoch*.safetensors"))
    copies = [(snapshot, out / "snapshots" / snapshot.name) for snapshot in snapshots]
    copies += [(snapshot, out / "tree.safetensors") for snapshot in snapshots[-1:]]
    for snapshot, copy in copies:
        with atomic_path(copy) as temporary:
            shutil.copyfile(snapshot, temporary)
    origin = {"method": config.method, "variant": config.variant}
    save_weights(trainer.method.backbone, config.backbone, out / "weights.safetensors", **origin)


def _write_stems(trainer: Pretrainer, stems: Path) -> None:
    """Copy the kept states to the folder that HIRL runs start from."""
    for epochs in trainer.kept_epochs:
        kept = stem_path(trainer.scratch / STEMS, epochs)
        if not kept.exists():
            print(f"{trainer.name}  has no state after epoch {epochs}: it was trained without --stems", flush=True)
            continue
        with atomic_path(stem_path(stems, epochs)) as temporary:
            shutil.copyfile(kept, temporary)


def control_tree(config: RunConfig, labels: Tensor) -> SemanticTree | None:
    """Return the tree that a control run is given; None for a run that clusters its images.

    Args:
        labels: int64 [N, L], the true classes of the training images, finest first.

    Raises:
        ValueError: the classes have another number of levels than the run's tree.
    """
    hierarchy = config.hierarchy
    if hierarchy is None or hierarchy.tree == "kmeans":
        return None
    levels = len(hierarchy.num_clusters)
    if hierarchy.tree == "random":
        return random_tree(len(labels), hierarchy.num_clusters, config.seed)
    if labels.shape[1] != levels:
        raise ValueError(
            f"hierarchy.tree is classes, of which the data has {labels.shape[1]} levels, but num_clusters has "
            f"{levels}: make it {labels.shape[1]} numbers"
        )
    return class_tree(labels, hierarchy.noise, config.seed)


def _check_clusters(config: RunConfig, images: int) -> None:
    if config.hierarchy is not None and config.hierarchy.num_clusters[0] > images:
        raise ValueError(
            f"hierarchy.num_clusters {config.hierarchy.num_clusters[0]} is more than the {images} training images: "
            "lower it in the study, or give more images"
        )


def _state_digest(network: nn.Module) -> str:
    """Return the digest of a network's parameters and buffers."""
    content = hashlib.sha256()
    for name, value in network.state_dict().items():
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**10 if sys.platform != "darwin" else 2**20)


def _write_history(path: Path, history: list[Row]) -> None:
    """Write one row per epoch; a metric that some epochs lack is blank there."""
    columns = list(dict.fromkeys([*FIRST_COLUMNS, *(name for row in history for name in row)]))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        writer.writerows(history)
