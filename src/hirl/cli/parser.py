"""The parser of the command line. A new group of steps is a module with `add`, and its row in `GROUPS`."""

from __future__ import annotations

import argparse

from hirl.cli import config, data, evaluation, planning, publishing, reporting, tracking, training, weights

GROUPS = (  # in the order of `hirl --help`
    config,
    data,
    training,
    planning,
    evaluation,
    reporting,
    weights,
    tracking,
    publishing,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="hirl", description="HIRL: every step of the workflow, alone. `hirl STEP --help` explains a step."
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")
    for group in GROUPS:
        group.add(steps)
    return parser
