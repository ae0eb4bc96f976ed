"""The contract of a method, and the few parts that several methods share.

Shapes: B images of a batch, D embedding width, K prototypes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hirl.models.backbones import Backbone, ViT

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Step:
    """A training step.

    Attributes:
        number: of the step, from 0 to `epochs` x `per_epoch` - 1.
        images: int64 [B], the indices of the batch's images in the training split.
    """

    number: int
    per_epoch: int
    epochs: int
    images: Tensor

    @property
    def epoch(self) -> int:
        """Return the epoch of this step, from 0."""
        return self.number // self.per_epoch

    @property
    def progress(self) -> float:
        """Return the share of the training that is done before this step, in [0, 1)."""
        return self.number / (self.per_epoch * self.epochs)


@dataclass(frozen=True)
class EncodedViews:
    """The features [B, C] and the embeddings [B, D] of each of V global views, detached; embeddings of any length.

    They are those of the momentum or teacher network where a step computes them, else of the online network.
    """

    features: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...]

    @classmethod
    def of(cls, *views: tuple[Tensor, Tensor]) -> EncodedViews:
        """Return the features and embeddings of views, given view by view."""
        features, embeddings = zip(*views, strict=True)
        return cls(tuple(rows.detach() for rows in features), tuple(rows.detach() for rows in embeddings))


@dataclass(frozen=True)
class MethodOutput:
    """The output of one forward pass of a method.

    Attributes:
        loss: scalar to minimise.
        embedding: [B, D], the online network's projection of view 0 before normalisation, with gradient.
        metrics: detached scalars to record, such as collapse metrics.
        second_embedding: [B, D], detached projection of view 1, if the online network computes it anyway.
        encoded: what the step computes of its global views anyway; None if the method does not tell.
    """

    loss: Tensor
    embedding: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    second_embedding: Tensor | None = None
    encoded: EncodedViews | None = None


class EncodeAll(Protocol):
    """Run all N training images through a function, each image once, the network in evaluation mode."""

    def __call__(self, encode: Callable[[Tensor], Tensor], width: int, num_views: int = 0) -> Tensor:
        """Return the rows [N, width] in the images' order; of several ranks, each gets its shard of the rows.

        Args:
            encode: from the evaluation views of a batch, [B, 3, S, S], to its rows [B, width].
            num_views: V random global views instead: `encode` then gets [V, B, 3, S, S].
        """


class Method(nn.Module):
    """A self-supervised method, built from a backbone and its own typed configuration.

    A subclass sets `embedding_dim`, and defines `backbone`, `forward` and `embed`. It draws all random numbers from
    torch's default generators, which the training seeds for every step. If its configuration has a `tokenizer`, the
    third argument of the constructor is a `Tokenizer`.
    """

    embedding_dim: int
    global_crops = 2  # the smallest number of global views that `forward` takes

    @property
    def backbone(self) -> Backbone:
        """Return the network that is evaluated."""
        raise NotImplementedError

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return the loss and the embedding of a batch of views, each [B, 3, H, W], global ones first."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Return the [B, D] projections that are clustered: the momentum or teacher network's, if there is one."""
        raise NotImplementedError

    def before_epoch(self, epoch: int, encode_all: EncodeAll) -> dict[str, float] | None:
        """Do what is due before an epoch; the training calls it.

        Args:
            epoch: from 0.
            encode_all: runs all training images through a function of this method.

        Returns:
            The metrics of a new tree, on rank 0, if the method made one.
        """

    def before_step(self, step: Step) -> None:
        """Do what is due before a forward pass, such as momentum updates and freezing."""

    def after_step(self, step: Step) -> None:
        """Do what is due after the optimiser's step."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups; `decay: False` means no weight decay, `fixed_lr: True` keeps the peak rate."""
        return [{"params": list(trainable(self))}]


class Encoder(nn.Module):
    """A backbone and its projector: images [B, 3, H, W] -> embedding [B, D], in float32 even under autocast."""

    backbone: Backbone

    def __init__(self, backbone: Backbone, projector: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding of one view."""
        return self.encode(images)[1]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features [B, C] and the embedding of one view."""
        features = self.backbone(images)
        return features, self.projector(features).float()

    def encode_multi_crop(self, views: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return `encode` of every view; views of one size share one forward pass, and its batch statistics."""
        sizes = [view.shape[-1] for view in views]
        encoded: list[tuple[Tensor, Tensor]] = []
        for size in sorted(set(sizes), key=sizes.index):
            same = [view for view in views if view.shape[-1] == size]
            parts = (rows.chunk(len(same)) for rows in self.encode(torch.cat(same)))
            encoded += zip(*parts, strict=True)
        return encoded


class Prototypes(nn.Module):
    """K prototypes, compared with embeddings by cosine: [B, D] -> logits [B, K]."""

    def __init__(self, dim: int, number: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(number, dim), std=0.02))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the cosine with every prototype."""
        with full_precision():
            return F.linear(F.normalize(embedding.float(), dim=-1), F.normalize(self.weight, dim=-1))


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch autocast off: logits and losses stay float32, since temperatures magnify the rounding of bf16."""
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        yield


def in_full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a loss to run without autocast."""

    @functools.wraps(loss)
    def run(*args: Any) -> Tensor:
        with full_precision():
            return loss(*args)

    return run


def require_vit(backbone: Backbone, method: str) -> ViT:
    """Return the backbone after checking that it is a ViT.

    Raises:
        ValueError: it is not a ViT.
    """
    if not isinstance(backbone, ViT):
        raise ValueError(f"{method} masks the patches of a ViT: choose one as backbone.name")
    return backbone


def trainable(module: nn.Module) -> Iterator[nn.Parameter]:
    """Return the parameters that take gradients."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def split_decay(module: nn.Module, without: Sequence[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Group parameters: weight decay for matrices; none for biases, norms, other vectors, and those of `without`.

    lightly's get_weight_decay_parameters would also decay vectors other than biases and norms, such as a mask token.
    """
    free = {id(parameter) for parameter in trainable(module) if parameter.ndim <= 1} | set(map(id, without))
    parameters = list(trainable(module))
    return [
        {"params": [parameter for parameter in parameters if id(parameter) not in free]},
        {"params": [parameter for parameter in parameters if id(parameter) in free], "decay": False},
    ]


def momentum_copy(module: M) -> M:
    """Return a copy without gradients and without drop path, to start a momentum or teacher network."""
    copied = copy.deepcopy(module).requires_grad_(False)
    for layer in copied.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0
    return copied


@torch.no_grad()
def update_momentum(average: nn.Module, online: nn.Module, momentum: float) -> None:
    """Set each parameter to momentum * average + (1 - momentum) * online; buffers of batch norm are left alone."""
    # one pass; lightly's update_momentum takes two, which rounds differently
    torch._foreach_lerp_(list(average.parameters()), list(online.parameters()), 1 - momentum)


def prototype_perplexity(assignments: Tensor) -> Tensor:
    """Return the prototype perplexity, a collapse metric: exp(entropy of a batch's mean assignment), in [1, K].

    Args:
        assignments: [B, K], rows summing to one.
    """
    mean = assignments.detach().float().mean(dim=0)
    return torch.special.entr(mean).sum().exp()
