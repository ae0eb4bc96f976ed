"""The numbers: every evaluation as one long table, and the wide one that compares baseline, hirl and gain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from hirl.reporting.runs import Run, backbone_title, level_names, method_title, open_runs, pairs

COLUMNS = ["study", "dataset", "method", "variant", "seed", "task", "metric", "value"]
PARTS = ("baseline", "hirl", "gain")


# What trains the whole network: there, the untrained control is trained from scratch.
WHOLE_NETWORK = ("finetune", "semisup-1", "semisup-10", "transfer", "detection")
SCRATCH = " †"  # marks such a number


@dataclass(frozen=True)
class Metric:
    """A number that is shown; those of a family share a table."""

    task: str
    name: str
    title: str
    family: str


METRICS = (
    Metric("knn", "top1", "kNN top-1", "Nearest neighbours"),
    Metric("probe", "top1", "Probe top-1", "Linear classification"),
    Metric("linear", "top1", "Linear top-1", "Linear classification"),
    Metric("finetune", "top1", "Fine-tune top-1", "Fine-tuning"),
    Metric("semisup-1", "top1", "1 % labels top-1", "Fine-tuning"),
    Metric("semisup-10", "top1", "10 % labels top-1", "Fine-tuning"),
    Metric("clustering", "acc", "Clustering ACC", "Clustering"),
    Metric("clustering", "nmi", "Clustering NMI", "Clustering"),
    Metric("clustering", "ami", "Clustering AMI", "Clustering"),
    Metric("transfer", "top1", "Transfer top-1", "Transfer"),
    Metric("detection", "ap_box", "Detection AP", "Transfer"),
    Metric("detection", "ap_mask", "Segmentation AP", "Transfer"),
)


@dataclass(frozen=True)
class Cell:
    """A number over seeds: its mean, its sample standard deviation (None for one seed), how many seeds."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: pd.Series) -> Cell | None:
        """The cell of some values; None of none."""
        if values.empty:
            return None
        return cls(values.mean(), values.std(ddof=1) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Row:
    """A method, or the untrained control of an architecture."""

    method: str
    backbone: str
    cells: dict[tuple[Metric, str], Cell]

    @property
    def control(self) -> bool:
        """Whether this is an untrained network."""
        return self.method == "untrained"

    @property
    def name(self) -> str:
        """What it is called among rows of its architecture."""
        return method_title(self.method)

    def title(self, metrics: Sequence[Metric]) -> str:
        """What it is called in a table of these metrics; a control says its architecture, and what becomes of it."""
        if not self.control:
            return self.name
        scratch = all(metric.task in WHOLE_NETWORK for metric in metrics)
        return f"{'From scratch:' if scratch else 'Untrained'} {backbone_title(self.backbone)}"

    def look(self, metric: Metric, part: str) -> str:
        """How a cell looks, by its numbers as printed: the best of its pair, a gain up or down, or nothing special."""
        shown = {name: round(cell.mean, 1) for name in PARTS if (cell := self.cells.get((metric, name)))}
        if part == "gain":
            gain = shown.get("gain", 0)
            return "up" if gain > 0 else "down" if gain < 0 else ""
        baseline, hirl = (shown.get(name) for name in PARTS[:2])
        if None in (baseline, hirl) or baseline == hirl:
            return ""
        return "best" if shown[part] == max(baseline, hirl) else ""


@dataclass(frozen=True)
class Table:
    """The wide table: rows in the study's order, controls before the methods that share their architecture."""

    metrics: list[Metric]
    rows: list[Row]
    decimals: int = 1

    @property
    def families(self) -> dict[str, list[Metric]]:
        """The metrics by family."""
        return {family: list(members) for family, members in groupby(self.metrics, lambda metric: metric.family)}

    @property
    def architectures(self) -> dict[str, list[Row]]:
        """The rows by backbone."""
        return {backbone: list(members) for backbone, members in groupby(self.rows, lambda row: row.backbone)}

    @property
    def seeds(self) -> int:
        """The most seeds behind any number."""
        return max((cell.n for row in self.rows for cell in row.cells.values()), default=0)

    @property
    def note(self) -> str:
        """What the numbers are, in one sentence, n included."""
        if self.seeds < 2:
            return "Percentages from one seed: no spread is known, and a small gain means little."
        return (
            f"Percentages, mean ± standard deviation over n = {self.seeds} seeds; where fewer, n stands in the cell; "
            "without ±, one seed. Gains are paired by seed."
        )

    def text(self, cell: Cell | None, part: str) -> str:
        """A cell in words: a sign on gains, ± where several seeds are behind it."""
        if cell is None:
            return ""
        # + 0.0 turns a rounded -0.0 into 0.0: nothing is not a loss.
        text = f"{round(cell.mean, self.decimals) + 0.0:{'+' if part == 'gain' else ''}.{self.decimals}f}"
        if cell.std is not None:
            text += f" ± {cell.std:.1f}"
        return f"{text}, n={cell.n}" if 1 < cell.n < self.seeds else text

    def pair(self, row: Row, metric: Metric, mark: Callable[[str, str], str] = lambda text, look: text) -> str:
        """A row's numbers of a metric in one cell: `baseline → hirl (gain)`; `mark` dresses a text by its look."""
        texts = {part: self.text(row.cells.get((metric, part)), part) for part in PARTS}
        if row.control:
            return texts["baseline"] + SCRATCH * (metric.task in WHOLE_NETWORK and texts["baseline"] != "")
        if not any(texts.values()):
            return ""
        baseline, hirl, gain = (mark(texts[part] or "–", row.look(metric, part)) for part in PARTS)
        return f"{baseline} → {hirl}" + (f" ({gain})" if texts["gain"] else "")


# --- collect ----------------------------------------------------------------------------------------------------------


def collect(study_folder: str | Path, runs: Iterable[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Every number of the expected runs and tasks, long and sorted; other folders are not looked at.

    Raises:
        ValueError: no evaluation is there at all, or one speaks of another run.
    """
    rows = []
    for run in open_runs(study_folder, runs):
        for task in tasks:
            if found := run.evaluation(task):
                where = [found[key] for key in COLUMNS[:6]]
                rows += [[*where, metric, float(value)] for metric, value in found["metrics"].items()]
    if not rows:
        raise ValueError(f"{study_folder}/runs holds no evaluation of the study's runs: evaluate some first")
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:7], ignore_index=True)


def read_summary(study_folder: str | Path) -> pd.DataFrame:
    """The stored summary.csv.

    Raises:
        ValueError: it is missing.
    """
    path = Path(study_folder) / "summary.csv"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `hirl summarise` first")
    return pd.read_csv(path)


# --- the wide table ---------------------------------------------------------------------------------------------------


def shown_metrics(summary: pd.DataFrame, levels: Sequence[str]) -> list[Metric]:
    """The metrics that have numbers; kNN on coarser class levels follows kNN on the classes."""
    present = set(zip(summary["task"], summary["metric"], strict=True))
    rank = 1
    coarser = []
    while ("knn", f"top1_level{rank}") in present:
        name = levels[rank] if rank < len(levels) else f"level {rank}"
        coarser.append(Metric("knn", f"top1_level{rank}", f"kNN {name}", METRICS[0].family))
        rank += 1
    return [metric for metric in (METRICS[0], *coarser, *METRICS[1:]) if (metric.task, metric.name) in present]


def tabulate(study_folder: str | Path, summary: pd.DataFrame, runs: Iterable[str]) -> Table:
    """The wide table of a summary; rows and architectures come from the runs."""
    metrics = shown_metrics(summary, level_names(study_folder))
    opened = open_runs(study_folder, runs)
    rows: list[Row] = []
    for backbone, methods in _architectures(opened).items():
        control = Row("untrained", backbone, _control_cells(summary, backbone, metrics))
        rows += [control] if control.cells else []
        rows += [Row(method, backbone, method_cells(summary, method, metrics)) for method in methods]
    return Table(metrics, rows)


def _architectures(runs: list[Run]) -> dict[str, list[str]]:
    """The methods of each backbone, both in the order of the runs; a control alone keeps its place."""
    grouped: dict[str, list[str]] = {}
    for method, members in pairs(runs).items():
        grouped.setdefault(members[0].backbone, []).append(method)
    for run in runs:
        grouped.setdefault(run.backbone, [])
    return grouped


def _values(summary: pd.DataFrame, method: str, variant: str, metric: Metric) -> pd.Series:
    """One metric of one variant, by seed."""
    wanted = {"method": method, "variant": variant, "task": metric.task, "metric": metric.name}
    chosen = (summary[list(wanted)] == pd.Series(wanted)).all(axis=1)
    return summary[chosen].set_index("seed")["value"]


def _control_cells(summary: pd.DataFrame, backbone: str, metrics: list[Metric]) -> dict[tuple[Metric, str], Cell]:
    found = {(m, "baseline"): Cell.of(_values(summary, "untrained", backbone, m)) for m in metrics}
    return {key: cell for key, cell in found.items() if cell}


def method_cells(summary: pd.DataFrame, method: str, metrics: list[Metric]) -> dict[tuple[Metric, str], Cell]:
    """What a method's two variants reached, and the gain."""
    found = {}
    for metric in metrics:
        baseline, hirl = (_values(summary, method, variant, metric) for variant in PARTS[:2])
        # Seeds fix the order of images and the first weights of both variants: their difference is paired.
        gain = (hirl - baseline).dropna()
        found |= {(metric, part): Cell.of(v) for part, v in zip(PARTS, (baseline, hirl, gain), strict=True)}
    return {key: cell for key, cell in found.items() if cell}


def hierarchy_table(study_folder: str | Path, summary: pd.DataFrame, runs: Iterable[str]) -> pd.DataFrame:
    """How well each hirl run's last tree agrees with the true classes: one row per method and level, as text."""
    chosen = summary[(summary["task"] == "hierarchy") & summary["metric"].str.contains("_level")].copy()
    chosen[["number", "level"]] = chosen["metric"].str.extract(r"(\w+)_level(\d+)")
    order = list(pairs(open_runs(study_folder, runs)))
    levels, names = sorted(chosen["level"].dropna().astype(int).unique()), level_names(study_folder)
    rows = []
    for method in (m for m in order if m in set(chosen["method"])):
        for level in levels:
            numbers = chosen[(chosen["method"] == method) & (chosen["level"] == str(level))].groupby("number")["value"]
            means, against = numbers.mean(), names[min(level, len(names) - 1)] if names else f"level {level}"
            row = {"Method": method_title(method), "Level": str(level), "True classes": against}
            for number in ("clusters", "empty"):
                row[number.capitalize()] = f"{means[number]:.0f}" if number in means else ""
            for number, title in (("nmi", "NMI"), ("ami", "AMI"), ("purity", "Purity")):
                row[title] = f"{means[number]:.1f}" if number in means else ""
            rows.append(row)
    return pd.DataFrame(rows)
