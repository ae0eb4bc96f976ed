"""Say what guessing would reach: the chance level of a metric."""

from __future__ import annotations

from pathlib import Path

from hirl.config.tasks import TASKS, Metric
from hirl.files import read_json
from hirl.reporting.table import superclass_level


def chance_levels(study_folder: str | Path, metrics: list[Metric]) -> dict[Metric, float]:
    """Return what a guess reaches in percent: 100 / classes for top-1, zero for AMI; other metrics have no such number.

    A task whose data has no manifest in the study's folder is left out.
    """
    classes = {folder: _class_counts(Path(study_folder) / folder) for folder in ("data", "transfer")}
    found = {}
    for metric in metrics:
        counts, level = classes.get(TASKS[metric.task].folder, []), superclass_level(metric)
        if metric.name.startswith("top1") and level < len(counts):
            found[metric] = 100 / counts[level]
        elif metric.name == "ami":
            found[metric] = 0.0
    return found


def _class_counts(folder: Path) -> list[int]:
    """Return the number of classes of every level, finest first; empty without a manifest."""
    manifest = folder / "manifest.json"
    return [len(names) for names in read_json(manifest)["class_names"]] if manifest.exists() else []
