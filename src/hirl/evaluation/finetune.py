"""Fine-tuning of the whole network: on all labels, on 1 % or 10 % of them, or on other data.

B images of a batch, S pixels a side, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.config import FinetuneConfig, RunConfig
from hirl.data.images import ImageSet, load_images
from hirl.data.label_subsets import load_labelled
from hirl.data.supervised_loader import LabelledBatches
from hirl.distributed.device import choose_device
from hirl.evaluation.cache import EvaluationResult
from hirl.evaluation.supervised import accuracies, check_labels, fingerprint, load_backbone
from hirl.models.backbones import ViT
from hirl.training.fit import fit
from hirl.training.optimizers import layer_groups

PERCENT = {"semisup-1": 1, "semisup-10": 10}  # of the training images have labels
VIT_HEAD_STD = 2e-5


class Classifier(nn.Module):
    """A backbone and a linear head: views [B, 3, S, S] -> logits [B, C]."""

    def __init__(self, backbone: nn.Module, classes: int):
        super().__init__()
        self.backbone = backbone.requires_grad_(True)  # sin-cos positions are trained as well
        self.head = nn.Linear(backbone.num_features, classes)
        if isinstance(backbone, ViT):  # a ResNet's head starts as torch initialises it
            nn.init.trunc_normal_(self.head.weight, std=VIT_HEAD_STD)
            nn.init.zeros_(self.head.bias)

    def forward(self, views: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.backbone(views.to(memory_format=torch.channels_last)))

    def groups(self, settings: FinetuneConfig) -> list[dict[str, Any]]:
        """For the optimiser: a ViT's rate shrinks from block to block, the head may have a rate of its own."""
        scale = 1.0 if settings.head_lr is None else settings.head_lr / settings.effective_lr
        head = [
            {"params": [self.head.weight], "lr_scale": scale},
            {"params": [self.head.bias], "lr_scale": scale, "decay": False},
        ]
        return [*layer_groups(self.backbone, settings.layer_decay), *head]


def evaluate(
    task: str, config: RunConfig, weights: Path | None, data: Path, scratch: Path, run_name: str
) -> EvaluationResult:
    """Fine-tunes a network, or goes on with it, and judges it on the validation images.

    Args:
        task: finetune, transfer, semisup-1 or semisup-10; for the last two the data hold the labelled images' file.
        weights: of the backbone; None leaves it as the run's seed initialises it.
        data: the prepared data, for transfer those of the other data set.
        scratch: keeps the resume state.
        run_name: what the lines of progress call it.

    Raises:
        ValueError: weights, data or settings do not fit, another process is at it, or the loss is not finite.

    Source: HIRL (arXiv 2205.13159), section 5.1; layer decay and augmentation as BEiT (arXiv 2106.08254), appendix H.
    """
    settings, device = config.evaluation.of(task), choose_device()
    train, validation = (check_labels(images, data) for images in _load(task, data))
    backbone = load_backbone(config, weights, train.image_size, settings.drop_path)
    network = Classifier(backbone, len(train.class_names[0])).to(device, memory_format=torch.channels_last)
    batches = LabelledBatches(train, settings.batch_size, settings.augmentation, config.seed, device)
    history = fit(
        f"{run_name} {task}",
        network.train(),
        network.groups(settings),
        batches,
        lambda batch: F.cross_entropy(network(batch[0]), batch[1]),
        settings,
        len(batches),
        scratch,
        fingerprint(task, config, weights, data, *_labels_file(task, data)),
        config.seed,
    )
    metrics = accuracies(network.eval(), validation, settings.batch_size, device)
    return EvaluationResult(metrics, settings.model_dump(mode="json") | {"training_images": len(train)}, history)


def _load(task: str, data: Path) -> tuple[ImageSet, ImageSet]:
    train = load_labelled(data, PERCENT[task]) if task in PERCENT else load_images(data, "train")
    return train, load_images(data, "validation")


def _labels_file(task: str, data: Path) -> list[Path]:
    return [data / f"labels-{PERCENT[task]}.csv"] if task in PERCENT else []
