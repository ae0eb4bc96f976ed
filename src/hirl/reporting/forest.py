"""Lay out the forest plot of a study: its gains with their intervals, as places on a common axis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import pandas as pd

from hirl.config.tasks import OUTCOMES, Metric
from hirl.reporting.answer import FEW
from hirl.reporting.judgement import ALL_METHODS
from hirl.reporting.table import Cell, Table
from hirl.reporting.titles import method_title, variant_title

MARGIN = 0.06  # of the axis, on both sides
NICE = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # steps of the axis


@dataclass(frozen=True)
class Line:
    """A gain.

    Attributes:
        cell: mean and interval; without an interval for one seed.
        verdict: gain, loss or undecided; empty for one seed.
        methods: the gains of single methods behind a mean.
        is_mean: whether this is the mean over the methods.
    """

    title: str
    cell: Cell
    verdict: str = ""
    methods: tuple[float, ...] = ()
    is_mean: bool = False


@dataclass(frozen=True)
class Panel:
    """The gains in one metric.

    Attributes:
        groups: lines by the title of their variant, or all variants' means in one group.
    """

    metric: Metric
    groups: dict[str, list[Line]]

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the axis, which holds zero."""
        lines = list(chain.from_iterable(self.groups.values()))
        halves = [(line.cell.mean, line.cell.half or 0.0) for line in lines]
        values = [0.0, *chain.from_iterable((mean - half, mean + half) for mean, half in halves)]
        values += chain.from_iterable(line.methods for line in lines)
        low, high = min(values), max(values)
        margin = MARGIN * max(high - low, 0.1)
        return low - margin, high + margin

    def place(self, value: float) -> float:
        """Return where a value stands on the axis, in percent of its length."""
        low, high = self.ends
        return round(100 * (value - low) / (high - low), 2)

    @property
    def ticks(self) -> list[float]:
        """Return up to five round numbers on the axis, zero among them."""
        low, high = self.ends
        step = next((step for step in NICE if (high - low) / step <= 4.5), 100.0)
        return [round(n * step, 1) for n in range(-100, 101) if low <= n * step <= high]


def forest(table: Table, judged: pd.DataFrame) -> list[Panel]:
    """Return a panel per outcome that the study has; a study without an outcome shows its first two metrics.

    With few variants a panel has a line per method and one for their mean; with more, a line per variant.
    """
    outcomes = [metric for metric in table.metrics if (metric.task, metric.name) in OUTCOMES]
    metrics = outcomes or table.headline_metrics[:2]
    panels = [Panel(metric, _groups(table, judged, metric)) for metric in metrics]
    return [panel for panel in panels if any(panel.groups.values())]


def _groups(table: Table, judged: pd.DataFrame, metric: Metric) -> dict[str, list[Line]]:
    variants = table.variants
    by_variant = {variant_title(variant): _lines(table, judged, metric, variant) for variant in variants}
    if len(variants) <= FEW:
        return by_variant
    means = [_mean_alone(title, lines) for title, lines in by_variant.items() if lines]
    return {"Mean over methods": means}


def _mean_alone(title: str, lines: list[Line]) -> Line:
    """Return the mean of a variant's methods as its line, with the methods as dots."""
    *singles, mean = lines
    methods = tuple(line.cell.mean for line in singles)
    return Line(title, mean.cell, mean.verdict, methods, is_mean=True)


def _lines(table: Table, judged: pd.DataFrame, metric: Metric, variant: str) -> list[Line]:
    """Return the gains of a variant's methods and, of several, their mean last."""
    where = {"variant": variant, "task": metric.task, "metric": metric.name}
    own = judged[(judged[list(where)] == pd.Series(where)).all(axis=1)].set_index("method")
    lines = [
        Line(method_title(method), cell, own["verdict"].get(method, ""))
        for (found, method), cell in table.gains(variant).items()
        if found == metric
    ]
    if ALL_METHODS in own.index:
        mean = own.loc[ALL_METHODS]
        return [*lines, Line("All methods", Cell(mean["gain"], mean["seeds"], mean["half"]), mean["verdict"], (), True)]
    if len(lines) > 1:
        mean = sum(line.cell.mean for line in lines) / len(lines)
        lines.append(Line("All methods", Cell(mean, 1), is_mean=True))
    return lines
