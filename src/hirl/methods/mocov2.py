"""MoCo v2 (Chen et al., arXiv 2003.04297).

A query encoder tells its image's other view, seen by a slowly moving key encoder, from a queue of keys of earlier
images. The queue makes the number of negatives independent of the batch. Batch norm would give the positive away, since
query and key would share their batch's statistics: they are taken over groups of images, shuffled for the keys. The
authors' groups are their GPUs; here they are part of the method, on any number of devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hirl.config import MoCoV2Config
from hirl.distributed.collectives import gather, local_slice, world_size
from hirl.distributed.parallel import replace_norms
from hirl.methods import register
from hirl.methods.base import Encoder, Method, MethodOutput, Step, in_full_precision, momentum_copy, update_momentum


@in_full_precision
def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of picking the positive key: logits [q.k, q @ queue] / T, the target is column 0.

    Args:
        query: [B, D] unit rows.
        key: [B, D] unit rows, the positives.
        queue: [Q, D] unit rows, the negatives.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, query @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


@register("mocov2")
class MoCoV2(Method):
    """Momentum contrast with a queue."""

    queue: Tensor
    oldest: Tensor

    def __init__(self, backbone: nn.Module, config: MoCoV2Config):
        super().__init__()
        if config.batch_norm_groups % world_size():
            raise ValueError(
                f"model.batch_norm_groups {config.batch_norm_groups} is no multiple of the {world_size()} ranks: "
                "change either"
            )
        self.config = config
        self.embedding_dim = config.embedding_dim
        projector = MoCoProjectionHead(backbone.num_features, config.hidden_dim, config.embedding_dim)
        self.query_encoder = Encoder(backbone, projector)
        replace_norms(self.query_encoder, partial(_BatchNormInGroups, config.batch_norm_groups // world_size()))
        self.key_encoder = momentum_copy(self.query_encoder)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue_size, config.embedding_dim), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    @property
    def backbone(self) -> nn.Module:
        """The query encoder's backbone."""
        return self.query_encoder.backbone

    def before_step(self, step: Step) -> None:
        """The key encoder moves before it computes this batch's keys."""
        update_momentum(self.key_encoder, self.query_encoder, self.config.momentum)

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Queries from view 0, keys from view 1, negatives from the queue as earlier batches left it."""
        with _statistics_in_turn(self.query_encoder):
            embedding = self.query_encoder(views[0])
        keys = F.normalize(self._keys(views[1]), dim=1)
        loss = info_nce(F.normalize(embedding, dim=1), local_slice(keys), self.queue.clone(), self.config.temperature)
        self._enqueue(keys)
        return MethodOutput(loss, embedding)

    def embed(self, images: Tensor) -> Tensor:
        """The key encoder's projection."""
        return self.key_encoder(images)

    @torch.no_grad()
    def _keys(self, views: Tensor) -> Tensor:
        """All ranks' keys of a shuffled batch, in the views' order: a key's group is hardly ever its query's."""
        views = gather(views)
        order = torch.randperm(len(views), device=views.device)
        with _statistics_in_turn(self.key_encoder):
            return gather(self.key_encoder(local_slice(views[order])))[order.argsort()]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Replaces the oldest keys; the queue is a ring."""
        if len(keys) > len(self.queue):
            raise ValueError(f"model.queue_size {len(self.queue)} is less than a batch of {len(keys)}: raise it")
        slots = (self.oldest + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[slots] = keys
        self.oldest.add_(len(keys)).remainder_(len(self.queue))


class _BatchNormInGroups(_BatchNorm):
    """Batch norm within each of a rank's groups, consecutive images; running statistics see one after the other."""

    def __init__(self, groups: int, *args: Any):
        super().__init__(*args)
        self.groups = groups

    def _check_input_dim(self, values: Tensor) -> None:
        """Any that has channels."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.groups == 1:
            return super().forward(values)
        return torch.cat([super(_BatchNormInGroups, self).forward(group) for group in values.chunk(self.groups)])


@contextmanager
def _statistics_in_turn(encoder: Encoder) -> Iterator[None]:
    """Running statistics that the groups of each rank moved end as if one rank had seen all groups in turn.

    u groups take a running value r to d r + a, with d = (1 - momentum)^u. So do the ranks' values one after the other.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, _BatchNormInGroups)]
    if world_size() == 1 or not norms:
        yield
        return
    # .data: the backward pass uses none of these, as batch norm itself, which writes them, lets autograd know
    running = [buffer.data for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    before = torch.cat(running)
    yield
    decay = (1 - norms[0].momentum) ** norms[0].groups
    value = before
    for after in gather(torch.cat(running)[None]):
        value = decay * value + after - decay * before
    torch._foreach_copy_(running, list(value.split([len(buffer) for buffer in running])))
