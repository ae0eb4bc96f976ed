from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hirl.evaluation.cache import FeatureCache


@pytest.fixture
def make_cache() -> Callable[..., FeatureCache]:
    """Noisy features around one centre per class; class c of the finest level belongs to class c // 2 of the next."""
    generator = np.random.default_rng(0)

    def make(train: int, validation: int, classes: int = 6, width: int = 8, noise: float = 1.0) -> FeatureCache:
        centres = generator.normal(size=(classes, width))
        labels = [generator.integers(0, classes, count) for count in (train, validation)]
        features = [centres[y] + noise * generator.normal(size=(len(y), width)) for y in labels]
        return FeatureCache(*(x.astype(np.float32) for x in features), *(np.stack([y, y // 2], 1) for y in labels))

    return make


@pytest.fixture
def run() -> dict[str, str | int]:
    """Where a result belongs."""
    return {"study": "demo", "dataset": "taxonomy", "method": "mocov2", "variant": "hirl", "seed": 1}
