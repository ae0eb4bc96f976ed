"""What a run's settings of speed are worth on this machine: a few real steps with each, taking turns."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from statistics import median

import torch

from hirl.config import RunConfig
from hirl.distributed.device import choose_device, choose_precision
from hirl.planning.cost import hirl_operations
from hirl.planning.count import count
from hirl.planning.machine import matmul_precision
from hirl.planning.step_benchmark import StepBenchmark, measure_matmul_flops

ROUNDS, STEPS = 5, 3  # turns, and steps in each
WORTH = 1.05  # a setting is advised from this gain on
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
        candidates = measure(config, device, plugins)
        operations = count_operations(config, plugins)
    rates = {name: measure_matmul_flops(matmul_precision(name, config), device) for name in ("fp32", "bf16")}
    for line in report(config, candidates, operations, rates):
        print(line)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(config: RunConfig, device: torch.device, plugins: tuple[str, ...] = ()) -> list[Candidate]:
    """All candidates: on a GPU one after the other, which has all its memory; on a CPU, which is shared, by turns.

    A CPU has memory enough to keep activations.
    """
    on_gpu = device.type == "cuda"
    again = (False, True) if on_gpu else (False,)
    candidates = [Candidate(*way) for way in product(("fp32", "bf16"), (False, True), again)]
    for together in [[candidate] for candidate in candidates] if on_gpu else [candidates]:
        _take_turns(together, config, device, plugins)
    return candidates


def _take_turns(candidates: list[Candidate], config: RunConfig, device: torch.device, plugins: tuple[str, ...]) -> None:
    before = _memory(device)
    try:
        benchmarks = [StepBenchmark(_with(config, candidate), device, plugins) for candidate in candidates]
        for candidate, benchmark in zip(candidates, benchmarks, strict=True):
            candidate.start = benchmark.seconds(2)
        for _ in range(ROUNDS):
            for candidate, benchmark in zip(candidates, benchmarks, strict=True):
                candidate.seconds.append(benchmark.seconds(STEPS) / STEPS)
    except torch.OutOfMemoryError:
        candidates[0].seconds = []  # on a GPU there is but one
        return
    for candidate in candidates:
        candidate.start = max(0.0, candidate.start - 2 * candidate.step)
        candidate.memory = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0


def count_operations(config: RunConfig, plugins: tuple[str, ...] = ()) -> float:
    """Floating-point operations of a step's products and convolutions, forward and backward, as a plan counts them."""
    counts = count(config.model_copy(update={"hierarchy": None}), plugins)
    return config.training.batch_size * (counts.step + hirl_operations(config, counts.embedding_dim))


def _with(config: RunConfig, candidate: Candidate) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=candidate.settings)})


def _memory(device: torch.device) -> int:
    """Bytes in use; the peak is counted from here."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


# --- telling ----------------------------------------------------------------------------------------------------------


def report(config: RunConfig, candidates: list[Candidate], operations: float, rates: dict[str, float]) -> Iterator[str]:
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
    """The first that the fastest gains next to nothing on: they come plainest first.

    Raises:
        ValueError: none fits into memory.
    """
    fastest = min(way.step for way in candidates)
    if math.isinf(fastest):
        raise ValueError("no setting fits into this GPU's memory: lower training.batch_size")
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
    operations: float,
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
