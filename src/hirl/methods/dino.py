"""DINO (Caron et al., https://arxiv.org/abs/2104.14294).

A student sees all crops of an image and predicts the distribution over prototypes that a teacher gives to the global
crops. The teacher's weights are an exponential moving average of the student's. Centering and sharpening the teacher's
distributions prevent collapse.

Deviations from the authors' code: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from hirl.config import DINOConfig
from hirl.methods import register
from hirl.methods.base import (
    Backbone,
    EncodedViews,
    Encoder,
    Method,
    MethodOutput,
    Prototypes,
    Step,
    full_precision,
    momentum_copy,
    prototype_perplexity,
    split_decay,
    update_momentum,
)
from hirl.methods.schedules import half_cosine, linear_warm_up


@register("dino")
class DINO(Method):
    """Self-distillation with no labels."""

    def __init__(self, backbone: Backbone, config: DINOConfig):
        super().__init__()
        self.config = config
        self.embedding_dim = config.embedding_dim
        projector = _projector(backbone.num_features, config)
        self.student = Encoder(backbone, projector)
        self.student_prototypes = Prototypes(config.embedding_dim, config.prototypes)
        self.teacher = momentum_copy(self.student)
        self.teacher_prototypes = momentum_copy(self.student_prototypes)
        self.self_distillation = DINOLoss(
            config.prototypes, student_temp=config.student_temperature, center_momentum=config.center_momentum
        )

    @property
    def backbone(self) -> Backbone:
        """Return the teacher's backbone."""
        return self.teacher.backbone

    def before_step(self, step: Step) -> None:
        """Update the teacher by its momentum, and freeze the student's prototypes during the first epochs."""
        momentum = half_cosine(self.config.momentum, 1, step.progress)
        update_momentum(self.teacher, self.student, momentum)
        update_momentum(self.teacher_prototypes, self.student_prototypes, momentum)
        self.student_prototypes.requires_grad_(step.epoch >= self.config.frozen_prototype_epochs)

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return the mean cross-entropy over all pairs of a teacher's global crop and another crop of the student."""
        embeddings = [embedding for _, embedding in self.student.encode_multi_crop(views)]
        with torch.no_grad():
            taught = self.teacher.encode_multi_crop(views[:2])
            targets = [self.teacher_prototypes(embedding) for _, embedding in taught]
        logits = [self.student_prototypes(embedding) for embedding in embeddings]
        loss = self._class_loss(targets, logits, step.epoch)
        metrics = self._collapse_metrics(logits[0])
        return MethodOutput(loss, embeddings[0], metrics, embeddings[1].detach(), EncodedViews.of(*taught))

    def embed(self, images: Tensor) -> Tensor:
        """Return the teacher's projection, before normalisation and prototypes."""
        return self.teacher(images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups: biases and norms have no weight decay."""
        return split_decay(self)

    def _class_loss(self, targets: list[Tensor], logits: list[Tensor], epoch: int) -> Tensor:
        """Return DINO's loss of the teacher's and the student's logits, and update the teacher's center afterwards."""
        temperature = linear_warm_up(*self.config.teacher_temperature, self.config.teacher_temperature_epochs, epoch)
        with full_precision():
            return self.self_distillation(targets, logits, teacher_temp=temperature)

    def _collapse_metrics(self, logits: Tensor) -> dict[str, Tensor]:
        probabilities = F.softmax(logits.detach() / self.config.student_temperature, dim=1)
        return {"prototype_perplexity": prototype_perplexity(probabilities)}


def _projector(width: int, config: DINOConfig) -> ProjectionHead:
    """Build three linear layers with GELU between them; weights are drawn from a normal of deviation 0.02."""
    hidden = config.hidden_dim
    norms = [nn.BatchNorm1d(hidden) if config.batch_norm else None for _ in range(2)]
    projector = ProjectionHead(
        [
            (width, hidden, norms[0], nn.GELU(), True),
            (hidden, hidden, norms[1], nn.GELU(), True),
            (hidden, config.embedding_dim, None, None),
        ]
    )
    for layer in projector.layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return projector
