"""Write summary.csv, and the wide tables as CSV, Markdown, LaTeX and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table as RichTable

from hirl.config.tasks import Metric
from hirl.files import atomic_path, write_text
from hirl.reporting import judgement, paper
from hirl.reporting.console import WIDTH, wide_console
from hirl.reporting.markup import bold, escape, markdown_table, tabular
from hirl.reporting.paper import Comparison, compare
from hirl.reporting.spread import Spread, spreads
from hirl.reporting.spread import markdown as spread_markdown
from hirl.reporting.table import PART_TITLES, PARTS, Row, Table, collect, hierarchy_table, tabulate
from hirl.reporting.titles import backbone_title, html, plain


def summarise(study_folder: str | Path, runs: Sequence[str], tasks: Sequence[str]) -> Table:
    """Write the numbers of the expected runs; return the wide table.

    The files: summary.csv, table.csv, table.md and table.tex; with several seeds verdicts.csv; and the comparison with
    the paper: paper.csv and table-paper.tex.

    Raises:
        ValueError: no evaluation exists, or one belongs to another run.
    """
    study_folder = Path(study_folder)
    summary = collect(study_folder, runs, tasks)
    table = tabulate(study_folder, summary, runs)
    comparison = compare(study_folder, table)
    trees, judged = hierarchy_table(study_folder, summary, runs), judgement.judge(summary)
    frames = {"summary.csv": summary, "table.csv": wide(table), "paper.csv": paper.numbers(comparison)}
    frames |= {} if judged.empty else {"verdicts.csv": judged}
    for name, frame in frames.items():
        with atomic_path(study_folder / name) as temporary:
            frame.to_csv(temporary, index=False)
    write_text(study_folder / "table.md", markdown(table, comparison, trees, judged, spreads(summary, table.metrics)))
    write_text(study_folder / "table.tex", latex(table))
    write_text(study_folder / "table-paper.tex", paper.latex(comparison))
    return table


# --- files ------------------------------------------------------------------------------------------------------------


def wide(table: Table) -> pd.DataFrame:
    """Return the table as plain numbers, columns task_metric_part; over seeds also _half, of the interval, and _n."""
    return pd.DataFrame([_wide_row(table, row) for row in table.rows])


def _wide_row(table: Table, row: Row) -> dict[str, str | float | None]:
    line: dict[str, str | float | None] = {"method": row.method, "variant": row.variant, "backbone": row.backbone}
    for metric in table.metrics:
        for part in PARTS:
            cell, name = row.cells.get((metric, part)), f"{metric.task}_{metric.name}_{part}"
            line[name] = round(cell.mean, 4) if cell else None
            if table.seeds > 1:
                line[f"{name}_half"] = round(cell.half, 4) if cell and cell.half is not None else None
                line[f"{name}_n"] = cell.n if cell else 0
    return line


def markdown(
    table: Table, comparison: Comparison, trees: pd.DataFrame, judged: pd.DataFrame, spread: Sequence[Spread]
) -> str:
    """Return the tables in Markdown: one per backbone with methods as columns, verdicts, spread, trees, the paper's."""
    sections = [f"## {backbone_title(backbone)}\n\n{_grid(table, rows)}" for backbone, rows in table.backbones.items()]
    notes = [table.pair_note, table.note, table.levels_note, table.scratch_note]
    sections.append("\n\n".join(note for note in notes if note) + "\n")
    if not judged.empty:
        sections.append(f"## Verdicts\n\n{judgement.NOTE}\n\n{judgement.markdown(judged)}")
    sections.append(f"## Spread over seeds\n\n{spread_markdown(spread)}")
    if not trees.empty:
        lines = markdown_table(list(trees), trees.to_numpy().tolist())
        sections.append(f"## Semantic trees\n\nThe last tree of every HIRL run against the true classes.\n\n{lines}")
    sections.append(f"## The paper's numbers\n\n{comparison.note}\n\n{paper.markdown(comparison)}")
    return "\n".join(sections)


def _grid(table: Table, rows: list[Row]) -> str:
    """Return one backbone's table in Markdown: a line per metric, a column per method."""
    body = [[html(metric.title), *(table.pair(row, metric, stars) for row in rows)] for metric in table.metrics]
    return markdown_table(["", *(row.name for row in rows)], body)


def stars(text: str, look: str) -> str:
    """Return text as Markdown, the better of a pair in bold."""
    return f"**{text}**" if look == "best" else text


def latex(table: Table) -> str:
    """Return the table in LaTeX with booktabs, one tabular per family, to be input inside a table environment."""
    tabulars = []
    for metrics in table.families.values():
        body = [_latex_line(table, row, metrics) for row in table.rows if any(m in metrics for m, _ in row.cells)]
        heads = ["Method", *[PART_TITLES[part] for part in PARTS] * len(metrics)]
        tabulars.append(tabular([(metric.title, len(PARTS)) for metric in metrics], heads, {"": body}))
    separator = "\n\\par\\medskip\n"
    return f"% needs \\usepackage{{booktabs}}\n{separator.join(tabulars)}% {table.note}\n"


def _latex_line(table: Table, row: Row, metrics: list[Metric]) -> list[str]:
    """Return a row's cells in LaTeX, the better of a pair in bold."""
    cells = [escape(row.title(metrics))]
    for metric in metrics:
        for part in PARTS:
            text = escape(table.text(row.cells.get((metric, part)), part))
            cells.append(bold(text) if row.look(metric, part) == "best" else text)
    return cells


# --- the terminal -----------------------------------------------------------------------------------------------------


def print_table(table: Table) -> None:
    """Print the table: a line per metric, the methods of a backbone side by side."""
    views = [
        _view(table, backbone_title(backbone), sheet)
        for backbone, rows in table.backbones.items()
        for sheet in _sheets(table, rows)
    ]
    console = wide_console(*views, highlight=False)
    for view in views:
        console.print(view, "")
    for note in (f"{table.pair_note} {table.note}", table.levels_note, table.scratch_note):
        if note:
            console.print(note, style="italic")


def _view(table: Table, title: str, rows: list[Row]) -> RichTable:
    """Return some rows of one backbone as columns."""
    view = RichTable(box=None, pad_edge=False, header_style="bold")
    view.add_column(title, no_wrap=True)
    for row in rows:
        view.add_column(row.name, justify="right", no_wrap=True)
    for metric in table.metrics:
        view.add_row(plain(metric.title), *(table.pair(row, metric, _colored) for row in rows))
    return view


def _sheets(table: Table, rows: list[Row]) -> Iterator[list[Row]]:
    """Yield the rows of one backbone, as many at a time as fit side by side."""
    label = max(len(plain(metric.title)) for metric in table.metrics)
    sheet: list[Row] = []
    width = label
    for row in rows:
        needed = 2 + max(len(row.name), *(len(table.pair(row, metric)) for metric in table.metrics))
        if sheet and width + needed > WIDTH:
            yield sheet
            sheet, width = [], label
        sheet, width = [*sheet, row], width + needed
    yield sheet


def _colored(text: str, look: str) -> str:
    """Return text in rich's markup: the better one bold, gains green, losses red."""
    style = {"best": "bold", "up": "green", "down": "red"}.get(look)
    return f"[{style}]{text}[/]" if style else text
