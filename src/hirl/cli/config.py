"""`hirl config`: show the configuration of a run."""

from __future__ import annotations

import argparse
from typing import Any

from hirl.cli.options import add_group, add_run, add_step, overrides, print_table, resolve
from hirl.config import load_study


def add(steps: Any) -> None:
    """Add the steps of this module."""
    config = add_group(steps, "config", "show the configuration of a run")
    step = add_step(
        config,
        "show",
        show_config,
        "print a run's configuration and where each value comes from",
        "hirl config show --method dino --variant hirl --changed",
    )
    add_run(step)
    step.add_argument(
        "--changed", action="store_true", help="only what the study or --set changes, and the method's own value"
    )


def show_config(args: argparse.Namespace) -> None:
    """Print a run's configuration, and where each value comes from."""
    from rich.table import Table

    study = load_study(args.study)
    config = resolve(study, args)
    columns = ("key", "value", "instead of", "from") if args.changed else ("key", "value", "from")
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    published = study.published(args.method) if args.changed else {}
    for key, value, origin in study.provenance(args.method, args.variant, args.seed, overrides(args)):
        if not args.changed:
            table.add_row(key, str(value), origin)
        elif key in published and published[key] != value:
            table.add_row(key, str(value), str(published[key]), origin)
    if not args.changed:
        table.add_row("training.effective_lr", f"{config.training.effective_lr:g}", "base_lr * batch_size / 256")
        table.add_row("hash", config.pretraining_hash, "everything that decides the weights")
    print_table(table)
