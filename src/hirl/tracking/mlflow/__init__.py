"""Copy the runs' records to MLflow.

MLflow gets a record's numbers with the record's times, live or later by `sync`. It keeps one of equal rows, so both may
run again or at the same time. The record is the truth; losing the store loses nothing.
Only this package imports mlflow, and it does so inside functions, because the import takes seconds.

store     the store, its experiments and batches
texts     names, tags and descriptions
live      a run that trains
runs      trainings and evaluations
models    logged and registered models
paths     a tree's paths, for models
pyfunc    what MLflow runs when it loads a model
studies   whole studies: what `hirl track sync` copies
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # no line for every look at the tables
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # nor for every run on a server

from hirl.tracking.mlflow.live import LiveRun, live_run
from hirl.tracking.mlflow.store import DEFAULT_URI, init
from hirl.tracking.mlflow.studies import sync
from hirl.tracking.mlflow.texts import view_address, view_path

__all__ = ["DEFAULT_URI", "LiveRun", "init", "live_run", "sync", "view_address", "view_path"]
