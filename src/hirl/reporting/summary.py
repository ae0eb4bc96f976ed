"""The tables on paper: summary.csv, and the wide table and the paper's as CSV, Markdown, LaTeX and in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from hirl.files import atomic_path, write_text
from hirl.reporting import paper
from hirl.reporting.markup import bold, pipes, tabular
from hirl.reporting.paper import Comparison, compare
from hirl.reporting.runs import backbone_title
from hirl.reporting.table import (
    PARTS,
    SCRATCH,
    WHOLE_NETWORK,
    Row,
    Table,
    collect,
    hierarchy_table,
    tabulate,
)

WIDTH = 120  # columns of a terminal

# --- as text ----------------------------------------------------------------------------------------------------------

SCRATCH_NOTE = "† The evaluation trains the whole network: of an untrained one this is training from scratch."


def markdown(table: Table, comparison: Comparison, hierarchy: pd.DataFrame) -> str:
    """The tables in Markdown: one per architecture, methods as columns; the paper's numbers; the trees."""
    text = ""
    for backbone, rows in table.architectures.items():
        body = [[metric.title, *(table.pair(row, metric, _stars) for row in rows)] for metric in table.metrics]
        text += pipes([backbone_title(backbone), *(row.name for row in rows)], body) + "\n"
    text += f"Baseline → hirl (gain), the better in bold. {table.note}\n"
    if SCRATCH in text:
        text += f"\n{SCRATCH_NOTE}\n"
    text += f"\n{comparison.note}\n\n{paper.markdown(comparison)}"
    if not hierarchy.empty:
        lines = hierarchy.to_numpy().tolist()
        text += f"\nThe last tree of every hirl run against the true classes:\n\n{pipes(list(hierarchy), lines)}"
    return text


def _stars(text: str, look: str) -> str:
    return f"**{text}**" if look == "best" else text


def latex(table: Table) -> str:
    """The table in LaTeX with booktabs, one tabular per family, for an input inside a table environment."""
    tabulars = []
    for metrics in table.families.values():
        body = [
            [row.title(metrics), *(bold(table.text(row.cells.get(key), key[1]), row.look(*key)) for key in keys)]
            for row in table.rows
            for keys in [[(metric, part) for metric in metrics for part in PARTS]]
            if row.cells.keys() & set(keys)
        ]
        tabulars.append(tabular([(m.title, 3) for m in metrics], ["Method", *PARTS * len(metrics)], body))
    separator = "\n\\par\\medskip\n"
    return f"% needs \\usepackage{{booktabs}}\n{separator.join(tabulars)}% {table.note}\n"


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
    """Prints the table to the terminal: an evaluation per line, the methods of an architecture side by side."""
    from rich.table import Table as RichTable

    from hirl.reporting.console import wide_console

    views = []
    for backbone, rows in table.architectures.items():
        for sheet in _sheets(table, rows):
            view = RichTable(box=None, pad_edge=False, header_style="bold")
            view.add_column(backbone_title(backbone), no_wrap=True)
            for row in sheet:
                view.add_column(row.name, justify="right", no_wrap=True)
            for metric in table.metrics:
                view.add_row(metric.title, *(table.pair(row, metric, _coloured) for row in sheet))
            views.append(view)
    # A number cut short misleads: better wider than the window.
    console = wide_console(*views, highlight=False)
    for view in views:
        console.print(view, "")
    scratch = any(row.control for row in table.rows) and any(m.task in WHOLE_NETWORK for m in table.metrics)
    console.print(f"Baseline → hirl (gain). {table.note}", *[SCRATCH_NOTE] * scratch, sep="\n", style="italic")


def _sheets(table: Table, rows: list[Row]) -> Iterator[list[Row]]:
    """Rows of an architecture, as many at a time as fit side by side."""
    label = max(len(metric.title) for metric in table.metrics)
    sheet: list[Row] = []
    width = label
    for row in rows:
        own = 2 + max(len(row.name), *(len(table.pair(row, metric)) for metric in table.metrics))
        if sheet and width + own > WIDTH:
            yield sheet
            sheet, width = [], label
        sheet, width = [*sheet, row], width + own
    yield sheet


def _coloured(text: str, look: str) -> str:
    """In rich's markup: the better one bold, gains green, losses red."""
    style = {"best": "bold", "up": "green", "down": "red"}.get(look)
    return f"[{style}]{text}[/]" if style else text


# --- all of it --------------------------------------------------------------------------------------------------------


def summarise(study_folder: str | Path, runs: Sequence[str], tasks: Sequence[str]) -> Table:
    """Writes the numbers of the expected runs; returns the wide table.

    The files: summary.csv, table.csv, table.md, table.tex, and, beside the paper's numbers, paper.csv, table-paper.tex.

    Raises:
        ValueError: no evaluation is there at all, or one speaks of another run.
    """
    study_folder = Path(study_folder)
    summary = collect(study_folder, runs, tasks)
    table = tabulate(study_folder, summary, runs)
    comparison = compare(study_folder, table)
    frames = {"summary.csv": summary, "table.csv": wide(table), "paper.csv": paper.numbers(comparison)}
    for name, frame in frames.items():
        with atomic_path(study_folder / name) as temporary:
            frame.to_csv(temporary, index=False)
    trees = hierarchy_table(study_folder, summary, runs)
    write_text(study_folder / "table.md", markdown(table, comparison, trees))
    write_text(study_folder / "table.tex", latex(table))
    write_text(study_folder / "table-paper.tex", paper.latex(comparison))
    return table
