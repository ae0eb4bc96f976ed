"""MoCo v3 (Chen et al., https://arxiv.org/abs/2104.02057).

Momentum contrast without a queue: the negatives are the other images of a large batch. The query passes a predictor,
and the loss is symmetric in the two views.

Deviations from the authors' code: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from hirl.config import MoCoV3Config
from hirl.distributed.collectives import gather, rank
from hirl.methods import register
from hirl.methods.base import (
    Backbone,
    EncodedViews,
    Encoder,
    Method,
    MethodOutput,
    Step,
    in_full_precision,
    momentum_copy,
    update_momentum,
)
from hirl.methods.schedules import half_cosine


@in_full_precision
def contrastive_loss(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Return 2 T times the cross-entropy of matching each query with its own key among the keys of all ranks.

    Args:
        query: [B, D].
        key: [B, D], of the other view; gathered over ranks.
    """
    keys = gather(F.normalize(key, dim=1))
    logits = F.normalize(query, dim=1) @ keys.T / temperature
    own = torch.arange(len(query), device=query.device) + rank() * len(query)
    return 2 * temperature * F.cross_entropy(logits, own)


@register("mocov3")
class MoCoV3(Method):
    """Symmetric momentum contrast with a predictor."""

    def __init__(self, backbone: Backbone, config: MoCoV3Config):
        super().__init__()
        self.config = config
        self.embedding_dim = dim = config.embedding_dim
        self.query_encoder = Encoder(backbone, _mlp([backbone.num_features, config.hidden_dim, config.hidden_dim, dim]))
        self.predictor = _mlp([dim, config.hidden_dim, dim])
        self.key_encoder = momentum_copy(self.query_encoder)

    @property
    def backbone(self) -> Backbone:
        """Return the query encoder's backbone."""
        return self.query_encoder.backbone

    def before_step(self, step: Step) -> None:
        """Update the key encoder; its momentum rises to 1 along a half cosine."""
        update_momentum(self.key_encoder, self.query_encoder, half_cosine(self.config.momentum, 1, step.progress))

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return 2T [CE(q1 k2'/T, own) + CE(q2 k1'/T, own)]; each view has its own batch statistics."""
        z1, z2 = self.query_encoder(views[0]), self.query_encoder(views[1])
        q1, q2 = self.predictor(z1).float(), self.predictor(z2).float()
        with torch.no_grad():
            first, second = self.key_encoder.encode(views[0]), self.key_encoder.encode(views[1])
        k1, k2 = first[1], second[1]
        temperature = self.config.temperature
        loss = contrastive_loss(q1, k2, temperature) + contrastive_loss(q2, k1, temperature)
        return MethodOutput(loss, z1, second_embedding=z2.detach(), encoded=EncodedViews.of(first, second))

    def embed(self, images: Tensor) -> Tensor:
        """Return the key encoder's projection."""
        return self.key_encoder(images)


def _mlp(dims: Sequence[int]) -> ProjectionHead:
    """Build linear layers without bias, batch norm after each (without affine after the last), ReLU between them."""
    *hidden, last = pairwise(dims)
    blocks = [(width, out, nn.BatchNorm1d(out), nn.ReLU()) for width, out in hidden]
    return ProjectionHead([*blocks, (*last, nn.BatchNorm1d(last[1], affine=False), None)])
