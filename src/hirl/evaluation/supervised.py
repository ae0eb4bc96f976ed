"""What trained protocols share: the backbone they start from, the digest of their inputs, and accuracies.

Shapes: B images of a batch, S pixels a side, C classes of the finest level.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hirl.config import TASKS, RunConfig, digest
from hirl.config.tasks import labels_file
from hirl.data.images import ImageSet
from hirl.data.loader import ordered_batches
from hirl.data.views import evaluation_view
from hirl.distributed.collectives import gather, shard_range, world_size
from hirl.files import read_json, sha256
from hirl.models.backbones import Backbone, ViT, build_backbone
from hirl.models.weights import load_weights


def load_backbone(config: RunConfig, weights: Path | None, image_size: int, drop_path: float = 0.0) -> Backbone:
    """Build a run's backbone with its weights, or as its seed initialises it.

    Seeds torch with the run's seed first, so that the head built next is drawn from it too.

    Raises:
        ValueError: the weights are missing, damaged or of another backbone, or its patch size does not divide
            the images.
    """
    torch.manual_seed(config.seed)
    network = config.backbone.model_copy(update={"drop_path": drop_path})
    backbone = build_backbone(network, config.views.global_size)
    if isinstance(backbone, ViT) and image_size % (patch := backbone.patch_embed.patch_size[0]):
        raise ValueError(f"images of {image_size} pixels are no multiple of {network.name}'s patch, {patch}")
    if weights is not None:
        load_weights(backbone, network, weights)
    return backbone


def fingerprint(task: str, config: RunConfig, weights: Path | None, data: Path) -> str:
    """Return the digest of all that decides an evaluation's result: settings, weights, images and labelled images.

    Raises:
        ValueError: the folder holds no prepared data.
    """
    files = [path for path in (weights, labelled_images(task, data)) if path is not None]
    content = [read_json(data / "manifest.json")["digest"], *map(sha256, files)]
    return digest([task, config.pretraining_hash, config.task_hash(task), content])


def labelled_images(task: str, data: Path) -> Path | None:
    """Return the file that lists the labelled images, for a task that does not use all labels."""
    percent = TASKS[task].label_percent
    return None if percent == 100 else data / labels_file(percent)


def check_labels(images: ImageSet, data: Path) -> ImageSet:
    """Return the images after checking that every label is one of their classes.

    Raises:
        ValueError: a label is out of range, or the images have no classes.
    """
    if not images.class_names:
        raise ValueError(f"{data}: its images have no classes to learn: sort them into class folders, and prepare them")
    fine, classes = images.labels[:, 0], len(images.class_names[0])
    if (stray := fine[(fine < 0) | (fine >= classes)]).numel():
        raise ValueError(f"{data}: label {stray[0].item()} is not one of its {classes} classes: prepare the data again")
    return images


@torch.no_grad()
def accuracies(
    classify: Callable[[Tensor], Tensor], images: ImageSet, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Measure top-1 and top-5 accuracy; each rank classifies its shard of the images.

    Args:
        classify: views [B, 3, S, S] -> logits [B, C], in evaluation mode.
        batch_size: over all ranks.

    Returns:
        Percentages top1 and top5 over all images, the same on every rank.
    """
    each = batch_size // world_size()
    truths = images.labels[shard_range(len(images)), 0].split(each)
    hits = torch.zeros(1, 2, dtype=torch.int64)
    for batch, truth in zip(ordered_batches(images, each, device), truths, strict=True):
        logits = classify(evaluation_view(batch))
        best = logits.topk(min(5, logits.shape[1])).indices.cpu() == truth[:, None]
        hits += torch.stack([best[:, 0].sum(), best.sum()])
    top1, top5 = (gather(hits.to(device)).sum(dim=0).double() / len(images)).tolist()
    return {"top1": 100 * top1, "top5": 100 * top5}
