"""Whole studies in MLflow: an experiment each, with a run per training and one for tables, figures and report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hirl.config import digest
from hirl.files import sha256
from hirl.tracking.mlflow.runs import Files, sync_run
from hirl.tracking.mlflow.store import Content, Store, open_store, store_lock
from hirl.tracking.mlflow.texts import CONTENT, KEY, NOTE, report_note, source

RESUME_FOLDER = re.compile(r"(?P<run>[^-]+-.+?-s\d+)-")  # of a training: its run's name, then digests
REPORT = (
    *("report.html", "atlas.html", "summary.csv"),
    *("table.csv", "table.md", "table.tex", "paper.csv", "table-paper.tex"),
)


def sync(study_folder: str | Path, runs: Sequence[str] | None, uri: str, scratch: str | Path | None = None) -> str:
    """Copy a study to MLflow and return the experiment's id; a second call, even at the same time, changes nothing.

    Each run is a parent, each of its evaluations a child; one more run holds the study's tables, figures and report.
    A finished run has `record.jsonl` in its folder; that of an unfinished run is in the scratch folder.

    Args:
        runs: their names; None for all that have results or are being trained.
        scratch: the study's.
    """
    study_folder, scratch = Path(study_folder), Path(scratch) if scratch else None
    with store_lock(uri):
        store = open_store(uri, study_folder.name)
        for run in found_runs(study_folder, scratch) if runs is None else runs:
            sync_run(store, Files(study_folder / "runs" / run, scratch))
        _sync_report(store, study_folder)
    return store.experiment


def found_runs(study_folder: Path, scratch: Path | None) -> list[str]:
    """Return the names of the runs that have results, or the record of a training."""
    finished = {path.name for path in study_folder.glob("runs/*") if path.is_dir()}
    records = scratch.glob("*/record.jsonl") if scratch else ()
    trained = (RESUME_FOLDER.match(path.parent.name) for path in records)
    return sorted(finished | {found["run"] for found in trained if found})


def _sync_report(store: Store, study_folder: Path) -> None:
    """Store the study's tables, figures and report in a run of their own; atlases of runs are with these."""
    files = [path for name in REPORT if (path := study_folder / name).is_file()]
    figures = sorted(path for path in study_folder.glob("figures/*.png") if not path.name.startswith("atlas-"))
    if not (files or figures):
        return
    tags = {KEY: "report", "study": study_folder.name, "stage": "report", **source("hirl summarise")}
    written = [path.stat().st_mtime for path in (*files, *figures)]
    run_id = store.find_or_create("report", tags, min(written))
    content = digest([sha256(path) for path in (*files, *figures)])
    if store.client.get_run(run_id).data.tags.get(CONTENT) == content:
        return
    store.put(run_id, files)
    store.put(run_id, figures, "figures")
    store.finish(run_id, max(written))
    store.log(run_id, Content(tags={NOTE: report_note(study_folder), CONTENT: content}))
