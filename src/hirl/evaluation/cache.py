"""Cached features of a frozen backbone. Import costs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hirl.files import atomic_path


@dataclass(frozen=True)
class FeatureCache:
    """Features and class labels of a run, rows in the images' order.

    Attributes:
        train: float32 [N, D], the backbone's outputs.
        validation: float32 [M, D].
        train_labels: int64 [N, L], class levels finest first.
        validation_labels: int64 [M, L].
    """

    train: NDArray[np.float32]
    validation: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    validation_labels: NDArray[np.int64]

    def save(self, path: str | Path) -> None:
        """Write the cache as one safetensors file, whole or not at all."""
        with atomic_path(path) as temporary:
            save_file({name: np.ascontiguousarray(array) for name, array in vars(self).items()}, temporary)

    @classmethod
    def load(cls, path: str | Path) -> FeatureCache:
        """Load a file that `save` wrote; half-precision features become float32.

        Raises:
            ValueError: the file is missing, is not a features file, or holds NaN or infinity.
        """
        try:
            arrays = load_file(path)
            cache = cls(
                arrays["train"].astype(np.float32),
                arrays["validation"].astype(np.float32),
                arrays["train_labels"],
                arrays["validation_labels"],
            )
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is no readable features file ({error}): make one with `hirl features`") from error
        cache.check(path)
        return cache

    def check(self, where: object) -> None:
        """Check that every feature is a finite number.

        Args:
            where: the file or run that an error names.

        Raises:
            ValueError: a feature is NaN or infinite.
        """
        for split, features in (("train", self.train), ("validation", self.validation)):
            if not np.isfinite(features).all():
                raise ValueError(f"{where}: the {split} features hold NaN or infinity: check the training's loss")


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return l2-normalised rows; a zero row stays zero."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
