"""Save fitted estimators as one safetensors file, and load them; nothing in the file is code.

The file holds the network (`network.*`), the tree (`tree.*`), the features and files of the fitted images, and in its
metadata the settings as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hirl.config import MODEL_CONFIGS, RunConfig
from hirl.data.class_tree import ClassTree
from hirl.distributed.device import choose_device
from hirl.estimator.fitting import Frozen
from hirl.estimator.model import HIRL, OWN_BACKBONE, _as_backbone
from hirl.files import atomic_path
from hirl.hierarchy import SemanticTree
from hirl.methods.base import Backbone, Method
from hirl.models.backbones import build_backbone
from hirl.models.pretrained import Pretrained
from hirl.training.loop import build_method

MODEL = "model.safetensors"  # in the folder of a fit
KIND = "estimator"  # the key of the metadata that tells these files from other weights
FORMAT = "1"


def save_model(model: HIRL, path: str | Path) -> None:
    """Write a fitted estimator.

    Raises:
        ValueError: the file cannot be written.
    """
    tree = model.tree_
    tensors = {f"network.{name}": value for name, value in model.network_.state_dict().items()}
    tensors |= {f"tree.centroids.{level}": rows for level, rows in enumerate(tree.centroids)}
    tensors |= {f"tree.parents.{level}": ids for level, ids in enumerate(tree.parents)}
    tensors |= {
        "tree.assignments": tree.assignments,
        "features": torch.from_numpy(model.features_).half(),
        "class_labels": torch.from_numpy(model.class_labels_),
        "paths": _as_bytes([str(path) for path in model.paths_ or ()]),
    }
    classes = model.classes_tree_
    facts = {
        "parameters": {name: value for name, value in model.get_params().items() if _is_plain(value)},
        "config": model.config_.model_dump(mode="json"),
        "frozen": isinstance(model.network_, Frozen),
        "classes": {"levels": classes.levels, "class_names": classes.class_names, "parents": classes.parents},
        "knn_accuracy": model.knn_accuracy_,
        "history": model.history_,
        "has_paths": model.paths_ is not None,
        "n_features_in": getattr(model, "n_features_in_", None),
    }
    with atomic_path(path) as temporary:
        copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        save_file(copies, temporary, metadata={KIND: FORMAT, "facts": json.dumps(facts)})


def load(file: str | Path, *, backbone: nn.Module | None = None) -> HIRL:
    """Load what `save` wrote; or open trained weights, whose features `transform` gives and `fit` clusters.

    Args:
        file: a file of `HIRL.save`, the folder of `hirl fit`, or weights by file or name, as
            `hirl.models.pretrained.open_pretrained` takes them: mocov2-hirl-s0, resnet50.a1_in1k, ...
        backbone: the network, if the estimator was fitted with a module of yours; it gets the weights.

    Raises:
        ValueError: there is no such file or name, the file is damaged, or it needs a backbone.
    """
    if is_model(file):
        return _load_model(_model_file(file), backbone)
    model = HIRL(weights=file, epochs=0)
    model._open_network()
    return model


def is_model(file: str | Path) -> bool:
    """Return whether a file, or a folder, holds an estimator that `save` wrote."""
    try:
        with safe_open(_model_file(file), framework="pt") as content:
            return KIND in (content.metadata() or {})
    except (OSError, SafetensorError):
        return False


def open_model_backbone(file: str | Path, image_size: int | None) -> Pretrained:
    """Return the backbone of a saved estimator as trained weights."""
    model = _load_model(_model_file(file), None)
    config = model.config_
    return Pretrained(
        model.network_.backbone,
        config.backbone,
        image_size or config.data.image_size,
        f"{file} ({config.backbone.name})",
    )


def _model_file(file: str | Path) -> Path:
    path = Path(file).expanduser()
    return path / MODEL if path.is_dir() else path


def _load_model(path: Path, backbone: nn.Module | None) -> HIRL:
    with safe_open(path, framework="pt") as content:
        metadata = content.metadata()
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - not a mapping
    if metadata[KIND] != FORMAT:
        raise ValueError(f"{path} was written by another version of hirl (format {metadata[KIND]}): fit it again")
    facts = json.loads(metadata["facts"])
    model = HIRL(**facts["parameters"])
    model.config_ = _read_config(facts["config"])
    model.network_ = _build_network(model.config_, facts["frozen"], backbone, path)
    state = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    try:
        model.network_.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the backbone: give the network that it was fitted with") from error
    model.network_.to(choose_device()).eval().requires_grad_(False)
    model.tree_ = _read_tree(tensors)
    model.labels_ = model.tree_.assignments[:, 0].numpy()
    model.features_ = tensors["features"].float().numpy()
    model.class_labels_ = tensors["class_labels"].numpy()
    model.classes_tree_ = ClassTree(**facts["classes"])
    model.knn_accuracy_, model.history_ = facts["knn_accuracy"], facts["history"]
    model.paths_ = [Path(text) for text in _as_texts(tensors["paths"])] if facts["has_paths"] else None
    if facts["n_features_in"] is not None:
        model.n_features_in_ = facts["n_features_in"]
    return model


def _read_config(values: dict[str, Any]) -> RunConfig:
    hyperparameters = MODEL_CONFIGS[values["algorithm"]].model_validate(values["model"])
    return RunConfig.model_validate(values | {"model": hyperparameters})


def _build_network(config: RunConfig, frozen: bool, backbone: nn.Module | None, path: Path) -> Method:
    """Return the network of a configuration, untrained."""
    size, start = config.views.global_size, None
    if backbone is not None:
        start = _as_backbone(backbone, size)
    elif config.backbone.name == OWN_BACKBONE:
        raise ValueError(f"{path} was fitted with a backbone of yours: load it with backbone=THAT NETWORK")
    if not frozen:
        return build_method(config.model_copy(update={"hierarchy": None}), backbone=start)
    network: Backbone = start if start is not None else build_backbone(config.backbone, size)
    return Frozen(network)


def _read_tree(tensors: dict[str, Tensor]) -> SemanticTree:
    levels = sum(name.startswith("tree.centroids.") for name in tensors)
    centroids = tuple(tensors[f"tree.centroids.{level}"] for level in range(levels))
    parents = tuple(tensors[f"tree.parents.{level}"] for level in range(levels - 1))
    return SemanticTree(centroids, parents, tensors["tree.assignments"])


def _is_plain(value: Any) -> bool:
    """Return whether JSON keeps a parameter: a module given as the backbone and random states are left out."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _as_bytes(texts: list[str]) -> Tensor:
    return torch.from_numpy(np.frombuffer("\0".join(texts).encode(), np.uint8).copy())


def _as_texts(content: Tensor) -> list[str]:
    return content.numpy().tobytes().decode().split("\0") if len(content) else []
