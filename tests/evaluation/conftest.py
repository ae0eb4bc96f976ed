from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hirl.evaluation.cache import FeatureCache


@pytest.fixture
def make_cache() -> Callable[..., FeatureCache]:
    """Return a function that makes noisy features around one center per class.

    Class c of the finest level belongs to class c // 2 of the next.
    """
    generator = np.random.default_rng(0)

    def make(train: int, validation: int, classes: int = 6, width: int = 8, noise: float = 1.0) -> FeatureCache:
        centers = generator.normal(size=(classes, width))
        labels = [generator.integers(0, classes, count) for count in (train, validation)]
        features = [centers[y] + noise * generator.normal(size=(len(y), width)) for y in labels]
        return FeatureCache(*(x.astype(np.float32) for x in features), *(np.stack([y, y // 2], 1) for y in labels))

    return make


@pytest.fixture
def write_data() -> Callable[..., Path]:
    """Return a function that writes images, uint8 [N, 3, S, S], and labels [N] as prepared data, for both splits."""
    import torch
    from safetensors.torch import save_file

    def write(folder: Path, images: torch.Tensor, labels: torch.Tensor, classes: int) -> Path:
        folder.mkdir()
        for split in ("train", "validation"):
            save_file({"images": images, "labels": labels[:, None]}, folder / f"{split}.safetensors")
        manifest = {
            "dataset": "taxonomy",
            "image_size": images.shape[2],
            "storage": "memory",
            "root": None,
            "levels": ["class"],
            "class_names": [[str(number) for number in range(classes)]],
            "parents": [],
            "splits": {"train": len(images), "validation": len(images)},
            "digest": "1" * 64,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write


@pytest.fixture
def red_and_blue(write_data, tmp_path) -> Path:
    """Write two classes that any network can separate: noise in the red or in the blue channel."""
    import torch

    labels = torch.arange(32) % 2
    noise = torch.randint(100, 256, (32, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = torch.zeros(32, 3, 32, 32, dtype=torch.uint8)
    images[torch.arange(32), 2 * labels] = noise
    return write_data(tmp_path / "red_and_blue", images, labels, 2)


class Killed(BaseException):
    """End a training without any cleaning up, as a signal does."""


@pytest.fixture
def kill_after(monkeypatch) -> Callable[[ModuleType, int, Callable[[], Any]], None]:
    """Return a function that runs another one and kills the training of a module's `fit` after so many steps."""

    def run(module: ModuleType, steps: int, function: Callable[[], Any]) -> None:
        fit, left = module.fit, iter(range(steps))

        def dying(name: str, network: Any, groups: Any, batches: Any, loss: Callable[[Any], Any], *rest: Any) -> Any:
            def step(batch: Any) -> Any:
                if next(left, None) is None:
                    raise Killed
                return loss(batch)

            return fit(name, network, groups, batches, step, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(module, "fit", dying)
            with pytest.raises(Killed):
                function()

    return run
