"""Invariant features, which trees can be built on instead of embeddings. This is beyond the paper.

The features of an image are averaged over random views, then whitened by their covariance within images: directions in
which augmentation moves the features count little. In speaker recognition this is within-class covariance normalisation
(Hatch, Kajarekar and Stolcke, 2006); here each image is a class, and its views are the members.

Shapes: N images, n those of this rank's shard, B images of a batch, V views, C features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.distributed.collectives import total
from hirl.methods.base import full_precision

RIDGE = 1e-4  # of the mean eigenvalue, added to every eigenvalue: features without spread stay finite


class CovarianceWithin:
    """The covariance of unit features within images, gathered batch by batch.

    Args:
        width: C.
    """

    def __init__(self, width: int, device: torch.device):
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.freedom = torch.zeros(1, dtype=torch.float64, device=device)  # views beyond the first of each image

    def add(self, features: Tensor) -> Tensor:
        """Return the mean [B, C] of the unit features of views [V, B, C]; add how they scatter around it."""
        units = F.normalize(features.float(), dim=2)
        mean = units.mean(dim=0)
        centered = (units - mean).flatten(0, 1).double()
        with full_precision():
            self.scatter += centered.T @ centered
        self.freedom += (len(units) - 1) * len(mean)
        return mean

    def value(self) -> Tensor:
        """Return the covariance, float64 [C, C], of the images of all ranks."""
        return total(self.scatter) / total(self.freedom)


def whiten(means: Tensor, covariance: Tensor, images: int) -> Tensor:
    """Return the means, centred and whitened by a covariance [C, C], as unit rows.

    Args:
        means: [N, C]; of several ranks, the rank's shard of the rows.
        images: N.

    Raises:
        ValueError: the covariance is zero or not finite: the views of an image do not differ.
    """
    if not covariance.trace() > 0:
        raise ValueError("the features of an image's views are all alike: the backbone has collapsed, or diverged")
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0) + RIDGE * values.mean()
    whitening = vectors * values.rsqrt() @ vectors.T
    centered = means - total(means.sum(dim=0)) / images
    return F.normalize(centered.double() @ whitening, dim=1).to(means.dtype)
