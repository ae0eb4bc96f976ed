"""`hirl tokenizer` and `hirl pretrain`: train one network, or resume."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import add_out, add_prepared_data, add_ranks, add_run, add_step, overrides, resolve
from hirl.config import load_study
from hirl.distributed.launch import is_main_process


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(steps, "tokenizer", train_tokenizer, "train the tokenizer that BEiT predicts, or resume")
    add_run(step)
    add_prepared_data(step)
    add_out(step, "FILE")
    step.add_argument("--scratch", type=Path, required=True, metavar="FOLDER", help="keeps the resume state")
    add_ranks(step)

    step = add_step(steps, "pretrain", pretrain_run, "train one run, or resume")
    add_run(step)
    step.add_argument("--tokenizer", type=Path, metavar="FILE", help="for BEiT: made by `hirl tokenizer`, or DALL-E's")
    add_prepared_data(step)
    add_out(step, "FOLDER", "gets the results when the training is done")
    step.add_argument("--scratch", type=Path, required=True, metavar="FOLDER", help="keeps the resume state")
    stems = "a baseline leaves its state there at the epochs where HIRL starts; a HIRL run goes on from it"
    step.add_argument("--stems", type=Path, metavar="FOLDER", help=stems)
    add_ranks(step)


def train_tokenizer(args: argparse.Namespace) -> None:
    """Train the tokenizer whose tokens a method predicts, or resume."""
    config = resolve(load_study(args.study), args)
    from hirl.training.train_tokenizer import train_tokenizer

    train_tokenizer(config, args.data, args.out, args.scratch)


def pretrain_run(args: argparse.Namespace) -> None:
    """Train one run, or resume."""
    study = load_study(args.study)
    config = resolve(study, args)
    from hirl.tracking.mlflow import live_run
    from hirl.training.loop import pretrain

    follower = live_run(config.name, config.model_dump(mode="json")) if is_main_process() else None
    keeps = args.stems is not None and config.hierarchy is None
    kept = study.stem_epochs(args.method, args.seed, overrides(args)) if keeps else ()
    folders = (args.data, args.out, args.scratch)
    pretrain(config, *folders, follower, study.config.plugins, args.tokenizer, args.stems, kept)
