"""`hirl track`: show runs in MLflow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import add_group, add_results, add_step, add_study, add_uri, run_names
from hirl.config import load_study


def add(steps: Any) -> None:
    """Add the steps of this module."""
    track = add_group(steps, "track", "show runs in MLflow")

    step = add_step(track, "init", initialize_tracking, "create the store, before any job logs")
    add_study(step)
    add_uri(step)

    step = add_step(track, "sync", sync_tracking, "replay a study's records into the store")
    add_results(step)
    add_uri(step)


def initialize_tracking(args: argparse.Namespace) -> None:
    """Create the MLflow store, before any job logs."""
    from hirl.tracking.mlflow import init

    init(args.uri, load_study(args.study).name)


def sync_tracking(args: argparse.Namespace) -> None:
    """Replay a study's records into MLflow."""
    from hirl.tracking.mlflow import sync

    study = load_study(args.study)
    sync(args.results, run_names(study, args), args.uri, Path("scratch") / study.name)
