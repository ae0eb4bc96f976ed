"""Puts a finished study into a page: `python workflow/show_results.py README.md results/demo docs/images`.

Between the page's markers come the study's tables, in one line when and where it was trained, as its own records say,
and in another how far its numbers move by chance alone; the figures that the page shows are copied beside it. No number
is typed by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from hirl.files import atomic_path, write_text
from hirl.reporting.report import duration
from hirl.reporting.table import METRICS
from hirl.tracking.record import Record, read_record

BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
FIGURE = re.compile(r"!\[[^\]]*\]\((?P<path>docs/images/(?P<name>[\w-]+\.png))\)")


def show(page: Path, study: Path, images: Path) -> None:
    """Fills the page and copies its figures.

    Raises:
        ValueError: the study is not finished, or the page has no markers.
    """
    text = page.read_text()
    table, records = study / "table.md", [read_record(path) for path in sorted(study.glob("runs/*/record.jsonl"))]
    if not table.is_file() or not records:
        raise ValueError(f"{study} holds no finished study: run `make reproduce` first")
    if not BLOCK.search(text):
        raise ValueError(f"{page} has no lines <!-- results --> and <!-- /results -->: put them where it belongs")
    filled = f"{table.read_text()}\n{cost(records)}\n"
    published = Path("weights") / study.name / "summary.csv"
    if published.is_file():
        filled += f"\n{chance(pd.read_csv(study / 'summary.csv'), pd.read_csv(published), published)}\n"
    write_text(page, BLOCK.sub(lambda found: found[1] + filled + found[2], text, count=1))
    for found in FIGURE.finditer(text):
        copy_figure(study / "figures" / found["name"], images / found["name"])


def cost(records: list[list[Record]]) -> str:
    """What the pre-trainings took, and where, in one line."""
    starts = [next(record for record in run if record["kind"] == "params") for run in records]
    seconds = max(run[-1]["time"] for run in records) - min(start["time"] for start in starts)
    where = [start["values"]["environment"] for start in starts]
    machines = dict.fromkeys(f"{w['cores']} cores of {w['processor']}, GPU: {w['gpu']}" for w in where)
    versions = dict.fromkeys(f"torch {w['torch']}, commit {w['git_commit'][:12]}" for w in where)
    return (
        f"{len(records)} pre-trainings, {duration(seconds)} from the first one's start to the last one's end, on "
        f"{' and '.join(machines)} ({'; '.join(versions)})."
    )


def chance(trained: pd.DataFrame, rounded: pd.DataFrame, path: Path) -> str:
    """How far the numbers of the trained runs lie from those of the same weights in half precision, in one line."""
    number = ["method", "variant", "seed", "task", "metric"]
    both = trained.merge(rounded, on=number, suffixes=("", "_rounded")).query("method != 'untrained'")
    largest = (both["value"] - both["value_rounded"]).abs().groupby([both["task"], both["metric"]]).max()
    shown = [metric for metric in METRICS if (metric.task, metric.name) in largest.index]
    moves = ", ".join(f"{metric.title} {largest[metric.task, metric.name]:.1f}" for metric in shown)
    return (
        "How far chance goes: the same weights, rounded to half precision and evaluated again "
        f"(`{path}`, {len(both.groupby(number[:3]))} runs), differ by at most: {moves}."
    )


def copy_figure(source: Path, target: Path) -> None:
    """A figure in 256 colours: a third of the bytes, alike to the eye.

    Raises:
        ValueError: it was not drawn.
    """
    if not source.is_file():
        raise ValueError(f"{source} is missing: the page shows it, so let the study draw it")
    with Image.open(source) as image, atomic_path(target) as temporary:
        image.convert("RGB").quantize(256).save(temporary, optimize=True)


if __name__ == "__main__":
    try:
        show(*map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
