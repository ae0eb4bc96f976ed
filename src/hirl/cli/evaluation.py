"""`hirl features`, `hirl trees` and `hirl evaluate`: evaluate one network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.cli.options import (
    add_network,
    add_out,
    add_prepared_data,
    add_ranks,
    add_scratch,
    add_step,
    add_study,
    announce,
    overrides,
    print_table,
    resolve,
    scratch_root,
)
from hirl.config import FROZEN, TASKS, TRAINED, UNTRAINED, RunName, load_study
from hirl.distributed.launch import choose_threads, gpus, is_main_process

if TYPE_CHECKING:
    from hirl.evaluation.contracts import EvaluationTarget

# What a task reads from each folder of results/STUDY.
FOLDERS = {"data": "prepared data", "transfer": "transfer data", "scenes": "scenes"}


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(
        steps,
        "features",
        extract_features,
        "extract the features of a backbone",
        "hirl features --weights out/dino/weights.safetensors --data results/demo/data --out features.safetensors",
    )
    add_network(step, "the weights of a run")
    add_prepared_data(step)
    add_out(step, "FILE")
    add_ranks(step)

    step = add_step(
        steps,
        "trees",
        compare_trees,
        "compare trees of every kind, made from one state of a training",
        "hirl trees --method dino --state stems/epoch0010.pt --data results/demo/data",
    )
    add_study(step)
    step.add_argument("--method", required=True, help="a method of the study, such as dino")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument(
        "--state", type=Path, required=True, metavar="FILE", help="of stems/ of a baseline, or a checkpoint in scratch/"
    )
    step.add_argument("--tokenizer", type=Path, metavar="FILE", help="for a method that predicts tokens")
    add_prepared_data(step)

    step = add_step(
        steps,
        "evaluate",
        evaluate,
        "evaluate one network",
        "hirl evaluate knn probe --weights out/dino/weights.safetensors --data results/demo/data",
    )
    step.add_argument("tasks", nargs="+", choices=tuple(TASKS), metavar="TASK", help=", ".join(TASKS))
    add_network(step, "the weights of a run, or imported ones, which may name their method")
    features = step.add_mutually_exclusive_group()
    features.add_argument(
        "--features", type=Path, metavar="FILE", help=f"cached features, for {', '.join(FROZEN)}; default: extract them"
    )
    features.add_argument("--save-features", type=Path, metavar="FILE", help="gets the extracted features")
    step.add_argument("--snapshot", type=Path, metavar="FILE", help="the run's tree, for hierarchy")
    for name, content in FOLDERS.items():
        step.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"default: the study's {content} in results/")
    add_scratch(step)
    step.add_argument(
        "--out", type=Path, metavar="FOLDER", help="gets TASK.json; default: evaluation/ beside the weights"
    )
    add_ranks(step)


def compare_trees(args: argparse.Namespace) -> None:
    """Print how well the trees of each HIRL variant of a study agree with the classes."""
    study = load_study(args.study)
    variants = [variant for variant in study.config.variants if variant != "baseline"]
    configs = [study.resolve(args.method, variant, args.seed, overrides(args)) for variant in variants]
    choose_threads()
    announce(configs[0].baseline.name, f"loads PyTorch and {args.state}, then makes the trees", sys.stderr)
    from hirl.evaluation.trees import compare_trees, qualities_table

    with gpus(1):
        found = list(compare_trees(configs, args.state, args.data, study.config.plugins, args.tokenizer))
    print_table(qualities_table(found))


def extract_features(args: argparse.Namespace) -> None:
    """Write the features of a run's backbone, or of an untrained control's."""
    target = _evaluation_target(args)
    announce(target.name, f"loads PyTorch and the images of {target.folders['data']}")
    from hirl.evaluation.run import extract_features

    if (features := extract_features(target)) is not None:
        features.save(args.out)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate one network: on its frozen features, by training from it, or its tree."""
    if args.out is None and args.weights is None:
        raise ValueError("the results have no folder: add --out FOLDER")
    trains = not set(TRAINED).isdisjoint(args.tasks)
    target = _evaluation_target(args, needs_weights=args.features is None or trains)
    announce(target.name, f"evaluates {', '.join(args.tasks)}: loads PyTorch and the weights")
    from hirl.evaluation.run import FrozenFiles, evaluate, print_metrics

    out = args.out or args.weights.parent / "evaluation"
    evaluate(
        args.tasks,
        target,
        out,
        scratch_root(args, target.config),
        FrozenFiles(args.features, args.save_features, args.snapshot),
    )
    if is_main_process():
        print_metrics(out, args.tasks)


def _evaluation_target(args: argparse.Namespace, needs_weights: bool = True) -> EvaluationTarget:
    """Return the network that an argument list names, and the folders it is evaluated on."""
    config = resolve(load_study(args.study), args)
    is_control = args.method == UNTRAINED
    if needs_weights and args.weights is None and not is_control:
        raise ValueError(f"run {config.name} is trained: give --weights FILE")
    if needs_weights and args.weights is not None and is_control:
        raise ValueError(f"--method {UNTRAINED} takes no weights: remove --weights, or name the run that made them")
    from hirl.evaluation.contracts import EvaluationTarget

    run = RunName.control(config.backbone.name, args.seed) if is_control else config.run
    results = Path("results") / config.study
    folders = {name: getattr(args, name, None) or results / name for name in FOLDERS}
    return EvaluationTarget(config, run, args.weights, folders)
