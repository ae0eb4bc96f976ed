"""The pictures: gains, training curves, what the semantic trees became. One look, one file each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hirl.reporting.atlas import atlas
from hirl.reporting.runs import Run, assignments, level_names, method_title, open_runs, pairs
from hirl.reporting.style import BASELINE, CONTROL_LINE, HIRL, INK, LEVEL_COLOURS, LOSS, figure_file
from hirl.reporting.table import WHOLE_NETWORK, Metric, Row, Table, read_summary, tabulate

# --- gains ------------------------------------------------------------------------------------------------------------


def gains(study_folder: str | Path, runs: Sequence[str], path: str | Path) -> None:
    """Draws baseline -> hirl for every method, one panel per metric, with the untrained control as a line."""
    table = tabulate(study_folder, read_summary(study_folder), runs)
    trained = [row for row in table.rows if not row.control]
    controls = {row.backbone: row for row in table.rows if row.control}
    columns = min(len(table.metrics), min((3, 4), key=lambda count: -len(table.metrics) % count))
    lines = -(-len(table.metrics) // columns)
    size = (2.7 * columns + 0.9, lines * (0.75 + 0.3 * max(len(trained), 1)) + 0.4)
    with figure_file(path, figsize=size) as figure:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax, metric in zip(axes.flat, table.metrics, strict=False):
            _gain_panel(ax, metric, trained, controls)
        for ax in axes.flat[len(table.metrics) :]:
            ax.set_visible(False)
        _gain_legend(figure, table, bool(controls))


def _gain_panel(ax: Axes, metric: Metric, rows: list[Row], controls: dict[str, Row]) -> None:
    for y, row in enumerate(rows):
        sides = [row.cells.get((metric, part)) for part in ("baseline", "hirl")]
        gain = row.cells.get((metric, "gain"))
        if all(sides):
            colour = HIRL if sides[1].mean >= sides[0].mean else LOSS
            ax.plot([cell.mean for cell in sides], [y, y], color=colour, linewidth=2.4, alpha=0.45, zorder=2)
        for cell, colour, face in zip(sides, (BASELINE, HIRL), ("white", HIRL), strict=True):
            if cell:
                ax.errorbar(cell.mean, y, xerr=cell.std, color=colour, elinewidth=1, capsize=2, zorder=2.5)
                ax.scatter(cell.mean, y, s=34, color=face, edgecolor=colour, linewidth=1.6, zorder=3)
        if gain:
            shown = round(gain.mean, 1)
            colour = INK if shown == 0 else HIRL if shown > 0 else LOSS
            text = f"{shown + 0.0:+.1f}"
            ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", color=colour, fontsize=8)
        if (control := controls.get(row.backbone)) and (cell := control.cells.get((metric, "baseline"))):
            ax.plot([cell.mean] * 2, [y - 0.5, y + 0.5], zorder=1, **CONTROL_LINE)
    ax.set(title=metric.title, yticks=range(len(rows)), yticklabels=[row.name for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.12)


def _gain_legend(figure: Figure, table: Table, controls: bool) -> None:
    marks = [
        plt.Line2D([], [], marker="o", linestyle="", markerfacecolor="white", color=BASELINE, label="baseline"),
        plt.Line2D([], [], marker="o", linestyle="", color=HIRL, label="hirl"),
        plt.Line2D([], [], color=HIRL, alpha=0.45, linewidth=2.4, label="gain"),
        plt.Line2D([], [], color=LOSS, alpha=0.45, linewidth=2.4, label="loss"),
    ]
    if controls:
        scratch = any(metric.task in WHOLE_NETWORK for metric in table.metrics)
        label = "untrained; where the whole network is trained, from scratch" if scratch else "untrained"
        marks.append(plt.Line2D([], [], label=label, **CONTROL_LINE))
    figure.legend(handles=marks, loc="outside lower left", ncols=5, handlelength=1.6, columnspacing=1.4)
    figure.supxlabel(f"per cent, n = {table.seeds} seed{'s' * (table.seeds != 1)}", fontsize=8.5, x=0.98, ha="right")


# --- training curves --------------------------------------------------------------------------------------------------

CURVES = {"image_loss": "Image loss", "path_loss": "Path loss", "feature_std": "Feature std"}


def training(study_folder: str | Path, runs: Sequence[str], path: str | Path) -> None:
    """Draws image loss, path loss and feature standard deviation by epoch: a column per method, a line per run."""
    methods = pairs(open_runs(study_folder, runs))
    size = (max(1.75 * len(methods), 6) + 0.7, 1.35 * len(CURVES) + 0.6)
    with figure_file(path, figsize=size) as figure:
        axes = figure.subplots(len(CURVES), len(methods), squeeze=False, sharex="col")
        for column, (method, members) in zip(axes.T, methods.items(), strict=True):
            column[0].set_title(method_title(method))
            for ax, curve in zip(column, CURVES, strict=True):
                _curve_panel(ax, members, curve)
            column[-1].set_xlabel("epoch")
        for ax, title in zip(axes[:, 0], CURVES.values(), strict=True):
            ax.set_ylabel(title)
        figure.align_ylabels(axes[:, 0])
        marks = [plt.Line2D([], [], color=c, label=v) for v, c in (("baseline", BASELINE), ("hirl", HIRL))]
        marks.append(plt.Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="first semantic tree"))
        figure.legend(handles=marks, loc="outside lower left", ncols=3, handlelength=1.6)


def _curve_panel(ax: Axes, members: Iterable[Run], curve: str) -> None:
    for run in members:
        history = run.history
        if curve in history and history[curve].notna().any():
            colour = HIRL if run.variant == "hirl" else BASELINE
            marker = "." if len(history) < 3 else None
            ax.plot(history["epoch"], history[curve], color=colour, alpha=0.85, linewidth=1.3, marker=marker)
        if run.variant == "hirl":
            ax.axvline(run.config["hierarchy"]["start_epoch"], color=INK, linewidth=0.8, linestyle=":", zorder=1)
    if not ax.lines or all(line.get_linestyle() == ":" for line in ax.lines):
        ax.set_yticks([])
    if curve == "feature_std":
        ax.set_ylim(bottom=0)  # zero is the collapse this gauge watches for
    ax.xaxis.get_major_locator().set_params(integer=True, nbins=4)
    ax.yaxis.set_major_locator(plt.MaxNLocator(4))


# --- the semantic trees -----------------------------------------------------------------------------------------------


def hierarchy(study_folder: str | Path, runs: Sequence[str], path: str | Path) -> None:
    """Draws how the trees grow: agreement with the classes and with the tree before, and the last cluster sizes."""
    chosen = first_hirl_runs(study_folder, runs)
    labels, names = _labels(study_folder), level_names(study_folder)
    with figure_file(path, figsize=(max(1.75 * len(chosen), 6) + 0.7, 4.9)) as figure:
        axes = figure.subplots(3, len(chosen), squeeze=False, sharey="row")
        for column, run in zip(axes.T, chosen, strict=True):
            column[0].set_title(method_title(run.method))
            _tree_column(column, run, labels)
        for ax, title in zip(axes[:, 0], ("NMI with\nclasses", "NMI with\ntree before", "clusters"), strict=True):
            ax.set_ylabel(title)
        figure.align_ylabels(axes[:, 0])
        levels = sum(bool(line.get_label()[0] != "_") for line in axes[0, 0].lines)
        marks = [
            plt.Line2D([], [], color=LEVEL_COLOURS[level], label=_level_title(level, levels, names))
            for level in range(levels)
        ]
        figure.legend(handles=marks, loc="outside lower left", ncols=4, handlelength=1.6)


def first_hirl_runs(study_folder: str | Path, names: Sequence[str]) -> list[Run]:
    """Each method's hirl run of its first seed.

    Raises:
        ValueError: the study has none.
    """
    hirl = [run for run in open_runs(study_folder, names) if run.variant == "hirl"]
    if not hirl:
        raise ValueError(f"{study_folder}: no hirl run in this study, so there is no hierarchy to draw")
    return [members[0] for members in pairs(hirl).values()]


def _level_title(level: int, levels: int, names: list[str]) -> str:
    rank = "finest" if level == 0 else "coarsest" if level == levels - 1 else "middle"
    against = f" (against {names[min(level, len(names) - 1)]})" if names else ""
    return f"level {level}, {rank}{against}"


def _labels(study_folder: str | Path) -> np.ndarray:
    """The true classes of the training images, int [N, levels], finest first."""
    from hirl.data.images import load_images

    return np.asarray(load_images(Path(study_folder) / "data", "train").labels)


def _tree_column(column: Sequence[Axes], run: Run, labels: np.ndarray) -> None:
    from sklearn.metrics import normalized_mutual_info_score as nmi

    epochs = [int(path.stem.removeprefix("epoch")) for path in run.snapshots]
    trees = [assignments(path) for path in run.snapshots]
    for level in range(trees[-1].shape[1]):
        classes = labels[:, min(level, labels.shape[1] - 1)]
        style = {"color": LEVEL_COLOURS[level % len(LEVEL_COLOURS)], "marker": "." if len(trees) < 15 else None}
        agreement = [nmi(classes, tree[:, level]) for tree in trees]
        change = [nmi(old[:, level], new[:, level]) for old, new in pairwise(trees)]
        column[0].plot(epochs, agreement, label=f"level {level}", **style)
        column[1].plot(epochs[1:], change, **style)
        sizes = np.unique(trees[-1][:, level], return_counts=True)[1]
        column[2].hist(sizes, bins=_size_bins(trees[-1]), histtype="stepfilled", alpha=0.75, color=style["color"])
    for ax in column[:2]:
        ax.set(ylim=(0, 1.03), xlim=_padded(epochs))
        ax.xaxis.set_major_locator(plt.MaxNLocator(4, integer=True))
    column[0].tick_params(labelbottom=False)
    column[1].set_xlabel("epoch")
    column[2].set(xscale="log", yscale="log", xlabel="images in a cluster")
    column[2].set_ylim(bottom=0.7)  # a lone cluster is seen too
    for axis in (column[2].xaxis, column[2].yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(plt.NullFormatter())


def _padded(epochs: list[int]) -> tuple[float, float]:
    """Limits a little outside the epochs, also where there is one only."""
    margin = max(0.04 * (epochs[-1] - epochs[0]), 0.2)
    return epochs[0] - margin, epochs[-1] + margin


def _size_bins(tree: np.ndarray) -> np.ndarray:
    """Common bins over the sizes of all levels, even on a log axis."""
    largest = np.unique(tree[:, -1], return_counts=True)[1].max()
    return np.geomspace(1, largest + 1, 19)


# --- all of it --------------------------------------------------------------------------------------------------------


def draw_figures(study_folder: str | Path, runs: Sequence[str]) -> list[Path]:
    """Draws every figure that the study's runs allow into its figures folder; returns the files."""
    study_folder, opened = Path(study_folder), open_runs(study_folder, runs)
    folder, drawn = study_folder / "figures", []
    chosen = [gains]
    if pairs(opened):
        chosen.append(training)
    if any(run.variant == "hirl" for run in opened):
        chosen.append(hierarchy)
    for figure in chosen:
        drawn.append(folder / f"{figure.__name__}.png")
        figure(study_folder, runs, drawn[-1])
    for run in first_hirl_runs(study_folder, runs) if hierarchy in chosen else []:
        drawn.append(folder / f"atlas-{run.name}.png")
        atlas(run.folder, study_folder / "data", drawn[-1])
    return drawn
