"""Plan a study: the cost of every run, the time until all are done, and how far a plan was from the measured times.

With C GPUs and R for each run, C // R run at a time, the longest chains first: a HIRL run takes the first epochs of its
baseline over, if that is trained too, and waits for it. Otherwise runs are independent.
"""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from hirl.config import RunConfig, Study
from hirl.planning.cost import JOB_OVERHEAD_S, Cost, hirl_operations, run_cost, step_seconds
from hirl.planning.count import Counts, count
from hirl.planning.machine import Machine, backbone_family, measure_mfu, measure_step
from hirl.training.progress import duration

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("pretraining", "trees", "evaluations", "GPU time", "wall time", "GiB per GPU", "disk GiB")


def plan(
    study: Study, machine: Machine, ranks: int, overrides: dict[str, Any] | None = None, data: Path | None = None
) -> list[Cost]:
    """Return the cost of every run of a study, each on `ranks` GPUs.

    Args:
        data: prepared data, for a set of unknown size.

    Raises:
        ValueError: a value is wrong, or the number of images is unknown.
    """
    asked = study.config
    costs = []
    for config, counts, mfu in _counted_runs(study, machine, asked.methods, overrides):
        forks = config.stem_epochs > 0 and "baseline" in asked.variants
        stems = 0 if config.hierarchy else len(study.stem_epochs(config.method, 0, overrides))
        for seed in asked.seeds:
            run = config.model_copy(update={"seed": seed})
            costs.append(run_cost(run, counts, machine, mfu, ranks, asked.tasks, data, forks, stems))
    return costs


def _counted_runs(
    study: Study, machine: Machine, methods: Iterable[str], overrides: dict[str, Any] | None
) -> Iterator[tuple[RunConfig, Counts, float]]:
    """Yield the configuration of each method and variant at seed 0, its counts, and its MFU on the machine."""
    asked = study.config
    counted: dict[str, Counts] = {}
    for method in methods:
        baseline = study.resolve(method, "baseline", 0, overrides)
        training = baseline.training
        kept = (training.optimizer.name, training.precision, training.checkpoint_activations)
        network = repr((baseline.algorithm, baseline.backbone, baseline.model, baseline.views, kept))
        if network not in counted:
            counted[network] = count(baseline, asked.plugins)
        counts = counted[network]
        for variant in asked.variants:
            config = study.resolve(method, variant, 0, overrides)
            yield config, counts, _mfu(config, counts, machine, asked.plugins)


def _mfu(config: RunConfig, counts: Counts, machine: Machine, plugins: tuple[str, ...]) -> float:
    """Return the machine's listed MFU for the run's backbone, or measure the run's."""
    if machine.mfu is not None:
        return machine.mfu[backbone_family(config)]
    return measure_mfu(config, counts.step + hirl_operations(config, counts.embedding_dim), machine, plugins)


def wall_seconds(costs: list[Cost], gpus: int, ranks: int) -> float:
    """Return the seconds from the first run's start to the last one's end."""
    chains = {cost.run: cost.wall(ranks) for cost in costs}
    for cost in costs:
        if cost.baseline is not None:
            before = next(other.training_wall(ranks) for other in costs if other.run == cost.baseline)
            chains[cost.baseline] = max(chains[cost.baseline], before + cost.wall(ranks))
    waiting = sorted(costs, key=lambda cost: chains[cost.run], reverse=True)
    free = [0.0] * (gpus // ranks)
    trained: dict[str | None, float] = {None: 0.0}  # when each run's training is done
    while waiting:
        now = heapq.heappop(free)
        run = next((cost for cost in waiting if trained.get(cost.baseline, math.inf) <= now), None)
        if run is None:  # all baselines have started
            heapq.heappush(free, min(trained[cost.baseline] for cost in waiting))
            continue
        waiting.remove(run)
        trained[run.run] = now + run.training_wall(ranks)
        heapq.heappush(free, now + run.wall(ranks))
    return max(free)


def costs_table(costs: list[Cost], machine: Machine, gpus: int, ranks: int) -> Table:
    """Return a table with a row for each run and one for the study; memory beyond a GPU's is marked."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=f"{gpus} x {machine.name}, {ranks} for each run")
    table.add_column("run")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    limit = machine.memory_gib * 2**30
    for cost in costs:
        seconds = (cost.pretraining, cost.trees, cost.evaluations, cost.gpu_seconds, cost.wall(ranks))
        memory = _gib(cost.memory)
        if cost.memory > limit:
            memory += " !"
        table.add_row(cost.run, *map(duration, seconds), memory, _gib(cost.disk))
    totals = [
        sum(cost.pretraining for cost in costs),
        sum(cost.trees for cost in costs),
        sum(cost.evaluations for cost in costs),
        sum(cost.gpu_seconds for cost in costs),
        wall_seconds(costs, gpus, ranks),
    ]
    table.add_row("all", *map(duration, totals), "", _gib(sum(cost.disk for cost in costs)))
    if any(cost.memory > limit for cost in costs):
        table.caption = (
            f"! more than {machine.memory_gib:g} GiB: give a run more GPUs, or set training.checkpoint_activations"
        )
    return table


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g}"


# --- check against finished runs, or against steps of this machine ----------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Planned and measured seconds: of a finished run's pretraining and trees, or of a step."""

    run: str
    planned: float
    measured: float

    @property
    def ratio(self) -> float:
        """Return planned over measured."""
        return self.planned / self.measured

    @property
    def error(self) -> float:
        """Return the factor by which the plan is too high or too low, at least 1."""
        return max(self.ratio, self.measured / self.planned)


def check(costs: Iterable[Cost], results: Path) -> list[Check]:
    """Compare the plan of a study with its results, where every run had one GPU or one core.

    Raises:
        ValueError: a run has no results.
    """
    return [
        Check(
            cost.run,
            cost.pretraining + cost.taken_over - JOB_OVERHEAD_S + cost.trees,
            measured_seconds(results / "runs" / cost.run),
        )
        for cost in costs
    ]


def check_steps(
    study: Study,
    machine: Machine,
    ranks: int,
    methods: Sequence[str] = (),
    overrides: dict[str, Any] | None = None,
) -> list[Check]:
    """Compare the planned seconds of a step with those of real steps on this machine.

    A step trains on one GPU's part of the batch, which `ranks` GPUs share. A step that does not fit into memory takes
    forever.

    Args:
        machine: whose rates the plan takes; those of another machine show how far they are from this one's.
        methods: of the study; none means all.
    """
    checks = []
    for config, counts, mfu in _counted_runs(study, machine, methods or study.config.methods, overrides):
        batch = max(1, config.training.batch_size // ranks)
        planned = step_seconds(config, counts, machine, mfu, batch)
        checks.append(Check(config.name, planned, measure_step(config, batch, study.config.plugins)))
    return checks


def measured_seconds(run: Path) -> float:
    """Return the seconds that all epochs of a finished run took, trees and epochs taken over included.

    Raises:
        ValueError: the run has no history.
    """
    history = run / "history.csv"
    if not history.exists():
        raise ValueError(f"{history} is missing: --check needs the results of a study that was run")
    with history.open(newline="") as handle:
        return sum(float(row["seconds"]) for row in csv.DictReader(handle))


def checks_table(checks: list[Check], unit: Literal["s", "ms"] = "s") -> Table:
    """Return a table with a row for each run, and the median and the worst error below."""
    from rich.table import Table

    errors = [each.error for each in checks]
    summary = f"plan off by a factor of {median(errors):.2f} (median), {max(errors):.2f} (worst)"
    table = Table(box=None, pad_edge=False, caption=summary)
    table.add_column("run")
    for column in ("planned", "measured", "ratio"):
        table.add_column(column, justify="right")
    for each in checks:
        times = (
            f"{1000 * value:.0f} ms" if unit == "ms" else duration(value) for value in (each.planned, each.measured)
        )
        table.add_row(each.run, *times, f"{each.ratio:.2f}")
    return table
