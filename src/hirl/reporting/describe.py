"""Say in words what a figure shows: the alternative text of its image, with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hirl.config.tasks import Metric
from hirl.reporting.answer import FEW
from hirl.reporting.gate import points_of
from hirl.reporting.runs import Run, trained_by_method
from hirl.reporting.table import Cell, Table
from hirl.reporting.titles import method_title, plain, variant_title


def gains(table: Table) -> str:
    """Describe the dots of baseline and HIRL: how many panels, how often HIRL is higher, the largest steps."""
    said = [f"{len(table.headline_metrics)} panels, one per metric, each with a line per method from baseline to HIRL."]
    for variant in table.variants:
        if found := table.gains(variant):
            verdict, few = table.verdict(variant), len(table.variants) <= FEW
            counts = f"{variant_title(variant)} is above in {verdict.above} of {verdict.total} comparisons and below in"
            said.append(f"{counts} {verdict.below}{_range(found) if few else ''}.")
    return " ".join(said)


def _range(found: dict[tuple[Metric, str], Cell]) -> str:
    """Return the lowest and the highest gain, as the end of a sentence."""
    ordered = sorted(found, key=lambda key: found[key].mean)
    lowest, highest = (
        f"{found[metric, method].mean:+.1f} ({method_title(method)}, {plain(metric.title)})"
        for metric, method in (ordered[0], ordered[-1])
    )
    return f"; the differences run from {lowest} to {highest}"


def gate(summary: pd.DataFrame, runs: Sequence[Run], variants: Sequence[str]) -> str:
    """Describe the gain by tree agreement: the tree that agrees least and most with the classes, by method."""
    said = ["Gain in kNN top-1 over the baseline by the agreement of the tree with the classes, a panel per method."]
    for method in trained_by_method(runs):
        if points := points_of(summary, method, variants):
            ends = [
                f"{gain.mean:+.1f} at AMI {agreement.mean:.0f} ({variant_title(variant)})"
                for variant, agreement, gain in (points[0], points[-1])
            ]
            said.append(f"{method_title(method)}: {' and '.join(ends)}.")
    return " ".join(said)


def training(runs: Sequence[Run]) -> str:
    """Describe the curves: whether the losses fall, and the smallest spread of features at the end."""
    trained = [run for run in runs if run.trained]
    said = ["Curves by epoch, a column per method."]
    for curve, title in (("image_loss", "image loss"), ("path_loss", "path loss")):
        ends = [found for run in trained if (found := _ends(run, curve))]
        falls = sum(last < first for first, last in ends)
        said += [f"The {title} ends below its start in {falls} of {len(ends)} runs."] if ends else []
    stds = {run.title: found[1] for run in trained if (found := _ends(run, "feature_std"))}
    if stds:
        lowest = min(stds, key=stds.__getitem__)
        said.append(f"The lowest feature standard deviation at the end is {stds[lowest]:.3f} ({lowest}).")
    return " ".join(said)


def _ends(run: Run, curve: str) -> tuple[float, float] | None:
    """Return the first and the last value of a curve; None where it has none."""
    values = run.history.get(curve, pd.Series(dtype=float)).dropna()
    return (float(values.iloc[0]), float(values.iloc[-1])) if len(values) else None


def hierarchy(trees: pd.DataFrame) -> str:
    """Describe the trees: the NMI of the last finest and coarsest level with the classes."""
    said = ["Per method: NMI of each level with the classes and with the tree before, by epoch, and cluster sizes."]
    for title, levels in (("finest", trees["Level"] == "0"), ("coarsest", trees["Level"] == trees["Level"].max())):
        found = trees[levels].set_index("Run")["NMI"]
        numbers = found.str.split().str[0].astype(float) / 100
        if not numbers.empty:
            said.append(
                f"The {title} level's last NMI with the classes runs from {numbers.min():.2f} ({numbers.idxmin()}) to "
                f"{numbers.max():.2f} ({numbers.idxmax()})."
            )
    return " ".join(said)


def atlas(run: Run, trees: pd.DataFrame) -> str:
    """Describe an atlas: the numbers of clusters of its tree, and how pure the finest and coarsest level are."""
    levels = trees[trees["Run"] == run.title].iloc[::-1]  # coarsest first
    said = f"Rows of training images, each row a cluster of the last tree of {run.title}, the largest first."
    if levels.empty:
        return said
    counts = " over ".join(levels["Clusters"])
    purity = [levels.iloc[place]["Purity"].split()[0] for place in (-1, 0)]
    return (
        f"{said} The tree has {counts} clusters. On average {purity[0]} % of a finest cluster's images and "
        f"{purity[1]} % of a coarsest one's are of its most common class."
    )
