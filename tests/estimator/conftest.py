"""Tiny pictures and estimators that train in two seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLORS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "gray": (120, 120, 120)}
SMALL = {"model.embedding_dim": 16, "model.predictor_hidden_dim": 8, "training.precision": "fp32"}


def colored(number: int, side: int = 16) -> np.ndarray:
    """Return `number` noisy pictures of each color, uint8 [4 number, side, side, 3], color by color."""
    noise = np.random.default_rng(0).integers(-30, 30, (len(COLORS) * number, side, side, 3))
    base = np.repeat(np.array(list(COLORS.values())), number, axis=0)[:, None, None]
    return (base + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """48 pictures of 16 pixels: 12 of each color."""
    return colored(12)


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory, pictures) -> Path:
    """The same pictures as files in a folder for each color."""
    root = tmp_path_factory.mktemp("colors")
    for label, color in enumerate(COLORS):
        (root / color).mkdir()
        for number, picture in enumerate(pictures[12 * label : 12 * label + 12]):
            Image.fromarray(picture).save(root / color / f"{number:02}.png")
    return root


@pytest.fixture(scope="session")
def tiny_model() -> Callable:
    """A function that returns an unfitted estimator that trains in two epochs: tiny_model(epochs=3)."""

    def build(**parameters):
        from hirl.estimator.model import HIRL

        settings = SMALL | parameters.pop("settings", {})
        tiny = {"method": "simsiam", "epochs": 2, "image_size": 16, "num_clusters": (6, 3, 2), "batch_size": 16}
        return HIRL(**(tiny | {"settings": settings} | parameters))

    return build


@pytest.fixture(scope="session")
def fitted(tiny_model, class_folders):
    """An estimator fitted to the class folders, read-only."""
    return tiny_model().fit(class_folders)
