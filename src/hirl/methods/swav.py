"""SwAV (Caron et al., https://arxiv.org/abs/2006.09882).

Online clustering with prototypes. Each global view gets a code: its assignment to the prototypes, balanced over the
batch by Sinkhorn-Knopp. The code is predicted from the other views of the image, local crops included (swapped
prediction).

Deviations from the authors' code: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.models.modules.heads import SwaVProjectionHead
from torch import Tensor

from hirl.config import SwAVConfig
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
    prototype_perplexity,
)


@register("swav")
class SwAV(Method):
    """Swapped prediction of balanced codes over prototypes."""

    def __init__(self, backbone: Backbone, config: SwAVConfig):
        super().__init__()
        self.config = config
        self.embedding_dim = config.embedding_dim
        projector = SwaVProjectionHead(backbone.num_features, config.hidden_dim, config.embedding_dim)
        self.encoder = Encoder(backbone, projector)
        self.prototypes = Prototypes(config.embedding_dim, config.prototypes)
        self.swapped_prediction = SwaVLoss(
            config.temperature, config.sinkhorn_iterations, config.epsilon, sinkhorn_gather_distributed=True
        )

    @property
    def backbone(self) -> Backbone:
        """Return the only backbone."""
        return self.encoder.backbone

    def before_step(self, step: Step) -> None:
        """Freeze the prototypes during the first steps."""
        self.prototypes.requires_grad_(step.number >= self.config.frozen_prototype_steps)

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return the loss of predicting the codes of both global views from every other view."""
        encoded = self.encoder.encode_multi_crop(views)
        embeddings = [embedding for _, embedding in encoded]
        logits = [self.prototypes(embedding) for embedding in embeddings]
        with full_precision():
            loss = self.swapped_prediction(logits[:2], logits[2:]).squeeze()
        perplexity = prototype_perplexity(F.softmax(logits[0].detach() / self.config.temperature, dim=1))
        metrics = {"prototype_perplexity": perplexity}
        return MethodOutput(loss, embeddings[0], metrics, embeddings[1].detach(), EncodedViews.of(*encoded[:2]))

    def embed(self, images: Tensor) -> Tensor:
        """Return the projection, before normalisation."""
        return self.encoder(images)
