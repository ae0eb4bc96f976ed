"""Measure a run's speed settings (precision, compile, checkpoint_activations) on this machine with real steps."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass, field
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

import torch

from hirl.config import RunConfig
from hirl.distributed.device import choose_device, choose_precision
from hirl.planning.cost import hirl_operations
from hirl.planning.count import count
from hirl.planning.machine import matmul_precision
from hirl.planning.step_benchmark import StepBenchmark, measure_matmul_flops, with_training

if TYPE_CHECKING:
    from rich.table import Table

ROUNDS, STEPS = 5, 3  # rounds over the candidates, and steps of each in a round
TOLERANCE = 1.05  # the plainest candidate within this factor of the fastest is recommended
COLUMNS = ("precision", "mode", "images/s", "speed-up", "memory", "MFU", "start", "pays off after", "")


@dataclass
class Candidate:
    """A combination of speed settings and its measurements, without `seconds` if a step does not fit into memory.

    Attributes:
        start: seconds by which the first two steps, with compilation, take longer than two later ones.
        memory: peak bytes on the device, of this candidate alone; 0 on a CPU, where it is not measured.
        seconds: of a step, one value per round.
    """

    precision: str
    compile: bool
    checkpoint_activations: bool
    start: float = 0.0
    memory: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def step(self) -> float:
        """Return the seconds of a step: the median over the rounds."""
        return median(self.seconds) if self.seconds else math.inf

    @property
    def settings(self) -> dict[str, str | bool]:
        """Return the settings as keys of `training` and their values."""
        return {
            "precision": self.precision,
            "compile": self.compile,
            "checkpoint_activations": self.checkpoint_activations,
        }

    @property
    def arguments(self) -> str:
        """Return the settings as options of the command line."""
        return " ".join(f"--set training.{key}={str(value).lower()}" for key, value in self.settings.items())


@dataclass(frozen=True)
class Measurement:
    """The measurements of all candidates.

    Attributes:
        candidates: all combinations, the plainest first.
        operations: floating-point operations of a step.
        matmul_flops: FLOP/s of large matrix products on this machine, by precision.
    """

    candidates: list[Candidate]
    operations: float
    matmul_flops: dict[str, float]


def tune(config: RunConfig, plugins: tuple[str, ...] = ()) -> Measurement:
    """Measure a run's steps with every speed setting that applies here."""
    device = choose_device()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # an empty cache, so that every compilation is timed in full
        candidates = measure(config, device, plugins)
        operations = count_operations(config, plugins)
    flops = {name: measure_matmul_flops(matmul_precision(name, config), device) for name in ("fp32", "bf16")}
    return Measurement(candidates, operations, flops)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(config: RunConfig, device: torch.device, plugins: tuple[str, ...] = ()) -> list[Candidate]:
    """Measure all candidates: on a GPU one after the other, each with all the memory; on a CPU in alternating rounds.

    Alternating keeps a CPU's other load from favouring one candidate. Checkpointing is only tried on a GPU.
    """
    on_gpu = device.type == "cuda"
    checkpointing = (False, True) if on_gpu else (False,)
    candidates = [Candidate(*settings) for settings in product(("fp32", "bf16"), (False, True), checkpointing)]
    groups = [[candidate] for candidate in candidates] if on_gpu else [candidates]
    for group in groups:
        _measure_group(group, config, device, plugins)
    return candidates


def _measure_group(
    candidates: list[Candidate], config: RunConfig, device: torch.device, plugins: tuple[str, ...]
) -> None:
    """Fill in the measurements of candidates in turns; one that runs out of memory, alone in its group, has none."""
    before = _reset_peak_memory(device)
    try:
        benchmarks = [
            StepBenchmark(with_training(config, **candidate.settings), device, plugins) for candidate in candidates
        ]
        for candidate, benchmark in zip(candidates, benchmarks, strict=True):
            candidate.start = benchmark.seconds(2)
        for _ in range(ROUNDS):
            for candidate, benchmark in zip(candidates, benchmarks, strict=True):
                candidate.seconds.append(benchmark.seconds(STEPS) / STEPS)
    except torch.OutOfMemoryError:
        candidates[0].seconds = []
        return
    for candidate in candidates:
        candidate.start = max(0.0, candidate.start - 2 * candidate.step)
        candidate.memory = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0


def count_operations(config: RunConfig, plugins: tuple[str, ...] = ()) -> float:
    """Return the floating-point operations of a step, forward and backward, as `hirl plan` counts them."""
    counts = count(config.model_copy(update={"hierarchy": None}), plugins)
    return config.training.batch_size * (counts.step + hirl_operations(config, counts.embedding_dim))


def _reset_peak_memory(device: torch.device) -> int:
    """Reset a GPU's peak memory, and return the bytes in use; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


# --- reporting --------------------------------------------------------------------------------------------------------


def heading(config: RunConfig, measured: Measurement) -> str:
    """Return the line above the table: run, batch size, operations of a step, machine."""
    device, batch_size = choose_device(), config.training.batch_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{config.name}  batches of {batch_size}  {measured.operations / 1e9:.4g} GFLOP a step  {name}"


def candidates_table(config: RunConfig, measured: Measurement) -> Table:
    """Return a table of all candidates; speed-ups are over the run's present settings."""
    from rich.table import Table

    present = current(config, measured.candidates)
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for candidate in measured.candidates:
        table.add_row(*_row(candidate, present, config.training.batch_size, measured))
    return table


def current(config: RunConfig, candidates: list[Candidate]) -> Candidate:
    """Return the candidate with the run's own settings; on a CPU the one without checkpointing."""
    dtype = choose_precision(config.training.precision, choose_device())
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    wanted = (precision, config.training.compile, config.training.checkpoint_activations)
    known = {(each.precision, each.compile, each.checkpoint_activations): each for each in candidates}
    return known.get(wanted) or known[(*wanted[:2], False)]


def recommended(candidates: list[Candidate]) -> Candidate:
    """Return the plainest candidate that is almost as fast as the fastest.

    Raises:
        ValueError: no candidate fits into memory.
    """
    fastest = min(each.step for each in candidates)
    if math.isinf(fastest):
        raise ValueError("no setting fits into this GPU's memory: lower training.batch_size")
    return next(each for each in candidates if each.step <= TOLERANCE * fastest)


def pays_off_after(candidate: Candidate, candidates: list[Candidate]) -> float:
    """Return the steps after which faster steps make up for the time of compiling; infinite if they never do."""
    plain = next(each for each in candidates if each.settings == candidate.settings | {"compile": False})
    gain = plain.step - candidate.step
    return max(0.0, candidate.start - plain.start) / gain if gain > 0 else math.inf


def _row(candidate: Candidate, present: Candidate, batch_size: int, measured: Measurement) -> list[str]:
    mode = "compiled" if candidate.compile else "eager"
    if candidate.checkpoint_activations:
        mode += ", checkpointed"
    mark = "now" if candidate is present else ""
    if not candidate.seconds:
        return [candidate.precision, mode, "out of memory", *[""] * (len(COLUMNS) - 4), mark]
    mfu = measured.operations / candidate.step / measured.matmul_flops[candidate.precision]
    return [
        candidate.precision,
        mode,
        f"{batch_size / candidate.step:.4g}",
        f"{present.step / candidate.step:.2f}" if present.seconds else "",
        f"{candidate.memory / 2**30:.1f} GiB" if candidate.memory else "",
        f"{mfu:.0%}",
        f"{candidate.start:.1f} s",
        _pays_off(candidate, measured.candidates),
        mark,
    ]


def _pays_off(candidate: Candidate, candidates: list[Candidate]) -> str:
    if not candidate.compile:
        return ""
    steps = pays_off_after(candidate, candidates)
    return "never" if math.isinf(steps) else f"{math.ceil(steps)} steps"
