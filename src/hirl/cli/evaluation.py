"""`hirl features`, `hirl trees` and `hirl evaluate`: evaluate one network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.cli.options import (
    add_network,
    add_out,
    add_prepared_data,
    add_ranks,
    add_step,
    add_study,
    overrides,
    print_table,
    resolve,
)
from hirl.config import FROZEN, TASKS, TRAINED, UNTRAINED, RunName, load_study
from hirl.distributed.launch import choose_threads, gpus, is_main_process

if TYPE_CHECKING:
    from hirl.evaluation.contracts import EvaluationTarget

# What a task reads from each folder of results/STUDY.
FOLDERS = {"data": "prepared data", "transfer": "transfer data", "scenes": "scenes"}


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = add_step(steps, "features", extract_features, "extract the features of a backbone")
    add_network(step, "the weights of a run")
    add_prepared_data(step)
    add_out(step, "FILE")
    add_ranks(step)

    step = add_step(steps, "trees", compare_trees, "compare trees of every kind, made from one state of a training")
    add_study(step)
    step.add_argument("--method", required=True, help="a method of the study, such as dino")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument(
        "--state", type=Path, required=True, metavar="FILE", help="of stems/ of a baseline, or a checkpoint in scratch/"
    )
    step.add_argument("--tokenizer", type=Path, metavar="FILE", help="for a method that predicts tokens")
    add_prepared_data(step)

    step = add_step(steps, "evaluate", evaluate, "evaluate one network")
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
    step.add_argument(
        "--scratch",
        type=Path,
        metavar="FOLDER",
        help="keeps the resume state, and results of trained tasks; default: scratch/STUDY",
    )
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
    from hirl.evaluation.trees import compare_trees, qualities_table

    with gpus(1):
        found = list(compare_trees(configs, args.state, args.data, study.config.plugins, args.tokenizer))
    print_table(qualities_table(found))


def extract_features(args: argparse.Namespace) -> None:
    """Write the features of a run's backbone, or of an untrained control's."""
    target = _evaluation_target(args)
    from hirl.evaluation.run import extract_features

    if (features := extract_features(target)) is not None:
        features.save(args.out)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate one network: on its frozen features, by training from it, or its tree."""
    if args.out is None and args.weights is None:
        raise ValueError("the results have no folder: add --out FOLDER")
    trains = not set(TRAINED).isdisjoint(args.tasks)
    target = _evaluation_target(args, needs_weights=args.features is None or trains)
    from hirl.evaluation.run import FrozenFiles, evaluate, print_metrics

    out = args.out or args.weights.parent / "evaluation"
    scratch = args.scratch or Path("scratch") / target.config.study
    evaluate(args.tasks, target, out, scratch, FrozenFiles(args.features, args.save_features, args.snapshot))
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
