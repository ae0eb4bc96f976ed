"""Compare a study with the numbers that the authors published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hirl.config.resources import CONFIG_ROOT, REINSTALL
from hirl.config.sections import VARIANTS
from hirl.config.tasks import METRICS, Metric
from hirl.files import read_json
from hirl.reporting.markup import escape, markdown_table, tabular
from hirl.reporting.table import PART_TITLES, PARTS, Cell, Row, Table, method_cells
from hirl.reporting.titles import html

PAPER = CONFIG_ROOT / "paper.csv"
COLUMNS = ["method", "variant", "task", "metric", "value", "source"]
IMAGENET = (1000, 1_281_167)  # classes, training images
Line = tuple[Metric, Row, Row]  # a metric, the paper's row of a method, our row


def read_paper(path: Path = PAPER) -> pd.DataFrame:
    """Read the published numbers, one row each with its source.

    Raises:
        ValueError: the file is missing, or a row is unknown or appears twice.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: {REINSTALL}")
    published = pd.read_csv(path)
    if list(published) != COLUMNS:
        raise ValueError(f"{path} has columns {', '.join(published)}: make them {', '.join(COLUMNS)}")
    if not pd.api.types.is_numeric_dtype(published["value"]) or published["value"].isna().any():
        raise ValueError(f"{path}, column value: give a number in each line")
    known = {(metric.task, metric.name) for metric in METRICS}
    seen: set[tuple[str, ...]] = set()
    for number, row in enumerate(published.itertuples(index=False), 2):
        key = (row.method, row.variant, row.task, row.metric)
        if row.variant not in VARIANTS or (row.task, row.metric) not in known or key in seen:
            raise ValueError(f"{path}, line {number}: {', '.join(key)} is unknown or appears twice: correct it")
        seen.add(key)
    return published


@dataclass(frozen=True)
class Comparison:
    """The paper's table beside ours.

    Attributes:
        note: where the published numbers come from, and whether the two may be compared.
    """

    paper: Table
    ours: Table
    note: str

    def lines(self) -> Iterator[Line]:
        """Yield every metric and method of the paper; a method that the study lacks has a row without numbers."""
        ours = {row.method: row for row in self.ours.rows if row.variant == "hirl"}
        for metric in self.paper.metrics:
            for row in self.paper.rows:
                yield metric, row, ours.get(row.method, Row(row.method, row.backbone, {}))

    @property
    def shared(self) -> set[Metric]:
        """The metrics of which the study has numbers of the paper's methods."""
        return {metric for metric, _, own in self.lines() for part in PARTS if (metric, part) in own.cells}

    def texts(self) -> dict[Metric, list[list[str]]]:
        """Return the lines that hold numbers by metric: method, then baseline, HIRL, gain of the paper and of ours."""
        found: dict[Metric, list[list[str]]] = {}
        for metric, published, own in self.lines():
            cells = [self.paper.text(published.cells.get((metric, part)), part) for part in PARTS]
            cells += [self.ours.text(own.cells.get((metric, part)), part) for part in PARTS]
            if any(cells):
                found.setdefault(metric, []).append([published.name, *cells])
        return found


def compare(study_folder: str | Path, ours: Table, path: Path = PAPER) -> Comparison:
    """Return the published numbers beside a study's.

    Raises:
        ValueError: the published numbers cannot be read.
    """
    published = read_paper(path).assign(seed=0)
    present = set(zip(published["task"], published["metric"], strict=True))
    metrics = [metric for metric in METRICS if (metric.task, metric.name) in present]
    rows = [Row(method, "", method_cells(published, method, metrics)) for method in published["method"].unique()]
    note = _note(Path(study_folder), list(published["source"].unique()))
    return Comparison(Table(metrics, rows, decimals=2), ours, note)


def _note(study_folder: Path, sources: list[str]) -> str:
    """Say where the published numbers come from, and whether ours are of the same images."""
    origin = f"The paper's numbers are its authors' ({'; '.join(sources)}), on ImageNet-1k with ResNet-50 and ViT-B/16."
    manifest = study_folder / "data" / "manifest.json"
    if not manifest.exists():
        return f"{origin} The data of this study is not at hand, so compare with care."
    data = read_json(manifest)
    classes, images = len(data["class_names"][0]), data["splits"]["train"]
    if (classes, images) == IMAGENET:
        return f"{origin} Ours are on the same number of training images and classes."
    return (
        f"{origin} Ours are on {data['dataset']} ({images:,} training images of {data['image_size']} px, {classes} "
        "classes). The two are not comparable; the paper's are shown for orientation."
    )


# --- files ------------------------------------------------------------------------------------------------------------


def numbers(comparison: Comparison) -> pd.DataFrame:
    """Return the comparison as plain numbers: one row per metric and method."""
    rows = []
    for metric, published, own in comparison.lines():
        line: dict[str, str | float | None] = {"task": metric.task, "metric": metric.name, "method": published.method}
        for side, row in (("paper", published), ("ours", own)):
            for part in PARTS:
                line[f"{side}_{part}"] = _mean(row.cells.get((metric, part)))
        rows.append(line)
    return pd.DataFrame(rows)


def _mean(cell: Cell | None) -> float | None:
    return round(cell.mean, 4) if cell else None


def markdown(comparison: Comparison) -> str:
    """Return the comparison in Markdown, a line per method."""
    heads = [f"{html(metric.title)}<br>{side}" for metric in comparison.paper.metrics for side in ("paper", "ours")]
    body: dict[str, list[str]] = {}
    for metric, published, own in comparison.lines():
        pair = [comparison.paper.pair(published, metric), comparison.ours.pair(own, metric)]
        body.setdefault(published.name, []).extend(pair)
    return markdown_table(["Method", *heads], [[name, *cells] for name, cells in body.items()])


def latex(comparison: Comparison) -> str:
    """Return the comparison in LaTeX with booktabs, to be input inside a table environment."""
    heads = ["Method", *[PART_TITLES[part] for part in PARTS] * 2]
    sections = {
        metric.title: [list(map(escape, line)) for line in lines] for metric, lines in comparison.texts().items()
    }
    text = tabular([("Paper", len(PARTS)), ("Ours", len(PARTS))], heads, sections)
    return f"% needs \\usepackage{{booktabs}}\n{text}% {comparison.note}\n"
