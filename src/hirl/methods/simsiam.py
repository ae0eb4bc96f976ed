"""SimSiam (Chen and He, https://arxiv.org/abs/2011.10566).

A predictor maps the projection of each view to that of the other view, which takes no gradient. There are no negatives
and no momentum encoder: stop-gradient alone prevents collapse.

Deviations from the authors' code: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor

from hirl.config import SimSiamConfig
from hirl.methods import register
from hirl.methods.base import (
    Backbone,
    EncodedViews,
    Encoder,
    Method,
    MethodOutput,
    Step,
    in_full_precision,
    trainable,
)

negative_cosine = in_full_precision(NegativeCosineSimilarity())


@register("simsiam")
class SimSiam(Method):
    """Siamese prediction with stop-gradient; each view is encoded once."""

    def __init__(self, backbone: Backbone, config: SimSiamConfig):
        super().__init__()
        self.embedding_dim = dim = config.embedding_dim
        self.encoder = Encoder(backbone, SimSiamProjectionHead(backbone.num_features, dim, dim))
        self.predictor = SimSiamPredictionHead(dim, config.predictor_hidden_dim, dim)

    @property
    def backbone(self) -> Backbone:
        """Return the only backbone."""
        return self.encoder.backbone

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return -1/2 (cos(p1, stop(z2)) + cos(p2, stop(z1))), averaged over the batch."""
        first, second = self.encoder.encode(views[0]), self.encoder.encode(views[1])
        z1, z2 = first[1], second[1]
        p1, p2 = self.predictor(z1).float(), self.predictor(z2).float()
        loss = (negative_cosine(p1, z2.detach()) + negative_cosine(p2, z1.detach())) / 2
        return MethodOutput(loss, z1, second_embedding=z2.detach(), encoded=EncodedViews.of(first, second))

    def embed(self, images: Tensor) -> Tensor:
        """Return the projection, after its batch norm without affine."""
        return self.encoder(images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the encoder's group and the predictor's, whose learning rate is constant (paper, section 4.2)."""
        return [
            {"params": list(trainable(self.encoder))},
            {"params": list(trainable(self.predictor)), "fixed_lr": True},
        ]
