"""Linear probe: a linear classifier on frozen, cached features, without augmentation.

Shapes: N training images, M validation images, D feature width, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.config import ProbeConfig
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.contracts import EvaluationResult, FrozenInputs
from hirl.training.schedules import half_cosine

SEED = 0  # of the batches' order; the classifier starts at zero


def evaluate_features(inputs: FrozenInputs, settings: ProbeConfig) -> EvaluationResult:
    """Return the metrics of `probe`, trained on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return EvaluationResult(probe(inputs.cache, settings, device), settings.model_dump(mode="json"))


def probe(cache: FeatureCache, config: ProbeConfig, device: str = "cpu") -> dict[str, float]:
    """Train softmax regression on the finest classes, by SGD with a learning rate that falls along a cosine.

    Features are standardised with the training images' mean and deviation, as the affine-free BatchNorm of MAE's probe
    (arXiv 2111.06377, appendix A) does, so that one learning rate fits the features of every method and backbone.

    Returns:
        Percentages top1 and top5 of the validation images.
    """
    train, validation = (torch.from_numpy(x).to(device) for x in (cache.train, cache.validation))
    labels, truth = (torch.from_numpy(y[:, 0]).to(device) for y in (cache.train_labels, cache.validation_labels))
    deviation, mean = torch.std_mean(train, dim=0, correction=0)
    train, validation = (F.pad((x - mean) / (deviation + 1e-6), (0, 1), value=1.0) for x in (train, validation))
    weight = fit(train, labels, int(max(labels.max(), truth.max())) + 1, config)
    top = (validation @ weight.T).topk(min(5, len(weight)), dim=1).indices == truth[:, None]
    return {"top1": 100 * top[:, 0].double().mean().item(), "top5": 100 * top.any(dim=1).double().mean().item()}


def fit(features: Tensor, labels: Tensor, classes: int, config: ProbeConfig) -> Tensor:
    """Return the weight [C, D] after `epochs` passes; the last feature is 1, for the bias.

    SGD is written out because importing torch.optim takes longer than the training.
    """
    weight, velocity = (features.new_zeros(classes, features.shape[1]) for _ in range(2))
    peak = config.base_lr * config.batch_size / 256
    generator = torch.Generator().manual_seed(SEED)
    for epoch in range(config.epochs):
        batches = torch.randperm(len(features), generator=generator).to(features.device).split(config.batch_size)
        for number, batch in enumerate(batches):
            error = (features[batch] @ weight.T).softmax(dim=1) - F.one_hot(labels[batch], classes)
            gradient = error.T @ features[batch] / len(batch) + config.weight_decay * weight
            velocity.mul_(config.momentum).add_(gradient)
            progress = (epoch + number / len(batches)) / config.epochs
            weight -= half_cosine(peak, 0.0, progress) * velocity
    return weight
