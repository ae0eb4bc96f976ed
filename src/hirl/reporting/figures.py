"""Draw gains, training curves and what became of the semantic trees, one file each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from hirl.config.tasks import Metric
from hirl.reporting.atlas import atlas
from hirl.reporting.chance import chance_levels
from hirl.reporting.runs import Run, assignments, level_names, open_runs, trained_by_method
from hirl.reporting.style import BASELINE, CONTROL_LINE, HIRL, INK, LEVEL_COLORS, LOSS, QUIET, figure_file
from hirl.reporting.table import Cell, Row, Table, read_summary, tabulate
from hirl.reporting.titles import mathtext, method_title


def draw_trainings(study_folder: str | Path, runs: Sequence[str]) -> list[Path]:
    """Draw every figure that needs no evaluation into the study's `figures` folder; return the files.

    They are the curves of the trainings and, with HIRL runs, their semantic trees and one atlas for each method: of its
    first variant and seed.
    """
    study_folder, opened = Path(study_folder), open_runs(study_folder, runs)
    folder = study_folder / "figures"
    drawn = []
    if trained_by_method(opened):
        drawn.append(folder / "training.png")
        training(study_folder, runs, drawn[-1])
    if any(run.has_tree for run in opened):
        drawn.append(folder / "hierarchy.png")
        hierarchy(study_folder, runs, drawn[-1])
        for run in {run.method: run for run in reversed(first_hirl_runs(study_folder, runs))}.values():  # its first
            drawn.append(folder / f"atlas-{run.name}.png")
            atlas(run.folder, study_folder / "data", drawn[-1])
    return drawn


# --- gains ------------------------------------------------------------------------------------------------------------


def gains(study_folder: str | Path, runs: Sequence[str], path: str | Path) -> None:
    """Draw baseline -> HIRL for every method, one panel per metric, with the untrained control as a line."""
    table = tabulate(study_folder, read_summary(study_folder), runs)
    trained = [row for row in table.rows if not row.is_control]
    controls = {row.backbone: row for row in table.rows if row.is_control}
    metrics = table.headline_metrics
    columns = _panel_columns(len(metrics))
    lines = -(-len(metrics) // columns)
    panel_width = 3.1 if table.seeds > 1 else 2.7  # a gain's spread needs room
    size = (panel_width * columns + 0.9, lines * (0.75 + 0.3 * max(len(trained), 1)) + 0.4)
    with figure_file(path, size) as figure:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        chance = chance_levels(study_folder, metrics)
        for ax, metric in zip(axes.flat, metrics, strict=False):
            _gain_panel(ax, metric, trained, controls)
            if metric in chance:
                ax.set_xlabel(f"chance {chance[metric]:.1f}", loc="right", fontsize=7, color=QUIET, labelpad=1)
        for ax in axes.flat[len(metrics) :]:
            ax.set_visible(False)
        _gain_legend(figure, table, bool(controls))


def _panel_columns(panels: int) -> int:
    """Return how many panels stand side by side: three or four, whichever leaves fewer gaps."""
    best = min((3, 4), key=lambda columns: -panels % columns)
    return min(panels, best)


def _gain_panel(ax: Axes, metric: Metric, rows: list[Row], controls: dict[str, Row]) -> None:
    """Draw one metric: a line per method."""
    for y, row in enumerate(rows):
        control = controls.get(row.backbone)
        cell = control.cells.get((metric, "baseline")) if control else None
        if cell:
            ax.plot([cell.mean] * 2, [y - 0.5, y + 0.5], zorder=1, **CONTROL_LINE)
        _gain_line(ax, y, row.cells.get((metric, "baseline")), row.cells.get((metric, "hirl")))
        _gain_number(ax, y, row, metric)
    ax.set(title=mathtext(metric.title), yticks=range(len(rows)), yticklabels=[row.name for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.12)


def _gain_line(ax: Axes, y: int, baseline: Cell | None, hirl: Cell | None) -> None:
    """Draw both circles of a method, their 95 % intervals as whiskers, and the bar between them."""
    if baseline and hirl:
        color = HIRL if hirl.mean >= baseline.mean else LOSS
        ax.plot([baseline.mean, hirl.mean], [y, y], color=color, linewidth=2.4, alpha=0.45, zorder=2)
    for cell, color, face in ((baseline, BASELINE, "white"), (hirl, HIRL, HIRL)):
        if cell:
            ax.errorbar(cell.mean, y, xerr=cell.half, color=color, elinewidth=1, capsize=2, zorder=2.5)
            ax.scatter(cell.mean, y, s=34, color=face, edgecolor=color, linewidth=1.6, zorder=3)


def _gain_number(ax: Axes, y: int, row: Row, metric: Metric) -> None:
    """Write the gain, with its 95 % interval over seeds, at the right of the panel."""
    gain = row.cells.get((metric, "gain"))
    if gain:
        color = {"up": HIRL, "down": LOSS}.get(row.look(metric, "gain"), INK)
        place = ax.get_yaxis_transform()
        ax.text(1.01, y, gain.text(signed=True), transform=place, va="center", color=color, fontsize=8)


def _gain_legend(figure: Figure, table: Table, controls: bool) -> None:
    marks = [
        Line2D([], [], marker="o", linestyle="", markerfacecolor="white", color=BASELINE, label="baseline"),
        Line2D([], [], marker="o", linestyle="", color=HIRL, label="HIRL"),
        Line2D([], [], color=HIRL, alpha=0.45, linewidth=2.4, label="HIRL higher"),
        Line2D([], [], color=LOSS, alpha=0.45, linewidth=2.4, label="HIRL lower"),
    ]
    if controls:
        label = "untrained control" + (" (from scratch where the backbone is trained)" if table.scratch_note else "")
        marks.append(Line2D([], [], label=label, **CONTROL_LINE))
    legend = figure.legend(handles=marks, loc="outside lower left", ncols=5, handlelength=1.6, columnspacing=1.4)
    legend.set_title(f"Percent; {table.spread}.")
    legend.set_alignment("left")


# --- training curves --------------------------------------------------------------------------------------------------

CURVES = {"image_loss": "image loss", "path_loss": "path loss", "feature_std": "feature std"}


def training(study_folder: str | Path, runs: Sequence[str], path: str | Path) -> None:
    """Draw image loss, path loss and feature standard deviation by epoch: a column per method, a line per run."""
    methods = trained_by_method(open_runs(study_folder, runs))
    size = (max(1.75 * len(methods), 6) + 0.7, 1.35 * len(CURVES) + 0.6)
    with figure_file(path, size) as figure:
        axes = figure.subplots(len(CURVES), len(methods), squeeze=False, sharex="col")
        for column, (method, members) in zip(axes.T, methods.items(), strict=True):
            column[0].set_title(method_title(method))
            for ax, curve in zip(column, CURVES, strict=True):
                _curve_panel(ax, members, curve)
            column[-1].set_xlabel("epoch")
        _label_rows(figure, axes, list(CURVES.values()))
        marks = [
            Line2D([], [], color=BASELINE, linewidth=2.6, label="baseline"),
            Line2D([], [], color=HIRL, linewidth=1.2, label="HIRL"),
            Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="first semantic tree"),
        ]
        figure.legend(handles=marks, loc="outside lower left", ncols=3, handlelength=1.6)


def _label_rows(figure: Figure, axes: np.ndarray, titles: Sequence[str]) -> None:
    """Label the rows of panels at the left."""
    for ax, title in zip(axes[:, 0], titles, strict=True):
        ax.set_ylabel(title)
    figure.align_ylabels(axes[:, 0])


def _curve_panel(ax: Axes, members: Iterable[Run], curve: str) -> None:
    """Draw one quantity of one method's runs."""
    is_empty = True
    for run in members:
        history = run.history
        if curve in history and history[curve].notna().any():
            is_empty = False
            # The two coincide until the first tree: the baseline is drawn wider to be seen below HIRL.
            color, width = (HIRL, 1.2) if run.has_tree else (BASELINE, 2.6)
            marker = "." if len(history) < 3 else None
            ax.plot(history["epoch"] + 1, history[curve], color=color, alpha=0.85, linewidth=width, marker=marker)
        if run.has_tree:
            ax.axvline(run.config["hierarchy"]["start_epoch"], color=INK, linewidth=0.8, linestyle=":", zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    if is_empty:
        ax.set_yticks([])
    if curve == "feature_std":
        ax.set_ylim(bottom=0, top=1.08 * ax.dataLim.y1)  # zero is collapse


# --- the semantic trees -----------------------------------------------------------------------------------------------

TREE_ROWS = ("NMI with\ntrue classes", "NMI with\nprevious tree", "clusters")


def hierarchy(study_folder: str | Path, runs: Sequence[str], path: str | Path) -> None:
    """Draw each tree's agreement with the classes and with the tree before it, and the last tree's cluster sizes.

    Raises:
        ValueError: the study has no HIRL run.
    """
    chosen = first_hirl_runs(study_folder, runs)
    labels, names = _labels(study_folder), level_names(study_folder)
    with figure_file(path, (max(1.75 * len(chosen), 6) + 0.7, 4.9)) as figure:
        axes = figure.subplots(len(TREE_ROWS), len(chosen), squeeze=False, sharey="row")
        levels = 0
        several = len({run.variant for run in chosen}) > 1
        for column, run in zip(axes.T, chosen, strict=True):
            trees = {int(path.stem.removeprefix("epoch")): assignments(path) for path in run.snapshots}
            levels = max(levels, *(tree.shape[1] for tree in trees.values()))
            column[0].set_title(run.title.replace(" + ", "\n") if several else method_title(run.method))
            _agreement_panels(column[:2], trees, labels)
            _size_panel(column[2], list(trees.values())[-1])
        _label_rows(figure, axes, TREE_ROWS)
        marks = [
            Line2D([], [], color=_level_color(level), label=_level_title(level, levels, names))
            for level in range(levels)
        ]
        figure.legend(handles=marks, loc="outside lower left", ncols=4, handlelength=1.6)


def first_hirl_runs(study_folder: str | Path, names: Sequence[str]) -> list[Run]:
    """Return each method's runs with trees, one per variant, of its first seed.

    Raises:
        ValueError: the study has no HIRL run.
    """
    hirl = [run for run in open_runs(study_folder, names) if run.has_tree]
    if not hirl:
        raise ValueError(f"{study_folder} holds no HIRL run, so there is no semantic tree to draw")
    first = {(run.method, run.variant): run for run in reversed(hirl)}
    return [first[key] for key in dict.fromkeys((run.method, run.variant) for run in hirl)]


def _level_color(level: int) -> str:
    return LEVEL_COLORS[level % len(LEVEL_COLORS)]


def _level_title(level: int, levels: int, names: list[str]) -> str:
    """Return a tree level's title with the class level it is compared to."""
    place = {levels - 1: ", coarsest", 0: ", finest"}.get(level, "")
    classes = f" (true classes: {names[min(level, len(names) - 1)]})" if names else ""
    return f"level {level}{place}{classes}"


def _labels(study_folder: str | Path) -> np.ndarray:
    """Return the true classes of the training images, int [N, levels], finest first."""
    from hirl.data.images import load_images

    return np.asarray(load_images(Path(study_folder) / "data", "train").labels)


def _agreement_panels(panels: Sequence[Axes], trees: dict[int, np.ndarray], labels: np.ndarray) -> None:
    """Draw each level's NMI by epoch: with the true classes, and with the tree before."""
    from sklearn.metrics import normalized_mutual_info_score as nmi

    epochs, assigned = list(trees), list(trees.values())
    marker = "." if len(trees) < 15 else None
    for level in range(assigned[-1].shape[1]):
        classes = labels[:, min(level, labels.shape[1] - 1)]
        agreement = [nmi(classes, tree[:, level]) for tree in assigned]
        stability = [nmi(old[:, level], new[:, level]) for old, new in pairwise(assigned)]
        panels[0].plot(epochs, agreement, color=_level_color(level), marker=marker)
        panels[1].plot(epochs[1:], stability, color=_level_color(level), marker=marker)
    for ax in panels:
        ax.set(ylim=(0, 1.03), xlim=_padded(epochs))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[0].tick_params(labelbottom=False)
    panels[1].set_xlabel("epoch")


def _size_panel(ax: Axes, tree: np.ndarray) -> None:
    """Draw the cluster sizes of every level of a tree, int [N, L], as histograms on logarithmic axes."""
    largest = np.unique(tree[:, -1], return_counts=True)[1].max()
    bins = np.geomspace(1, largest + 1, 19)
    for level in range(tree.shape[1]):
        sizes = np.unique(tree[:, level], return_counts=True)[1]
        ax.hist(sizes, bins=bins.tolist(), histtype="stepfilled", alpha=0.75, color=_level_color(level))
    ax.set(xscale="log", yscale="log", xlabel="images per cluster")
    ax.set_ylim(bottom=0.7)  # shows a bar of one cluster
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _padded(epochs: list[int]) -> tuple[float, float]:
    """Return axis limits a little outside the epochs, also for a single epoch."""
    margin = max(0.04 * (epochs[-1] - epochs[0]), 0.2)
    return epochs[0] - margin, epochs[-1] + margin
