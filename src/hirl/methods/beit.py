"""BEiT (Bao et al., https://arxiv.org/abs/2106.08254).

Blocks of an image's patches are replaced by a mask token. The network predicts the visual token of each masked patch:
the id that a frozen tokenizer gives to the patch in the unmasked image. There is one view and no momentum network.

Deviations from the authors' code: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.config import BEiTConfig
from hirl.data.masks import block_masks
from hirl.data.views import denormalize
from hirl.distributed.collectives import local_slice, mean, world_size
from hirl.distributed.device import send
from hirl.methods import register
from hirl.methods.base import (
    Backbone,
    EncodedViews,
    Encoder,
    Method,
    MethodOutput,
    Step,
    in_full_precision,
    require_vit,
    split_decay,
)
from hirl.models.backbones import ViT
from hirl.models.tokenizer import Tokenizer


@in_full_precision
def masked_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the cross-entropy of logits [P, V] with the visual tokens [P] of all P masked patches; 0 if P is 0.

    The mean is over the patches of all ranks, which hold different numbers of them.
    """
    count = mean(torch.full((), float(len(tokens)), device=logits.device)).clamp(min=1)
    return F.cross_entropy(logits.float(), tokens, reduction="sum") / count


@register("beit")
class BEiT(Method):
    """Masked image modelling; the embedding is the class token itself, without a projector."""

    global_crops = 1

    def __init__(self, backbone: Backbone, config: BEiTConfig, tokenizer: Tokenizer):
        super().__init__()
        backbone = require_vit(backbone, "BEiT")
        patch = backbone.patch_embed.patch_size[0]
        if tokenizer.patch_size > patch:
            raise ValueError(
                f"the tokenizer makes one token of {tokenizer.patch_size} pixels a side, the backbone one patch of "
                f"{patch}: give a tokenizer of at most {patch}, or a backbone with larger patches"
            )
        self.config, self.tokenizer = config, tokenizer
        self.embedding_dim = dim = backbone.num_features
        self.encoder = Encoder(backbone, nn.Identity())
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=0.02))
        self.token_head = nn.Linear(dim, tokenizer.vocabulary)
        nn.init.trunc_normal_(self.token_head.weight, std=0.02)
        nn.init.zeros_(self.token_head.bias)

    @property
    def backbone(self) -> ViT:
        """Return the only backbone."""
        return require_vit(self.encoder.backbone, "BEiT")

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return the loss over the masked patches of view 0; the embedding is the class token of the masked view."""
        images = views[0]
        grid = images.shape[-1] // self.backbone.patch_embed.patch_size[0]
        mask = local_slice(block_masks(len(images) * world_size(), grid, self.config))
        where = tuple(send(index, images.device) for index in mask.flatten(1).nonzero(as_tuple=True))
        tokens = self.backbone.tokens(images, send(mask, images.device), self.mask_token)
        logits = self.token_head(tokens[:, 1:][where])
        targets = self._visual_tokens(images, grid).flatten(1)[where]
        hits = (logits.argmax(dim=1) == targets).float().sum() / max(len(targets), 1)
        embedding = tokens[:, 0].float()
        encoded = EncodedViews.of((embedding, embedding))
        return MethodOutput(masked_token_loss(logits, targets), embedding, {"token_accuracy": hits}, encoded=encoded)

    def embed(self, images: Tensor) -> Tensor:
        """Return the class token of the unmasked image."""
        return self.encoder(images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups; biases, norms and the class token have no weight decay, others do."""
        class_token = self.backbone.cls_token
        assert class_token is not None
        return split_decay(self, without=[class_token])

    @torch.no_grad()
    def _visual_tokens(self, views: Tensor, grid: int) -> Tensor:
        """Return one visual token for each patch, [B, grid, grid], of the view resized to the tokenizer's grid."""
        pixels, side = denormalize(views), grid * self.tokenizer.patch_size
        if side != pixels.shape[-1]:
            pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return self.tokenizer(pixels)
