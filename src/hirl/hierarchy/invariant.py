"""Invariant features, which trees can be built on instead of embeddings. This is beyond the paper.

The backbone's features of an image are averaged over random views, then whitened by their covariance within images:
directions in which augmentation moves the features count little. In speaker recognition this is within-class covariance
normalisation (Hatch, Kajarekar and Stolcke, 2006); here each image is a class, and its views are the members.

Shapes: N images, B images of a batch, V views, C features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.distributed.collectives import total
from hirl.methods.base import full_precision

RIDGE = 1e-4  # of the mean eigenvalue, added to every eigenvalue: features without spread stay finite


class InvariantFeatures:
    """The mean features of all images, and the covariance of their views' features, gathered batch by batch.

    Args:
        backbone: images [B, 3, S, S] -> features [B, C].
        width: C.
    """

    def __init__(self, backbone: Callable[[Tensor], Tensor], width: int, device: torch.device):
        self.backbone = backbone
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.freedom = 0  # views beyond the first of each image

    def add(self, views: Tensor) -> Tensor:
        """Return the mean [B, C] of the unit features of views [V, B, 3, S, S]; add how they scatter around it."""
        features = torch.stack([F.normalize(self.backbone(view).float(), dim=1) for view in views])
        mean = features.mean(dim=0)
        centered = (features - mean).flatten(0, 1).double()
        with full_precision():
            self.scatter += centered.T @ centered
        self.freedom += (len(views) - 1) * len(mean)
        return mean

    def covariance(self) -> Tensor:
        """Return the covariance within images, float64 [C, C], of the images of all ranks."""
        freedom = total(torch.tensor(float(self.freedom), dtype=torch.float64, device=self.scatter.device))
        return total(self.scatter) / freedom


def whiten(means: Tensor, covariance: Tensor) -> Tensor:
    """Return the means [N, C], centred and whitened by a covariance [C, C], as unit rows.

    Raises:
        ValueError: the covariance is zero or not finite: the views of an image do not differ.
    """
    if not covariance.trace() > 0:
        raise ValueError("the features of an image's views are all alike: the backbone has collapsed, or diverged")
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0) + RIDGE * values.mean()
    whitening = vectors * values.rsqrt() @ vectors.T
    return F.normalize((means - means.mean(dim=0)).double() @ whitening, dim=1).to(means.dtype)
