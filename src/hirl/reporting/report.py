"""The report: one HTML page that holds a whole study and needs nothing else, neither network nor other files."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from docutils.core import publish_parts

from hirl.files import read_json, write_text
from hirl.reporting.paper import compare
from hirl.reporting.runs import Run, backbone_title, method_title, open_runs, pairs
from hirl.reporting.style import LOOK
from hirl.reporting.table import PARTS, Metric, Table, hierarchy_table, read_summary, tabulate
from hirl.tracking.record import read_record

CAPTIONS = Path(__file__).resolve().parents[3] / "workflow" / "report"
TITLES = {"gains": "Gains", "training": "Training", "hierarchy": "Semantic trees"}
COORDINATES = ("variant", "hash", "evaluation")  # they tell runs apart, or decide nothing of the training


def write_report(study_folder: str | Path, runs: Sequence[str], out: str | Path) -> None:
    """Writes the page about the expected runs, from the study's summary, figures and run folders.

    Raises:
        ValueError: the summary is missing.
    """
    study_folder = Path(study_folder)
    summary, opened = read_summary(study_folder), open_runs(study_folder, runs)
    table = tabulate(study_folder, summary, runs)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        study=study_folder.name,
        facts=_facts(study_folder, summary, opened),
        verdict=_verdict(table),
        introduction=caption("workflow"),
        table_caption=caption("table"),
        families={family: (metrics, _grid(table, metrics)) for family, metrics in table.families.items()},
        parts=PARTS,
        paper=compare(study_folder, table),
        figures=_figures(study_folder / "figures", opened),
        trees=hierarchy_table(study_folder, summary, runs).to_dict("split", index=False),
        differences=_differences(opened),
        costs=[_cost(run) for run in opened if run.trained],
        details=[_details(run, summary) for run in opened],
        machines=_machines(opened),
        notes=_notes(table, summary, opened),
    )
    write_text(out, page)


def caption(name: str) -> str:
    """A caption of the workflow's report as HTML.

    Raises:
        ValueError: there is none: the package was taken out of its repository.
    """
    path = CAPTIONS / f"{name}.rst"
    if not path.is_file():
        raise ValueError(f"{path} is missing: install hirl from a clone of its repository, with pip install -e")
    text = path.read_text()
    return publish_parts(text, writer="html5", settings_overrides={"report_level": 5})["body"]


# --- what was run -----------------------------------------------------------------------------------------------------


def _facts(study_folder: Path, summary: pd.DataFrame, runs: list[Run]) -> dict[str, str]:
    """The study in a few numbers."""
    trained = [run for run in runs if run.trained]
    seconds = sum(run.history["seconds"].sum() for run in trained)
    facts = {
        "Data": ", ".join(summary["dataset"].unique()),
        "Methods": ", ".join(method_title(method) for method in pairs(runs)) or "none",
        "Networks": ", ".join(dict.fromkeys(backbone_title(run.backbone) for run in runs)),
        "Trained runs": str(len(trained)),
        "Seeds": ", ".join(str(seed) for seed in sorted({run.seed for run in trained})),
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
    """The distinct environments that the runs recorded, each with the runs made there."""
    machines: dict[str, dict[str, Any]] = {}
    for run in runs:
        for record in read_record(run.folder / "record.jsonl"):
            if record["kind"] == "params":
                where = record["values"]["environment"]
                machines.setdefault(json.dumps(where), {"where": where, "runs": []})["runs"].append(run.name)
    return list(machines.values())


def _cost(run: Run) -> dict[str, str]:
    """What a run took."""
    history = run.history
    return {
        "Run": run.name,
        "Epochs": str(len(history)),
        "Time": duration(history["seconds"].sum()),
        "Images/s": f"{history['images_per_second'].median():,.0f}",
        "Memory": f"{history['memory_mb'].max() / 1024:.1f} GB",
        "Last loss": f"{history['loss'].iloc[-1]:.3f}",
        "Feature std": f"{history['feature_std'].iloc[-1]:.3f}",
    }


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 5 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- what came out ----------------------------------------------------------------------------------------------------


def _verdict(table: Table) -> dict[str, int]:
    """In how many cells of the table hirl is above, level with, below its baseline, as printed."""
    gains = [round(cell.mean, 1) for row in table.rows for (_, part), cell in row.cells.items() if part == "gain"]
    return {
        "above": sum(gain > 0 for gain in gains),
        "level": sum(gain == 0 for gain in gains),
        "below": sum(gain < 0 for gain in gains),
    }


def _grid(table: Table, metrics: list[Metric]) -> list[dict[str, Any]]:
    """A family's rows for the page: text, number to sort by, and look of every cell."""
    return [
        {
            "title": row.title(metrics),
            "control": row.control,
            "cells": [
                {
                    "text": table.text(cell, part),
                    "value": cell.mean if cell else "",
                    "look": f"{part} {row.look(metric, part)}",
                }
                for metric in metrics
                for part in PARTS
                for cell in [row.cells.get((metric, part))]
            ],
        }
        for row in table.rows
        if any(metric in metrics for metric, _ in row.cells)
    ]


def _figures(folder: Path, runs: list[Run]) -> list[dict[str, Any]]:
    """The figures that were drawn for these runs, as data that stands in the page."""
    named = [(name, title, caption(name)) for name, title in TITLES.items()]
    named += [(f"atlas-{run.name}", f"Atlas: {run.title}", caption("atlas")) for run in runs]
    return [
        {"name": name, "title": title, "caption": text, **_embedded(path.read_bytes())}
        for name, title, text in named
        if (path := folder / f"{name}.png").exists()
    ]


def _embedded(png: bytes) -> dict[str, Any]:
    """A picture's bytes as text, and its width on the page, where an inch has 96 pixels."""
    width = int.from_bytes(png[16:20])  # from the PNG's header
    return {"data": base64.b64encode(png).decode(), "width": round(width * 96 / LOOK["savefig.dpi"])}


def _notes(table: Table, summary: pd.DataFrame, runs: list[Run]) -> list[str]:
    """What a reader must know to judge the numbers."""
    notes = [table.note, "A gain that is not there is reported as such."]
    evaluated = set(summary["method"] + "-" + summary["variant"] + "-s" + summary["seed"].astype(str))
    if missing := [run.name for run in runs if run.name not in evaluated]:
        notes.append(f"Without any evaluation: {', '.join(missing)}.")
    empty = sum(row.cells.get((m, part)) is None for row in table.rows for m in table.metrics for part in PARTS[:2])
    empty -= sum(row.control for row in table.rows) * len(table.metrics)
    if empty > 0:
        notes.append(f"{empty} cells of the table are empty: these evaluations were not made.")
    return notes


# --- how it was set up ------------------------------------------------------------------------------------------------


def _differences(runs: list[Run]) -> list[dict[str, str]]:
    """Every setting in which a method's baseline and hirl differ."""
    rows = []
    for method, members in pairs(runs).items():
        sides = {run.variant: _flat(run.config) for run in reversed(members)}
        if len(sides) == 2:
            baseline, hirl = sides["baseline"], sides["hirl"]
            keys = [key for key in {**baseline, **hirl} if baseline.get(key) != hirl.get(key)]
            rows += [
                {"method": method_title(method), "key": k, "baseline": baseline.get(k, "–"), "hirl": hirl.get(k, "–")}
                for k in keys
            ]
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration under dotted keys, coordinates and absent blocks left out."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.") if prefix + key not in COORDINATES else {}
        elif prefix + key not in COORDINATES and not (key == "hierarchy" and value is None):
            flat[prefix + key] = json.dumps(value)
    return flat


def _training(run: Run, task: str) -> dict[str, str] | None:
    """What an evaluation that trains took, and where its loss went; None of the others."""
    found = run.evaluation(task)
    if not found or not (history := found.get("history")):
        return None
    return {
        "Trained evaluation": task,
        "Epochs": str(len(history)),
        "Time": duration(sum(row["seconds"] for row in history)),
        "Loss": f"{history[0]['loss']:.3f} → {history[-1]['loss']:.3f}",
    }


def _details(run: Run, summary: pd.DataFrame) -> dict[str, Any]:
    """Everything known of one run: its numbers and its configuration."""
    where = (summary["method"] == run.method) & (summary["variant"] == run.variant) & (summary["seed"] == run.seed)
    numbers: Iterable[Any] = summary[where][["task", "metric", "value"]].itertuples(index=False)
    return {
        "trainings": [line for task in summary[where]["task"].unique() if (line := _training(run, task))],
        "name": run.name,
        "numbers": [(task, metric, f"{value:.2f}") for task, metric, value in numbers],
        "config": json.dumps(run.config, indent=2) if run.trained else "",
    }
