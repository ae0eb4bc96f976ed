"""Measure what retraining alone changes: the spread of the baselines' numbers over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import t as student_t

from hirl.config.tasks import Metric
from hirl.reporting.markup import markdown_table
from hirl.reporting.titles import html

HEADS = ["Metric", "Standard deviation over seeds", "Two trainings differ by less than (95 %)", "Baselines"]
UNKNOWN = (
    "No spread is known: each baseline was trained with one seed. Several seeds show how far retraining alone moves "
    "each number."
)
NOTE = (
    "What retraining alone changes: the standard deviation of a baseline's number over seeds, pooled over the methods. "
    "The numbers of two trainings that differ in their seed alone are within the second number of each other in 95 % "
    "of cases (Student's t): only a larger difference between two single runs means something. Gains are paired by "
    "seed and have their own interval, which decides."
)


@dataclass(frozen=True)
class Spread:
    """How far retraining moves a metric.

    Attributes:
        deviation: standard deviation over seeds of one baseline's number, pooled over methods.
        freedom: degrees of freedom behind it: seeds minus one, summed over methods.
        methods: how many baselines it is pooled over.
    """

    metric: Metric
    deviation: float
    freedom: int
    methods: int

    @property
    def chance_difference(self) -> float:
        """The size below which 95 % of the differences between two trainings stay, if only their seeds differ."""
        return float(student_t.ppf(0.975, self.freedom) * 2**0.5 * self.deviation)

    @property
    def texts(self) -> list[str]:
        """The line of a table, without the metric's title."""
        return [f"{self.deviation:.2f}", f"{self.chance_difference:.1f}", str(self.methods)]


def spreads(summary: pd.DataFrame, metrics: Sequence[Metric]) -> list[Spread]:
    """Return the spread of each metric that some baseline has over two seeds or more."""
    baselines = summary[summary["variant"] == "baseline"]
    found = []
    for metric in metrics:
        rows = baselines[(baselines["task"] == metric.task) & (baselines["metric"] == metric.name)]
        by_method = rows.groupby("method")["value"].agg(["var", "count"]).query("count > 1")
        if not by_method.empty:
            freedom = by_method["count"] - 1
            pooled = (by_method["var"] * freedom).sum() / freedom.sum()
            found.append(Spread(metric, float(pooled**0.5), int(freedom.sum()), len(by_method)))
    return found


def markdown(found: Sequence[Spread]) -> str:
    """Return the note and the spreads as a Markdown table; without any, that none is known."""
    if not found:
        return f"{UNKNOWN}\n"
    return f"{NOTE}\n\n{markdown_table(HEADS, [[html(line.metric.title), *line.texts] for line in found])}"
