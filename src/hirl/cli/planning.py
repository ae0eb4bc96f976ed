"""`hirl plan` and `hirl tune`: estimate and measure costs."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hirl.cli.options import add_run, add_step, add_study, overrides, print_table, resolve
from hirl.config import load_study
from hirl.distributed.launch import choose_threads, gpus

STEPS = Path()  # `hirl plan --check` without a folder: check the plan against real steps


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(steps, "plan", plan, "estimate GPU hours, wall time, memory and disk of a study")
    add_study(step, "imagenet")
    step.add_argument("--gpu", default="here", help="a name in config/hardware.yaml; default: measure this machine")
    step.add_argument("--count", type=int, default=1, help="GPUs, or CPU cores without a GPU (default %(default)s)")
    step.add_argument("--per-run", type=int, help="GPUs that share one run's work (default: all)")
    step.add_argument(
        "--data", type=Path, metavar="FOLDER", help="prepared data, if the size of the data set is not known"
    )
    step.add_argument(
        "--check",
        nargs="?",
        type=Path,
        const=STEPS,
        metavar="FOLDER",
        help="compare estimates with a study's results; without FOLDER, with real training steps on this machine",
    )

    step = add_step(steps, "tune", tune, "measure which precision and execution switches are fastest on this machine")
    add_run(step)


def plan(args: argparse.Namespace) -> None:
    """Print the estimated cost of a study, or compare it with the measured one."""
    from hirl.planning.machine import find_machine
    from hirl.planning.plan import check, check_steps, checks_table, costs_table
    from hirl.planning.plan import plan as plan_study

    ranks = args.per_run or args.count
    if not 1 <= ranks <= args.count:
        raise ValueError(f"--per-run {ranks} is not between 1 and --count {args.count}: change either")
    study = load_study(args.study)
    with gpus(1) if args.gpu == "here" or args.check is STEPS else nullcontext():
        machine = find_machine(args.gpu)
        if args.check is STEPS:
            table = checks_table(check_steps(study, machine, ranks, overrides=overrides(args)), "ms")
        else:
            planned = plan_study(study, machine, ranks, overrides(args), args.data)
    if args.check is None:
        table = costs_table(planned, machine, args.count, ranks)
    elif args.check is not STEPS:
        table = checks_table(check(planned, args.check))
    print_table(table)


def tune(args: argparse.Namespace) -> None:
    """Print how fast a run's steps are on this machine with each precision and execution switch."""
    study = load_study(args.study)
    config = resolve(study, args)
    choose_threads()
    from hirl.planning.tune import candidates_table, heading, recommended, tune

    with gpus(1):
        measured = tune(config, study.config.plugins)
        print(heading(config, measured))
    print_table(candidates_table(config, measured))
    print(f"use {recommended(measured.candidates).arguments}")
