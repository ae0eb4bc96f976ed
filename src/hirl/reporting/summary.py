"""The numbers: every evaluation as one long CSV, and the wide table that compares baseline, hirl and gain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hirl.files import atomic_path, write_text
from hirl.reporting.runs import Run, backbone_title, level_names, method_title, open_runs, pairs

COLUMNS = ["study", "dataset", "method", "variant", "seed", "task", "metric", "value"]
PARTS = ("baseline", "hirl", "gain")


@dataclass(frozen=True)
class Metric:
    """A column group of the table."""

    task: str
    name: str
    title: str


METRICS = (
    Metric("knn", "top1", "kNN top-1"),
    Metric("linear", "top1", "Linear top-1"),
    Metric("finetune", "top1", "Fine-tune top-1"),
    Metric("semisup-1", "top1", "1 % labels top-1"),
    Metric("semisup-10", "top1", "10 % labels top-1"),
    Metric("clustering", "acc", "Clustering ACC"),
    Metric("clustering", "nmi", "Clustering NMI"),
    Metric("clustering", "ami", "Clustering AMI"),
    Metric("transfer", "top1", "Transfer top-1"),
    Metric("detection", "ap_box", "Detection AP"),
    Metric("detection", "ap_mask", "Segmentation AP"),
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
    def title(self) -> str:
        """The row's first column."""
        if self.method == "untrained":
            return f"Untrained {backbone_title(self.backbone)}"
        return method_title(self.method)

    def best(self, metric: Metric) -> str | None:
        """Which of baseline and hirl is higher as printed; None where a side is missing or they are equal."""
        sides = {part: round(cell.mean, 1) for part in PARTS[:2] if (cell := self.cells.get((metric, part)))}
        if len(sides) < 2 or sides["baseline"] == sides["hirl"]:
            return None
        return max(sides, key=lambda part: sides[part])


@dataclass(frozen=True)
class Table:
    """The wide table: rows in the study's order, controls before the methods that share their architecture."""

    metrics: list[Metric]
    rows: list[Row]

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
        """A cell in words: one decimal, a sign on gains, ± where several seeds are behind it."""
        if cell is None:
            return ""
        # + 0.0 turns a rounded -0.0 into 0.0: nothing is not a loss.
        text = f"{round(cell.mean, 1) + 0.0:{'+' if part == 'gain' else ''}.1f}"
        if cell.std is not None:
            text += f" ± {cell.std:.1f}"
        return f"{text} (n={cell.n})" if 1 < cell.n < self.seeds else text


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
    """The column groups that have numbers; kNN on coarser class levels follows kNN on the classes."""
    present = set(zip(summary["task"], summary["metric"], strict=True))
    rank = 1
    coarser = []
    while ("knn", f"top1_level{rank}") in present:
        name = levels[rank] if rank < len(levels) else f"level {rank}"
        coarser.append(Metric("knn", f"top1_level{rank}", f"kNN {name}"))
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
        rows += [Row(method, backbone, _cells(summary, method, metrics)) for method in methods]
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


def _cells(summary: pd.DataFrame, method: str, metrics: list[Metric]) -> dict[tuple[Metric, str], Cell]:
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


# --- as text ----------------------------------------------------------------------------------------------------------


def _grid(table: Table, bold: Callable[[str], str]) -> list[list[str]]:
    """The table's body as text, the better of each pair emphasised."""
    body = []
    for row in table.rows:
        line = [row.title]
        for metric in table.metrics:
            for part in PARTS:
                text = table.text(row.cells.get((metric, part)), part)
                line.append(bold(text) if row.best(metric) == part else text)
        body.append(line)
    return body


def markdown(table: Table, hierarchy: pd.DataFrame) -> str:
    """The tables in Markdown."""
    heads = [f"{m.title if part == 'baseline' else ''}<br>{part}" for m in table.metrics for part in PARTS]
    body = _grid(table, bold="**{}**".format)
    text = f"{_pipes(['Method', *heads], body)}\n{table.note} The better of a pair is bold.\n"
    if not hierarchy.empty:
        lines = hierarchy.to_numpy().tolist()
        text += f"\nThe last tree of every hirl run against the true classes:\n\n{_pipes(list(hierarchy), lines)}"
    return text


def _pipes(heads: list[str], body: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *body))


def latex(table: Table) -> str:
    """The table in LaTeX with booktabs, for an input inside a table environment."""
    groups = " & ".join(rf"\multicolumn{{3}}{{c}}{{{_tex(metric.title)}}}" for metric in table.metrics)
    rules = "".join(rf"\cmidrule(lr){{{2 + 3 * i}-{4 + 3 * i}}}" for i in range(len(table.metrics)))
    body = [[_tex(text) for text in line] for line in _grid(table, bold=lambda text: f"\0{text}\1")]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'rrr' * len(table.metrics)}}}",
        r"\toprule",
        rf" & {groups} \\",
        rules,
        "Method & " + " & ".join(PARTS * len(table.metrics)) + r" \\",
        r"\midrule",
        *(" & ".join(line) + r" \\" for line in body),
        r"\bottomrule",
        r"\end{tabular}",
        f"% {table.note}",
    ]
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    """Text with LaTeX's special characters escaped, bold marks turned into commands, minus signs into real ones."""
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("±", r"$\pm$")):
        text = text.replace(plain, escaped)
    if text.startswith("-"):
        text = f"${text[0]}${text[1:]}"
    return text.replace("\0", r"\textbf{").replace("\1", "}")


def wide(table: Table) -> pd.DataFrame:
    """The table as plain numbers: one row per method, columns task_metric_part (and _std where there are seeds)."""
    rows = []
    for row in table.rows:
        line = {"method": row.method, "backbone": row.backbone}
        for metric in table.metrics:
            for part in PARTS:
                cell, name = row.cells.get((metric, part)), f"{metric.task}_{metric.name}_{part}"
                line[name] = round(cell.mean, 4) if cell else None
                if table.seeds > 1:
                    line[f"{name}_std"] = round(cell.std, 4) if cell and cell.std is not None else None
                    line[f"{name}_n"] = cell.n if cell else 0
        rows.append(line)
    return pd.DataFrame(rows)


def print_table(table: Table) -> None:
    """Prints the table to the terminal: three lines a method, so that it stays narrow."""
    from rich.console import Console
    from rich.table import Table as RichTable

    view = RichTable(box=None, pad_edge=False, caption=table.note, caption_justify="left", header_style="bold")
    view.add_column("Method", no_wrap=True)
    view.add_column("", style="dim", no_wrap=True)
    for metric in table.metrics:
        view.add_column(metric.title.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in table.rows:
        parts = PARTS if row.method != "untrained" else ("baseline",)
        for part in parts:
            texts = [_coloured(row, metric, part, table) for metric in table.metrics]
            label = part if row.method != "untrained" else ""
            view.add_row(row.title if part == "baseline" else "", label, *texts)
    needed = Console(width=1000).measure(view).maximum  # a number cut short misleads: better wider than the window
    Console(width=max(Console().width, needed)).print(view)


def _coloured(row: Row, metric: Metric, part: str, table: Table) -> str:
    """A cell in rich's markup: the better one bold, gains green, losses red."""
    text = table.text(row.cells.get((metric, part)), part)
    if part == "gain" and text:
        colour = {"+": "green", "-": "red"}[text[0]] if float(text.split()[0]) else "dim"
        return f"[{colour}]{text}[/]"
    return f"[bold]{text}[/]" if row.best(metric) == part else text


# --- all of it --------------------------------------------------------------------------------------------------------


def summarise(study_folder: str | Path, runs: Sequence[str], tasks: Sequence[str]) -> Table:
    """Writes summary.csv, table.csv, table.md and table.tex of the expected runs; returns the wide table.

    Raises:
        ValueError: no evaluation is there at all, or one speaks of another run.
    """
    study_folder = Path(study_folder)
    summary = collect(study_folder, runs, tasks)
    table = tabulate(study_folder, summary, runs)
    for name, frame in (("summary.csv", summary), ("table.csv", wide(table))):
        with atomic_path(study_folder / name) as temporary:
            frame.to_csv(temporary, index=False)
    write_text(study_folder / "table.md", markdown(table, hierarchy_table(study_folder, summary, runs)))
    write_text(study_folder / "table.tex", latex(table))
    return table
