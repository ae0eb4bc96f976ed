"""Copy a record to MLflow while a run trains."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from hirl.tracking.mlflow.runs import replay
from hirl.tracking.mlflow.store import Store, open_store, store_lock
from hirl.tracking.mlflow.texts import run_tags
from hirl.tracking.record import Record

URI_VARIABLE = "HIRL_TRACKING_URI"
FLUSH_SECONDS = 10.0


class LiveRun:
    """Copy a record to MLflow while a run trains.

    A failure prints one line, once. Training continues, and `sync` copies the rest later.
    """

    def __init__(self, uri: str, run: str, config: Mapping[str, Any]):
        self.uri, self.run, self.config = uri, run, config
        self.waiting: list[Record] = []
        self.flushed = -FLUSH_SECONDS
        self.opened: tuple[Store, str] | None = None
        self.failed = False
        self.lock = threading.Lock()  # records of the machine come from another thread
        # MLflow waits minutes for a store that does not answer; training must not.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

    def on_record(self, record: Record) -> None:
        """Take a record; store the waiting ones every few seconds and at the end."""
        with self.lock:
            if self.failed:
                return
            self.waiting.append(record)
            if record["kind"] == "end" or time.monotonic() - self.flushed >= FLUSH_SECONDS:
                self._flush()

    def _flush(self) -> None:
        try:
            store, run_id = self.opened = self.opened or self._open()
            replay(store, run_id, self.waiting)
        except _failures() as error:
            self.failed = True
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            print(
                f"tracking of {self.run} failed, training continues; run `hirl track sync` later: {reason}",
                file=sys.stderr,
            )
        self.waiting = []
        self.flushed = time.monotonic()

    def _open(self) -> tuple[Store, str]:
        with store_lock(self.uri):
            store = open_store(self.uri, self.config["study"])
            return store, store.find_or_create(self.run, run_tags(self.run, self.config), self.waiting[0]["time"])


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
