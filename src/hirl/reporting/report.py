"""Write the report: one HTML page that holds a whole study and needs neither network nor other files."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from docutils.core import publish_parts

from hirl.config import flatten
from hirl.config.resources import CAPTIONS, REINSTALL
from hirl.config.tasks import Metric
from hirl.files import read_json, write_text
from hirl.reporting import judgement
from hirl.reporting.paper import compare
from hirl.reporting.runs import Run, open_runs, trained_by_method
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
NOT_COMPARED = ("variant", "hash", "evaluation")  # what tells runs apart, or decides nothing of the training


def write_report(study_folder: str | Path, runs: Sequence[str], out: str | Path) -> None:
    """Write the page about the expected runs, from the study's summary, figures and run folders.

    Raises:
        ValueError: the summary is missing.
    """
    study_folder = Path(study_folder)
    summary, opened = read_summary(study_folder), open_runs(study_folder, runs)
    table = tabulate(study_folder, summary, runs)
    page = _template().render(
        study=study_folder.name,
        facts=_facts(study_folder, summary, opened),
        verdicts={variant_title(variant): table.verdict(variant) for variant in table.variants},
        introduction=caption("workflow"),
        table=table,
        table_caption=caption("table"),
        families={family: (metrics, _grid(table, metrics)) for family, metrics in table.families.items()},
        parts=PART_TITLES,
        paper=compare(study_folder, table),
        figures=_figures(study_folder / "figures", opened),
        judgement=judgement.texts(judgement.judge(summary)),
        judgement_note=judgement.NOTE,
        trees=hierarchy_table(study_folder, summary, runs).to_dict("split", index=False),
        differences=_differences(opened),
        costs=[_cost(run) for run in opened if run.trained],
        details=[_details(run, summary) for run in opened],
        machines=_machines(opened),
        notes=_notes(table, summary, opened),
    )
    write_text(out, page)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["metric_title"] = html
    return environment.get_template("report.html.jinja")


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


def _facts(study_folder: Path, summary: pd.DataFrame, runs: list[Run]) -> dict[str, str]:
    """Return the study in a few numbers."""
    trained = [run for run in runs if run.trained]
    seeds = sorted({run.seed for run in trained})
    seconds = sum(run.own_seconds for run in trained)
    facts = {
        "Data": ", ".join(summary["dataset"].unique()),
        "Methods": ", ".join(method_title(method) for method in trained_by_method(runs)) or "none",
        "Backbones": ", ".join(dict.fromkeys(backbone_title(run.backbone) for run in runs)),
        "Trained runs": str(len(trained)),
        "Seeds": f"{len(seeds)} ({', '.join(map(str, seeds))})",
        "Training time": duration(seconds),
    }
    for title, folder in (("Data", "data"), ("Transfer to", "transfer")):
        manifest = study_folder / folder / "manifest.json"
        if manifest.exists():
            data = read_json(manifest)
            sizes = ", ".join(f"{count:,} {split}" for split, count in data["splits"].items())
            facts[title] = f"{data['dataset']}, {data['image_size']} px: {sizes} images"
    return facts


def _machines(runs: list[Run]) -> list[dict[str, Any]]:
    """Return the distinct environments that the runs recorded, each with its runs."""
    machines: dict[str, dict[str, Any]] = {}
    for run in runs:
        for record in read_record(run.folder / "record.jsonl"):
            if record["kind"] == "params":
                where = record["values"]["environment"]
                machines.setdefault(json.dumps(where), {"where": where, "runs": []})["runs"].append(run.name)
    return list(machines.values())


def _cost(run: Run) -> dict[str, str]:
    """Return what a training took, and where it ended."""
    history, taken = run.history, run.epochs_taken_over
    return {
        "Run": run.name,
        "Epochs": f"{len(history)}, {taken} of its baseline" if taken else str(len(history)),
        "Time": duration(run.own_seconds),
        "Images/s": f"{history['images_per_second'].median():,.0f}",
        "Memory": f"{history['memory_mb'].max() / 1024:.1f} GB",
        "Last loss": f"{history['loss'].iloc[-1]:.3f}",
        "Feature std": f"{history['feature_std'].iloc[-1]:.3f}",
    }


# --- what was found ---------------------------------------------------------------------------------------------------


def _grid(table: Table, metrics: list[Metric]) -> list[dict[str, Any]]:
    """Return a family's rows for the page."""
    return [
        {
            "title": row.title(metrics),
            "control": row.is_control,
            "cells": [_cell(table, row, metric, part) for metric, part in product(metrics, PARTS)],
        }
        for row in table.rows
        if any(metric in metrics for metric, _ in row.cells)
    ]


def _cell(table: Table, row: Row, metric: Metric, part: str) -> dict[str, Any]:
    """Return a cell's text, the number to sort it by, and its CSS classes."""
    cell = row.cells.get((metric, part))
    return {
        "text": table.text(cell, part),
        "value": cell.mean if cell else "",
        "look": f"{part} {row.look(metric, part)}",
    }


def _figures(folder: Path, runs: list[Run]) -> list[dict[str, Any]]:
    """Return the figures that were drawn for these runs, with their images embedded."""
    named = [(name, title, caption(name)) for name, title in TITLES.items()]
    named += [(f"atlas-{run.name}", f"Atlas: {run.title}", caption("atlas")) for run in runs]
    return [
        {"name": name, "title": title, "caption": text, **_embedded(path.read_bytes())}
        for name, title, text in named
        if (path := folder / f"{name}.png").exists()
    ]


def _embedded(png: bytes) -> dict[str, Any]:
    """Return a PNG as base64, and its width on the page, where an inch has 96 pixels."""
    width = int.from_bytes(png[16:20])  # from the PNG's header
    return {"data": base64.b64encode(png).decode(), "width": round(width * 96 / DPI)}


def _notes(table: Table, summary: pd.DataFrame, runs: list[Run]) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    notes = [table.note]
    if table.headline_metrics != table.metrics:
        notes.append("AP50 and AP75 are not counted, because AP averages over them.")
    if missing := [run.name for run in runs if rows_of(summary, run).empty]:
        notes.append(f"Runs without any evaluation: {', '.join(missing)}.")
    trained = [row for row in table.rows if not row.is_control]
    empty = sum(cell not in row.cells for row in trained for cell in product(table.metrics, ("baseline", "hirl")))
    if empty:
        notes.append(f"{empty} cells of the table are empty, because these evaluations were not run.")
    return notes


# --- how it was set up ------------------------------------------------------------------------------------------------


def _differences(runs: list[Run]) -> list[dict[str, str]]:
    """Return every setting in which a method's baseline and another of its variants differ."""
    rows = []
    for members in trained_by_method(runs).values():
        first = {run.variant: run for run in reversed(members)}  # of the first seed
        if "baseline" not in first:
            continue
        baseline = _settings(first["baseline"])
        for run in dict.fromkeys(first[member.variant] for member in members if member.has_tree):
            other = _settings(run)
            for key in {**baseline, **other}:
                pair = {"baseline": baseline.get(key, "–"), "hirl": other.get(key, "–")}
                if pair["baseline"] != pair["hirl"]:
                    rows.append({"method": run.title, "key": key, **pair})
    return rows


def _settings(run: Run) -> dict[str, str]:
    """Return a run's configuration by dotted key, as JSON."""
    values = {key: value for key, value in run.config.items() if key not in NOT_COMPARED and value is not None}
    return {key: json.dumps(value) for key, value in flatten(values).items()}


def _training(task: str, history: list[dict[str, float]]) -> dict[str, str]:
    """Return how long a trained evaluation took, and its first and last loss."""
    return {
        "Trained evaluation": task,
        "Epochs": str(len(history)),
        "Time": duration(sum(row["seconds"] for row in history)),
        "Loss": f"{history[0]['loss']:.3f} → {history[-1]['loss']:.3f}",
    }


def _details(run: Run, summary: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers, the trained evaluations and the configuration of one run."""
    rows = rows_of(summary, run)
    found = {task: run.evaluation(task) or {} for task in rows["task"].unique()}
    return {
        "trainings": [_training(task, result["history"]) for task, result in found.items() if result.get("history")],
        "name": run.name,
        "numbers": [(row.task, row.metric, f"{row.value:.2f}") for row in rows.itertuples(index=False)],
        "config": json.dumps(run.config, indent=2) if run.trained else "",
    }
