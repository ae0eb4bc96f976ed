"""`hirl config`: show the configuration of a run."""

from __future__ import annotations

import argparse
from typing import Any

from hirl.cli.options import add_group, add_run, add_step, overrides, print_table, resolve
from hirl.config import load_study


def add(steps: Any) -> None:
    """Add the steps of this module."""
    config = add_group(steps, "config", "show the configuration of a run")
    step = add_step(config, "show", show_config, "print a run's configuration and where each value comes from")
    add_run(step)


def show_config(args: argparse.Namespace) -> None:
    """Print a run's configuration, and where each value comes from."""
    from rich.table import Table

    study = load_study(args.study)
    config = resolve(study, args)
    table = Table(box=None, pad_edge=False)
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    for key, value, origin in study.provenance(args.method, args.variant, args.seed, overrides(args)):
        table.add_row(key, str(value), origin)
    table.add_row("training.effective_lr", f"{config.training.effective_lr:g}", "base_lr * batch_size / 256")
    table.add_row("hash", config.pretraining_hash, "everything that decides the weights")
    print_table(table)
