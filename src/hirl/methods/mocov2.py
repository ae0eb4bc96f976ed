"""MoCo v2 (Chen et al., https://arxiv.org/abs/2003.04297).

A query is matched with its key, the other view of its image, against a queue of keys of earlier images as negatives.
The key encoder is an exponential moving average of the query encoder. The queue makes the number of negatives
independent of the batch.

Shuffled batch norm: if a query and its key share batch statistics, these give the positive away. Statistics are
therefore taken over groups of images, and the keys are shuffled over the groups. The authors' groups are their GPUs;
here the number of groups is a setting of the method, the same on any number of GPUs.

Deviations from the authors' code: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hirl.config import MoCoV2Config
from hirl.distributed.collectives import gather, local_slice, world_size
from hirl.distributed.parallel import replace_norms
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


@in_full_precision
def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the InfoNCE loss: the cross-entropy of logits [q.k, q @ queue] / T with column 0, the positive.

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
    """Momentum contrast with a queue of negatives."""

    queue: Tensor
    oldest: Tensor

    def __init__(self, backbone: Backbone, config: MoCoV2Config):
        super().__init__()
        if config.batch_norm_groups % world_size():
            raise ValueError(
                f"model.batch_norm_groups {config.batch_norm_groups} is not a multiple of the {world_size()} ranks: "
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
    def backbone(self) -> Backbone:
        """Return the query encoder's backbone."""
        return self.query_encoder.backbone

    def before_step(self, step: Step) -> None:
        """Update the key encoder before it computes the keys of this batch."""
        update_momentum(self.key_encoder, self.query_encoder, self.config.momentum)

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return the loss of queries from view 0, keys from view 1, and negatives from the queue of earlier batches."""
        with _chained_statistics(self.query_encoder):
            features, embedding = self.query_encoder.encode(views[0])
        key_features, keys = self._keys(views[1])
        keys = F.normalize(keys, dim=1)
        key = local_slice(keys)
        loss = info_nce(F.normalize(embedding, dim=1), key, self.queue.clone(), self.config.temperature)
        self._enqueue(keys)
        encoded = EncodedViews.of((features, embedding), (local_slice(key_features), key))
        return MethodOutput(loss, embedding, encoded=encoded)

    def embed(self, images: Tensor) -> Tensor:
        """Return the key encoder's projection."""
        return self.key_encoder(images)

    @torch.no_grad()
    def _keys(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and keys of all ranks, computed on the shuffled batch and put back into the views' order."""
        views = gather(views)
        order = torch.randperm(len(views), device=views.device)
        with _chained_statistics(self.key_encoder):
            features, keys = self.key_encoder.encode(local_slice(views[order]))
        back = order.argsort()
        return gather(features)[back], gather(keys)[back]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys of the queue, which is a ring buffer."""
        if len(keys) > len(self.queue):
            raise ValueError(f"model.queue_size {len(self.queue)} is less than the batch of {len(keys)}: raise it")
        slots = (self.oldest + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[slots] = keys
        self.oldest.add_(len(keys)).remainder_(len(self.queue))


class _BatchNormInGroups(_BatchNorm):
    """Batch norm within each group of consecutive images of a rank; running statistics are updated group by group."""

    def __init__(self, groups: int, *args: Any):
        super().__init__(*args)
        self.groups = groups

    def _check_input_dim(self, values: Tensor) -> None:
        """Accept input of any number of dimensions."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.groups == 1:
            return super().forward(values)
        return torch.cat([super(_BatchNormInGroups, self).forward(group) for group in values.chunk(self.groups)])


@contextmanager
def _chained_statistics(encoder: Encoder) -> Iterator[None]:
    """Give all ranks the running statistics of one process that sees all groups, one after the other.

    The u groups of a rank turn a running value r into d r + a, with d = (1 - momentum)^u. The updates of the ranks are
    applied one after the other.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, _BatchNormInGroups)]
    if world_size() == 1 or not norms:
        yield
        return
    # .data: batch norm writes these buffers behind autograd's back too; the backward pass uses none of them
    buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    running = [buffer.data for buffer in buffers if buffer is not None]
    before = torch.cat(running)
    yield
    assert norms[0].momentum is not None
    decay = (1 - norms[0].momentum) ** norms[0].groups
    value = before
    for after in gather(torch.cat(running)[None]):
        value = decay * value + after - decay * before
    torch._foreach_copy_(running, list(value.split([len(buffer) for buffer in running])))
