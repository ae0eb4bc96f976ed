"""`hirl publish`: round, pack and unpack the weights of published runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hirl.cli.options import add_out, add_step


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(steps, "publish", publish, "round weights to half precision, pack them for DVC, or unpack them")
    step.add_argument("action", choices=("round", "pack", "unpack"))
    step.add_argument("--runs", nargs="+", required=True, metavar="RUN")
    step.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    add_out(step, "FOLDER")


def publish(args: argparse.Namespace) -> None:
    """Round, pack or unpack the weights of published runs."""
    from hirl.tracking import publish as publishing

    actions: dict[str, Callable[..., None]] = {
        "round": publishing.round_runs,
        "pack": publishing.pack,
        "unpack": publishing.unpack,
    }
    actions[args.action](args.source, args.runs, args.out)
