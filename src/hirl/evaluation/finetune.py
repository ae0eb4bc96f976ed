"""Fine-tuning of the whole network: on all labels, on 1 % or 10 % of them, or on another data set.

Shapes: B images of a batch, S pixels a side, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.config import TASKS, FinetuneConfig, RunConfig
from hirl.data.images import ImageSet, load_images
from hirl.data.label_subsets import load_labelled
from hirl.data.supervised_loader import LabelledBatches
from hirl.distributed.device import choose_device
from hirl.evaluation.contracts import EvaluationResult
from hirl.evaluation.supervised import accuracies, check_labels, fingerprint, load_backbone
from hirl.models.backbones import Backbone, ViT
from hirl.training.fit import fit
from hirl.training.optimizers import layer_groups

VIT_HEAD_STD = 2e-5


class Classifier(nn.Module):
    """A backbone and a linear head: views [B, 3, S, S] -> logits [B, C]."""

    def __init__(self, backbone: Backbone, classes: int):
        super().__init__()
        self.backbone: Backbone = backbone.requires_grad_(True)  # sine-cosine positions too
        self.head = nn.Linear(backbone.num_features, classes)
        if isinstance(backbone, ViT):  # a ResNet's head starts as torch initialises it
            nn.init.trunc_normal_(self.head.weight, std=VIT_HEAD_STD)
            nn.init.zeros_(self.head.bias)

    def forward(self, views: Tensor) -> Tensor:
        """Return the logits of a batch of views."""
        views = views.to(memory_format=torch.channels_last)
        if isinstance(self.backbone, ViT):
            return self.head(self.backbone.class_tokens(views, 1))
        return self.head(self.backbone(views))

    def groups(self, settings: FinetuneConfig) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups: layer decay in a ViT, a learning rate of its own for the head."""
        scale = 1.0 if settings.head_lr is None else settings.head_lr / settings.effective_lr
        head = [
            {"params": [self.head.weight], "lr_scale": scale},
            {"params": [self.head.bias], "lr_scale": scale, "decay": False},
        ]
        return [*layer_groups(self.backbone, settings.layer_decay), *head]


def train_and_evaluate(
    task: str, config: RunConfig, weights: Path | None, data: Path, scratch: Path, run_name: str
) -> EvaluationResult:
    """Fine-tune a network, or resume, and measure its accuracy on the validation images.

    Args and errors are those of `hirl.evaluation.contracts.TrainedProtocol`; a task with few labels reads the file of
    its labelled images from `data`.

    Source: HIRL (arXiv 2205.13159), section 5.1; layer decay and augmentation as BEiT (arXiv 2106.08254), appendix H.
    """
    settings, device = config.evaluation.of(task), choose_device()
    train, validation = (check_labels(images, data) for images in _load(task, data))
    backbone = load_backbone(config, weights, train.image_size, settings.drop_path)
    network = Classifier(backbone, len(train.class_names[0])).to(device).to(memory_format=torch.channels_last)
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
        fingerprint(task, config, weights, data),
        config.seed,
    )
    metrics = accuracies(network.eval(), validation, settings.batch_size, device)
    return EvaluationResult(metrics, settings.model_dump(mode="json") | {"training_images": len(train)}, history)


def _load(task: str, data: Path) -> tuple[ImageSet, ImageSet]:
    """Load the training images whose labels the task uses, and the validation images."""
    percent = TASKS[task].label_percent
    train = load_images(data, "train") if percent == 100 else load_labelled(data, percent)
    return train, load_images(data, "validation")
