"""Write fitted estimators as one safetensors file, and read them; nothing in the file is code.

The file holds the network (`network.*`), the tree (`tree.*`), the features and files of the fitted images, and in its
metadata the parameters and settings as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
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
from hirl.estimator.fitting import OWN_BACKBONE, Frozen, as_backbone
from hirl.files import atomic_path, pack_metadata, unpack_metadata
from hirl.hierarchy import SemanticTree
from hirl.methods.base import Method
from hirl.models.backbones import build_backbone
from hirl.training.loop import build_method

MODEL = "model.safetensors"  # in the folder of a fit
KIND = "estimator"  # the key of the metadata that tells these files from other weights
FORMAT = "1"
AS_JSON = ("knn_accuracy_", "history_", "n_features_in_")  # attributes that are written as they are


@dataclass(frozen=True)
class Stored:
    """An estimator: its parameters, and the attributes that fitting gave it."""

    parameters: dict[str, Any]
    fitted: dict[str, Any]


def write_model(stored: Stored, path: str | Path) -> None:
    """Write a fitted estimator; features are rounded to half precision.

    Raises:
        ValueError: the file cannot be written.
    """
    fitted = stored.fitted
    tree, classes, paths = fitted["tree_"], fitted["classes_tree_"], fitted["paths_"]
    tensors = {f"network.{name}": value for name, value in fitted["network_"].state_dict().items()}
    tensors |= {f"tree.centroids.{level}": rows for level, rows in enumerate(tree.centroids)}
    tensors |= {f"tree.parents.{level}": ids for level, ids in enumerate(tree.parents)}
    tensors |= {
        "tree.assignments": tree.assignments,
        "features": torch.from_numpy(fitted["features_"]).half(),
        "class_labels": torch.from_numpy(fitted["class_labels_"]),
        "paths": _as_bytes([str(file) for file in paths or ()]),
    }
    facts = {
        "parameters": {name: value for name, value in stored.parameters.items() if _is_plain(value)},
        "config": fitted["config_"].model_dump(mode="json"),
        "frozen": isinstance(fitted["network_"], Frozen),
        "classes": {"levels": classes.levels, "class_names": classes.class_names, "parents": classes.parents},
        "has_paths": paths is not None,
        "attributes": {name: fitted[name] for name in AS_JSON if name in fitted},
    }
    with atomic_path(path) as temporary:
        copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        save_file(copies, temporary, pack_metadata({KIND: FORMAT, "facts": json.dumps(facts)}))


def is_model(file: str | Path) -> bool:
    """Return whether a file, or a folder of `hirl fit`, holds an estimator that `write_model` wrote."""
    try:
        with safe_open(_model_file(file), framework="pt") as content:
            return KIND in unpack_metadata(content.metadata())
    except (OSError, SafetensorError):
        return False


def read_model(file: str | Path, backbone: nn.Module | None = None) -> Stored:
    """Read what `write_model` wrote.

    Args:
        backbone: the network, if the estimator was fitted with a module of the user's.

    Raises:
        ValueError: the file is of another format, or does not fit the backbone, or needs one.
    """
    path = _model_file(file)
    with safe_open(path, framework="pt") as content:
        metadata = unpack_metadata(content.metadata())
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - not a mapping
    if metadata[KIND] != FORMAT:
        raise ValueError(f"{path} was written by another version of hirl (format {metadata[KIND]}): fit it again")
    facts = json.loads(metadata["facts"])
    config = _read_config(facts["config"])
    network = _build_network(config, facts["frozen"], backbone, path).to(memory_format=torch.channels_last)
    state = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the backbone: give the network that it was fitted with") from error
    tree = _read_tree(tensors)
    fitted = facts["attributes"] | {
        "config_": config,
        "network_": network.to(choose_device()).eval().requires_grad_(False),
        "tree_": tree,
        "labels_": tree.assignments[:, 0].numpy(),
        "features_": tensors["features"].float().numpy(),
        "class_labels_": tensors["class_labels"].numpy(),
        "classes_tree_": ClassTree(**facts["classes"]),
        "paths_": [Path(text) for text in _as_texts(tensors["paths"])] if facts["has_paths"] else None,
    }
    return Stored(facts["parameters"] | ({} if backbone is None else {"backbone": backbone}), fitted)


def _model_file(file: str | Path) -> Path:
    path = Path(file).expanduser()
    return path / MODEL if path.is_dir() else path


def _read_config(values: dict[str, Any]) -> RunConfig:
    hyperparameters = MODEL_CONFIGS[values["algorithm"]].model_validate(values["model"])
    return RunConfig.model_validate(values | {"model": hyperparameters})


def _build_network(config: RunConfig, frozen: bool, backbone: nn.Module | None, path: Path) -> Method:
    """Return the network of a configuration, untrained."""
    size, start = config.views.global_size, None
    if backbone is not None:
        start = as_backbone(backbone, size)
    elif config.backbone.name == OWN_BACKBONE:
        raise ValueError(f"{path} was fitted with a backbone of yours: load it with backbone=THAT NETWORK")
    if not frozen:
        return build_method(config.model_copy(update={"hierarchy": None}), backbone=start)
    return Frozen(build_backbone(config.backbone, size) if start is None else start)


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
