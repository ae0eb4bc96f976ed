"""What a run's settings of speed are worth on this machine: a few real steps with each, taking turns.

The network, its optimiser and its views are the run's own; images and clusters are drawn at random, so no data is
needed, and reading and decoding image files is not in the times.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hirl.config import RunConfig
from hirl.data.views import Views
from hirl.hierarchy import SemanticTree
from hirl.hierarchy.wrapper import HIRL
from hirl.methods.base import Step
from hirl.tokenizer import DiscreteVAE, save_tokenizer
from hirl.training.blocks import set_up_blocks
from hirl.training.device import choose_device, choose_precision
from hirl.training.loop import build_method, take_step
from hirl.training.optimizers import build_optimizer, set_rates

ROUNDS, STEPS = 5, 3  # turns, and steps in each
WORTH = 1.05  # a setting is advised from this gain on
PRODUCT = {"cuda": 8192, "cpu": 1024}  # rows and columns of the matrices whose product is timed
COLUMNS = ("precision", "run", "images/s", "ratio", "memory", "of peak", "start", "pays after", "")


@dataclass
class Candidate:
    """A way to run the steps, and what it took. A step that does not fit into memory has no times.

    Attributes:
        start: seconds of the first two steps, compiling included, beyond those of two usual ones.
        memory: peak bytes of the device, of this candidate alone; 0 on a CPU, where it is not measured.
        seconds: of a step, one per turn.
    """

    precision: str
    compile: bool
    checkpoint_activations: bool
    start: float = 0.0
    memory: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def step(self) -> float:
        """Seconds of a step: the median over the turns."""
        return median(self.seconds) if self.seconds else math.inf

    @property
    def settings(self) -> dict[str, str | bool]:
        """The keys of `training` that ask for it."""
        return {key: getattr(self, key) for key in ("precision", "compile", "checkpoint_activations")}

    @property
    def arguments(self) -> str:
        """The same, as the command line takes it."""
        return " ".join(f"--set training.{key}={str(value).lower()}" for key, value in self.settings.items())


def tune(config: RunConfig, plugins: tuple[str, ...] = ()) -> None:
    """Measures a run's steps with every setting that makes sense here, and prints a table and what to set."""
    device = choose_device()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # nothing compiled before: a start is a first start
        tokenizer = _random_tokenizer(config, Path(folder))
        candidates = measure(config, device, plugins, tokenizer)
        operations = count_operations(config, device, plugins, tokenizer)
    for line in report(config, candidates, operations, {name: product_rate(name, device) for name in ("fp32", "bf16")}):
        print(line)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(
    config: RunConfig, device: torch.device, plugins: tuple[str, ...], tokenizer: Path | None
) -> list[Candidate]:
    """All candidates, which have taken turns. A CPU has memory enough to keep activations."""
    again = (False, True) if device.type == "cuda" else (False,)
    candidates = [Candidate(*way) for way in product(("fp32", "bf16"), (False, True), again)]
    takers: list[tuple[Candidate, Callable[[], None]]] = []
    for candidate in candidates:
        before = _memory(device)
        try:
            take = _stepper(_with(config, candidate), device, plugins, tokenizer)
            candidate.start = _seconds(take, 2, device)
        except torch.OutOfMemoryError:
            continue
        candidate.memory = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
        takers.append((candidate, take))
    for _ in range(ROUNDS):
        for candidate, take in takers:
            candidate.seconds.append(_seconds(take, STEPS, device) / STEPS)
    for candidate, _ in takers:
        candidate.start = max(0.0, candidate.start - 2 * candidate.step)
    return candidates


def count_operations(config: RunConfig, device: torch.device, plugins: tuple[str, ...], tokenizer: Path | None) -> int:
    """Floating-point operations of a step's products and convolutions, forward and backward."""
    take = _stepper(_with(config, Candidate("fp32", False, False)), device, plugins, tokenizer)
    with FlopCounterMode(display=False) as counter:
        take()
    return counter.get_total_flops()


def product_rate(precision: str, device: torch.device) -> float:
    """Operations per second of a product of two large matrices: the best of several."""
    side, dtype = PRODUCT[device.type], choose_precision(precision, device)
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(_seconds(lambda: one @ other, 1, device) for _ in range(10))


def _stepper(
    config: RunConfig, device: torch.device, plugins: tuple[str, ...], tokenizer: Path | None
) -> Callable[[], None]:
    """Takes a step of the run's last epoch, when all of the method is under way, at each call."""
    method = build_method(config, plugins, tokenizer).to(device, memory_format=torch.channels_last).train()
    set_up_blocks(method, config.training)
    if isinstance(method, HIRL):
        method.tree = random_tree(method, config.training.batch_size).to(device)
    optimizer = build_optimizer(method.parameter_groups(), config.training.optimizer)
    set_rates(optimizer, 1e-6, 1e-6, 0.0)  # noise teaches nothing
    dtype, clip_norm = choose_precision(config.training.precision, device), config.training.optimizer.clip_norm
    epochs = config.training.epochs
    step = Step(epochs - 1, 1, epochs, torch.arange(config.training.batch_size, device=device))
    draw = _views(config, device)

    def take() -> None:
        views = [view.to(memory_format=torch.channels_last) for view in draw()]
        take_step(method, method, optimizer, views, step, dtype, clip_norm)

    return take


def _views(config: RunConfig, device: torch.device) -> Callable[[], list[Tensor]]:
    """Draws the views of one batch of noise; crops of files, which worker processes make, are cropped already."""
    side, views = config.data.image_size, Views(config.views)
    images = torch.randint(256, (config.training.batch_size, 3, side, side), dtype=torch.uint8, device=device)
    if config.data.storage == "memory":
        return lambda: views(images)
    crops = views.crop(images)
    return lambda: views.colour(crops)


def random_tree(method: HIRL, images: int) -> SemanticTree:
    """As many clusters as the run has, of random directions and parents."""
    numbers = method.config.num_clusters
    centroids = tuple(F.normalize(torch.randn(number, method.embedding_dim), dim=1) for number in numbers)
    parents = tuple(torch.randint(above, (number,)) for number, above in pairwise(numbers))
    path = [torch.randint(numbers[0], (images,))]
    for above in parents:
        path.append(above[path[-1]])
    return SemanticTree(centroids, parents, torch.stack(path, dim=1))


def _random_tokenizer(config: RunConfig, folder: Path) -> Path | None:
    """An untrained tokenizer, for a method that uses one."""
    if not config.uses_tokenizer:
        return None
    sizes, path = config.model.tokenizer, folder / "tokenizer.safetensors"
    save_tokenizer(DiscreteVAE(sizes.vocabulary, sizes.width, sizes.patch_size), path)
    return path


def _with(config: RunConfig, candidate: Candidate) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=candidate.settings)})


def _seconds(take: Callable[[], object], times: int, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(times):
        take()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _memory(device: torch.device) -> int:
    """Bytes in use; the peak is counted from here."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


# --- telling ----------------------------------------------------------------------------------------------------------


def report(config: RunConfig, candidates: list[Candidate], operations: int, rates: dict[str, float]) -> Iterator[str]:
    """The lines of the table, and what to set. Ratios are to the settings that the run has now."""
    device, training = choose_device(), config.training
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    yield f"{config.name}  batches of {training.batch_size}  {operations / 1e9:.4g} GFLOP a step  {name}"
    now = current(config, candidates)
    rows = [
        COLUMNS,
        *(_row(candidate, now, candidates, training.batch_size, operations, rates) for candidate in candidates),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield f"use {advice(candidates).arguments}"


def current(config: RunConfig, candidates: list[Candidate]) -> Candidate:
    """The candidate that is the run's own settings; a CPU keeps activations whatever they say."""
    dtype = choose_precision(config.training.precision, choose_device())
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    wanted = (precision, config.training.compile, config.training.checkpoint_activations)
    known = {(way.precision, way.compile, way.checkpoint_activations): way for way in candidates}
    return known.get(wanted) or known[(*wanted[:2], False)]


def advice(candidates: list[Candidate]) -> Candidate:
    """The first that the fastest gains next to nothing on: they come plainest first."""
    fastest = min(way.step for way in candidates)
    return next(way for way in candidates if way.step <= WORTH * fastest)


def pays_after(candidate: Candidate, candidates: list[Candidate]) -> float:
    """Steps until the seconds that compiling took at the start are gained back; infinite where they never are."""
    plain = next(way for way in candidates if way.settings == candidate.settings | {"compile": False})
    gain = plain.step - candidate.step
    return max(0.0, candidate.start - plain.start) / gain if gain > 0 else math.inf


def _row(
    candidate: Candidate,
    now: Candidate,
    candidates: list[Candidate],
    batch_size: int,
    operations: int,
    rates: dict[str, float],
) -> tuple[str, ...]:
    way = "compiled" if candidate.compile else "as it is"
    way += ", computed again" if candidate.checkpoint_activations else ""
    told = "now" if candidate is now else ""
    if not candidate.seconds:
        return candidate.precision, way, "out of memory", *[""] * (len(COLUMNS) - 4), told
    after = pays_after(candidate, candidates)
    return (
        candidate.precision,
        way,
        f"{batch_size / candidate.step:.4g}",
        f"{now.step / candidate.step:.2f}" if now.seconds else "",
        f"{candidate.memory / 2**30:.1f} GiB" if candidate.memory else "",
        f"{operations / candidate.step / rates[candidate.precision]:.0%}",
        f"{candidate.start:.1f} s",
        "" if not candidate.compile else "never" if math.isinf(after) else f"{math.ceil(after)} steps",
        told,
    )
