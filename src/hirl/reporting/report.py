"""Write the report: one HTML page that holds a whole study and needs no network."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from docutils.core import publish_parts
from markupsafe import Markup
from PIL import Image

from hirl.config.resources import CAPTIONS, REINSTALL
from hirl.config.tasks import Metric
from hirl.files import read_json, write_text
from hirl.reporting import describe, judgement, spread
from hirl.reporting.answer import answer, question, seeds_in_words
from hirl.reporting.chance import chance_levels
from hirl.reporting.forest import forest
from hirl.reporting.paper import compare
from hirl.reporting.runs import Run, open_runs, trained_by_method
from hirl.reporting.settings import between_variants, from_paper
from hirl.reporting.style import DPI
from hirl.reporting.table import (
    PART_TITLES,
    PARTS,
    Row,
    Table,
    hierarchy_table,
    read_summary,
    rows_of,
    tabulate,
)
from hirl.reporting.titles import backbone_title, html, method_title, variant_title
from hirl.tracking.record import read_record
from hirl.training.progress import duration

TITLES = {"gains": "Gains", "gate": "Gain by tree agreement", "training": "Training", "hierarchy": "Semantic trees"}
TREE_NUMBERS = ("AMI", "Purity")  # of each level of a tree
ATLAS_PAGE = "atlas.html"  # beside the report
MINUS = re.compile(r"(?<!\w)-(?=\d)")  # not a hyphen, as in top-1
WEBP: dict[bool, dict[str, Any]] = {True: {"quality": 70}, False: {"lossless": True}}  # by whether it is photographs


def write_report(study_folder: str | Path, runs: Sequence[str], out: str | Path) -> None:
    """Write the page about the expected runs, from the study's summary, figures and run folders.

    It links the atlas page if that lies beside `out`.

    Raises:
        ValueError: the summary is missing.
    """
    study_folder = Path(study_folder)
    summary, opened = read_summary(study_folder), open_runs(study_folder, runs)
    table, judged = tabulate(study_folder, summary, runs), judgement.judge(summary)
    trees = hierarchy_table(study_folder, summary, runs)
    page = _template().render(
        study=study_folder.name,
        question=question(opened, summary["dataset"].iloc[0]),
        answer=answer(table, judged),
        forest=forest(table, judged),
        facts=_facts(study_folder, opened),
        notes=_notes(table, summary, opened),
        atlas_page=ATLAS_PAGE if Path(out).with_name(ATLAS_PAGE).exists() else "",
        introduction=caption("workflow"),
        judgement=_verdicts(table, judged),
        judgement_note=judgement.NOTE,
        table=table,
        table_caption=caption("table"),
        families={family: _family(study_folder, table, metrics) for family, metrics in table.families.items()},
        parts=PART_TITLES,
        trees=_trees(trees),
        paper=compare(study_folder, table),
        spread=spread,
        spread_lines=spread.spreads(summary, table.metrics),
        figures=list(_figures(study_folder, opened, table, summary, trees)),
        machines=_machines(opened),
        costs=[_cost(members) for members in _by_variant(opened) if members[0].trained],
        between=between_variants(opened),
        published=from_paper(opened),
        details=[_details(members, summary) for members in _by_variant(opened)],
    )
    write_text(out, page)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.do"]
    )
    environment.filters |= {"metric_title": html, "anchor": anchor, "minus": minus}
    return environment.get_template("report.html.jinja")


def anchor(title: str) -> str:
    """Return a title as a link's target: `the-papers-numbers`."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return "-".join(kept.split())


def minus(text: str) -> Markup:
    """Return a text for the page, with the minus of numbers as wide as a plus."""
    return Markup("{}").format(MINUS.sub("−", text))


def caption(name: str) -> str:
    """Return a caption of the workflow's report as HTML.

    Raises:
        ValueError: the caption is missing.
    """
    path = CAPTIONS / f"{name}.rst"
    if not path.is_file():
        raise ValueError(f"{path} is missing: {REINSTALL}")
    text = path.read_text()
    return publish_parts(text, writer="html5", settings_overrides={"report_level": 5})["body"]


# --- what was run -----------------------------------------------------------------------------------------------------


def _facts(study_folder: Path, runs: list[Run]) -> dict[str, str]:
    """Return the study in a few words: images, methods, seeds, cost."""
    trained = [run for run in runs if run.trained]
    facts = {
        "Methods": ", ".join(method_title(method) for method in trained_by_method(runs)) or "none",
        "Backbones": ", ".join(dict.fromkeys(backbone_title(run.backbone) for run in runs)),
        "Seeds": seeds_in_words(run.seed for run in trained),
        "Cost": f"{len(trained)} trainings, {duration(sum(run.own_seconds for run in trained))} in all{_where(runs)}",
    }
    for title, folder in (("Images", "data"), ("Transfer to", "transfer")):
        manifest = study_folder / folder / "manifest.json"
        if manifest.exists():
            data = read_json(manifest)
            sizes = " and ".join(f"{count:,} {split}" for split, count in data["splits"].items())
            classes = len(data["class_names"][0])
            facts[title] = f"{data['dataset']}: {sizes} images of {data['image_size']} px, {classes} classes"
    return facts


def _where(runs: list[Run]) -> str:
    """Return the processors and GPUs that the runs recorded, as the end of a sentence."""
    found = dict.fromkeys(_processor(machine["where"]) for machine in _machines(runs))
    return f", on {' and '.join(found)}" if found else ""


def _processor(where: dict[str, Any]) -> str:
    processor = f"{where['cores']} cores of {where['processor']}"
    return processor if where["gpu"] == "none" else f"{where['gpu']} and {processor}"


def _machines(runs: list[Run]) -> list[dict[str, Any]]:
    """Return the distinct environments that the runs recorded, each with its runs."""
    machines: dict[str, dict[str, Any]] = {}
    for run in runs:
        for record in read_record(run.folder / "record.jsonl"):
            if record["kind"] == "params":
                where = record["values"]["environment"]
                machines.setdefault(json.dumps(where), {"where": where, "runs": []})["runs"].append(run.name)
    return list(machines.values())


def _by_variant(runs: list[Run]) -> list[list[Run]]:
    """Group the runs that differ in their seed alone."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.method, run.variant, run.backbone), []).append(run)
    return list(groups.values())


def _cost(runs: list[Run]) -> dict[str, str]:
    """Return what the trainings of one method and variant took, and where they ended: medians over seeds."""
    histories, taken = [run.history for run in runs], runs[0].epochs_taken_over
    epochs = len(histories[0])
    last = pd.DataFrame([history.iloc[-1] for history in histories]).median(numeric_only=True)
    return {
        "Run": runs[0].title,
        "Epochs": f"{epochs}, {taken} of its baseline" if taken else str(epochs),
        "Time per seed": duration(pd.Series([run.own_seconds for run in runs]).median()),
        "Images/s": f"{pd.concat(histories)['images_per_second'].median():,.0f}",
        "Memory": f"{pd.concat(histories)['memory_mb'].max() / 1024:.1f} GB",
        "Last loss": f"{last['loss']:.3f}",
        "Last feature std": f"{last['feature_std']:.3f}",
    }


# --- what was found ---------------------------------------------------------------------------------------------------


def _verdicts(table: Table, judged: pd.DataFrame) -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    """Return the verdicts' lines by the titles of variant, method and outcome, in the table's order."""
    found: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    methods = [method_title(row.method) for row in table.rows]
    variants = [variant_title(variant) for variant in table.variants]
    lines = judgement.texts(judged)
    lines.sort(key=lambda line: (variants.index(line["Variant"]), [*methods, line["Method"]].index(line["Method"])))
    for line in lines:
        found.setdefault(line["Variant"], {}).setdefault(line["Method"], {})[line["Outcome"]] = line
    return found


def _trees(trees: pd.DataFrame) -> dict[str, Any]:
    """Return a line per run with the numbers of its levels side by side, and the levels' titles."""
    if trees.empty:
        return {}
    levels = trees.drop_duplicates("Level")
    lines = []
    for run, own in trees.groupby("Run", sort=False):
        numbers = own[list(TREE_NUMBERS)].to_numpy().ravel().tolist()
        lines.append([run, " > ".join(own["Clusters"][::-1]), *numbers])
    titles = "Level " + levels["Level"] + ": " + levels["True classes"]
    return {"levels": titles.tolist(), "numbers": TREE_NUMBERS, "lines": lines}


def _family(study_folder: Path, table: Table, metrics: list[Metric]) -> dict[str, Any]:
    """Return a table of the page: some metrics, and a group of rows per backbone, which sorting keeps together."""
    chance = chance_levels(study_folder, metrics)
    shown = [
        [row for row in rows if any(metric in metrics for metric, _ in row.cells)] for rows in table.backbones.values()
    ]
    return {
        "metrics": metrics,
        "chance": [f"{chance[metric]:.1f}" if metric in chance else "" for metric in metrics],
        "groups": [[_line(table, row, metrics) for row in rows] for rows in shown if rows],
    }


def _line(table: Table, row: Row, metrics: list[Metric]) -> dict[str, Any]:
    cells = [_cell(table, row, metric, part) for metric, part in product(metrics, PARTS)]
    return {"title": row.title(metrics), "control": row.is_control, "cells": cells}


def _cell(table: Table, row: Row, metric: Metric, part: str) -> dict[str, Any]:
    """Return a cell's text, the number to sort it by, and its CSS classes."""
    cell = row.cells.get((metric, part))
    return {
        "text": table.text(cell, part),
        "value": cell.mean if cell else "",
        "look": f"{part} {row.look(metric, part)}".strip(),
    }


def _figures(
    study_folder: Path, runs: list[Run], table: Table, summary: pd.DataFrame, trees: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """Yield the figures that were drawn for these runs, with their images embedded."""
    descriptions = {
        "gains": lambda: describe.gains(table),
        "gate": lambda: describe.gate(summary, runs, table.variants),
        "training": lambda: describe.training(runs),
        "hierarchy": lambda: describe.hierarchy(trees),
    }
    for name, title in TITLES.items():
        path = study_folder / "figures" / f"{name}.png"
        if path.exists():
            shown = {"title": title, "caption": caption(name), "alt": descriptions[name]()}
            yield {"name": name, **shown, **_embedded(path, is_photographs=False)}
    for run in runs:
        path = study_folder / "figures" / f"atlas-{run.name}.png"
        if path.exists():
            shown = {"title": run.title, "caption": caption("atlas"), "alt": describe.atlas(run, trees)}
            yield {"name": "atlas", "run": run.name, **shown, **_embedded(path, is_photographs=True)}


def _embedded(png: Path, is_photographs: bool) -> dict[str, Any]:
    """Return a figure as WebP in base64, and its size on the page, where an inch has 96 pixels."""
    stream = io.BytesIO()
    with Image.open(png) as image:
        image.convert("RGB").save(stream, "WEBP", **WEBP[is_photographs])
        width, height = (round(side * 96 / DPI) for side in image.size)
    return {"data": base64.b64encode(stream.getvalue()).decode(), "width": width, "height": height}


def _notes(table: Table, summary: pd.DataFrame, runs: list[Run]) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    notes = [table.note] if table.seeds > 1 else []  # the answer itself says that one seed has no spread
    labelled = dict.fromkeys(run.variant for run in runs if run.has_tree and _tree(run) == "classes")
    if labelled:
        titles = ", ".join(map(variant_title, labelled))
        notes.append(f"The trees of {titles} are made of the true classes: controls, and no results of HIRL.")
    if table.headline_metrics != table.metrics:
        notes.append("AP50 and AP75 are not counted, because AP averages over them.")
    if missing := [run.name for run in runs if rows_of(summary, run).empty]:
        notes.append(f"Runs without any evaluation: {', '.join(missing)}.")
    trained = [row for row in table.rows if not row.is_control]
    empty = sum(cell not in row.cells for row in trained for cell in product(table.metrics, ("baseline", "hirl")))
    if empty:
        notes.append(f"{empty} cells of the table are empty, because these evaluations were not run.")
    return notes


def _tree(run: Run) -> str:
    return (run.config.get("hierarchy") or {}).get("tree", "")


# --- the runs ---------------------------------------------------------------------------------------------------------


def _training(task: str, history: list[dict[str, float]]) -> dict[str, str]:
    """Return how long a trained evaluation took, and its first and last loss."""
    return {
        "Trained evaluation": task,
        "Epochs": str(len(history)),
        "Time": duration(sum(row["seconds"] for row in history)),
        "Loss": f"{history[0]['loss']:.3f} → {history[-1]['loss']:.3f}",
    }


def _details(runs: list[Run], summary: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of all seeds of one method and variant; evaluations and configuration are the first seed's."""
    first = runs[0]
    rows = pd.concat(rows_of(summary, run) for run in runs)
    numbers = rows.pivot(index=["task", "metric"], columns="seed", values="value").reindex(
        columns=[r.seed for r in runs]
    )
    found = {task: first.evaluation(task) or {} for task in rows["task"].unique()}
    return {
        "title": first.title,
        "name": first.name,
        "seed_heads": ["Value"] if len(runs) == 1 else [f"Seed {run.seed}" for run in runs],
        "numbers": [
            [task, metric, *("" if pd.isna(value) else f"{value:.2f}" for value in values)]
            for task, metric, *values in numbers.reset_index().itertuples(index=False)
        ],
        "trainings": [_training(task, result["history"]) for task, result in found.items() if result.get("history")],
        "config": json.dumps(first.config, indent=1) if first.trained else "",
    }
