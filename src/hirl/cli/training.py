"""`hirl tokenizer` and `hirl pretrain`: train one network, or resume."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import (
    add_out,
    add_prepared_data,
    add_ranks,
    add_run,
    add_scratch,
    add_step,
    announce,
    overrides,
    resolve,
    scratch_root,
)
from hirl.config import RunConfig, load_study
from hirl.distributed.launch import is_main_process
from hirl.training.scratch import pretraining_folder, saved_epochs, tokenizer_folder


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(
        steps,
        "tokenizer",
        train_tokenizer,
        "train the tokenizer that BEiT predicts, or resume",
        "hirl tokenizer --study demo_beit --method beit --variant baseline --data DATA --out FILE",
    )
    add_run(step)
    add_prepared_data(step)
    add_out(step, "FILE")
    add_scratch(step)
    add_ranks(step)
    step.set_defaults(after_stop=after_stop)

    step = add_step(
        steps,
        "pretrain",
        pretrain_run,
        "train one run, or resume",
        "hirl pretrain --method dino --variant hirl --data results/demo/data --out out/dino",
    )
    add_run(step)
    step.add_argument("--tokenizer", type=Path, metavar="FILE", help="for BEiT: made by `hirl tokenizer`, or DALL-E's")
    add_prepared_data(step)
    add_out(step, "FOLDER", "gets the results when the training is done")
    add_scratch(step)
    stems = "a baseline leaves its state there at the epochs where HIRL starts; a HIRL run goes on from it"
    step.add_argument("--stems", type=Path, metavar="FOLDER", help=stems)
    add_ranks(step)
    step.set_defaults(after_stop=after_stop)


def train_tokenizer(args: argparse.Namespace) -> None:
    """Train the tokenizer whose tokens a method predicts, or resume."""
    config = resolve(load_study(args.study), args)
    announce("tokenizer", f"loads PyTorch and the images of {args.data}")
    from hirl.training.train_tokenizer import train_tokenizer

    train_tokenizer(config, args.data, args.out, _home(args, config))


def pretrain_run(args: argparse.Namespace) -> None:
    """Train one run, or resume."""
    study = load_study(args.study)
    config = resolve(study, args)
    announce(config.name, f"loads PyTorch and the images of {args.data}")
    from hirl.tracking.mlflow import live_run
    from hirl.training.loop import pretrain

    follower = live_run(config.name, config.model_dump(mode="json")) if is_main_process() else None
    keeps = args.stems is not None and config.hierarchy is None
    kept = study.stem_epochs(args.method, args.seed, overrides(args)) if keeps else ()
    folders = (args.data, args.out, _home(args, config))
    pretrain(config, *folders, follower, study.config.plugins, args.tokenizer, args.stems, kept)


def after_stop(args: argparse.Namespace) -> str:
    """Return what is kept of a training that was stopped, and how to go on."""
    config = resolve(load_study(args.study), args)
    pretrains = args.step is pretrain_run
    name, epochs = (config.name, config.training.epochs) if pretrains else ("tokenizer", config.model.tokenizer.epochs)
    if (saved := saved_epochs(_home(args, config))) == 0:
        return f"{name}  stopped in epoch 1/{epochs}; the same command starts again"
    return f"{name}  stopped after epoch {saved}/{epochs}; the same command goes on"


def _home(args: argparse.Namespace, config: RunConfig) -> Path:
    """Return the folder of the training's resume state."""
    if args.step is pretrain_run:
        return pretraining_folder(scratch_root(args, config), config, args.data, args.tokenizer)
    return tokenizer_folder(scratch_root(args, config), config, args.data)
