"""The MLflow store: its tables, experiments, runs, batches and artifacts."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from hirl.config import digest, flatten
from hirl.tracking.mlflow.texts import KEY, NOTE, experiment_note, experiment_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

DEFAULT_URI = "sqlite:///mlflow/mlflow.db"
MAX_PARAMS, MAX_METRICS, MAX_VALUE = 100, 1000, 6000  # MLflow's limits of a batch, and of a parameter's length


@dataclass(frozen=True)
class Store:
    """An experiment of a store, which one process holds at a time.

    Attributes:
        client: MLflow's.
        experiment: the experiment's id.
    """

    client: MlflowClient
    experiment: str

    def find(self, filter_string: str) -> list[Run]:
        """Return the runs of the experiment that are not deleted and match MLflow's filter."""
        return list(self.client.search_runs([self.experiment], filter_string))

    def find_or_create(self, name: str, tags: Mapping[str, str], start: float) -> str:
        """Return the id of the run with these tags' key."""
        if found := self.find(f"tags.`{KEY}` = '{tags[KEY]}'"):
            return found[0].info.run_id
        return self.create(name, tags, start)

    def create(self, name: str, tags: Mapping[str, str], start: float) -> str:
        """Create a run that started at `start`, in Unix seconds; return its id."""
        return self.client.create_run(self.experiment, milliseconds(start), dict(tags), name).info.run_id

    def log(self, run_id: str, content: Content) -> None:
        """Store parameters, metrics and tags in as few transactions as MLflow takes."""
        from mlflow.entities import Param, RunTag

        params = [Param(key, str(value)[:MAX_VALUE]) for key, value in flatten(content.params).items()]
        tags = [RunTag(key, str(value)) for key, value in content.tags.items()]
        metrics = content.metrics
        while params or metrics or tags:
            room = MAX_METRICS - min(len(params), MAX_PARAMS) - len(tags)  # a batch has at most 1000 entries
            self.client.log_batch(run_id, metrics[:room], params[:MAX_PARAMS], tags)
            params, metrics, tags = params[MAX_PARAMS:], metrics[room:], []
        if content.datasets:
            self.client.log_inputs(run_id, content.datasets)

    def finish(self, run_id: str, end: float) -> None:
        """Say that a run has ended, at `end` in Unix seconds."""
        self.client.set_terminated(run_id, "FINISHED", milliseconds(end))

    def put(self, run_id: str, files: Sequence[Path], folder: str | None = None) -> None:
        """Store those of these files that exist as artifacts of a run."""
        files = [file for file in files if file.is_file()]
        if not files:
            return
        root = local_folder(self.client.get_run(run_id).info.artifact_uri)
        for file in files:
            if root is None:
                self.client.log_artifact(run_id, str(file), folder)
            else:
                place(file, root / (folder or "") / file.name)


@dataclass
class Content:
    """What a batch stores."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[DatasetInput] = field(default_factory=list)


def place(file: Path, target: Path) -> None:
    """Copy a file into a store on this machine; weights and trees, which are only ever replaced whole, as hard links.

    A hard link needs no room and no time. On another file system it is a copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if file.suffix != ".safetensors":
            raise OSError
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # renaming a link to another link of its file does nothing


def local_folder(uri: str) -> Path | None:
    """Return the folder of artifacts on this machine; None for those on a server."""
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(unquote(parsed.path))


def milliseconds(time: float) -> int:
    """Return Unix seconds as MLflow has them."""
    return int(time * 1000)


def init(uri: str, experiment: str) -> str:
    """Create the store's tables and the experiment before any job logs; return the experiment's id.

    Processes that create tables at the same time corrupt them, so a lock makes them take turns. A SQLite store keeps
    its artifacts beside it in `artifacts/`; a server has its own place.
    """
    with store_lock(uri):
        return open_store(uri, experiment).experiment


def open_store(uri: str, experiment: str) -> Store:
    """Return an experiment of a store, made where it is missing; hold the store's lock meanwhile."""
    import mlflow

    database = _database(uri)
    if database:
        _make_tables(uri, database)
    mlflow.set_tracking_uri(uri)  # the registry looks for models there, not where the client does
    client = mlflow.MlflowClient(uri)
    if (found := client.get_experiment_by_name(experiment)) is not None:
        number, known = found.experiment_id, found.tags
    else:
        artifacts = (database.parent / "artifacts" / experiment).absolute().as_uri() if database else None
        number, known = client.create_experiment(experiment, artifact_location=artifacts), {}
    tags = {NOTE: experiment_note(experiment, number)} | experiment_tags(experiment)
    for key in tags.keys() - known.keys():
        client.set_experiment_tag(number, key, tags[key])
    return Store(client, number)


def _make_tables(uri: str, database: Path) -> None:
    """Make or update the tables of a SQLite store."""
    import mlflow.db
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _do_not_wait_for_the_disk):
        event.listen(Engine, "connect", _do_not_wait_for_the_disk)
    database.parent.mkdir(parents=True, exist_ok=True)
    assert mlflow.db.upgrade.callback is not None  # a click command
    mlflow.db.upgrade.callback(uri)


def _do_not_wait_for_the_disk(connection: Any, _record: Any) -> None:
    """Leave it to the operating system when rows reach the disk: MLflow commits each, and this store is a copy."""
    connection.execute("PRAGMA synchronous = OFF")


def _database(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Hold the store for this process alone, so that searching for a run and creating it is one step."""
    database = _database(uri)
    path = database.with_suffix(".lock") if database else Path(tempfile.gettempdir()) / f"hirl-{digest(uri)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
