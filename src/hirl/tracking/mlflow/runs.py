"""A training in MLflow: its record, its evaluations as children, its files and its model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.config import TASKS, digest
from hirl.files import read_json, sha256
from hirl.tracking.mlflow.models import BEST, log_model, register
from hirl.tracking.mlflow.store import Content, Store, milliseconds
from hirl.tracking.mlflow.texts import (
    CONTENT,
    KEY,
    NOTE,
    UNHASHED,
    control_tags,
    evaluation_note,
    headlines,
    metric_names,
    run_tags,
    source,
    training_note,
)
from hirl.tracking.record import Record, evaluation_times, read_record

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric

VERSION = 1  # of what is stored of a run; a higher one stores all runs again


# --- records ----------------------------------------------------------------------------------------------------------


def replay(store: Store, run_id: str, records: Sequence[Record]) -> None:
    """Store records, and whether the run has ended."""
    content = Content(metrics=_metrics(records))
    for record in records:
        if record["kind"] == "params":
            content.params, content.tags = _settings(record["values"])
    store.log(run_id, content)
    if not records:
        return
    status = store.client.get_run(run_id).info.status
    if records[-1]["kind"] == "end":
        if status != "FINISHED":
            store.finish(run_id, records[-1]["time"])
    elif status != "RUNNING":
        store.client.update_run(run_id, "RUNNING")


def _settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters and the tags of a training from the first line of its record.

    The machine is in tags, which may change: a resumed run may continue on another one. Settings of evaluations are
    parameters of these.
    """
    notes = dict(values)
    machine, config = notes.pop("environment"), notes.pop("config", {})
    params = notes | {key: value for key, value in config.items() if key not in UNHASHED}
    return params, machine | source("hirl pretrain", machine["git_commit"])


def _metrics(records: Iterable[Record]) -> list[Metric]:
    from mlflow.entities import Metric

    return [
        Metric(name, float(value), milliseconds(record["time"]), record["values"].get("sample", record["epoch"]))
        for record in records
        if record["kind"] in ("metrics", "snapshot", "system")
        for name, value in metric_names(record["kind"], record["values"]).items()
    ]


# --- trainings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """The files of a run.

    Attributes:
        folder: of the run's results.
        scratch: the study's; None if only finished runs are asked for.
    """

    folder: Path
    scratch: Path | None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def study(self) -> Path:
        """The folder of the study's results."""
        return self.folder.parents[1]

    @property
    def record(self) -> Path:
        """The run's record, in its folder or, for an unfinished run, in scratch."""
        kept = self.folder / "record.jsonl"
        if kept.exists() or self.scratch is None:
            return kept
        unfinished = self.scratch.glob(f"{self.name}-*/record.jsonl")
        return max(unfinished, key=lambda path: path.stat().st_mtime, default=kept)

    @cached_property
    def records(self) -> list[Record]:
        """The complete lines of the record."""
        return read_record(self.record)

    @cached_property
    def evaluations(self) -> list[Path]:
        """The results of the evaluations."""
        return sorted(self.folder.glob("evaluation/*.json"))

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The run's configuration; None for a control."""
        if (self.folder / "config.json").exists():
            return read_json(self.folder / "config.json")
        return self.records[0]["values"].get("config") if self.records else None

    @property
    def tags(self) -> dict[str, str] | None:
        """The run's tags; None if there is nothing to show of it yet."""
        if self.config is not None:
            return run_tags(self.name, self.config)
        return control_tags(self.name, read_json(self.evaluations[0])) if self.evaluations else None

    @property
    def times(self) -> tuple[float, float]:
        """When the training started and ended; of a control, its evaluations."""
        if self.records:
            return self.records[0]["time"], self.records[-1]["time"]
        all_times = [evaluation_interval(path, read_json(path)) for path in self.evaluations]
        return min(start for start, _ in all_times), max(end for _, end in all_times)

    @property
    def artifacts(self) -> list[Path]:
        """What is shown beside the numbers: settings, history, weights, tree, atlas."""
        names = ["config.json", "history.csv", "weights.safetensors", "tree.safetensors", "atlas.html"]
        return [self.folder / name for name in names] + [self.study / "figures" / f"atlas-{self.name}.png"]

    def digest(self) -> str:
        """Return the digest of everything that is stored of the run."""
        files = [self.record, self.folder / "evaluation" / "record.jsonl", *self.evaluations, *self.artifacts]
        return digest([VERSION, [sha256(file) if file.is_file() else None for file in files]])


def sync_run(store: Store, files: Files) -> None:
    """Store a run with its evaluations as children; unchanged content is not stored again."""
    tags = files.tags
    if tags is None:
        return
    start, end = files.times
    content = files.digest()
    known = store.find(f"tags.`{KEY}` = '{tags[KEY]}'")
    if known and known[0].data.tags.get(CONTENT) == content:
        return
    run_id = known[0].info.run_id if known else store.create(files.name, tags, start)
    found = {path: read_json(path) for path in files.evaluations}
    _sync_evaluations(store, run_id, tags, found)
    store.put(run_id, files.artifacts)
    model_id = log_model(store, run_id, files.folder, tags, known[0].data.tags if known else {})
    note = training_note(files.folder, files.config, tags["config_hash"]) if files.config else None
    store.log(
        run_id,
        Content(
            metrics=list(_headlines(found, model_id)),
            tags={NOTE: note} if note else {},
            datasets=_datasets(files.study, "data", "training" if files.config else "evaluation"),
        ),
    )
    replay(store, run_id, files.records or [{"kind": "end", "epoch": 0, "time": end, "values": {}}])
    register(store, files.study.name, tags, run_id, model_id, _best(found))
    store.client.set_tag(run_id, CONTENT, content)  # last, so that a run that a kill left incomplete is stored again


def _headlines(found: Mapping[Path, Mapping[str, Any]], model_id: str | None) -> Iterator[Metric]:
    """Yield the headline metrics of a run's evaluations, for itself and its model."""
    from mlflow.entities import Metric

    for path, result in found.items():
        stamp = milliseconds(evaluation_interval(path, result)[1])
        for name, value in headlines(result["task"], result["metrics"]).items():
            yield Metric(name, float(value), stamp, 0, model_id=model_id)


def _best(found: Mapping[Path, Mapping[str, Any]]) -> float | None:
    """Return the number that the best model has most of; None without that evaluation."""
    for result in found.values():
        if BEST in (numbers := headlines(result["task"], result["metrics"])):
            return numbers[BEST]
    return None


# --- evaluations ------------------------------------------------------------------------------------------------------


def _sync_evaluations(
    store: Store, parent: str, tags: Mapping[str, str], found: Mapping[Path, Mapping[str, Any]]
) -> None:
    """Store evaluations as children; a repeated one replaces the old, which MLflow keeps among its deleted runs."""
    children = store.find(f"tags.`mlflow.parentRunId` = '{parent}'") if found else []
    known = {child.data.tags[KEY]: child for child in children}
    for path, result in found.items():
        content, key = digest([result, evaluation_interval(path, result)]), f"{tags[KEY]}/{result['task']}"
        if (old := known.get(key)) is not None:
            if old.data.tags.get(CONTENT) == content:
                continue
            store.client.delete_run(old.info.run_id)
        own = {**tags, KEY: key, "stage": result["task"], "mlflow.parentRunId": parent, CONTENT: content}
        own |= source(f"hirl evaluate {result['task']}") | {NOTE: evaluation_note(path, result)}
        _store_evaluation(store, path, result, own)


def _store_evaluation(store: Store, path: Path, result: Mapping[str, Any], tags: dict[str, str]) -> None:
    content = tags.pop(CONTENT)
    start, end = evaluation_interval(path, result)
    history = result.get("history", [])
    last = max((row["epoch"] for row in history), default=0)
    run_id = store.create(f"{path.parents[1].name} {result['task']}", tags, start)
    metrics = _metrics(_epochs(history, start)) + _final(result["metrics"], end, last)
    task = TASKS[result["task"]]
    datasets = _datasets(path.parents[3], task.folder, "evaluation")
    # the digest comes with the last batch, so that a child that a kill left incomplete is replaced
    store.log(run_id, Content(result["settings"], metrics, datasets=datasets))
    store.finish(run_id, end)
    store.client.set_tag(run_id, CONTENT, content)


def _final(metrics: Mapping[str, float], end: float, epoch: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(name, float(value), milliseconds(end), epoch) for name, value in metrics.items()]


def _epochs(history: Sequence[Mapping[str, float]], start: float) -> Iterator[Record]:
    """Yield the epochs of a trained evaluation as records, each with the time of its end."""
    end = start
    for row in history:
        end += row["seconds"]
        yield {"kind": "metrics", "epoch": row["epoch"], "time": end, "values": dict(row)}


def evaluation_interval(path: Path, result: Mapping[str, Any]) -> tuple[float, float]:
    """Return when an evaluation started and ended, in Unix seconds.

    Without a record of it: it ended when its file was written, and took as long as its epochs.
    """
    if (times := evaluation_times(path.parent).get(result["task"])) is not None:
        return times
    end = path.stat().st_mtime
    return end - sum(row["seconds"] for row in result.get("history", [])), end


# --- data sets --------------------------------------------------------------------------------------------------------


def _datasets(study: Path, folder: str, context: str) -> list[DatasetInput]:
    """Return the prepared images of a study as MLflow's data set, with their digest; none if they are gone."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = study / folder / "manifest.json"
    if not path.is_file():
        return []
    manifest = read_json(path)
    name = manifest.get("dataset") or f"{manifest['name']} {folder}"
    profile = {key: manifest[key] for key in ("splits", "image_size", "levels", "categories") if key in manifest}
    uri = json.dumps({"uri": str(path.parent)})
    dataset = Dataset(name, manifest["digest"][:12], "local", uri, profile=json.dumps(profile))
    return [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
