"""HIRL as an estimator with scikit-learn's manners: five lines from a folder of images to its semantic tree.

Shapes: N images, C features, L levels (level 0 is the finest).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, check_random_state
from torch import Tensor, nn

from hirl.config import RunConfig
from hirl.data.class_tree import ClassTree
from hirl.data.images import decode
from hirl.data.loader import SHORTER_SIDE
from hirl.data.pictures import open_pictures
from hirl.data.views import evaluation_view
from hirl.distributed.device import choose_device
from hirl.estimator.defaults import Choices, check_choices
from hirl.estimator.fitting import (
    ENCODED_AT_ONCE,
    OWN_BACKBONE,
    Fit,
    Frozen,
    as_backbone,
    configure,
    describe,
    fit_images,
)
from hirl.estimator.images import open_images
from hirl.estimator.store import Stored, is_model, read_model, write_model
from hirl.evaluation.cache import unit_rows
from hirl.evaluation.knn import nearest
from hirl.files import locked
from hirl.hierarchy import SemanticTree
from hirl.methods.base import Method
from hirl.models.pretrained import Pretrained, open_pretrained


class HIRL(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Learn image representations and a semantic tree of the images, without labels.

    It takes pictures instead of a table: a folder, a list of files or PIL images, an array [N, H, W, 3] of uint8 or of
    floats in [0, 1], or a torch.utils.data.Dataset. Pictures may differ in size.

    Args:
        method: mocov2, simsiam, swav, mocov3, dino or ibot.
        variant: hirl, as in the paper; baseline, without the hierarchy in the training; or hirl-invariant, whose trees
            are made of invariant features, beyond the paper.
        epochs: passes over the images; 0 clusters the features of `weights` or `backbone` as they are; None: chosen
            from the number of images and the machine.
        backbone: the name of a network (resnet18, timm:convnext_tiny, ...), or any nn.Module from normalised images
            [B, 3, S, S] to features [B, width]; a copy is trained. None: chosen from the images and the machine.
        weights: of the backbone at the start: a file or a name, as `hirl.models.pretrained.open_pretrained` takes it.
        image_size: side of the square images that the network sees, in pixels; None: chosen.
        batch_size: images per step; None: chosen.
        num_clusters: of each level, fine to coarse; None: one for 43 images, then a third and a thirtieth of that.
        labels: whether the folders of a folder of images name classes. They are only reported, never trained on.
        settings: any other setting by its dotted key, such as {"training.optimizer.base_lr": 0.01}.
        folder: keeps the prepared images, the run and the state of the training, so that an interrupted fit resumes
            when it is called again; None: a temporary folder.
        random_state: seed of the initialisation, the views and the clusters.
        verbose: whether to print the progress.

    Attributes:
        tree_: the SemanticTree of the fitted images, made from the trained network.
        labels_: int64 [N], each image's finest cluster.
        features_: float32 [N, C], what `transform` gives for the fitted images.
        paths_: the files of the fitted images, if they are a folder; else None. All attributes have this order.
        classes_tree_, class_labels_: the classes that folders name, and those of each image, int64 [N, levels].
        knn_accuracy_: top-1 of kNN in per cent on the images that were not trained on; None without classes.
        history_: one dictionary per epoch: losses, learning rate, images per second.
        network_: the trained method: `network_.backbone` is the backbone, `network_.embed` what the tree clusters.
        config_: every setting of the run.
        n_features_in_: numbers per picture, if an array of pictures was fitted.

    Source: HIRL (https://arxiv.org/abs/2205.13159)
    """

    tree_: SemanticTree
    labels_: NDArray[np.int64]
    features_: NDArray[np.float32]
    paths_: list[Path] | None
    classes_tree_: ClassTree
    class_labels_: NDArray[np.int64]
    knn_accuracy_: float | None
    history_: list[dict[str, float]]
    network_: Method
    config_: RunConfig
    n_features_in_: int

    def __init__(
        self,
        method: str = "mocov2",
        *,
        variant: str = "hirl",
        epochs: int | None = None,
        backbone: str | nn.Module | None = None,
        weights: str | Path | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        num_clusters: Sequence[int] | None = None,
        labels: bool = True,
        settings: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
    ):
        self.method = method
        self.variant = variant
        self.epochs = epochs
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_clusters = num_clusters
        self.labels = labels
        self.settings = settings
        self.folder = folder
        self.random_state = random_state
        self.verbose = verbose

    # --- fitting ------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> HIRL:
        """Train on pictures, and cluster them.

        Args:
            X: the pictures.
            y: not used; scikit-learn's pipelines pass it.

        Returns:
            This estimator.

        Raises:
            ValueError: the pictures, or a parameter, are not possible; one line says which and what to do.
        """
        trains = self.epochs != 0
        check_choices(self._choices())
        own = open_images(X, self.labels)
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            if not self.verbose:
                stack.enter_context(redirect_stdout(io.StringIO()))
            folder = self.folder or stack.enter_context(TemporaryDirectory(prefix="hirl-"))
            opened, settings = self._opened(), dict(self.settings or {})
            start, size = (None, self.image_size) if opened is None else (opened.backbone, opened.image_size)
            stack.enter_context(locked(folder))
            config, hierarchy = configure(
                own, self._choices(size), self._known(opened) | settings, self._seed(), Path(folder)
            )
            if isinstance(self.backbone, nn.Module):
                start = as_backbone(self.backbone, config.views.global_size)
            if not trains and start is None:
                raise ValueError("epochs is 0, so that nothing is trained: give weights or a backbone")
            origin = None if opened is None else opened.origin
            print(describe(own, config, hierarchy, trains, origin), flush=True)
            self._take(fit_images(own, config, hierarchy, Path(folder), start, trains))
        self.paths_ = own.paths
        if isinstance(X, np.ndarray | Tensor):
            self.n_features_in_ = int(np.prod(X.shape[1:]))
        return self

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _choices(self, image_size: int | None = None) -> Choices:
        return Choices(
            self.method,
            self.variant,
            1 if self.epochs == 0 else self.epochs,
            image_size,
            self.batch_size,
            self.backbone if isinstance(self.backbone, str) else None,
            self.num_clusters,
        )

    def _opened(self) -> Pretrained | None:
        """Return the weights to start from, if there are any."""
        if self.weights is None:
            return None
        if isinstance(self.backbone, nn.Module):
            raise ValueError("weights and a backbone that is a module are two starts: give one of them")
        return self._open_weights(self.weights)

    def _known(self, opened: Pretrained | None) -> dict[str, Any]:
        """Return the settings that follow from the start."""
        if opened is not None:
            return {f"backbone.{key}": value for key, value in opened.config.model_dump().items()}
        return {"backbone.name": OWN_BACKBONE} if isinstance(self.backbone, nn.Module) else {}

    def _open_weights(self, weights: str | Path) -> Pretrained:
        if is_model(weights):
            stored = read_model(weights)
            config, network = stored.fitted["config_"], stored.fitted["network_"]
            size = self.image_size or config.data.image_size
            return Pretrained(network.backbone, config.backbone, size, f"{weights} ({config.backbone.name})")
        network = self.backbone if isinstance(self.backbone, str) else None
        return open_pretrained(weights, network and network.removeprefix("timm:"), self.image_size)

    def _take(self, fit: Fit) -> None:
        """Take over the result of a fit."""
        self.network_, self.config_, self.tree_ = fit.network, fit.config, fit.tree
        self.labels_ = fit.tree.assignments[:, 0].numpy()
        self.features_, self.class_labels_ = fit.features, fit.labels
        self.classes_tree_, self.knn_accuracy_, self.history_ = fit.fitted.classes, fit.knn, fit.history

    def _open_network(self) -> None:
        """Set up the network of `weights` without fitting anything, so that `transform` works."""
        assert self.weights is not None
        opened = self._open_weights(self.weights)
        self.network_ = Frozen(opened.backbone).to(choose_device()).eval().requires_grad_(False)
        config = RunConfig(study=OWN_BACKBONE, method=self.method, algorithm=self.method, variant="baseline", model={})
        sizes = {"image_size": opened.image_size, "storage": "memory"}
        self.config_ = config.model_copy(
            update={"backbone": opened.config, "data": config.data.model_copy(update=sizes)},
        )

    # --- using it -----------------------------------------------------------------------------------------------------

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the backbone's features of pictures, float32 [N, C]; pictures of a folder are taken by path."""
        return self._encode(X, self._network().backbone)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return the finest cluster of each picture, int64 [N]."""
        return self.predict_path(X)[:, 0]

    def predict_path(self, X: Any) -> NDArray[np.int64]:
        """Return the path of each picture through the tree, int64 [N, L], finest cluster first.

        It is the path of the finest cluster whose centroid is nearest. For a fitted picture this is its row of
        `tree_.assignments`, unless it lies at the border of two clusters.

        Raises:
            NotFittedError: there is no tree.
        """
        embeddings = torch.from_numpy(self._encode(X, self._network(needs_tree=True).embed))
        similarity = F.normalize(embeddings, dim=1) @ self.tree_.centroids[0].T
        return self.tree_.paths[similarity.argmax(dim=1)].numpy()

    def neighbors(self, X: Any, k: int = 10) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the k fitted images nearest to each picture, int64 [N, k], and the cosines of their features.

        Raises:
            NotFittedError: nothing is fitted.
            ValueError: k is more than there are fitted images.
        """
        self._network(needs_tree=True)
        if not 1 <= k <= len(self.features_):
            raise ValueError(f"k is {k}, but there are {len(self.features_)} fitted images: choose 1 to that many")
        return nearest(unit_rows(self.features_), unit_rows(self.transform(X)), k)

    def _network(self, needs_tree: bool = False) -> Method:
        """Return the network, after checking that there is one, and a tree if it is needed.

        Raises:
            NotFittedError: there is none.
        """
        if not hasattr(self, "tree_" if needs_tree else "network_"):
            raise NotFittedError(f"this {type(self).__name__} has no tree yet: call fit with pictures first")
        return self.network_

    @torch.no_grad()
    def _encode(self, X: Any, function: Any) -> NDArray[np.float32]:
        """Return the rows of pictures, float32 [N, width]."""
        split, size = open_pictures(X), self.config_.data.image_size
        ratio = SHORTER_SIDE if self.config_.data.storage == "files" else 1
        device, rows = choose_device(), []
        self.network_.to(device)
        for index in np.array_split(np.arange(len(split.labels)), -(-len(split.labels) // ENCODED_AT_ONCE)):
            pixels = decode(split, index, size, round(size * ratio))
            rows.append(function(evaluation_view(pixels.to(device))).float().cpu())
        return torch.cat(rows).numpy()

    # --- scikit-learn -------------------------------------------------------------------------------------------------

    @property
    def _n_features_out(self) -> int:
        """Return C, from which scikit-learn names the columns of `transform`."""
        return int(self._network().backbone.num_features)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "tree_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file, whole or not at all; `hirl.load` reads it.

        Raises:
            NotFittedError: nothing is fitted.
            ValueError: the file cannot be written.
        """
        self._network(needs_tree=True)
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_")}
        write_model(Stored(self.get_params(), fitted), path)

    def write_atlas(self, path: str | Path, X: Any = None, *, title: str | None = None) -> None:
        """Write the atlas: one self-contained page on which the tree can be walked, from coarse clusters to pictures.

        Args:
            path: of the HTML file.
            X: the fitted pictures again; not needed for those of a folder, which are read from their files.
            title: of the page; None: the method and variant.

        Raises:
            NotFittedError: nothing is fitted.
            ValueError: the pictures are not given, or are not as many as were fitted.
        """
        from hirl.estimator.atlas import write_atlas

        self._network(needs_tree=True)
        write_atlas(self, path, X, title)


def load(file: str | Path, *, backbone: nn.Module | None = None) -> HIRL:
    """Load what `HIRL.save` wrote; or open trained weights, whose features `transform` gives and `fit` clusters.

    Args:
        file: a file of `HIRL.save`, the folder of `hirl fit`, or weights by file or name, as
            `hirl.models.pretrained.open_pretrained` takes them: mocov2-hirl-s0, resnet50.a1_in1k, ...
        backbone: the network, if the estimator was fitted with a module of yours; a copy of it gets the weights.

    Raises:
        ValueError: there is no such file or name, the file is damaged, or it needs a backbone.
    """
    if not is_model(file):
        model = HIRL(weights=file, epochs=0)
        model._open_network()
        return model
    stored = read_model(file, backbone)
    model = HIRL(**stored.parameters)
    for name, value in stored.fitted.items():
        setattr(model, name, value)
    return model
