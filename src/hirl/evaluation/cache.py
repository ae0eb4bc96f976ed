"""The features every protocol reads, and the result every protocol writes. Import costs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hirl.files import atomic_path, write_json


@dataclass(frozen=True)
class FeatureCache:
    """A run's features and class labels, rows in the images' order.

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
        """Writes the cache as one safetensors file, whole or not at all."""
        with atomic_path(path) as temporary:
            save_file({name: np.ascontiguousarray(array) for name, array in vars(self).items()}, temporary)

    @classmethod
    def load(cls, path: str | Path) -> FeatureCache:
        """The cache of a file that `save` wrote; half-precision features are read as float32.

        Raises:
            ValueError: the file is missing, is no features file, or holds NaN or infinity.
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
            raise ValueError(f"{path} is no readable features file ({error}): make it with `hirl features`") from error
        for split in ("train", "validation"):
            if not np.isfinite(getattr(cache, split)).all():
                raise ValueError(f"{path}: the {split} features hold NaN or infinity; look at the training's loss")
        return cache


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation that trains a network found.

    Attributes:
        metrics: name to number; percentages are 0 to 100.
        settings: what the numbers depend on.
        history: one row per epoch of its training.
    """

    metrics: dict[str, float]
    settings: dict[str, Any]
    history: list[dict[str, float]]


def write_result(
    out: str | Path,
    run: Mapping[str, Any],
    task: str,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, float]] = (),
) -> None:
    """Writes one evaluation's JSON.

    Args:
        out: evaluation/{task}.json of the run.
        run: study, dataset, method, variant and seed.
        task: the protocol.
        metrics: name to number; percentages are 0 to 100.
        settings: what the numbers depend on.
        history: one row per epoch, of an evaluation that trains.
    """
    result = {**run, "task": task, "metrics": dict(metrics), "settings": dict(settings)}
    write_json(out, result | ({"history": list(history)} if history else {}))


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """l2-normalised rows; a zero row stays zero."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
