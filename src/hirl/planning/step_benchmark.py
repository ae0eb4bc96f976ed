"""Take real training steps on random images; `hirl tune` and `hirl plan` measure them.

Network, optimiser and views are those of the run; images and clusters are random, so that no data are needed. Measured
times do not include reading and decoding image files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.config import RunConfig
from hirl.data.views import Views
from hirl.distributed.device import choose_precision, float32_matmul
from hirl.hierarchy import SemanticTree
from hirl.hierarchy.tree import follow_parents
from hirl.hierarchy.wrapper import HIRL
from hirl.methods.base import Method, Step
from hirl.models.blocks import set_up_blocks
from hirl.models.tokenizer import DiscreteVAE, save_tokenizer
from hirl.training.loop import build_method, take_step
from hirl.training.optimizers import build_optimizer, set_rates

MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}  # rows and columns of the matrices whose product is timed


class StepBenchmark:
    """A run's method and optimiser, which take steps of the last epoch, when every part of the method is in use."""

    def __init__(self, config: RunConfig, device: torch.device, plugins: tuple[str, ...] = ()):
        training = config.training
        self.device, self.clip_norm = device, training.optimizer.clip_norm
        self.dtype = choose_precision(training.precision, device)
        self.method = _build(config, plugins).to(device).to(memory_format=torch.channels_last).train()
        set_up_blocks(self.method, training)
        if isinstance(self.method, HIRL):
            self.method.tree = random_tree(self.method, training.batch_size).to(device)
        self.optimizer = build_optimizer(self.method.parameter_groups(), training.optimizer)
        set_rates(self.optimizer, 1e-6, 1e-6, 0.0)  # tiny, so that random images do not make the loss diverge
        self.at = Step(training.epochs - 1, 1, training.epochs, torch.arange(training.batch_size, device=device))
        self.draw_views = _view_drawer(config, device)

    def step(self) -> None:
        """Draw the views of a batch and take one step."""
        views = [view.to(memory_format=torch.channels_last) for view in self.draw_views()]
        take_step(self.method, self.method, self.optimizer, views, self.at, self.dtype, self.clip_norm)

    def seconds(self, steps: int) -> float:
        """Return the seconds that so many steps take."""
        return seconds(self.step, steps, self.device)


def with_training(config: RunConfig, **training: Any) -> RunConfig:
    """Return the configuration with other values in its training section."""
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Return the seconds until the device has done some work so many times."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure_matmul_flops(precision: str, device: torch.device) -> float:
    """Return the FLOP/s of a product of two large matrices in bf16, fp32 or a GPU's tf32: the best of ten."""
    side, dtype = MATMUL_SIDE[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with float32_matmul("tf32" if precision == "tf32" else "ieee"):
        return 2 * side**3 / min(seconds(lambda: one @ other, 1, device) for _ in range(10))


def random_tree(method: HIRL, images: int) -> SemanticTree:
    """Return a tree with the run's numbers of clusters, random centroids, random parents and random paths."""
    numbers = method.config.num_clusters
    centroids = tuple(F.normalize(torch.randn(number, method.embedding_dim), dim=1) for number in numbers)
    parents = tuple(torch.randint(above, (number,)) for number, above in pairwise(numbers))
    return SemanticTree(centroids, parents, follow_parents(torch.randint(numbers[0], (images,)), parents))


def _build(config: RunConfig, plugins: tuple[str, ...]) -> Method:
    """Build the method, with an untrained tokenizer if it uses one."""
    if not config.uses_tokenizer:
        return build_method(config, plugins)
    sizes = config.model.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.safetensors"
        save_tokenizer(DiscreteVAE(sizes.vocabulary, sizes.width, sizes.patch_size), path)
        return build_method(config, plugins, path)


def _view_drawer(config: RunConfig, device: torch.device) -> Callable[[], list[Tensor]]:
    """Return a function that draws the views of random images; crops of files, the work of workers, are made before."""
    side, views = config.data.image_size, Views(config.views)
    images = torch.randint(256, (config.training.batch_size, 3, side, side), dtype=torch.uint8, device=device)
    if config.data.storage == "memory":
        return lambda: views(images)
    crops = views.crop(images)
    return lambda: views.color(crops)
