"""The tables on paper: summary.csv, and the wide table as CSV, Markdown, LaTeX and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from hirl.files import atomic_path, write_text
from hirl.reporting.table import PARTS, Metric, Row, Table, collect, hierarchy_table, tabulate

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
