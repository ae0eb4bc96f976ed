"""A tree's paths by the features of their images, for a model that has the backbone alone. Imports numpy, not torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from hirl.files import atomic_path

ROWS = 8192  # features that are read at a time


def write_paths(folder: Path, out: Path) -> bool:
    """Write the paths of a run's tree that hold images, and the mean directions of their images' features.

    The tree's own centroids are in the space of the method's embedding, which the weights of the backbone do not
    give. Return whether the run has a tree and features.
    """
    tree, features = folder / "tree.safetensors", folder / "features.safetensors"
    if not (tree.is_file() and features.is_file()):
        return False
    with safe_open(tree, "numpy") as file:
        paths, numbers = np.unique(file.get_tensor("assignments"), axis=0, return_inverse=True)
    with atomic_path(out) as temporary:
        save_file({"paths": paths, "centroids": _mean_directions(features, numbers.ravel(), len(paths))}, temporary)
    return True


def _mean_directions(features: Path, numbers: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Return unit rows [K, D]: the mean directions of the training features of each path, some rows at a time."""
    with safe_open(features, "numpy") as file:
        rows = file.get_slice("train")
        sums = np.zeros((count, rows.get_shape()[1]))
        for start in range(0, len(numbers), ROWS):
            block = rows[start : min(start + ROWS, len(numbers))].astype(np.float64)
            block /= np.linalg.norm(block, axis=1, keepdims=True).clip(min=1e-12)
            np.add.at(sums, numbers[start : start + ROWS], block)
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(min=1e-12)).astype(np.float32)
