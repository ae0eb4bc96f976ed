"""`hirl track`: show runs in MLflow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import add_group, add_step, add_study, add_uri
from hirl.config import load_study


def add(steps: Any) -> None:
    """Add the steps of this module."""
    track = add_group(steps, "track", "show runs in MLflow")

    step = add_step(
        track, "init", initialize_tracking, "create the store, before any job logs", "hirl track init --study demo"
    )
    add_study(step)
    add_uri(step)

    step = add_step(
        track,
        "sync",
        sync_tracking,
        "replay the records of studies, finished or running, into the store",
        "hirl track sync --results results/demo",
    )
    step.add_argument(
        "--results", type=Path, required=True, nargs="+", metavar="FOLDER", help="of studies, such as results/demo"
    )
    step.add_argument("--runs", nargs="+", metavar="RUN", help="default: all that the folder and scratch/ have")
    add_uri(step)


def initialize_tracking(args: argparse.Namespace) -> None:
    """Create the MLflow store, before any job logs."""
    from hirl.tracking.mlflow import init

    init(args.uri, load_study(args.study).name)


def sync_tracking(args: argparse.Namespace) -> None:
    """Replay the records of studies into MLflow, and print where they are shown."""
    from hirl.tracking.mlflow import sync, view_address

    for folder in args.results:
        experiment = sync(folder, args.runs, args.uri, Path("scratch") / folder.name)
        print(f"{folder.name:24}{view_address(experiment, args.uri)}")
