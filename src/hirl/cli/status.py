"""`hirl status`: tell how far a study is, also while it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import add_step, print_table, study_names
from hirl.config import load_study


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(
        steps, "status", show_status, "tell how far a study is: done, running, failed, time left", "hirl status demo"
    )
    step.add_argument(
        "study", nargs="?", help="a name in config/studies, or a YAML file; default: each that has results here"
    ).completer = lambda **_: study_names()  # type: ignore[attr-defined]


def show_status(args: argparse.Namespace) -> None:
    """Print a study's state, run by run; without a study, a line for each, and the runs of those that are going on."""
    from hirl.planning.status import headline, runs_table, study_status

    named = [args.study] if args.study else [name for name in study_names() if (Path("results") / name).is_dir()]
    if not named:
        print("no study has results in this folder: `make reproduce` runs the demo")
    for name in named:
        status = study_status(load_study(name))
        print(headline(status))
        if args.study or status.works or len(named) == 1:
            print_table(runs_table(status))
