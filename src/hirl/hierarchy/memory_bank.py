"""A memory bank: a row for each training image, kept up to date by the training steps. This is beyond the paper.

A training step embeds views of its images anyway. The bank keeps their embeddings, so that a tree needs no pass over
the images. DeepCluster-v2 clusters such a bank (Caron et al., https://arxiv.org/abs/2006.09882).

Shapes: N images, n those of this rank's shard, B images of a batch, V views, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.distributed.collectives import all_gather_shards, gather, is_main_process, shard_range, total
from hirl.hierarchy.invariant import CovarianceWithin

RATE = 0.5  # how far a step moves an image's row: the last epoch counts half, the one before a quarter


class MemoryBank:
    """Running means of all images' unit embeddings, and their covariance within images since the last tree.

    Each rank keeps the rows of its shard of the images, and gets them from the ranks that embed the images. An image
    that an epoch leaves out keeps its row.

    Args:
        rows: [n, D], with which the bank starts: the unit embeddings of a pass over the images.
        images: N.
    """

    def __init__(self, rows: Tensor, images: int):
        self.images, self.first = images, shard_range(images).start
        # the last row takes what other ranks keep, so that no step asks the device how many rows there are
        self._rows = F.pad(rows, (0, 0, 0, 1))
        self.covariance = CovarianceWithin(rows.shape[1], rows.device)

    @property
    def rows(self) -> Tensor:
        """Return the rows of this rank's shard, [n, D]."""
        return self._rows[:-1]

    @torch.no_grad()
    def update(self, images: Tensor, embeddings: Tensor) -> None:
        """Move the rows of images int64 [B] towards the embeddings of their views, [V, B, D]."""
        means, places = gather(self.covariance.add(embeddings)), gather(images) - self.first
        spare = len(self._rows) - 1
        places = places.where((places >= 0) & (places < spare), spare)
        self._rows[places] = self._rows[places].lerp(means, RATE)

    def take_covariance(self) -> Tensor:
        """Return the covariance within images, float64 [D, D], of the steps since the last call."""
        covariance = self.covariance.value()
        self.covariance = CovarianceWithin(len(covariance), covariance.device)
        return covariance

    def state(self) -> dict[str, Tensor]:
        """Return the bank of all ranks for a checkpoint; all ranks call together."""
        scatter, freedom = total(self.covariance.scatter), total(self.covariance.freedom)
        return {"rows": all_gather_shards(self.rows, self.images), "scatter": scatter, "freedom": freedom}

    @classmethod
    def of_state(cls, state: dict[str, Tensor], device: torch.device) -> MemoryBank:
        """Return this rank's part of the bank of a checkpoint, on a device; rank 0 takes the sums of all ranks."""
        rows = state["rows"]
        own = shard_range(len(rows))
        bank = cls(rows[own.start : own.stop].to(device), len(rows))
        if is_main_process():
            bank.covariance.scatter += state["scatter"].to(device)
            bank.covariance.freedom += state["freedom"].to(device)
        return bank
