"""Put a finished study into the README and a page of details.

    python workflow/show_results.py results/demo README.md docs/results_demo.md docs/images

The README gets a finding in words and a small table; the page of details gets all tables, with the spread over seeds,
and the cost. Each text goes between the page's markers, and the figures that the pages beside it show are copied into
the images folder. No number is typed by hand.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from hirl.config.run_name import RunName
from hirl.files import atomic_path, write_text
from hirl.reporting.markup import markdown_table
from hirl.reporting.report import duration
from hirl.reporting.summary import stars
from hirl.reporting.table import Table, evaluated_runs, read_summary, tabulate
from hirl.reporting.titles import html
from hirl.tracking.record import Record, read_record

FIGURE = re.compile(r"!\[[^\]]*\]\((?P<path>(?:docs/)?images/(?P<name>[\w-]+\.png))\)")
README_METRICS = ("kNN top-1", "Linear probe top-1", "Clustering AMI")


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        records: of every training.
        tables: its tables in Markdown.
    """

    name: str
    table: Table
    records: list[list[Record]]
    tables: str


def show(folder: Path, readme: Path, details: Path, images: Path) -> None:
    """Fill both pages from a study's folder, and copy the figures that they show.

    Raises:
        ValueError: the study is not finished, a page has no markers, or a figure was not drawn.
    """
    study = open_study(folder)
    texts = {
        readme: {"finding": finding(study), "results": readme_results(study)},
        details: {"results": all_results(study)},
    }
    filled = {page: fill(page, blocks) for page, blocks in texts.items()}
    for page, text in filled.items():
        write_text(page, text)
    for page in (readme, *details.parent.glob("*.md")):
        for found in FIGURE.finditer(page.read_text()):
            copy_figure(folder / "figures" / found["name"], images / found["name"])


def open_study(folder: Path) -> Study:
    """Read a study's tables and records.

    Raises:
        ValueError: the study is not finished.
    """
    if not (folder / "table.md").is_file():
        raise ValueError(f"{folder} holds no finished study: run `make reproduce` first")
    summary = read_summary(folder)
    order = list(pd.read_csv(folder / "table.csv")["method"])
    runs = sorted(evaluated_runs(summary), key=lambda run: order.index(RunName.parse(run).method))
    table = tabulate(folder, summary, runs)
    records = [record for run in runs if (record := read_record(folder / "runs" / run / "record.jsonl"))]
    return Study(folder.name, table, records, (folder / "table.md").read_text())


def fill(page: Path, blocks: dict[str, str]) -> str:
    """Return a page's text with each block between its markers.

    Raises:
        ValueError: the page has no such markers.
    """
    text = page.read_text()
    for name, block in blocks.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not (found := marked.search(text)):
            raise ValueError(f"{page} has no lines <!-- {name} --> and <!-- /{name} -->: add them where the text goes")
        text = f"{text[: found.start()]}{found[1]}\n{block}\n\n{found[2]}{text[found.end() :]}"
    return text


# --- the README -------------------------------------------------------------------------------------------------------


def finding(study: Study) -> str:
    """Say in one sentence how often HIRL is above its baseline, with seeds and hardware."""
    table, verdict = study.table, study.table.verdict()
    methods = len({method for _, method in table.gains()})
    setting = f"{methods} methods, {len(table.headline_metrics)} metrics, {seeds(table)}, {machines(study.records)}"
    counted = (
        f"On the {study.name} study ({setting}), HIRL is above its baseline in {verdict.above} of {verdict.total} "
        f"comparisons, below in {verdict.below} and {table.undecided} in {verdict.undecided}"
    )
    if table.seeds < 2:
        return f"{counted}. With one seed no spread is known, so none of these differences is called a gain or a loss."
    return f"{counted}."


def seeds(table: Table) -> str:
    """Say how many seeds are behind the numbers."""
    return "one seed" if table.seeds < 2 else f"{table.seeds} seeds"


def machines(records: list[list[Record]]) -> str:
    """Name the processors, and the GPUs where there are any, that the trainings ran on."""
    found = []
    for where in environments(records):
        processor = f"{where['cores']} cores of {where['processor']}"
        found.append(processor if where["gpu"] == "none" else f"{where['gpu']}, {processor}")
    return " and ".join(dict.fromkeys(found))


def versions(records: list[list[Record]]) -> str:
    """Name the versions of PyTorch and the commits that the trainings ran on."""
    found = [f"PyTorch {where['torch']}, commit {where['git_commit'][:12]}" for where in environments(records)]
    return " and ".join(dict.fromkeys(found))


def environments(records: list[list[Record]]) -> list[dict[str, str]]:
    """Return where each training started."""
    return [start(run)["values"]["environment"] for run in records]


def start(run: list[Record]) -> Record:
    """Return the record of a training's start."""
    return next(record for record in run if record["kind"] == "params")


def readme_results(study: Study) -> str:
    """Return the small table, a line per method and control, and a line about seeds, hardware and commit."""
    table = study.table
    metrics = [metric for metric in table.metrics if metric.title in README_METRICS]
    body = [[row.title(metrics), *(table.pair(row, metric, stars) for metric in metrics)] for row in table.rows]
    grid = markdown_table(["Method", *(html(metric.title) for metric in metrics)], body)
    return f"{grid}\nBaseline → HIRL (HIRL minus baseline) in percent: {table.spread}; {hardware(study.records)}."


def hardware(records: list[list[Record]]) -> str:
    """Name machines and versions in a few words."""
    return f"{machines(records)}; {versions(records)}"


# --- the page of details ----------------------------------------------------------------------------------------------


def all_results(study: Study) -> str:
    """Return all tables and the cost."""
    return f"{study.tables}\n## Cost\n\n{cost(study.records)}"


def cost(records: list[list[Record]]) -> str:
    """Say how long the pre-trainings took, and on what."""
    seconds = max(run[-1]["time"] for run in records) - min(start(run)["time"] for run in records)
    return (
        f"{len(records)} pre-trainings in {duration(seconds)}, from the first start to the last end, "
        f"on {hardware(records)}."
    )


def copy_figure(source: Path, target: Path) -> None:
    """Copy a figure in 256 colors: a third of the bytes, without a visible difference.

    Raises:
        ValueError: the figure was not drawn.
    """
    if not source.is_file():
        raise ValueError(f"{source} is missing: a page shows it, so draw it with `hirl summarise`")
    with Image.open(source) as image, atomic_path(target) as temporary:
        few = image if image.mode == "P" else image.convert("RGB").quantize(256)
        few.save(temporary, optimize=True)


if __name__ == "__main__":
    try:
        show(*map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
