"""SwAV (Caron et al., arXiv 2006.09882).

Prototypes cluster the batch online: the code that one view gets, balanced over prototypes by Sinkhorn's iterations, is
predicted from the other views, small local crops included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.models.modules.heads import SwaVProjectionHead
from torch import Tensor, nn

from hirl.config import SwAVConfig
from hirl.methods import register
from hirl.methods.base import Encoder, Method, MethodOutput, Prototypes, Step, full_precision, prototype_perplexity


@register("swav")
class SwAV(Method):
    """Swapped prediction of balanced codes over l2-normalised prototypes."""

    def __init__(self, backbone: nn.Module, config: SwAVConfig):
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
    def backbone(self) -> nn.Module:
        """The one backbone there is."""
        return self.encoder.backbone

    def before_step(self, step: Step) -> None:
        """The prototypes are frozen at first."""
        self.prototypes.requires_grad_(step.number >= self.config.frozen_prototype_steps)

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Codes from the two global views, each predicted from every other view."""
        embeddings = self.encoder.forward_multi_crop(views)
        scores = [self.prototypes(embedding) for embedding in embeddings]
        with full_precision():
            loss = self.swapped_prediction(scores[:2], scores[2:]).squeeze()
        used = prototype_perplexity(F.softmax(scores[0].detach() / self.config.temperature, dim=1))
        return MethodOutput(loss, embeddings[0], {"prototype_perplexity": used}, embeddings[1].detach())

    def embed(self, images: Tensor) -> Tensor:
        """The projection, before normalisation."""
        return self.encoder(images)
