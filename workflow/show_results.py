"""Put a finished study into the README and a page of details.

    python workflow/show_results.py results/demo README.md docs/results_demo.md docs/images

The README gets one sentence of findings and a small table; the page of details gets all tables, the cost and the noise
floor. Each text goes between the page's markers, and the figures that a page shows are copied into the images folder.
No number is typed by hand.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from hirl.config.run_name import UNTRAINED, RunName
from hirl.config.tasks import Metric
from hirl.files import atomic_path, write_text
from hirl.reporting.markup import markdown_table
from hirl.reporting.report import duration
from hirl.reporting.summary import stars
from hirl.reporting.table import Table, evaluated_runs, read_summary, tabulate
from hirl.reporting.titles import html
from hirl.tracking.record import Record, read_record

FIGURE = re.compile(r"!\[[^\]]*\]\((?P<path>(?:docs/)?images/(?P<name>[\w-]+\.png))\)")
README_METRICS = ("kNN top-1", "Linear probe top-1", "Clustering AMI")
NUMBER = ["method", "variant", "seed", "task", "metric"]  # what names a number of a trained run


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        records: of every training.
        floor: the noise floor of each metric; empty where no published numbers exist.
        published: the published summary that the floor was computed from.
        tables: its tables in Markdown.
    """

    name: str
    table: Table
    records: list[list[Record]]
    floor: dict[Metric, float]
    published: Path
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
        for found in FIGURE.finditer(text):
            copy_figure(folder / "figures" / found["name"], images / found["name"])


def open_study(folder: Path) -> Study:
    """Read a study's tables, records and noise floor.

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
    published = Path("weights") / folder.name / "summary.csv"
    floor = noise_floor(table, summary, pd.read_csv(published)) if published.is_file() else {}
    return Study(folder.name, table, records, floor, published, (folder / "table.md").read_text())


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
    clauses = [
        f"On the {study.name} study ({setting}), HIRL is above its baseline in {verdict.above} of {verdict.total} "
        f"comparisons, below in {verdict.below} and {table.undecided} in {verdict.undecided}"
    ]
    if study.floor:
        clauses.append(f"{ties(table, study.floor)} differences are within the noise floor")
    return "; ".join(clauses) + "."


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


def ties(table: Table, floor: dict[Metric, float]) -> int:
    """Count the gains that are no larger than the noise floor of their metric."""
    return sum(abs(cell.mean) <= floor[metric] for (metric, _), cell in table.gains().items() if metric in floor)


def readme_results(study: Study) -> str:
    """Return the small table, a line per method and control, and a line about seeds, hardware and commit."""
    table = study.table
    metrics = [metric for metric in table.metrics if metric.title in README_METRICS]
    body = [[row.title(metrics), *(table.pair(row, metric, stars) for metric in metrics)] for row in table.rows]
    grid = markdown_table(["Method", *(html(metric.title) for metric in metrics)], body)
    return f"{grid}\nBaseline → HIRL (gain) in percent: {table.spread}; {hardware(study.records)}."


def hardware(records: list[list[Record]]) -> str:
    """Name machines and versions in a few words."""
    return f"{machines(records)}; {versions(records)}"


# --- the page of details ----------------------------------------------------------------------------------------------


def all_results(study: Study) -> str:
    """Return all tables, the spread and the cost."""
    return f"{study.tables}\n## Spread\n\n{spread(study)}\n\n## Cost\n\n{cost(study.records)}"


def spread(study: Study) -> str:
    """Say how far the numbers move without any change of method."""
    known = f"The 95 % interval over seeds stands beside each number (n = {study.table.seeds})."
    if study.table.seeds < 2:
        known = "With one seed the spread over seeds is unknown."
    paragraphs = [
        f"{known} The same machine gives the same bits on as many threads; jobs of the workflow have one. Another "
        "processor rounds differently and gives another draw of chance, as another seed would."
    ]
    if study.floor:
        body = [[html(metric.title), f"{value:.1f}"] for metric, value in study.floor.items()]
        paragraphs += [
            "Noise floor: re-evaluating the same weights in half precision "
            f"(`{study.published}`) changes each metric by at most the following. Treat differences below the noise "
            f"floor as ties ({ties(study.table, study.floor)} of {study.table.verdict().total} here). The noise floor "
            "is a lower bound of the spread: another seed or another processor moves the numbers more.",
            markdown_table(["Metric", "Noise floor"], body).rstrip(),
        ]
    return "\n\n".join(paragraphs)


def noise_floor(table: Table, trained: pd.DataFrame, published: pd.DataFrame) -> dict[Metric, float]:
    """Return the largest difference of each metric between trained runs and their weights in half precision."""
    trained = trained[trained["method"] != UNTRAINED]
    both = trained.merge(published, on=NUMBER, suffixes=("", "_published"))
    differences = (both["value"] - both["value_published"]).abs()
    largest = differences.groupby([both["task"], both["metric"]]).max().to_dict()
    return {m: largest[m.task, m.name] for m in table.metrics if (m.task, m.name) in largest}


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
        image.convert("RGB").quantize(256).save(temporary, optimize=True)


if __name__ == "__main__":
    try:
        show(*map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
