"""iBOT (Zhou et al., https://arxiv.org/abs/2111.07832).

DINO on the class token, and the same self-distillation on masked patches: the student does not see them, the teacher
does and acts as an online tokenizer. Class token and patches share one head.

Deviations from the authors' code: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightly.models.modules.center import Center
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hirl.config import IBOTConfig
from hirl.data.masks import block_masks
from hirl.distributed.collectives import local_slice, world_size
from hirl.distributed.device import send
from hirl.methods import register
from hirl.methods.base import (
    Backbone,
    EncodedViews,
    MethodOutput,
    Step,
    full_precision,
    in_full_precision,
    require_vit,
)
from hirl.methods.dino import DINO
from hirl.methods.schedules import linear_warm_up
from hirl.models.backbones import ViT


@in_full_precision
def masked_patch_loss(target: Tensor, logits: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of masked patches, averaged over each image's masked patches and then over images.

    Args:
        target: [P, K] teacher probabilities of the P masked patches.
        logits: [P, K] of the student.
        weight: [P], 1 / (masked patches in the patch's view x number of views), as `_patch_weights` returns them.
        temperature: of the student.
    """
    return -(weight * (target * F.log_softmax(logits / temperature, dim=1)).sum(dim=1)).sum()


@register("ibot")
class IBOT(DINO):
    """Image BERT pre-training with an online tokenizer."""

    config: IBOTConfig

    def __init__(self, backbone: Backbone, config: IBOTConfig):
        super().__init__(require_vit(backbone, "iBOT"), config)
        self.mask_token = nn.Parameter(torch.zeros(backbone.num_features))
        self.patch_center = Center((1, config.prototypes), momentum=config.patch_center_momentum)

    @property
    def backbone(self) -> ViT:
        """Return the teacher's backbone."""
        return require_vit(self.teacher.backbone, "iBOT")

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return the class loss over all crops plus the patch loss over the masked patches of the global crops."""
        global_views = torch.cat(list(views[:2]))
        device, masked = global_views.device, self._draw_masks(global_views)
        # indices of masked patches, found on the CPU: finding them on the device would wait for it
        where = tuple(send(index, device) for index in masked.flatten(1).nonzero(as_tuple=True))
        tokens = require_vit(self.student.backbone, "iBOT").tokens(global_views, send(masked, device), self.mask_token)
        embeddings = [
            *self.student.projector(tokens[:, 0]).float().chunk(2),
            *(embedding for _, embedding in self.student.encode_multi_crop(views[2:])),
        ]
        patch_embedding = _project_patches(self.student.projector, tokens[:, 1:][where])
        taught, targets, patch_targets = self._teacher_targets(global_views, where, step.epoch)
        logits = [self.student_prototypes(embedding) for embedding in embeddings]
        patch_logits = self.student_prototypes(patch_embedding)
        class_loss = self._class_loss(targets, logits, step.epoch)
        weights = send(_patch_weights(masked.flatten(1)), device)
        patch_loss = masked_patch_loss(patch_targets, patch_logits, weights, self.config.student_temperature)
        losses = {"class_loss": class_loss.detach(), "patch_loss": patch_loss.detach()}
        metrics = self._collapse_metrics(logits[0]) | losses
        loss = class_loss + self.config.patch_loss_weight * patch_loss
        return MethodOutput(loss, embeddings[0], metrics, embeddings[1].detach(), taught)

    def _draw_masks(self, global_views: Tensor) -> Tensor:
        """Return which patches of both global views are masked, bool [2B, rows, columns] on the CPU."""
        grid = global_views.shape[-1] // self.backbone.patch_embed.patch_size[0]
        masks = block_masks(len(global_views) * world_size(), grid, self.config)
        return local_slice(masks.unflatten(0, (2, -1)), dim=1).flatten(0, 1)

    @torch.no_grad()
    def _teacher_targets(
        self, global_views: Tensor, where: tuple[Tensor, ...], epoch: int
    ) -> tuple[EncodedViews, list[Tensor], Tensor]:
        """Return what the teacher makes of both views, its class logits, and its probabilities of the masked patches.

        The patch center averages the logits of ALL patches. Logits are linear in the unit embedding, so the mean logits
        are the logits of the mean embedding: one product instead of one for each patch.
        """
        tokens = self.backbone.tokens(global_views)
        embeddings = self.teacher.projector(tokens[:, 0])
        targets = list(self.teacher_prototypes(embeddings).chunk(2))
        patches = _project_patches(self.teacher.projector, tokens[:, 1:].flatten(0, 1))
        patches = F.normalize(patches, dim=-1).unflatten(0, (len(global_views), -1))  # [2B, P, D]
        temperature = linear_warm_up(
            *self.config.patch_teacher_temperature, self.config.teacher_temperature_epochs, epoch
        )
        logits = self.teacher_prototypes(patches[where])
        probabilities = F.softmax((logits - self.patch_center.value) / temperature, dim=1)
        prototypes = F.normalize(self.teacher_prototypes.weight, dim=-1)
        with full_precision():
            self.patch_center.update(patches.mean(dim=(0, 1), keepdim=True)[0] @ prototypes.T)
        return EncodedViews(tokens[:, 0].chunk(2), embeddings.chunk(2)), targets, probabilities


def _project_patches(projector: nn.Module, patches: Tensor) -> Tensor:
    """Apply the shared head to patches [P, width] -> [P, D], without changing its running statistics."""
    norms = [layer for layer in projector.modules() if isinstance(layer, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    embedding = projector(patches).float()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return embedding


def _patch_weights(masked: Tensor) -> Tensor:
    """Return the weights of masked patches for a mean within each view, then over views: bool [2B, P] -> [masked]."""
    counts = masked.sum(dim=1, keepdim=True).clamp(min=1)
    return (1 / (counts * len(masked))).expand_as(masked)[masked]
