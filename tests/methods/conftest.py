from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hirl.methods.base import Method, Step
from hirl.training.loop import build_method

BATCH, IMAGES = 8, 40


@pytest.fixture
def make_method(tiny_run: Callable[..., Any], tiny_tokenizer: Path) -> Callable[..., Method]:
    """A function that builds tiny methods without drop path: make_method("dino", "hirl", model={"momentum": 0.5})."""

    def build(name: str, variant: str = "baseline", **overrides: Any) -> Method:
        config = tiny_run(name, variant, **({"backbone": {"drop_path": 0.0}} | overrides))
        return build_method(config, tokenizer=tiny_tokenizer)

    return build


@pytest.fixture
def draw_views() -> Callable[..., list[Tensor]]:
    """A function that draws two global views of a batch, and any number of local ones."""

    def draw(local: int = 0, seed: int = 1) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        sizes = [32, 32] + [16] * local
        return [torch.randn(BATCH, 3, size, size, generator=generator) for size in sizes]

    return draw


@pytest.fixture
def step_at() -> Callable[..., Step]:
    """A function that returns step `number` of 3 epochs x 5 steps."""

    def step(number: int = 0) -> Step:
        return Step(number, per_epoch=5, epochs=3, images=torch.arange(BATCH) * 3)

    return step
