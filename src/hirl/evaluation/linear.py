"""Linear evaluation as published: a linear classifier on the frozen backbone's features of augmented views.

Shapes: B images of a batch, S pixels a side, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.config import AugmentationConfig, LinearConfig, RunConfig
from hirl.data.images import load_images
from hirl.data.supervised_loader import LabelledBatches
from hirl.distributed.device import choose_device
from hirl.evaluation.contracts import EvaluationResult
from hirl.evaluation.supervised import accuracies, check_labels, fingerprint, load_backbone
from hirl.models.backbones import Backbone, ViT
from hirl.training.fit import fit


def train_and_evaluate(
    task: str, config: RunConfig, weights: Path | None, data: Path, scratch: Path, run_name: str
) -> EvaluationResult:
    """Train the classifier, or resume, and measure its accuracy on the validation images.

    Args and errors are those of `hirl.evaluation.contracts.TrainedProtocol`.

    Source: HIRL (arXiv 2205.13159), section 5.1; MoCo (arXiv 1911.05722), section 4.1.
    """
    settings, device = config.evaluation.linear, choose_device()
    train, validation = (check_labels(load_images(data, split), data) for split in ("train", "validation"))
    backbone = load_backbone(config, weights, train.image_size).to(device).to(memory_format=torch.channels_last)
    features = frozen_features(backbone, settings)
    head = new_head(backbone, settings, len(train.class_names[0])).to(device)
    augmentation = AugmentationConfig(crop_scale=settings.crop_scale)
    batches = LabelledBatches(train, settings.batch_size, augmentation, config.seed, device)
    history = fit(
        f"{run_name} {task}",
        head,
        [{"params": list(head.parameters())}],
        batches,
        lambda batch: F.cross_entropy(head(features(batch[0])), batch[1]),
        settings,
        len(batches),
        scratch,
        fingerprint(task, config, weights, data),
        config.seed,
    )
    metrics = accuracies(lambda views: head(features(views)), validation, settings.batch_size, device)
    return EvaluationResult(metrics, settings.model_dump(mode="json"), history)


def frozen_features(backbone: Backbone, settings: LinearConfig) -> Callable[[Tensor], Tensor]:
    """Return a function of views [B, 3, S, S] -> features [B, D].

    The backbone neither learns nor updates the statistics of its batch norm.

    Raises:
        ValueError: a ViT has fewer than last_blocks blocks.
    """
    backbone.eval().requires_grad_(False)
    if not isinstance(backbone, ViT):
        return lambda views: backbone(views.to(memory_format=torch.channels_last))
    if settings.last_blocks > len(backbone.blocks):
        raise ValueError(
            f"evaluation.linear.last_blocks is {settings.last_blocks}, but the ViT has {len(backbone.blocks)}: lower it"
        )
    return lambda views: backbone.class_tokens(views, settings.last_blocks)


def new_head(backbone: Backbone, settings: LinearConfig, classes: int) -> nn.Linear:
    """Return the classifier: weights from a normal distribution, biases zero."""
    blocks = settings.last_blocks if isinstance(backbone, ViT) else 1
    head = nn.Linear(blocks * backbone.num_features, classes)
    nn.init.normal_(head.weight, std=settings.head_std)
    nn.init.zeros_(head.bias)
    return head
