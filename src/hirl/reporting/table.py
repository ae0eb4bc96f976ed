"""Collect every evaluation as one long table, and compare each baseline with its other variants in a wide one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from hirl.config.run_name import CONTROL, UNTRAINED, RunName
from hirl.config.tasks import METRICS, TASKS, Metric
from hirl.reporting.runs import Run, level_names, open_runs, trained_by_method
from hirl.reporting.titles import backbone_title, method_title, variant_title

COLUMNS = ["study", "dataset", "method", "variant", "backbone", "seed", "task", "metric", "value"]
PARTS = ("baseline", "hirl", "gain")  # of a row; `hirl` is its variant
PART_TITLES = {"baseline": "baseline", "hirl": "HIRL", "gain": "Δ"}  # Δ: HIRL minus baseline
FROM_SCRATCH = " †"  # marks the number of a control that was trained from scratch
MAX_METRICS = 3  # of a table on a page
LEVEL = re.compile(r"_level(\d+)$")  # ends a metric on superclasses, such as top1_level1


@dataclass(frozen=True)
class Cell:
    """A number over seeds.

    Attributes:
        mean: over the seeds.
        n: number of seeds.
        half: half the width of the mean's 95 % interval (Student's t); None for one seed.
    """

    mean: float
    n: int
    half: float | None = None

    @classmethod
    def of(cls, values: pd.Series) -> Cell | None:
        """Return the cell of some values; None for no value."""
        n = len(values)
        if n == 0:
            return None
        half = float(student_t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else None
        return cls(float(values.mean()), n, half)

    @property
    def sign(self) -> int:
        """Return 1 or -1 for a gain or a loss, 0 if the interval holds zero; one seed counts as it is printed."""
        if self.half is not None and abs(self.mean) <= self.half:
            return 0
        shown = round(self.mean, 1)
        return (shown > 0) - (shown < 0)

    def text(self, decimals: int = 1, signed: bool = False) -> str:
        """Return `12.3`, or `12.3 ± 0.4` over several seeds."""
        rounded = round(self.mean, decimals) + 0.0  # turns -0.0 into 0.0: no difference is not a loss
        text = f"{rounded:+.{decimals}f}" if signed else f"{rounded:.{decimals}f}"
        return text if self.half is None else f"{text} ± {self.half:.{decimals}f}"


Cells = dict[tuple[Metric, str], Cell]  # by metric and part


@dataclass(frozen=True)
class Row:
    """A method's baseline beside one of its other variants, or the untrained control of a backbone."""

    method: str
    backbone: str
    cells: Cells
    variant: str = "hirl"

    @property
    def is_control(self) -> bool:
        """Whether this is an untrained control."""
        return self.method == UNTRAINED

    @property
    def name(self) -> str:
        """The row's title among rows of its backbone; it names a variant of the study's own."""
        title = method_title(self.method)
        return title if self.variant == "hirl" else f"{title}, {variant_title(self.variant)}"

    def title(self, metrics: Sequence[Metric]) -> str:
        """Return the row's title in a table of these metrics; a control's says how it was trained, if at all."""
        if not self.is_control:
            return self.name
        if all(TASKS[metric.task].trains_backbone for metric in metrics):
            return f"{backbone_title(self.backbone)} from scratch"
        return f"Untrained {backbone_title(self.backbone)}"

    def look(self, metric: Metric, part: str) -> str:
        """Return how a cell is set: `best` of its pair, a gain `up` or `down`; `` if undecided or of one seed."""
        gain = self.cells.get((metric, "gain"))
        if gain is None or gain.half is None or gain.sign == 0:
            return ""
        if part == "gain":
            return "up" if gain.sign > 0 else "down"
        return "best" if (part == "hirl") == (gain.sign > 0) else ""


@dataclass(frozen=True)
class Verdict:
    """How many comparisons with the baseline came out above it, undecided and below.

    Undecided: the gain's 95 % interval holds zero; for one seed, the two are equal as printed.
    """

    above: int
    undecided: int
    below: int

    @property
    def total(self) -> int:
        """The number of comparisons."""
        return self.above + self.undecided + self.below


@dataclass(frozen=True)
class Table:
    """The wide table.

    Attributes:
        rows: in the study's order, a control before the methods that share its backbone.
        levels: names of the data's class levels, finest first, where they are known.
        decimals: digits after the point.
    """

    metrics: list[Metric]
    rows: list[Row]
    levels: list[str] = field(default_factory=list)
    decimals: int = 1

    @property
    def families(self) -> dict[str, list[Metric]]:
        """The metrics by family; a long family is split into several tables."""
        parts: dict[str, list[Metric]] = {}
        for family, members in groupby(self.metrics, lambda metric: TASKS[metric.task].family):
            metrics = list(members)
            for start in range(0, len(metrics), MAX_METRICS):
                title = f"{family}, part {start // MAX_METRICS + 1}" if start else family
                parts[title] = metrics[start : start + MAX_METRICS]
        return parts

    @property
    def headline_metrics(self) -> list[Metric]:
        """The metrics that are counted and drawn."""
        return [metric for metric in self.metrics if metric.is_headline]

    @property
    def backbones(self) -> dict[str, list[Row]]:
        """The rows by backbone."""
        return {backbone: list(members) for backbone, members in groupby(self.rows, lambda row: row.backbone)}

    @property
    def variants(self) -> list[str]:
        """The variants that are compared with the baseline, in the rows' order."""
        return list(dict.fromkeys(row.variant for row in self.rows if not row.is_control))

    def gains(self, variant: str = "hirl") -> dict[tuple[Metric, str], Cell]:
        """Return a variant's gains that are counted, by metric and method."""
        keys = product(self.headline_metrics, [row for row in self.rows if row.variant == variant])
        return {(metric, row.method): gain for metric, row in keys if (gain := row.cells.get((metric, "gain")))}

    def verdict(self, variant: str = "hirl") -> Verdict:
        """Return how many of a variant's gains are above zero, undecided and below."""
        signs = Counter(cell.sign for cell in self.gains(variant).values())
        return Verdict(signs[1], signs[0], signs[-1])

    @property
    def seeds(self) -> int:
        """The most seeds behind any number."""
        return max((cell.n for row in self.rows for cell in row.cells.values()), default=0)

    @property
    def undecided(self) -> str:
        """What a comparison is that is neither above nor below."""
        return "undecided" if self.seeds > 1 else "equal"

    @property
    def spread(self) -> str:
        """What the numbers are in a few words, for a legend."""
        return f"mean ± 95 % interval, n = {self.seeds} seeds" if self.seeds > 1 else "one seed, no spread"

    @property
    def note(self) -> str:
        """What the numbers are, in two sentences."""
        if self.seeds < 2:
            return "Percentages from one seed: no spread is known, so no difference is called a gain or a loss."
        return (
            f"Percentages: mean ± half the width of its 95 % interval (Student's t) over n = {self.seeds} seeds; a "
            "cell with fewer seeds states its n, and one without ± has one seed. Gains are paired by seed; a gain "
            "whose interval holds zero is undecided."
        )

    @property
    def pair_note(self) -> str:
        """What a pair shows, and what bold says."""
        shown = "Baseline → HIRL (HIRL minus baseline)"
        return (
            f"{shown}, the better in bold if the interval of the gain leaves zero." if self.seeds > 1 else f"{shown}."
        )

    @property
    def scratch_note(self) -> str:
        """What the mark of a control trained from scratch says; empty where no number bears it."""
        metrics = [metric for row in self.rows if row.is_control for metric, _ in row.cells]
        if not any(TASKS[metric.task].trains_backbone for metric in metrics):
            return ""
        return "† This evaluation trains the backbone, so the untrained control is trained from scratch."

    @property
    def levels_note(self) -> str:
        """The data's own names of the superclass levels; empty where none is shown."""
        named = [f"{level} = {name}" for level, name in enumerate(self.levels) if level > 0]
        shown = any(superclass_level(metric) for metric in self.metrics)
        return f"Superclass levels of the data set: {', '.join(named)}." if named and shown else ""

    def tooltip(self, metric: Metric) -> str:
        """Return the data's own name of a metric's superclass level; empty for other metrics."""
        level = superclass_level(metric)
        return f"class level: {self.levels[level]}" if level and level < len(self.levels) else ""

    def text(self, cell: Cell | None, part: str) -> str:
        """Return a cell's text; a cell with fewer seeds than others states its n."""
        if cell is None:
            return ""
        text = cell.text(self.decimals, signed=part == "gain")
        return f"{text}, n={cell.n}" if 1 < cell.n < self.seeds else text

    def pair(self, row: Row, metric: Metric, mark: Callable[[str, str], str] = lambda text, look: text) -> str:
        """Return a row's numbers of a metric as `baseline → HIRL (gain)`; `mark` sets a text in its look."""
        texts = {part: self.text(row.cells.get((metric, part)), part) for part in PARTS}
        if not any(texts.values()):
            return ""
        if row.is_control:
            return texts["baseline"] + (FROM_SCRATCH if TASKS[metric.task].trains_backbone else "")
        baseline, hirl, gain = (mark(texts[part] or "–", row.look(metric, part)) for part in PARTS)
        return f"{baseline} → {hirl}" + (f" ({gain})" if texts["gain"] else "")


# --- the long table ---------------------------------------------------------------------------------------------------


def collect(study_folder: str | Path, runs: Iterable[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Return every number of the expected runs and tasks, one sorted row each; other folders are ignored.

    Raises:
        ValueError: no evaluation exists, or one belongs to another run.
    """
    rows = []
    for run in open_runs(study_folder, runs):
        for task in tasks:
            if found := run.evaluation(task):
                where = [found[key] for key in COLUMNS[:-2]]
                rows += [[*where, metric, float(value)] for metric, value in found["metrics"].items()]
    if not rows:
        raise ValueError(f"{study_folder}/runs holds no evaluation of the study's runs: evaluate some first")
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:-1], ignore_index=True)


def read_summary(study_folder: str | Path) -> pd.DataFrame:
    """Read the stored summary.csv.

    Raises:
        ValueError: it is missing, or has other columns.
    """
    path = Path(study_folder) / "summary.csv"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `hirl summarise` first")
    summary = pd.read_csv(path)
    if list(summary) != COLUMNS:
        raise ValueError(f"{path} has columns {', '.join(summary)}, not {', '.join(COLUMNS)}: run `hirl summarise`")
    return summary


def rows_of(summary: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return the rows of one run."""
    return _where(summary, method=run.method, variant=run.variant, backbone=run.backbone, seed=run.seed)


def evaluated_runs(summary: pd.DataFrame) -> list[str]:
    """Return the names of the runs that have numbers, in the summary's order."""
    names: dict[str, None] = {}
    for row in summary.itertuples(index=False):
        is_control = row.variant == CONTROL
        name = RunName.control(row.backbone, row.seed) if is_control else RunName(row.method, row.variant, row.seed)
        names[str(name)] = None
    return list(names)


def _where(summary: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Return the rows that hold these values."""
    return summary[np.logical_and.reduce([summary[column] == value for column, value in wanted.items()])]


# --- the wide table ---------------------------------------------------------------------------------------------------


def tabulate(study_folder: str | Path, summary: pd.DataFrame, runs: Iterable[str]) -> Table:
    """Return the wide table of a summary; rows and backbones come from the runs."""
    metrics = shown_metrics(summary)
    opened = open_runs(study_folder, runs)
    rows: list[Row] = []
    for backbone, methods in _methods_by_backbone(opened).items():
        control = Row(UNTRAINED, backbone, _control_cells(summary, backbone, metrics))
        rows += [control] if control.cells else []
        for method, variant in product(methods, compared_variants(opened)):
            cells = method_cells(summary, method, metrics, variant)
            rows += [Row(method, backbone, cells, variant)] if variant == "hirl" or _has(cells, "hirl") else []
    return Table(metrics, rows, level_names(study_folder))


def compared_variants(runs: Iterable[Run]) -> list[str]:
    """Return the variants that are compared with the baseline, in the runs' order; `hirl` if there is none."""
    found = dict.fromkeys(run.variant for run in runs if run.trained and run.variant != "baseline")
    return list(found) or ["hirl"]


def _has(cells: Cells, part: str) -> bool:
    return any(known == part for _, known in cells)


def shown_metrics(summary: pd.DataFrame) -> list[Metric]:
    """Return the metrics of tables that have numbers, each followed by the same on superclasses."""
    present = set(zip(summary["task"], summary["metric"], strict=True))
    metrics: list[Metric] = []
    for metric in METRICS:
        if (metric.task, metric.name) in present:
            metrics.append(metric)
        metrics += _superclass_metrics(metric, present)
    return metrics


def _superclass_metrics(metric: Metric, present: set[tuple[str, str]]) -> list[Metric]:
    """Return a metric on every superclass level that has numbers."""
    title = TASKS[metric.task].title
    found = [
        Metric(task, name, f"{title} superclass (level {match[1]})")
        for task, name in present
        if task == metric.task and (match := LEVEL.search(name)) and name == f"{metric.name}{match[0]}"
    ]
    return sorted(found, key=superclass_level)


def superclass_level(metric: Metric) -> int:
    """Return the class level of a metric on superclasses; 0 for a metric on classes."""
    match = LEVEL.search(metric.name)
    return int(match[1]) if match else 0


def _methods_by_backbone(runs: list[Run]) -> dict[str, list[str]]:
    """Group methods by backbone, both in the order of the runs; a backbone with only a control comes last."""
    grouped: dict[str, list[str]] = {}
    for method, members in trained_by_method(runs).items():
        grouped.setdefault(members[0].backbone, []).append(method)
    for run in runs:
        grouped.setdefault(run.backbone, [])
    return grouped


def by_seed(rows: pd.DataFrame, task: str, metric: str) -> pd.Series:
    """Return the values of one metric by seed."""
    return _where(rows, task=task, metric=metric).set_index("seed")["value"]


def _control_cells(summary: pd.DataFrame, backbone: str, metrics: list[Metric]) -> Cells:
    rows = _where(summary, method=UNTRAINED, backbone=backbone)
    cells = {(metric, "baseline"): Cell.of(by_seed(rows, metric.task, metric.name)) for metric in metrics}
    return {key: cell for key, cell in cells.items() if cell}


def method_cells(summary: pd.DataFrame, method: str, metrics: list[Metric], variant: str = "hirl") -> Cells:
    """Return the numbers of a method's baseline and of another variant, and the gain."""
    sides = [_where(summary, method=method, variant=side) for side in ("baseline", variant)]
    cells: Cells = {}
    for metric in metrics:
        baseline, other = (by_seed(side, metric.task, metric.name) for side in sides)
        # A seed fixes the order of images and the initial weights of both variants, so their difference is paired.
        gain = (other - baseline).dropna()
        values = zip(PARTS, (baseline, other, gain), strict=True)
        cells |= {(metric, part): cell for part, series in values if (cell := Cell.of(series))}
    return cells


# --- the trees' table -------------------------------------------------------------------------------------------------

TREE_COLUMNS = {"clusters": "Clusters", "empty": "Empty", "nmi": "NMI", "ami": "AMI", "purity": "Purity"}
COUNTS = ("clusters", "empty")


def hierarchy_table(study_folder: str | Path, summary: pd.DataFrame, runs: Iterable[str]) -> pd.DataFrame:
    """Compare each HIRL run's last tree with the true classes: one row per method, variant and level, as text."""
    found = summary[summary["task"] == "hierarchy"]
    parts = found["metric"].str.extract(r"(?P<number>\w+)_level(?P<level>\d+)")
    found = found.assign(**parts).dropna(subset="level").astype({"level": int})
    names = level_names(study_folder)
    rows = []
    opened = open_runs(study_folder, runs)
    for run in {(run.method, run.variant): run for run in opened if run.has_tree}.values():
        for level, numbers in _where(found, method=run.method, variant=run.variant).groupby("level"):
            classes = names[min(level, len(names) - 1)] if names else f"level {level}"
            place = {"Run": run.title, "Level": str(level), "True classes": classes}
            rows.append({**place, **_tree_numbers(numbers)})
    return pd.DataFrame(rows, columns=["Run", "Level", "True classes", *TREE_COLUMNS.values()])


def _tree_numbers(numbers: pd.DataFrame) -> dict[str, str]:
    """Return one level's counts and agreements as text, over seeds."""
    texts = {}
    for number, title in TREE_COLUMNS.items():
        values = numbers[numbers["number"] == number]["value"]
        if number in COUNTS and values.nunique() == 1:
            values = values.head(1)  # the same for every seed
        cell = Cell.of(values)
        texts[title] = cell.text(decimals=0 if number in COUNTS else 1) if cell else ""
    return texts
