"""`hirl figures`, `hirl study-atlas`, `hirl summarise` and `hirl report`: tables and pictures of a study."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import add_out, add_results, add_step, run_names
from hirl.config import TASKS, load_study


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(
        steps,
        "figures",
        draw_figures,
        "draw the figures of a study's trainings: curves and semantic trees",
        "hirl figures --study demo --results results/demo",
    )
    add_results(step)

    step = add_step(
        steps,
        "study-atlas",
        write_study_atlas,
        "write a page on which the trees of a study can be walked",
        "hirl study-atlas --study demo --results results/demo --out atlas.html",
    )
    add_results(step)
    add_out(step, "FILE")

    step = add_step(
        steps,
        "summarise",
        summarise,
        "write the summary and tables of a study, and draw its gains",
        "hirl summarise --study demo --results results/demo",
    )
    add_results(step)
    step.add_argument("--tasks", nargs="+", choices=tuple(TASKS), help="default: the study's")
    step.add_argument("--report", type=Path, metavar="FILE", help="also gets the report, as `hirl report` writes it")

    step = add_step(
        steps,
        "report",
        write_report,
        "write one self-contained page about a study",
        "hirl report --study demo --results results/demo --out report.html",
    )
    add_results(step)
    add_out(step, "FILE")


def draw_figures(args: argparse.Namespace) -> None:
    """Draw the figures that need no evaluation."""
    from hirl.reporting.figures import draw_trainings

    draw_trainings(args.results, run_names(load_study(args.study), args))


def write_study_atlas(args: argparse.Namespace) -> None:
    """Write the atlas page of the runs that have trees."""
    from hirl.reporting.atlas_study import write_study_atlas

    write_study_atlas(args.results, run_names(load_study(args.study), args), args.out)


def summarise(args: argparse.Namespace) -> None:
    """Write the summary, the tables and the figures of the gains, and print the table."""
    from hirl.reporting import gate
    from hirl.reporting.figures import gains
    from hirl.reporting.summary import print_table, summarise

    study = load_study(args.study)
    runs, tasks = run_names(study, args), args.tasks or study.config.tasks
    print_table(summarise(args.results, runs, tasks))
    gains(args.results, runs, args.results / "figures" / "gains.png")
    if study.config.compares_trees:
        gate.gate(args.results, runs, args.results / "figures" / "gate.png")
    if args.report is not None:
        from hirl.reporting.report import write_report

        write_report(args.results, runs, args.report)


def write_report(args: argparse.Namespace) -> None:
    """Write the self-contained report."""
    from hirl.reporting.report import write_report

    write_report(args.results, run_names(load_study(args.study), args), args.out)
