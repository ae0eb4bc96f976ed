"""`hirl weights`: list, download and convert the weights that the paper's authors published."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import add_group, add_out, add_step, add_study, overrides, print_table
from hirl.config import load_study


def add(steps: Any) -> None:
    """Add the steps of this module."""
    weights = add_group(steps, "weights", "list, download and convert the weights that the paper's authors published")

    add_step(weights, "list", list_weights, "list the published weights")

    step = add_step(weights, "fetch", fetch_weights, "download weights, or resume")
    step.add_argument("name", help="such as mocov2-hirl; see `hirl weights list`")
    step.add_argument("--out", type=Path, default=Path("scratch"), metavar="FOLDER", help="default: %(default)s")

    step = add_step(weights, "import", import_weights, "convert a checkpoint into weights that every evaluation takes")
    step.add_argument("file", type=Path, metavar="FILE", help="a checkpoint of the authors, backbone alone or whole")
    add_study(step, "imagenet")
    step.add_argument("--method", help="default: the method of the published file")
    step.add_argument("--variant", help="default: the variant of the published file")
    add_out(step, "FILE")


def list_weights(args: argparse.Namespace) -> None:
    """Print the authors' published weights."""
    from rich.table import Table

    from hirl.models.zoo import published_weights

    columns = ("name", "backbone", "epochs", "file")
    table = Table(*columns, box=None, pad_edge=False)
    for published in published_weights().values():
        table.add_row(*(str(getattr(published, column)) for column in columns))
    print_table(table)


def fetch_weights(args: argparse.Namespace) -> None:
    """Download published weights, or resume, and print their path."""
    from hirl.models.zoo import fetch_weights

    print(fetch_weights(args.name, args.out))


def import_weights(args: argparse.Namespace) -> None:
    """Convert a checkpoint of the authors into weights of this project."""
    from hirl.models.zoo import recognise

    known = recognise(args.file)
    method, variant = (getattr(args, key) or getattr(known, key, None) for key in ("method", "variant"))
    if method is None or variant is None:
        raise ValueError(f"{args.file} has none of the published names: add --method and --variant")
    config = load_study(args.study).resolve(method, variant, 0, overrides(args))
    from hirl.models.weights import import_weights

    import_weights(args.file, args.out, config)
