"""HIRL around any method: L projections of its embedding, the semantic tree and the path loss.

The wrapper is itself a Method, so that a baseline and its HIRL version train alike. It knows no method by name.

Source: HIRL (https://arxiv.org/abs/2205.13159), section 4. Deviations: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from hirl.config import HierarchyConfig
from hirl.distributed.collectives import gather, is_main_process, total
from hirl.hierarchy.diagnostics import snapshot_metrics
from hirl.hierarchy.invariant import CovarianceWithin, whiten
from hirl.hierarchy.kmeans import hierarchical_kmeans
from hirl.hierarchy.memory_bank import MemoryBank
from hirl.hierarchy.path_loss import path_loss, sample_negative_paths
from hirl.hierarchy.tree import SemanticTree
from hirl.methods.base import (
    Backbone,
    EncodeAll,
    EncodedViews,
    Method,
    MethodOutput,
    Step,
    full_precision,
    split_decay,
    trainable,
)


class HIRL(Method):
    """A method with semantic path discrimination: total loss = image loss + weight * path loss.

    Before `start_epoch` there is the image loss only. From then on, all training images are embedded and clustered into
    a new tree every `snapshot_epochs` epochs.

    Beyond the paper, off by default: `features: invariant` clusters invariant features (hirl.hierarchy.invariant), with
    the clusters' mean embeddings as centroids; `encode: steps` takes what is clustered from a memory bank that the
    training steps fill (hirl.hierarchy.memory_bank), once a first tree was made by a pass over the images; `weight`
    scales the path loss; for `projection_warmup_epochs` from `start_epoch` on, only the projections learn from it;
    `tree` names trees that no clustering made, which the training gives.

    In a training loop of your own, `cluster` makes a tree, and `path_loss` is added to your loss. The method may then
    be any module that has `embedding_dim` and `embed`.

    Attributes:
        projections: L small MLPs, one for each level of the tree, finest first.
        tree: the current tree, or None before the first.
        bank: the memory bank; None before the first tree, and if trees are made by passes.
        given: the tree whose clusters every tree has, in a control study (hirl.hierarchy.control_trees); else None.
    """

    def __init__(self, method: Method, config: HierarchyConfig, seed: int = 0):
        super().__init__()
        self.method = method
        self.config = config
        self.seed = seed
        self.embedding_dim = method.embedding_dim
        self.projections = nn.ModuleList(
            _projection(self.embedding_dim, config.mlp_layers) for _ in config.num_clusters
        )
        self.tree: SemanticTree | None = None
        self.bank: MemoryBank | None = None
        self.given: SemanticTree | None = None

    @property
    def backbone(self) -> Backbone:
        """Return the method's evaluated backbone."""
        return self.method.backbone

    def embed(self, images: Tensor) -> Tensor:
        """Return the method's own embedding: clustering does not use the projections."""
        return self.method.embed(images)

    def before_epoch(self, epoch: int, encode_all: EncodeAll) -> dict[str, float] | None:
        """Call the method's hook; then make a new tree, if one is due, and return its diagnostics on rank 0."""
        self.method.before_epoch(epoch, encode_all)
        since_start = epoch - self.config.start_epoch
        if since_start < 0 or since_start % self.config.snapshot_epochs:
            return None
        previous, self.tree = self.tree, self.make_tree(encode_all)
        return snapshot_metrics(self.tree, previous) if is_main_process() else None

    def make_tree(self, encode_all: EncodeAll) -> SemanticTree:
        """Return a new tree, which all ranks make together: each has the rows of its shard of the images."""
        config = self.config
        embeddings, means, covariance = self._encode(encode_all) if self.bank is None else self.bank.take()
        if self.given is not None:
            return self.given.to(embeddings.device).in_space_of(embeddings)
        images = self._count(embeddings)
        if config.encode == "steps" and self.bank is None:
            self.bank = MemoryBank(embeddings, means, images)
        features = embeddings if means is None or covariance is None else whiten(means, covariance, images)
        tree = hierarchical_kmeans(features, config.num_clusters, config.kmeans, self.seed, self.tree, images)
        return tree if means is None else tree.in_space_of(embeddings)

    def _encode(self, encode_all: EncodeAll) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the embeddings [n, D] of this rank's images, from a pass over all.

        For invariant features, also return the means [n, C] of their views' features and the covariance within images.
        """
        embeddings = encode_all(self.embed, self.embedding_dim)
        if self.config.features == "embedding":
            return embeddings, None, None
        width = self.backbone.num_features
        covariance = CovarianceWithin(width, embeddings.device)

        def mean_of_views(views: Tensor) -> Tensor:
            return covariance.add(torch.stack([self.backbone(view) for view in views]))

        means = encode_all(mean_of_views, width, self.config.views)
        return embeddings, means, covariance.value()

    def _count(self, rows: Tensor) -> int:
        """Return the number of rows of all ranks."""
        return int(total(torch.tensor(len(rows), device=rows.device)))

    def before_step(self, step: Step) -> None:
        """Call the method's hook."""
        self.method.before_step(step)

    def after_step(self, step: Step) -> None:
        """Call the method's hook."""
        self.method.after_step(step)

    def forward(self, views: Sequence[Tensor], step: Step) -> MethodOutput:
        """Return the method's output with the path loss added to its loss and metrics.

        Raises:
            ValueError: `reassign` is set, but the method does not embed view 1 online; or `encode` is steps, but the
                method encodes too few views.
        """
        output = self.method(views, step)
        if self.config.encode == "steps":
            encoded = self._encoded_views(output)
            if self.bank is not None:
                self.bank.update(step.images, encoded)
        if self.tree is None:
            return output
        paths = self._own_paths(output, step.images)
        embedding = output.embedding.detach() if self._projections_warm_up(step) else output.embedding
        spd = self._path_loss(self.tree, embedding, paths, step.images)
        metrics = output.metrics | {"image_loss": output.loss.detach(), "path_loss": spd.detach()}
        loss = output.loss + self.config.weight * spd
        return replace(output, loss=loss, metrics=metrics)

    def _path_loss(self, tree: SemanticTree, embedding: Tensor, paths: Tensor, images: Tensor) -> Tensor:
        """Return the path loss of embeddings [B, D] whose own paths are given, int64 [B, L]."""
        negatives = None
        if self.config.negatives != "all":
            negatives = sample_negative_paths(tree, images, self.config.negatives)
        embeddings = torch.stack([projection(embedding).float() for projection in self.projections], dim=1)
        return path_loss(embeddings, tree, paths, negatives)

    # --- in a training loop of your own -------------------------------------------------------------------------------

    @torch.no_grad()
    def cluster(self, batches: Iterable[Tensor]) -> SemanticTree:
        """Embed all training images and cluster them into a new tree, which `path_loss` reads from then on.

        Args:
            batches: [B, 3, H, W] each, as `embed` takes them; together every image once, in the order of the indices
                that `path_loss` gets.

        Raises:
            ValueError: there are fewer images than clusters, or the configuration asks for more than one view.
        """
        if self.config.features != "embedding":
            raise ValueError("hierarchy.features is invariant, which needs views: in a loop of your own, use embedding")
        device, training = next(self.parameters()).device, self.method.training
        self.method.eval()
        embeddings = torch.cat([self.method.embed(batch.to(device)).float() for batch in batches])
        self.method.train(training)
        self.tree = self.make_tree(lambda encode, width, num_views=0: embeddings)
        return self.tree

    def path_loss(self, embedding: Tensor, images: Tensor) -> Tensor:
        """Return `weight` times the path loss of a batch, to be added to your loss; 0 before the first tree.

        Args:
            embedding: [B, D], with gradient and before normalisation: the online network's, of one view.
            images: int64 [B], the indices of the batch's images.
        """
        if self.tree is None:
            return embedding.new_zeros(())
        images = images.to(embedding.device)
        return self.config.weight * self._path_loss(self.tree, embedding, self.tree.assignments[images], images)

    def _encoded_views(self, output: MethodOutput) -> EncodedViews:
        """Return what the memory bank takes from a step, after checking that there is enough of it."""
        encoded, needed = output.encoded, 2 if self.config.features == "invariant" else 1
        if encoded is None or len(encoded.features) < needed:
            found = 0 if encoded is None else len(encoded.features)
            raise ValueError(
                f"hierarchy.encode is steps, and {self.config.features} features need {needed} encoded views of an "
                f"image in a step, but the method gives {found}: set hierarchy.encode to pass"
            )
        return encoded

    def _projections_warm_up(self, step: Step) -> bool:
        return step.epoch < self.config.start_epoch + self.config.projection_warmup_epochs

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the method's groups and those of the projections, which follow the method's rule of weight decay."""
        groups = self.method.parameter_groups()
        if any("decay" in group for group in groups):
            return groups + split_decay(self.projections)
        return [*groups, {"params": list(trainable(self.projections))}]

    @torch.no_grad()
    def _own_paths(self, output: MethodOutput, images: Tensor) -> Tensor:
        """Return the images' own paths, [B, L]; with `reassign`, first move them to the clusters nearest to view 1."""
        assert self.tree is not None
        if self.config.reassign:
            if output.second_embedding is None:
                raise ValueError("hierarchy.reassign needs a method that embeds view 1 online: set it to false")
            with full_precision():
                similarity = F.normalize(output.second_embedding, dim=1) @ self.tree.centroids[0].T
            paths = self.tree.paths[similarity.argmax(dim=1)]
            self.tree.assignments[gather(images)] = gather(paths)
        return self.tree.assignments[images]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the tree and the memory bank for the checkpoint, so that a resumed run keeps them; all ranks call."""
        if self.tree is None:
            return {}
        state = {name: getattr(self.tree, name) for name in ("centroids", "parents", "assignments")}
        return state if self.bank is None else state | {"bank": self.bank.state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the tree and the memory bank from a checkpoint, if it has them, to this network's device."""
        device, state = next(self.parameters()).device, dict(state)
        bank = state.pop("bank", None)
        self.bank = MemoryBank.of_state(bank, device) if bank else None
        self.tree = SemanticTree(**state).to(device) if state else None


def _projection(dim: int, layers: int) -> ProjectionHead:
    """Build an MLP of the embedding's width: (Linear without bias, BatchNorm, ReLU) x (layers - 1), then Linear."""
    hidden = [(width, out, nn.BatchNorm1d(out), nn.ReLU()) for width, out in pairwise([dim] * layers)]
    return ProjectionHead([*hidden, (dim, dim, None, None)])
