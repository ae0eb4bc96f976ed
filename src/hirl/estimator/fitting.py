"""Fit HIRL to images: the steps of the workflow, one after the other, with the settings that `defaults` chooses.

Every step is one that a study has too: prepare the images, pretrain (a killed training resumes), encode, cluster.

Shapes: N images, C features, D embedding width.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from hirl.config import HierarchyConfig, KNNConfig, RunConfig, load_study
from hirl.distributed.device import choose_device, seed_step
from hirl.estimator.defaults import Choices, Facts, own_study
from hirl.estimator.images import FittedImages, OwnImages, load_fitted, prepare_once
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.knn import knn
from hirl.files import write_text
from hirl.hierarchy import SemanticTree
from hirl.hierarchy.wrapper import HIRL as Wrapper
from hirl.methods.base import Backbone, Method, MethodOutput, Step
from hirl.models.backbones import AnyBackbone, ResNet, ViT
from hirl.training.loop import encode_images, pretrain
from hirl.training.scratch import pretraining_folder

OWN_BACKBONE = "own"  # the name in a configuration of a network that the user gave as a module
STUDY = "study.yaml"  # the settings of a fit, in its folder
ENCODED_AT_ONCE = 256  # images


class Frozen(Method):
    """A backbone that is not trained: its features are what is clustered."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.network = backbone
        self.embedding_dim = int(backbone.num_features)

    @property
    def backbone(self) -> Backbone:
        """Return the backbone."""
        return self.network

    def forward(self, views: Any, step: Step) -> MethodOutput:
        """Refuse: nothing is trained."""
        raise NotImplementedError("frozen features have no loss")

    def embed(self, images: Tensor) -> Tensor:
        """Return the features [B, C]."""
        return self.network(images)


@dataclass(frozen=True)
class Fit:
    """The result of a fit; rows are in the order in which the user has the images.

    Attributes:
        network: the trained method without HIRL around it, or a Frozen backbone.
        features: float32 [N, C], the backbone's outputs.
        labels: int64 [N, L], the true classes; L is 0 without classes.
        knn: the top-1 accuracy of kNN on held-out images, in per cent; None without classes or held-out images.
        history: one row per epoch of training.
    """

    network: Method
    config: RunConfig
    tree: SemanticTree
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    fitted: FittedImages
    knn: float | None
    history: list[dict[str, float]]


def configure(
    own: OwnImages,
    choices: Choices,
    settings: Mapping[str, Any],
    seed: int,
    place: Path,
) -> tuple[RunConfig, HierarchyConfig]:
    """Write the study of a fit to a folder; return the configuration of its run, and that of the tree it ends with.

    The two differ for a baseline alone, which trains without a hierarchy.

    Args:
        settings: dotted keys to values, which go before all defaults.

    Raises:
        ValueError: there are too few images, or a choice or setting is impossible.
    """
    train = len(own.source.splits["train"].labels)
    facts = Facts(own.name, train, own.typical_side(), own.labelled, torch.cuda.is_available())
    text = yaml.safe_dump(own_study(facts, choices), sort_keys=False)
    write_text(
        place / STUDY, f"# Made for {own.count} images. A study: docs/studies.md says what may be changed.\n{text}"
    )
    study = load_study(str(place / STUDY))
    config = study.resolve(choices.method, choices.variant, seed, settings)
    hierarchy = config.hierarchy or study.resolve(choices.method, "hirl", seed, settings).hierarchy
    assert hierarchy is not None
    return config, hierarchy


def describe(own: OwnImages, config: RunConfig, hierarchy: HierarchyConfig, trains: bool, origin: str | None) -> str:
    """Return one line on what is about to be done.

    Args:
        origin: of the weights that are used, in words.
    """
    classes = len(own.source.classes) if own.labelled else 0
    images = f"{own.count} images" + (f" of {classes} classes" if classes else ", no classes")
    clusters = " > ".join(map(str, reversed(hierarchy.num_clusters)))
    network = f"{config.backbone.name} at {config.data.image_size} px" + (
        f" with weights of {origin}" if origin else ""
    )
    remark = f" ({own.remark})" if own.remark else ""
    if not trains:
        return f"{images}{remark}: features of {network}, no training; clusters {clusters}"
    training = config.training
    return (
        f"{images}{remark}: {config.method} {config.variant}, {network}, {training.epochs} epochs of batches of "
        f"{training.batch_size}; clusters {clusters}, from epoch {hierarchy.start_epoch + 1} on"
    )


def fit_images(
    own: OwnImages, config: RunConfig, hierarchy: HierarchyConfig, place: Path, start: Backbone | None, trains: bool
) -> Fit:
    """Fit HIRL to images in a folder, or go on where an earlier call with the same arguments was killed.

    Args:
        place: gets data/, runs/ and scratch/.
        start: the backbone to start from; None builds that of the configuration.
        trains: False clusters the features of `start` as they are.

    Raises:
        ValueError: what the steps raise.
    """
    prepare_once(config.data, own, place / "data")
    history: list[dict[str, float]] = []
    if trains:
        run, scratch = place / "runs" / config.name, pretraining_folder(place / "scratch", config, place / "data")
        method = pretrain(config, place / "data", run, scratch, backbone=start)
        network = method.method if isinstance(method, Wrapper) else method
        history = read_history(run / "history.csv")
    else:
        assert start is not None
        network = Frozen(start).to(choose_device()).to(memory_format=torch.channels_last)
    network.eval().requires_grad_(False)
    fitted = load_fitted(own, place / "data")
    features = encode_fitted(fitted, config, network.backbone, int(network.backbone.num_features))
    tree = cluster(network, config, hierarchy, fitted, features)
    order = fitted.order
    tree = SemanticTree(tree.centroids, tree.parents, tree.assignments[torch.from_numpy(order)])
    rows = features.numpy(force=True)
    accuracy = _accuracy(rows, fitted, config)
    labels = fitted.images.labels.numpy()
    return Fit(network, config, tree, rows[order], labels[order], fitted, accuracy, history)


def encode_fitted(
    fitted: FittedImages,
    config: RunConfig,
    function: Callable[[Tensor], Tensor],
    width: int,
    num_views: int = 0,
) -> Tensor:
    """Return the rows [N, width] of all images, in float32, in the order in which they are prepared."""
    images, views = fitted.images, config.views
    return encode_images(images, function, width, ENCODED_AT_ONCE, views, nullcontext, num_views)


def cluster(
    network: Method, config: RunConfig, hierarchy: HierarchyConfig, fitted: FittedImages, features: Tensor
) -> SemanticTree:
    """Return the tree of all images, made from the trained network as those of the training are.

    Args:
        features: [N, C], which a Frozen network has as embeddings.
    """
    wrapper = Wrapper(network, hierarchy.model_copy(update={"encode": "pass"}), config.seed).to(features.device).eval()
    seed_step(config.seed, -1)

    def encode_all(encode: Callable[[Tensor], Tensor], width: int, num_views: int = 0) -> Tensor:
        if isinstance(network, Frozen) and not num_views:
            return features
        return encode_fitted(fitted, config, encode, width, num_views)

    return wrapper.make_tree(encode_all).to("cpu")


def _accuracy(features: NDArray[np.float32], fitted: FittedImages, config: RunConfig) -> float | None:
    """Return the accuracy of kNN on the validation images; None if there are none, or no classes."""
    labels, train = fitted.images.labels.numpy(), fitted.train
    if not labels.shape[1] or train == len(labels):
        return None
    cache = FeatureCache(features[:train], features[train:], labels[:train], labels[train:])
    return knn(cache, KNNConfig(neighbours=(min(10, train),)))["top1"]


def as_backbone(network: nn.Module, image_size: int) -> Backbone:
    """Return a copy of someone's own network as a backbone.

    Raises:
        ValueError: it does not map images to features.
    """
    copied = copy.deepcopy(network)
    return copied if isinstance(copied, ResNet | ViT | AnyBackbone) else AnyBackbone(copied, image_size)


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the rows of a run's history; blank cells are left out."""
    with path.open(newline="") as handle:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(handle)]
