"""MLflow, which shows what the runs' own records say.

It gets a record's numbers with the record's times, live or later by `sync`, and keeps one of equal rows: either may run
again, or both at once. The record is the truth; losing the store loses nothing.
This is the only file that imports mlflow, and inside functions: the import takes seconds.
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

from hirl.config import digest
from hirl.files import read_json, sha256
from hirl.tracking.record import Record, read_record

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # not a line for every look at the tables

URI_VARIABLE = "HIRL_TRACKING_URI"
DEFAULT_URI = "sqlite:///mlflow/mlflow.db"
KEY = "hirl.key"  # the tag that says which of our runs this is: found again after a kill, by any process
APART = ("evaluation", "transfer_data", "scenes", "hash")  # what of a configuration decides no weights
CONTENT = "hirl.content"  # the tag that holds the digest of what was stored: unchanged things are not stored again
FILES = ("summary.csv", "table.csv", "table.md", "table.tex", "paper.csv", "table-paper.tex", "report.html")
FLUSH_SECONDS = 10.0
MAX_PARAMS, MAX_METRICS, MAX_VALUE = 100, 1000, 6000  # what MLflow takes in one batch, and in one parameter


# --- MLflow -----------------------------------------------------------------------------------------------------------


def init(uri: str, experiment: str) -> str:
    """Makes the store's tables and the experiment, whole, before any job logs; returns the experiment's id.

    Several processes that create tables at once break each other's, so they take turns. Artifacts of a SQLite store lie
    beside it, in `artifacts/`; a server keeps its own.
    """
    import mlflow.db

    database = _database(uri)
    with _alone(uri):
        if database:
            database.parent.mkdir(parents=True, exist_ok=True)
            mlflow.db.upgrade.callback(uri)
        client = mlflow.MlflowClient(uri)
        if found := client.get_experiment_by_name(experiment):
            return found.experiment_id
        artifacts = (database.parent / "artifacts" / experiment).absolute().as_uri() if database else None
        return client.create_experiment(experiment, artifact_location=artifacts)


def _database(uri: str) -> Path | None:
    """The file of a SQLite store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Waits for the store's turn: searching for a run and creating it must be one step."""
    database = _database(uri)
    path = database.with_suffix(".lock") if database else Path(tempfile.gettempdir()) / f"hirl-{digest(uri)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_tags(run: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a training run; the key among them names the run and all that decides its weights."""
    config_hash = digest({key: value for key, value in config.items() if key not in APART})
    coordinates = {key: str(config[key]) for key in ("study", "method", "variant", "seed")}
    return {KEY: f"{run}/{config_hash}", **coordinates, "stage": "pretrain", "config_hash": config_hash}


def _find_or_create(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str], start: float) -> str:
    """The id of the run with this key; call it alone."""
    found = client.search_runs([experiment], f"tags.`{KEY}` = '{tags[KEY]}'", max_results=1)
    if found:
        return found[0].info.run_id
    return client.create_run(experiment, int(start * 1000), dict(tags), name).info.run_id


def _replay(client: MlflowClient, run_id: str, records: Sequence[Record]) -> None:
    """Stores records, and whether the run has ended."""
    from mlflow.entities import RunTag

    for record in records:
        if record["kind"] == "params":
            values = dict(record["values"])
            where = values.pop("environment")  # tags, for a resumed run may continue elsewhere
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

    params = [Param(key, value) for key, value in flatten(values).items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])


def _log_metrics(client: MlflowClient, run_id: str, records: Sequence[Record]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(f"snapshot/{key}" if record["kind"] == "snapshot" else key, float(value), stamp, record["epoch"])
        for record in records
        for stamp in [int(record["time"] * 1000)]
        for key, value in record["values"].items()
        if key != "epoch" and value is not None
    ]
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted keys, as text that MLflow takes."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)[:MAX_VALUE]
    return flat


# --- live -------------------------------------------------------------------------------------------------------------


class LiveRun:
    """Follows a record into MLflow while a run trains.

    A failure is said once, in one line; training goes on, and `sync` makes it good.
    """

    def __init__(self, uri: str, run: str, config: Mapping[str, Any]):
        self.uri, self.run, self.config = uri, run, config
        self.waiting: list[Record] = []
        self.flushed = -FLUSH_SECONDS
        self.opened: tuple[MlflowClient, str] | None = None
        self.failed = False
        # A store that does not answer must not hold training up for the minutes of MLflow's own patience.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

    def on_record(self, record: Record) -> None:
        """Takes a record; stores what has gathered every few seconds and at the end."""
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
            print(f"tracking of {self.run} stops, training goes on; `hirl track sync` later: {reason}", file=sys.stderr)
        self.waiting = []
        self.flushed = time.monotonic()

    def _open(self) -> tuple[MlflowClient, str]:
        from mlflow import MlflowClient

        experiment = init(self.uri, self.config["study"])
        client = MlflowClient(self.uri)
        with _alone(self.uri):
            tags = run_tags(self.run, self.config)
            return client, _find_or_create(client, experiment, self.run, tags, self.waiting[0]["time"])


def live_run(run: str, config: Mapping[str, Any]) -> LiveRun | None:
    """A follower where HIRL_TRACKING_URI names a store, else None: a short run is better synced afterwards."""
    uri = os.environ.get(URI_VARIABLE)
    return LiveRun(uri, run, config) if uri else None


def _failures() -> tuple[type[Exception], ...]:
    """What a store may do to us: not be installed, not answer, be locked, refuse."""
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return (ImportError,)
    return (MlflowException, SQLAlchemyError, OSError)


# --- sync -------------------------------------------------------------------------------------------------------------


def sync(study_folder: str | Path, runs: Sequence[str], uri: str, scratch: str | Path | None = None) -> None:
    """Replays a study into MLflow; again, or twice at once, changes nothing.

    Each run is a parent, each evaluation its child; one more run holds the study's tables, figures and report.
    A finished run carries `record.jsonl` in its folder; one under way is looked up in the scratch folder.
    """
    from mlflow import MlflowClient

    study_folder = Path(study_folder)
    experiment = init(uri, study_folder.name)
    client = MlflowClient(uri)
    with _alone(uri):
        for run in runs:
            _sync_run(client, experiment, study_folder / "runs" / run, Path(scratch) if scratch else None)
        _sync_study(client, experiment, study_folder)


def record_path(folder: Path, scratch: Path | None) -> Path:
    """Where the record of the run with this folder lies."""
    kept = folder / "record.jsonl"
    under_way = [] if kept.exists() or scratch is None else scratch.glob(f"{folder.name}-*/record.jsonl")
    return max(under_way, key=lambda path: path.stat().st_mtime, default=kept)


def _sync_run(client: MlflowClient, experiment: str, folder: Path, scratch: Path | None) -> None:
    evaluations = sorted(folder.glob("evaluation/*.json"))
    records = read_record(record_path(folder, scratch))
    if (folder / "config.json").exists():
        tags = run_tags(folder.name, read_json(folder / "config.json"))
    elif evaluations:  # an untrained control: nothing was configured, nothing trained
        found = read_json(evaluations[0])
        coordinates = {key: str(found[key]) for key in ("study", "method", "variant", "seed")}
        tags = {KEY: folder.name, **coordinates, "stage": "control"}
    else:
        return
    start = records[0]["time"] if records else _born(folder)
    parent = _find_or_create(client, experiment, folder.name, tags, start)
    _replay(client, parent, records or [{"kind": "end", "time": start}])
    for path in evaluations:
        _sync_evaluation(client, experiment, parent, tags, path)
    _sync_artifacts(client, parent, [folder / "config.json", folder / "history.csv"])


def _sync_evaluation(client: MlflowClient, experiment: str, parent: str, tags: Mapping[str, str], path: Path) -> None:
    """Stores an evaluation as a child; one made anew replaces the old, which MLflow keeps among its deleted runs."""
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    found, stamp = read_json(path), path.stat().st_mtime
    content, key = digest(found), f"{tags[KEY]}/{found['task']}"
    for old in client.search_runs([experiment], f"tags.`{KEY}` = '{key}'"):
        if old.data.tags.get(CONTENT) == content:
            return
        client.delete_run(old.info.run_id)
    history = found.get("history", [])
    start = stamp - sum(row["seconds"] for row in history)  # its file was written when it was over
    last = max((row["epoch"] for row in history), default=0)
    child = {**tags, KEY: key, "stage": found["task"], MLFLOW_PARENT_RUN_ID: parent}
    run_id = _find_or_create(client, experiment, f"{path.parent.parent.name} {found['task']}", child, start)
    _log_params(client, run_id, found["settings"])
    reached = {"kind": "metrics", "epoch": last, "time": stamp, "values": found["metrics"]}
    _log_metrics(client, run_id, [*_epochs(history, start), reached])
    client.set_terminated(run_id, "FINISHED", int(stamp * 1000))
    client.set_tag(run_id, CONTENT, content)  # last: a child cut short by a kill has none, and is made anew


def _epochs(history: Sequence[Mapping[str, float]], start: float) -> Iterator[Record]:
    """The epochs of an evaluation that trains, as records: each at its end."""
    over = start
    for row in history:
        over += row["seconds"]
        yield {"kind": "metrics", "epoch": row["epoch"], "time": over, "values": row}


def _sync_study(client: MlflowClient, experiment: str, study_folder: Path) -> None:
    """Stores the study's tables, figures and report in a run of their own."""
    files = [study_folder / name for name in FILES]
    figures = sorted((study_folder / "figures").glob("*.png"))
    if not any(path.exists() for path in (*files, *figures)):
        return
    tags = {KEY: "report", "study": study_folder.name, "stage": "report"}
    start = _born(study_folder)
    run_id = _find_or_create(client, experiment, "report", tags, start)
    _sync_artifacts(client, run_id, files)
    _sync_artifacts(client, run_id, figures, "figures")
    _replay(client, run_id, [{"kind": "end", "time": time.time()}])


def _sync_artifacts(client: MlflowClient, run_id: str, files: Sequence[Path], folder: str | None = None) -> None:
    """Stores files that are new or changed since they were stored."""
    stored = client.get_run(run_id).data.tags
    for path in (path for path in files if path.exists()):
        tag, content = f"hirl.artifact.{path.name}", sha256(path)
        if stored.get(tag) != content:
            client.log_artifact(run_id, str(path), folder)
            client.set_tag(run_id, tag, content)


def _born(folder: Path) -> float:
    """When the oldest file of a folder was written: the best that is known without a record."""
    return min((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=time.time())
