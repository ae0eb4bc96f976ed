"""`hirl ...`: every step of the workflow, alone. Each step imports the heavy packages that it needs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hirl.cli.stopping import Stopped, end_by, end_by_signals, say_stopped, stopped_by_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step and return its exit code.

    A user's mistake is one line on stderr and exit code 2. Ctrl-C and SIGTERM are one line and the exit codes 130
    and 143; a process of its own (`arguments` is None) ends by the signal itself.
    """
    with stopped_by_signals():
        try:
            args, code = None, 0
            args = _parse(arguments)
            code = _run(args, sys.argv[1:] if arguments is None else arguments)
        except ValueError as error:
            print(f"hirl: {error}", file=sys.stderr)
            return 2
        except Stopped as stop:
            code = 128 + stop.number
    if code > 128:
        say_stopped(_after_stop(args))
        if arguments is None:
            end_by(code - 128)
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    from hirl.cli.parser import build_parser

    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser.parse_args(arguments)


def _run(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run a step; one that computes gets GPUs of its own, in this process or in several."""
    from hirl.cli.options import announce, resolve
    from hirl.config import load_study
    from hirl.distributed.launch import as_rank, choose_threads, gpus, is_launched, launch

    if "ranks" not in args:
        args.step(args)
        return 0
    if is_launched():
        end_by_signals()
        with as_rank():
            args.step(args)
        return 0
    choose_threads()
    if args.ranks > 1:
        config = resolve(load_study(args.study), args)  # reports mistakes before any process starts
        announce(config.name, f"starts {args.ranks} processes")
        return launch(args.ranks, arguments)
    with gpus(1):
        args.step(args)
    return 0


def _after_stop(args: argparse.Namespace | None) -> str:
    """Return what a user reads after a stop: what is kept, and how to go on."""
    if args is not None and "after_stop" in args:
        return args.after_stop(args)
    kept = args is not None and "scratch" in args
    return f"hirl: stopped; the same command {'goes on' if kept else 'starts again'}"
