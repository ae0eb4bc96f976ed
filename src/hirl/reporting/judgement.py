"""Judge the gains of a study over seeds: intervals, tests corrected for their number, and a verdict each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from hirl.config.run_name import CONTROL
from hirl.config.tasks import METRICS, OUTCOMES
from hirl.reporting.markup import markdown_table
from hirl.reporting.table import Cell
from hirl.reporting.titles import method_title, variant_title

ALL_METHODS = "all methods"
VERDICTS = ("gain", "loss", "undecided")
SIGNIFICANCE = 0.05  # of the tests, after the correction
COLUMNS = ["variant", "method", "task", "metric", "seeds", "baseline", "gain", "half", "p", "p_holm", "verdict"]
NOTE = (
    "Gains over the baseline, paired by seed: the mean with half the width of its 95 % interval, and the p-value of a "
    "t-test, corrected by Holm for all methods and both outcomes of a variant. A verdict needs a corrected p-value "
    f"below {SIGNIFICANCE}, so a gain may stay undecided although its own interval leaves zero. The line of all "
    "methods averages their gains within each seed."
)


def judge(summary: pd.DataFrame) -> pd.DataFrame:
    """Return a line per variant, method and outcome that has two seeds or more, and one over all methods.

    Columns: the seeds; the baseline's mean over them; the mean gain and half of its 95 % interval; the p-value of a
    paired t-test, and the same corrected by Holm's method; the verdict: gain, loss or undecided.
    """
    variants = sorted(set(summary["variant"]) - {"baseline", CONTROL})
    lines = [line for variant in variants for line in _judge_variant(summary, variant)]
    return pd.DataFrame(lines, columns=COLUMNS)


def _judge_variant(summary: pd.DataFrame, variant: str) -> list[dict[str, Any]]:
    """Return the lines of each method, then those over all methods; each of the two is corrected for its number."""
    single, pooled = [], []
    for task, metric in OUTCOMES:
        where = {"variant": variant, "task": task, "metric": metric}
        baselines, gains = _paired(summary, variant, task, metric)
        enough = [method for method in gains if gains[method].count() > 1]
        single += [_line(where | {"method": method}, baselines[method], gains[method].dropna()) for method in enough]
        shared = gains[enough].dropna()  # of the seeds that every method has
        if len(enough) > 1 and len(shared) > 1:
            mean = baselines[enough].mean(axis=1)
            pooled.append(_line(where | {"method": ALL_METHODS}, mean, shared.mean(axis=1)))
    for family in (single, pooled):
        for line, p in zip(family, holm([line["p"] for line in family]), strict=True):
            line |= {"p_holm": p, "verdict": _verdict(line["gain"], p)}
    return single + pooled


def _paired(summary: pd.DataFrame, variant: str, task: str, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the baselines and the variant's gains: a row per seed, a column per method that has both."""
    rows = summary[(summary["task"] == task) & (summary["metric"] == metric)]
    sides = [
        rows[rows["variant"] == side].pivot(index="seed", columns="method", values="value")
        for side in ("baseline", variant)
    ]
    baselines, others = sides[0].align(sides[1], join="inner")
    return baselines, others - baselines


def _line(where: dict[str, str], baseline: pd.Series, gain: pd.Series) -> dict[str, Any]:
    """Return a line without its verdict; `gain` has two seeds or more."""
    cell = Cell.of(gain)
    assert cell is not None
    p = float(ttest_1samp(gain, 0).pvalue) if gain.std() > 0 else 1.0  # equal gains have no spread to test against
    numbers = {"seeds": cell.n, "baseline": baseline[gain.index].mean(), "gain": cell.mean, "half": cell.half, "p": p}
    return where | numbers


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Scand. J. Statist. 6, 1979)."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected.tolist()


def _verdict(gain: float, p: float) -> str:
    if p >= SIGNIFICANCE:
        return "undecided"
    return "gain" if gain > 0 else "loss"


def texts(judged: pd.DataFrame) -> list[dict[str, str]]:
    """Return the lines as text by column title."""
    titles = {(metric.task, metric.name): metric.title for metric in METRICS}
    return [
        {
            "Variant": variant_title(line.variant),
            "Method": method_title(line.method),
            "Outcome": titles[line.task, line.metric],
            "Seeds": str(line.seeds),
            "Baseline": f"{line.baseline:.1f}",
            "Gain": f"{line.gain:+.2f} ± {line.half:.2f}",
            "p (Holm)": f"{line.p_holm:.3f}",
            "Verdict": line.verdict,
        }
        for line in judged.itertuples(index=False)
    ]


def markdown(judged: pd.DataFrame) -> str:
    """Return the lines as a Markdown table, gains and losses in bold."""
    lines = texts(judged)
    body = [[*list(line.values())[:-1], _bold(line["Verdict"])] for line in lines]
    return markdown_table(list(lines[0]), body)


def _bold(verdict: str) -> str:
    return verdict if verdict == "undecided" else f"**{verdict}**"
