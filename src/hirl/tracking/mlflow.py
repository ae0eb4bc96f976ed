"""Copy the runs' records to MLflow.

MLflow gets a record's numbers with the record's times, live or later by `sync`. It keeps one of equal rows, so both may
run again or at the same time. The record is the truth; losing the store loses nothing.
This is the only file that imports mlflow, and it does so inside functions, because the import takes seconds.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.config import digest, flatten, pretraining_digest
from hirl.files import read_json, sha256
from hirl.tracking.record import Record, read_record

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # no line for every look at the tables

URI_VARIABLE = "HIRL_TRACKING_URI"
DEFAULT_URI = "sqlite:///mlflow/mlflow.db"
KEY = "hirl.key"  # the tag that identifies a run, so that any process finds it again after a kill
CONTENT = "hirl.content"  # the tag with the digest of what was stored; unchanged content is not stored again
FILES = ("summary.csv", "table.csv", "table.md", "table.tex", "paper.csv", "table-paper.tex", "report.html")
FLUSH_SECONDS = 10.0
MAX_PARAMS, MAX_METRICS, MAX_VALUE = 100, 1000, 6000  # MLflow's limits of a batch, and of a parameter's length


# --- MLflow -----------------------------------------------------------------------------------------------------------


def init(uri: str, experiment: str) -> str:
    """Create the store's tables and the experiment before any job logs; return the experiment's id.

    Processes that create tables at the same time corrupt them, so a lock makes them take turns. A SQLite store keeps
    its artifacts beside it in `artifacts/`; a server has its own place.
    """
    import mlflow.db

    database = _database(uri)
    with _store_lock(uri):
        if database:
            database.parent.mkdir(parents=True, exist_ok=True)
            assert mlflow.db.upgrade.callback is not None  # a click command
            mlflow.db.upgrade.callback(uri)
        client = mlflow.MlflowClient(uri)
        if found := client.get_experiment_by_name(experiment):
            return found.experiment_id
        artifacts = (database.parent / "artifacts" / experiment).absolute().as_uri() if database else None
        return client.create_experiment(experiment, artifact_location=artifacts)


def _database(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def _store_lock(uri: str) -> Iterator[None]:
    """Hold the store for this process alone, so that searching for a run and creating it is one step."""
    database = _database(uri)
    path = database.with_suffix(".lock") if database else Path(tempfile.gettempdir()) / f"hirl-{digest(uri)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_tags(run: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a training run; its key holds the run's name and the hash of what decides its weights."""
    config_hash = pretraining_digest({key: value for key, value in config.items() if key != "hash"})
    tags = {key: str(config[key]) for key in ("study", "method", "variant", "seed")}
    tags |= {"backbone": config["backbone"]["name"], "stage": "pretrain", "config_hash": config_hash}
    return {KEY: f"{run}/{config_hash}", **tags}


def control_tags(run: str, result: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of an untrained control, which has no configuration, from one of its evaluations."""
    tags = {key: str(result[key]) for key in ("study", "method", "variant", "backbone", "seed")}
    return {KEY: run, **tags, "stage": "control"}


def _find_or_create(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str], start: float) -> str:
    """Return the id of the run with this key; hold the store's lock meanwhile."""
    found = client.search_runs([experiment], f"tags.`{KEY}` = '{tags[KEY]}'", max_results=1)
    if found:
        return found[0].info.run_id
    return client.create_run(experiment, int(start * 1000), dict(tags), name).info.run_id


def _replay(client: MlflowClient, run_id: str, records: Sequence[Record]) -> None:
    """Store records, and whether the run has ended."""
    from mlflow.entities import RunTag

    for record in records:
        if record["kind"] == "params":
            values = dict(record["values"])
            where = values.pop("environment")  # tags may change: a resumed run may continue on another machine
            client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in where.items()])
            _log_params(client, run_id, values)
    _log_metrics(client, run_id, [record for record in records if record["kind"] in ("metrics", "snapshot")])
    status = client.get_run(run_id).info.status
    if records and records[-1]["kind"] == "end":
        if status != "FINISHED":
            client.set_terminated(run_id, "FINISHED", int(records[-1]["time"] * 1000))
    elif status != "RUNNING":
        client.update_run(run_id, "RUNNING")


def _log_params(client: MlflowClient, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(key, str(value)[:MAX_VALUE]) for key, value in flatten(values).items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])


def _log_metrics(client: MlflowClient, run_id: str, records: Sequence[Record]) -> None:
    from mlflow.entities import Metric

    metrics = []
    for record in records:
        prefix, stamp = "snapshot/" if record["kind"] == "snapshot" else "", int(record["time"] * 1000)
        for key, value in record["values"].items():
            if key != "epoch" and value is not None:
                metrics.append(Metric(f"{prefix}{key}", float(value), stamp, record["epoch"]))
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])


# --- live -------------------------------------------------------------------------------------------------------------


class LiveRun:
    """Copy a record to MLflow while a run trains.

    A failure prints one line, once. Training continues, and `sync` copies the rest later.
    """

    def __init__(self, uri: str, run: str, config: Mapping[str, Any]):
        self.uri, self.run, self.config = uri, run, config
        self.waiting: list[Record] = []
        self.flushed = -FLUSH_SECONDS
        self.opened: tuple[MlflowClient, str] | None = None
        self.failed = False
        # MLflow waits minutes for a store that does not answer; training must not.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

    def on_record(self, record: Record) -> None:
        """Take a record; store the waiting ones every few seconds and at the end."""
        if self.failed:
            return
        self.waiting.append(record)
        if record["kind"] == "end" or time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        try:
            client, run_id = self.opened = self.opened or self._open()
            _replay(client, run_id, self.waiting)
        except _failures() as error:
            self.failed = True
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            print(
                f"tracking of {self.run} failed, training continues; run `hirl track sync` later: {reason}",
                file=sys.stderr,
            )
        self.waiting = []
        self.flushed = time.monotonic()

    def _open(self) -> tuple[MlflowClient, str]:
        from mlflow import MlflowClient

        experiment = init(self.uri, self.config["study"])
        client = MlflowClient(self.uri)
        with _store_lock(self.uri):
            tags = run_tags(self.run, self.config)
            return client, _find_or_create(client, experiment, self.run, tags, self.waiting[0]["time"])


def live_run(run: str, config: Mapping[str, Any]) -> LiveRun | None:
    """Return a follower of the record if HIRL_TRACKING_URI names a store; a short run is better synced afterwards."""
    uri = os.environ.get(URI_VARIABLE)
    return LiveRun(uri, run, config) if uri else None


def _failures() -> tuple[type[Exception], ...]:
    """Return the errors of a store that is not installed, does not answer, is locked or refuses."""
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return (ImportError,)
    return (MlflowException, SQLAlchemyError, OSError)


# --- sync -------------------------------------------------------------------------------------------------------------


def sync(study_folder: str | Path, runs: Sequence[str], uri: str, scratch: str | Path | None = None) -> None:
    """Copy a study to MLflow; a second call, even at the same time, changes nothing.

    Each run is a parent, each of its evaluations a child; one more run holds the study's tables, figures and report.
    A finished run has `record.jsonl` in its folder; that of an unfinished run is in the scratch folder.
    """
    from mlflow import MlflowClient

    study_folder = Path(study_folder)
    experiment = init(uri, study_folder.name)
    client = MlflowClient(uri)
    with _store_lock(uri):
        for run in runs:
            _sync_run(client, experiment, study_folder / "runs" / run, Path(scratch) if scratch else None)
        _sync_study(client, experiment, study_folder)


def record_path(folder: Path, scratch: Path | None) -> Path:
    """Return the path of a run's record, in its folder or, for an unfinished run, in scratch."""
    kept = folder / "record.jsonl"
    if kept.exists() or scratch is None:
        return kept
    unfinished = scratch.glob(f"{folder.name}-*/record.jsonl")
    return max(unfinished, key=lambda path: path.stat().st_mtime, default=kept)


def _sync_run(client: MlflowClient, experiment: str, folder: Path, scratch: Path | None) -> None:
    evaluations = sorted(folder.glob("evaluation/*.json"))
    records = read_record(record_path(folder, scratch))
    if (folder / "config.json").exists():
        tags = run_tags(folder.name, read_json(folder / "config.json"))
    elif evaluations:
        tags = control_tags(folder.name, read_json(evaluations[0]))
    else:
        return
    start = records[0]["time"] if records else _oldest_time(folder)
    parent = _find_or_create(client, experiment, folder.name, tags, start)
    _replay(client, parent, records or [{"kind": "end", "time": start}])
    for path in evaluations:
        _sync_evaluation(client, experiment, parent, tags, path)
    _sync_artifacts(client, parent, [folder / "config.json", folder / "history.csv"])


def _sync_evaluation(client: MlflowClient, experiment: str, parent: str, tags: Mapping[str, str], path: Path) -> None:
    """Store an evaluation as a child; a repeated one replaces the old, which MLflow keeps among its deleted runs."""
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    found, stamp = read_json(path), path.stat().st_mtime
    content, key = digest(found), f"{tags[KEY]}/{found['task']}"
    for old in client.search_runs([experiment], f"tags.`{KEY}` = '{key}'"):
        if old.data.tags.get(CONTENT) == content:
            return
        client.delete_run(old.info.run_id)
    history = found.get("history", [])
    start = stamp - sum(row["seconds"] for row in history)  # the file was written at the end
    last = max((row["epoch"] for row in history), default=0)
    child = {**tags, KEY: key, "stage": found["task"], MLFLOW_PARENT_RUN_ID: parent}
    run_id = _find_or_create(client, experiment, f"{path.parent.parent.name} {found['task']}", child, start)
    _log_params(client, run_id, found["settings"])
    final = {"kind": "metrics", "epoch": last, "time": stamp, "values": found["metrics"]}
    _log_metrics(client, run_id, [*_epochs(history, start), final])
    client.set_terminated(run_id, "FINISHED", int(stamp * 1000))
    client.set_tag(run_id, CONTENT, content)  # last, so that a child that a kill left incomplete is replaced


def _epochs(history: Sequence[Mapping[str, float]], start: float) -> Iterator[Record]:
    """Yield the epochs of a trained evaluation as records, each with the time of its end."""
    end = start
    for row in history:
        end += row["seconds"]
        yield {"kind": "metrics", "epoch": row["epoch"], "time": end, "values": row}


def _sync_study(client: MlflowClient, experiment: str, study_folder: Path) -> None:
    """Store the study's tables, figures and report in a run of their own."""
    files = [study_folder / name for name in FILES]
    figures = sorted((study_folder / "figures").glob("*.png"))
    if not any(path.exists() for path in (*files, *figures)):
        return
    tags = {KEY: "report", "study": study_folder.name, "stage": "report"}
    start = _oldest_time(study_folder)
    run_id = _find_or_create(client, experiment, "report", tags, start)
    _sync_artifacts(client, run_id, files)
    _sync_artifacts(client, run_id, figures, "figures")
    _replay(client, run_id, [{"kind": "end", "time": time.time()}])


def _sync_artifacts(client: MlflowClient, run_id: str, files: Sequence[Path], folder: str | None = None) -> None:
    """Store files that are new or have changed."""
    stored = client.get_run(run_id).data.tags
    for path in (path for path in files if path.exists()):
        tag, content = f"hirl.artifact.{path.name}", sha256(path)
        if stored.get(tag) != content:
            client.log_artifact(run_id, str(path), folder)
            client.set_tag(run_id, tag, content)


def _oldest_time(folder: Path) -> float:
    """Return when the oldest file of a folder was written, the best guess of a start without a record."""
    return min((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=time.time())
