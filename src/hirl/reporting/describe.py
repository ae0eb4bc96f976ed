"""Say in words what a figure shows: the alternative text of its image, with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hirl.reporting.gate import points_of
from hirl.reporting.runs import Run, trained_by_method
from hirl.reporting.table import Table
from hirl.reporting.titles import method_title, plain, variant_title


def gains(table: Table) -> str:
    """Describe the dots of baseline and HIRL: how many panels, how often HIRL is higher, the largest steps."""
    said = [f"{len(table.headline_metrics)} panels, one per metric, each with a line per method from baseline to HIRL."]
    for variant in table.variants:
        found = {key: cell.mean for key, cell in table.gains(variant).items()}
        if found:
            verdict, ends = table.verdict(variant), (max(found, key=found.__getitem__), min(found, key=found.__getitem__))
            up, down = (
                f"{method_title(method)} in {plain(metric.title)} ({found[metric, method]:+.1f})"
                for metric, method in ends
            )
            said.append(
                f"{variant_title(variant)} is above in {verdict.above} of {verdict.total} comparisons, below in "
                f"{verdict.below}; highest difference: {up}; lowest: {down}."
            )
    return " ".join(said)


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
    """Describe the curves: where the losses start and end, and the smallest spread of features."""
    trained = [run for run in runs if run.trained]
    falls = sum(_ends(run, "image_loss")[1] < _ends(run, "image_loss")[0] for run in trained)
    said = [f"Curves by epoch, a column per method. The image loss of {falls} of {len(trained)} runs ends below its start."]
    paths = [_ends(run, "path_loss") for run in trained if run.has_tree]
    if paths := [ends for ends in paths if ends]:
        falls = sum(last < first for first, last in paths)
        said.append(f"The path loss starts with the first tree and ends below its start in {falls} of {len(paths)} runs.")
    lowest = min(trained, key=lambda run: _ends(run, "feature_std")[1])
    said.append(
        f"The feature standard deviation ends at {_ends(lowest, 'feature_std')[1]:.3f} or more; the lowest is that of "
        f"{lowest.title}."
    )
    return " ".join(said)


def _ends(run: Run, column: str) -> tuple[float, ...]:
    """Return the first and the last value of a curve; nothing where it has none."""
    values = run.history[column].dropna()
    return (float(values.iloc[0]), float(values.iloc[-1])) if len(values) else ()


def hierarchy(trees: pd.DataFrame) -> str:
    """Describe the trees: the NMI of the last finest and coarsest level with the classes."""
    said = ["Per method: NMI of each level with the classes and with the tree before, by epoch, and cluster sizes."]
    for title, levels in (("finest", trees["Level"] == "0"), ("coarsest", trees["Level"] == trees["Level"].max())):
        found = trees[levels].set_index("Run")["NMI"]
        numbers = found.str.split().str[0].astype(float)
        if not numbers.empty:
            said.append(
                f"The {title} level's last NMI with the classes runs from {numbers.min():.0f} % ({numbers.idxmin()}) "
                f"to {numbers.max():.0f} % ({numbers.idxmax()})."
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
        f"{said} The tree has {counts} clusters; of the images of a finest cluster {purity[0]} % are of its most common "
        f"class, of a coarsest one {purity[1]} %."
    )
