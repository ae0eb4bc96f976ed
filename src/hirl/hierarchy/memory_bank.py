"""A memory bank: rows for each training image, kept up to date by the training steps. This is beyond the paper.

A training step encodes views of its images anyway. The bank keeps what it finds, so that a tree needs no pass over the
images. DeepCluster-v2 clusters such a bank (Caron et al., https://arxiv.org/abs/2006.09882).

Shapes: N images, n those of this rank's shard, B images of a batch, V views, C features, D width of the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.distributed.collectives import all_gather_shards, gather, is_main_process, shard_range, total
from hirl.hierarchy.invariant import CovarianceWithin
from hirl.methods.base import EncodedViews

RATE = 0.5  # how far a step moves an image's rows: the last epoch counts half, the one before a quarter


class MemoryBank:
    """Running means of all images' unit embeddings and, for invariant features, of their unit backbone features.

    For invariant features it also has the covariance of the features within images since the last tree. Each rank keeps
    the rows of its shard of the images, and gets them from the ranks that encode the images. An image that an epoch
    leaves out keeps its rows.

    Args:
        embeddings: [n, D], with which the bank starts: those of a pass over the images.
        means: [n, C], the mean unit features of a pass; None if embeddings are clustered.
        images: N.
    """

    def __init__(self, embeddings: Tensor, means: Tensor | None, images: int):
        self.images, self.first = images, shard_range(images).start
        rows = {"embeddings": F.normalize(embeddings.float(), dim=1)} | ({} if means is None else {"means": means})
        # the last row takes what other ranks keep, so that no step asks the device how many rows there are
        self._rows = {name: F.pad(own, (0, 0, 0, 1)) for name, own in rows.items()}
        self._covariance = None if means is None else CovarianceWithin(means.shape[1], means.device)

    @torch.no_grad()
    def update(self, images: Tensor, encoded: EncodedViews) -> None:
        """Move the rows of images int64 [B] to what a step found of them. Nothing waits for the device."""
        found = {"embeddings": F.normalize(torch.stack(encoded.embeddings).float(), dim=2).mean(dim=0)}
        if self._covariance is not None:
            found["means"] = self._covariance.add(torch.stack(encoded.features))
        places = gather(images) - self.first
        for name, rows in self._rows.items():
            spare = len(rows) - 1
            own = places.where((places >= 0) & (places < spare), spare)
            rows[own] = rows[own].lerp(gather(found[name]), RATE)

    def take(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the embeddings [n, D]; for invariant features also the means [n, C] and their covariance [C, C].

        The covariance starts anew.
        """
        embeddings = self._rows["embeddings"][:-1]
        if self._covariance is None:
            return embeddings, None, None
        covariance = self._covariance.value()
        self._covariance = CovarianceWithin(len(covariance), covariance.device)
        return embeddings, self._rows["means"][:-1], covariance

    def state(self) -> dict[str, Tensor]:
        """Return the bank of all ranks for a checkpoint; all ranks call together."""
        state = {name: all_gather_shards(rows[:-1], self.images) for name, rows in self._rows.items()}
        if self._covariance is not None:
            state |= {"scatter": total(self._covariance.scatter), "freedom": total(self._covariance.freedom)}
        return state

    @classmethod
    def of_state(cls, state: dict[str, Tensor], device: torch.device) -> MemoryBank:
        """Return this rank's part of the bank of a checkpoint, on a device; rank 0 takes the sums of all ranks."""
        images = len(state["embeddings"])
        own = shard_range(images)
        rows = {name: state[name][own.start : own.stop].to(device) for name in ("embeddings", "means") if name in state}
        bank = cls(rows["embeddings"], rows.get("means"), images)
        bank._rows["embeddings"][:-1] = rows["embeddings"]  # running means are not of unit length
        if bank._covariance is not None and is_main_process():
            bank._covariance.scatter += state["scatter"].to(device)
            bank._covariance.freedom += state["freedom"].to(device)
        return bank
