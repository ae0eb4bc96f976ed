"""Draw what a tree's quality is worth: the gain of each variant by the agreement of its trees with the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from hirl.config.tasks import GATE
from hirl.reporting.runs import open_runs, trained_by_method
from hirl.reporting.style import FAINT, HIRL, INK, figure_file
from hirl.reporting.table import Cell, by_seed, compared_variants, read_summary
from hirl.reporting.titles import method_title, variant_title

OUTCOME, AGREEMENT = GATE

Point = tuple[str, Cell, Cell]  # a variant, its agreement and its gain


def gate(study_folder: str | Path, runs: Sequence[str], path: str | Path) -> None:
    """Draw a panel per method, a point per variant: the gain in kNN top-1 by the AMI of the finest level.

    The agreement is that of the last tree; whiskers are 95 % intervals over seeds. A study with fewer than three
    variants of HIRL makes no curve (`StudyConfig.compares_trees`).
    """
    opened, summary = open_runs(study_folder, runs), read_summary(study_folder)
    methods, variants = list(trained_by_method(opened)), compared_variants(opened)
    columns = min(len(methods), 3)
    lines = -(-len(methods) // columns)
    with figure_file(path, (3.3 * columns + 0.5, 2.5 * lines + 0.5)) as figure:
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True)
        for ax, method in zip(axes.flat, methods, strict=False):
            _panel(ax, points_of(summary, method, variants))
            ax.set_title(method_title(method))
        for ax in axes.flat[len(methods) :]:
            ax.set_visible(False)
        figure.supxlabel("AMI of the finest level with the true classes, in percent", fontsize=8.5)
        figure.supylabel("gain in kNN top-1, in points", fontsize=8.5)


def points_of(summary: pd.DataFrame, method: str, variants: Sequence[str]) -> list[Point]:
    """Return the points of a method, in the order of their agreement; variants without both numbers are left out."""
    of_method = summary[summary["method"] == method]
    baseline = by_seed(of_method[of_method["variant"] == "baseline"], *OUTCOME)
    found = []
    for variant in variants:
        rows = of_method[of_method["variant"] == variant]
        gain = Cell.of((by_seed(rows, *OUTCOME) - baseline).dropna())
        agreement = Cell.of(by_seed(rows, *AGREEMENT))
        if gain is not None and agreement is not None:
            found.append((variant, agreement, gain))
    return sorted(found, key=lambda point: point[1].mean)


def _panel(ax: Axes, points: list[Point]) -> None:
    """Draw the variants of one method; the curve joins those whose trees are given, not made."""
    ax.axhline(0, color=INK, linewidth=0.8)
    given = [point for point in points if "classes" in point[0] or "random" in point[0]]
    ax.plot([cell.mean for _, cell, _ in given], [gain.mean for *_, gain in given], color=FAINT, linewidth=2, zorder=1)
    for variant, agreement, gain in points:
        color = INK if any(point[0] == variant for point in given) else HIRL
        whiskers: dict[str, Any] = {"xerr": agreement.half, "yerr": gain.half, "elinewidth": 0.9, "capsize": 2}
        ax.errorbar(agreement.mean, gain.mean, fmt="o", markersize=4.5, color=color, **whiskers)
        label = variant_title(variant).removeprefix("HIRL-")
        ax.annotate(
            label, (agreement.mean, gain.mean), xytext=(4, 4), textcoords="offset points", fontsize=7, color=color
        )
    ax.margins(0.12)
