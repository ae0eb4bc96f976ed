"""The authors' published numbers beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hirl.config import CONFIG_ROOT
from hirl.files import read_json
from hirl.reporting.markup import pipes, tabular
from hirl.reporting.table import METRICS, PARTS, Cell, Metric, Row, Table, method_cells

PAPER = CONFIG_ROOT / "paper.csv"
COLUMNS = ["method", "variant", "task", "metric", "value", "source"]
IMAGENET = (1000, 1_281_167)  # classes, training images
Line = tuple[Metric, Row, Row]  # an evaluation, the paper's numbers of a method, ours


def read_paper(path: Path = PAPER) -> pd.DataFrame:
    """The published numbers, one row each with its source.

    Raises:
        ValueError: the file is missing, or a row is not understood or stands twice.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: install hirl from a clone of its repository, with pip install -e")
    published = pd.read_csv(path)
    if list(published) != COLUMNS:
        raise ValueError(f"{path}: its columns are {', '.join(published)}: make them {', '.join(COLUMNS)}")
    if not pd.api.types.is_numeric_dtype(published["value"]) or published["value"].isna().any():
        raise ValueError(f"{path}, column value: a number is needed in each line")
    known = {(metric.task, metric.name) for metric in METRICS}
    seen: set[tuple[str, ...]] = set()
    for number, row in enumerate(published.itertuples(index=False), 2):
        what = (row.method, row.variant, row.task, row.metric)
        if row.variant not in PARTS[:2] or (row.task, row.metric) not in known or what in seen:
            raise ValueError(f"{path}, line {number}: {', '.join(what)} is unknown or stands twice: correct it")
        seen.add(what)
    return published


@dataclass(frozen=True)
class Comparison:
    """The paper's table, ours, and how far they may be compared."""

    paper: Table
    ours: Table
    note: str

    def lines(self) -> Iterator[Line]:
        """Every evaluation and method of the paper; a method we lack has a row without numbers."""
        ours = {row.method: row for row in self.ours.rows}
        for metric in self.paper.metrics:
            for row in self.paper.rows:
                yield metric, row, ours.get(row.method, Row(row.method, row.backbone, {}))

    def texts(self) -> dict[Metric, list[list[str]]]:
        """By evaluation, the lines that are not empty: method, then baseline, hirl, gain of the paper and of ours."""
        found: dict[Metric, list[list[str]]] = {}
        for metric, paper, ours in self.lines():
            cells = [self.paper.text(paper.cells.get((metric, part)), part) for part in PARTS]
            cells += [self.ours.text(ours.cells.get((metric, part)), part) for part in PARTS]
            if any(cells):
                found.setdefault(metric, []).append([paper.name, *cells])
        return found


def compare(study_folder: str | Path, ours: Table, path: Path = PAPER) -> Comparison:
    """Sets the published numbers beside a study's.

    Raises:
        ValueError: the published numbers cannot be read.
    """
    published = read_paper(path).assign(seed=0)
    present = set(zip(published["task"], published["metric"], strict=True))
    metrics = [metric for metric in METRICS if (metric.task, metric.name) in present]
    rows = [Row(method, "", method_cells(published, method, metrics)) for method in published["method"].unique()]
    return Comparison(Table(metrics, rows, decimals=2), ours, _note(Path(study_folder), published["source"].unique()))


def _note(study_folder: Path, sources: list[str]) -> str:
    """Where the published numbers come from, and whether ours are of the same images."""
    said = f"The paper's numbers are its authors' ({'; '.join(sources)}), on ImageNet-1k with ResNet-50 and ViT-B/16."
    manifest = study_folder / "data" / "manifest.json"
    if not manifest.exists():
        return f"{said} What ours were measured on is not known here: compare with care."
    data = read_json(manifest)
    classes, images = len(data["class_names"][0]), data["splits"]["train"]
    if (classes, images) == IMAGENET:
        return f"{said} Ours are on as many training images of as many classes."
    return (
        f"{said} Ours are on {data['dataset']} ({images:,} training images of {data['image_size']} px, {classes} "
        "classes): the two are not comparable, and the paper's stand here for orientation."
    )


# --- on paper ---------------------------------------------------------------------------------------------------------


def numbers(comparison: Comparison) -> pd.DataFrame:
    """The comparison as plain numbers: one row per evaluation and method."""
    rows = []
    for metric, paper, ours in comparison.lines():
        cells = {"paper": paper.cells, "ours": ours.cells}
        named = {f"{side}_{part}": _mean(cells[side].get((metric, part))) for side in cells for part in PARTS}
        rows.append({"task": metric.task, "metric": metric.name, "method": paper.method, **named})
    return pd.DataFrame(rows)


def _mean(cell: Cell | None) -> float | None:
    return round(cell.mean, 4) if cell else None


def markdown(comparison: Comparison) -> str:
    """The comparison in Markdown: a row per method."""
    paper, ours = comparison.paper, comparison.ours
    heads = [f"{metric.title}<br>{side}" for metric in paper.metrics for side in ("paper", "ours")]
    body: dict[str, list[str]] = {}
    for metric, theirs, own in comparison.lines():
        body.setdefault(theirs.name, []).extend([paper.pair(theirs, metric), ours.pair(own, metric)])
    return pipes(["Method", *heads], [[name, *cells] for name, cells in body.items()])


def latex(comparison: Comparison) -> str:
    """The comparison in LaTeX with booktabs, for an input inside a table environment."""
    body = []
    for metric, lines in comparison.texts().items():
        body += [[metric.title], *lines]
    text = tabular([("Paper", 3), ("Ours", 3)], ["Method", *PARTS, *PARTS], body)
    return f"% needs \\usepackage{{booktabs}}\n{text}% {comparison.note}\n"
