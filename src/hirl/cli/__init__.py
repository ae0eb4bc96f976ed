"""`hirl ...`: every step of the workflow, alone. Each step imports the heavy packages that it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hirl.cli.options import resolve
from hirl.cli.parser import build_parser
from hirl.config import load_study
from hirl.distributed.launch import as_rank, choose_threads, gpus, is_launched, launch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; a user's mistake is one line on stderr and exit code 2."""
    args = build_parser().parse_args(arguments)
    try:
        if "ranks" in args:
            return _compute(args, sys.argv[1:] if arguments is None else arguments)
        args.step(args)
    except ValueError as error:
        print(f"hirl: {error}", file=sys.stderr)
        return 2
    return 0


def _compute(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run a step that computes: on GPUs of its own, in this process or in several."""
    if is_launched():
        with as_rank():
            args.step(args)
        return 0
    choose_threads()
    if args.ranks > 1:
        resolve(load_study(args.study), args)  # reports mistakes before any process starts
        return launch(args.ranks, arguments)
    with gpus(1):
        args.step(args)
    return 0
