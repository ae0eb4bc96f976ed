"""`hirl ...`: every step of the workflow, alone. Each step imports the heavy packages that it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.config import (
    FROZEN,
    LABEL_PERCENTS,
    TASKS,
    TRAINED,
    UNTRAINED,
    RunConfig,
    RunName,
    Study,
    load_study,
    parse_override,
)
from hirl.config.tasks import labels_file
from hirl.distributed.launch import as_rank, choose_threads, gpus, is_launched, is_main_process, launch

if TYPE_CHECKING:
    from rich.table import Table

    from hirl.evaluation.contracts import EvaluationTarget

STEPS = Path()  # `hirl plan --check` without a folder: check the plan against real steps
# What a task reads from each folder of results/STUDY.
FOLDERS = {"data": "prepared data", "transfer": "transfer data", "scenes": "scenes"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; a user's mistake is one line on stderr and exit code 2."""
    args = parser().parse_args(arguments)
    try:
        if "ranks" in args:
            return _compute(args, sys.argv[1:] if arguments is None else arguments)
        args.step(args)
    except ValueError as error:
        print(f"hirl: {error}", file=sys.stderr)
        return 2
    return 0


def _compute(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run a step that computes: on GPUs of its own, in this process or in several."""
    if is_launched():
        with as_rank():
            args.step(args)
        return 0
    choose_threads()
    if args.ranks > 1:
        _resolve(load_study(args.study), args)  # reports mistakes before any process starts
        return launch(args.ranks, arguments)
    else:
        with gpus(1):
            args.step(args)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="hirl", description="HIRL: every step of the workflow, alone. `hirl STEP --help` explains a step."
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")
    for add in (
        _add_config,
        _add_data,
        _add_training,
        _add_planning,
        _add_evaluation,
        _add_reporting,
        _add_weights,
        _add_tracking,
        _add_publishing,
    ):
        add(steps)
    return parser


# --- configuration ----------------------------------------------------------------------------------------------------


def _add_config(steps: Any) -> None:
    config = _group(steps, "config", "show the configuration of a run")
    step = _step(config, "show", show_config, "print a run's configuration and where each value comes from")
    _add_run(step)


def show_config(args: argparse.Namespace) -> None:
    """Print a run's configuration, and where each value comes from."""
    from rich.table import Table

    study = load_study(args.study)
    config = _resolve(study, args)
    table = Table(box=None, pad_edge=False)
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    for key, value, origin in study.provenance(args.method, args.variant, args.seed, _overrides(args)):
        table.add_row(key, str(value), origin)
    table.add_row("training.effective_lr", f"{config.training.effective_lr:g}", "base_lr * batch_size / 256")
    table.add_row("hash", config.pretraining_hash, "everything that decides the weights")
    _print(table)


# --- data -------------------------------------------------------------------------------------------------------------


def _add_data(steps: Any) -> None:
    data = _group(steps, "data", "make and prepare images")

    step = _step(data, "taxonomy", make_taxonomy, "draw images of a known three-level class tree")
    _add_out(step, "FOLDER")
    step.add_argument("--train", type=int, default=3600, help="training images (default %(default)s)")
    step.add_argument("--validation", type=int, default=1080, help="validation images (default %(default)s)")
    step.add_argument("--size", type=int, default=32, help="side in pixels (default %(default)s)")
    step.add_argument("--seed", type=int, default=0)

    step = _step(data, "prepare", prepare_data, "decode and split a study's images")
    _add_study(step)
    step.add_argument("--transfer", action="store_true", help="prepare the images of the transfer task instead")
    step.add_argument("--data-root", type=Path, metavar="FOLDER", help="where the images are, or are downloaded to")
    _add_out(step, "FOLDER")

    step = _step(data, "scenes", prepare_scenes, "draw scenes with boxes and masks, or read a folder in COCO's layout")
    _add_study(step)
    step.add_argument("--data-root", type=Path, metavar="FOLDER", help="where annotations/ and the images are")
    _add_out(step, "FOLDER")

    step = _step(data, "labels", choose_labels, "choose the images that keep their labels, for semi-supervised tasks")
    _add_study(step)
    _add_prepared_data(step)
    step.add_argument("--out", type=Path, metavar="FOLDER", help="default: the prepared data's")


def make_taxonomy(args: argparse.Namespace) -> None:
    """Draw the taxonomy's images."""
    from hirl.data.synthetic.taxonomy import write_taxonomy

    write_taxonomy(args.out, train=args.train, validation=args.validation, size=args.size, seed=args.seed)


def prepare_data(args: argparse.Namespace) -> None:
    """Decode and split a study's images, or those of its transfer task."""
    from hirl.data.images import prepare

    config = load_study(args.study).resolve_any(_overrides(args))
    prepare(config.transfer_data if args.transfer else config.data, args.data_root, args.out)


def prepare_scenes(args: argparse.Namespace) -> None:
    """Draw the scenes of a study's detection, or read a folder in COCO's layout."""
    from hirl.data.synthetic.scenes import prepare_scenes

    config = load_study(args.study).resolve_any(_overrides(args))
    prepare_scenes(config.scenes, args.data_root, args.out)


def choose_labels(args: argparse.Namespace) -> None:
    """Write the lists of images that keep their labels, one for each percentage."""
    from hirl.data.label_subsets import choose_labels

    config = load_study(args.study).resolve_any(_overrides(args))
    for percent in LABEL_PERCENTS:
        out = (args.out or args.data) / labels_file(percent)
        choose_labels(args.data, percent, config.data.label_lists.get(percent), out)


# --- training ---------------------------------------------------------------------------------------------------------


def _add_training(steps: Any) -> None:
    step = _step(steps, "tokenizer", train_tokenizer, "train the tokenizer that BEiT predicts, or resume")
    _add_run(step)
    _add_prepared_data(step)
    _add_out(step, "FILE")
    step.add_argument("--scratch", type=Path, required=True, metavar="FOLDER", help="keeps the resume state")
    _add_ranks(step)

    step = _step(steps, "pretrain", pretrain_run, "train one run, or resume")
    _add_run(step)
    step.add_argument("--tokenizer", type=Path, metavar="FILE", help="for BEiT: made by `hirl tokenizer`, or DALL-E's")
    _add_prepared_data(step)
    _add_out(step, "FOLDER", "gets the results when the training is done")
    step.add_argument("--scratch", type=Path, required=True, metavar="FOLDER", help="keeps the resume state")
    stems = "a baseline leaves its state there at the epochs where HIRL starts; a HIRL run goes on from it"
    step.add_argument("--stems", type=Path, metavar="FOLDER", help=stems)
    _add_ranks(step)


def train_tokenizer(args: argparse.Namespace) -> None:
    """Train the tokenizer whose tokens a method predicts, or resume."""
    config = _resolve(load_study(args.study), args)
    from hirl.training.train_tokenizer import train_tokenizer

    train_tokenizer(config, args.data, args.out, args.scratch)


def pretrain_run(args: argparse.Namespace) -> None:
    """Train one run, or resume."""
    study = load_study(args.study)
    config = _resolve(study, args)
    from hirl.tracking.mlflow import live_run
    from hirl.training.loop import pretrain

    follower = live_run(config.name, config.model_dump(mode="json")) if is_main_process() else None
    keeps = args.stems is not None and config.hierarchy is None
    kept = study.stem_epochs(args.method, args.seed, _overrides(args)) if keeps else ()
    folders = (args.data, args.out, args.scratch)
    pretrain(config, *folders, follower, study.config.plugins, args.tokenizer, args.stems, kept)


# --- planning ---------------------------------------------------------------------------------------------------------


def _add_planning(steps: Any) -> None:
    step = _step(steps, "plan", plan, "estimate GPU hours, wall time, memory and disk of a study")
    _add_study(step, "imagenet")
    step.add_argument("--gpu", default="here", help="a name in config/hardware.yaml; default: measure this machine")
    step.add_argument("--count", type=int, default=1, help="GPUs, or CPU cores without a GPU (default %(default)s)")
    step.add_argument("--per-run", type=int, help="GPUs that share one run's work (default: all)")
    step.add_argument(
        "--data", type=Path, metavar="FOLDER", help="prepared data, if the size of the data set is not known"
    )
    step.add_argument(
        "--check",
        nargs="?",
        type=Path,
        const=STEPS,
        metavar="FOLDER",
        help="compare estimates with a study's results; without FOLDER, with real training steps on this machine",
    )

    step = _step(steps, "tune", tune, "measure which precision and execution switches are fastest on this machine")
    _add_run(step)


def plan(args: argparse.Namespace) -> None:
    """Print the estimated cost of a study, or compare it with the measured one."""
    from hirl.planning.machine import find_machine
    from hirl.planning.plan import check, check_steps, checks_table, costs_table
    from hirl.planning.plan import plan as plan_study

    ranks = args.per_run or args.count
    if not 1 <= ranks <= args.count:
        raise ValueError(f"--per-run {ranks} is not between 1 and --count {args.count}: change either")
    study = load_study(args.study)
    with gpus(1) if args.gpu == "here" or args.check is STEPS else nullcontext():
        machine = find_machine(args.gpu)
        if args.check is STEPS:
            table = checks_table(check_steps(study, machine, ranks, overrides=_overrides(args)), "ms")
        else:
            planned = plan_study(study, machine, ranks, _overrides(args), args.data)
    if args.check is None:
        table = costs_table(planned, machine, args.count, ranks)
    elif args.check is not STEPS:
        table = checks_table(check(planned, args.check))
    _print(table)


def tune(args: argparse.Namespace) -> None:
    """Print how fast a run's steps are on this machine with each precision and execution switch."""
    study = load_study(args.study)
    config = _resolve(study, args)
    choose_threads()
    from hirl.planning.tune import candidates_table, heading, recommended, tune

    with gpus(1):
        measured = tune(config, study.config.plugins)
        print(heading(config, measured))
    _print(candidates_table(config, measured))
    print(f"use {recommended(measured.candidates).arguments}")


# --- evaluation -------------------------------------------------------------------------------------------------------


def _add_evaluation(steps: Any) -> None:
    step = _step(steps, "features", extract_features, "extract the features of a backbone")
    _add_network(step, "the weights of a run")
    _add_prepared_data(step)
    _add_out(step, "FILE")
    _add_ranks(step)

    step = _step(steps, "trees", compare_trees, "compare trees of every kind, made from one state of a training")
    _add_study(step)
    step.add_argument("--method", required=True, help="a method of the study, such as dino")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument(
        "--state", type=Path, required=True, metavar="FILE", help="of stems/ of a baseline, or a checkpoint in scratch/"
    )
    step.add_argument("--tokenizer", type=Path, metavar="FILE", help="for a method that predicts tokens")
    _add_prepared_data(step)

    step = _step(steps, "evaluate", evaluate, "evaluate one network")
    step.add_argument("tasks", nargs="+", choices=tuple(TASKS), metavar="TASK", help=", ".join(TASKS))
    _add_network(step, "the weights of a run, or imported ones, which may name their method")
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
    _add_ranks(step)


def compare_trees(args: argparse.Namespace) -> None:
    """Print how well the trees of each HIRL variant of a study agree with the classes."""
    study = load_study(args.study)
    variants = [variant for variant in study.config.variants if variant != "baseline"]
    configs = [study.resolve(args.method, variant, args.seed, _overrides(args)) for variant in variants]
    choose_threads()
    from hirl.evaluation.trees import compare_trees, qualities_table

    with gpus(1):
        found = list(compare_trees(configs, args.state, args.data, study.config.plugins, args.tokenizer))
    _print(qualities_table(found))


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
    config = _resolve(load_study(args.study), args)
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


# --- reporting --------------------------------------------------------------------------------------------------------


def _add_reporting(steps: Any) -> None:
    step = _step(steps, "figures", draw_figures, "draw the figures of a study's trainings: curves and semantic trees")
    _add_results(step)

    step = _step(steps, "summarise", summarise, "write the summary and tables of a study, and draw its gains")
    _add_results(step)
    step.add_argument("--tasks", nargs="+", choices=tuple(TASKS), help="default: the study's")
    step.add_argument("--report", type=Path, metavar="FILE", help="also gets the report, as `hirl report` writes it")

    step = _step(steps, "report", write_report, "write one self-contained page about a study")
    _add_results(step)
    _add_out(step, "FILE")


def draw_figures(args: argparse.Namespace) -> None:
    """Draw the figures that need no evaluation."""
    from hirl.reporting.figures import draw_trainings

    draw_trainings(args.results, _runs(load_study(args.study), args))


def summarise(args: argparse.Namespace) -> None:
    """Write the summary, the tables and the figures of the gains, and print the table."""
    from hirl.reporting import gate
    from hirl.reporting.figures import gains
    from hirl.reporting.summary import print_table, summarise

    study = load_study(args.study)
    runs, tasks = _runs(study, args), args.tasks or study.config.tasks
    print_table(summarise(args.results, runs, tasks))
    gains(args.results, runs, args.results / "figures" / "gains.png")
    if study.config.compares_trees:
        gate.gate(args.results, runs, args.results / "figures" / "gate.png")
    if args.report is not None:
        from hirl.reporting.report import write_report

        write_report(args.results, runs, args.report)


def write_report(args: argparse.Namespace) -> None:
    """Write the self-contained report."""
    from hirl.reporting.report import write_report

    write_report(args.results, _runs(load_study(args.study), args), args.out)


# --- published weights ------------------------------------------------------------------------------------------------


def _add_weights(steps: Any) -> None:
    weights = _group(steps, "weights", "list, download and convert the weights that the paper's authors published")

    _step(weights, "list", list_weights, "list the published weights")

    step = _step(weights, "fetch", fetch_weights, "download weights, or resume")
    step.add_argument("name", help="such as mocov2-hirl; see `hirl weights list`")
    step.add_argument("--out", type=Path, default=Path("scratch"), metavar="FOLDER", help="default: %(default)s")

    step = _step(weights, "import", import_weights, "convert a checkpoint into weights that every evaluation takes")
    step.add_argument("file", type=Path, metavar="FILE", help="a checkpoint of the authors, backbone alone or whole")
    _add_study(step, "imagenet")
    step.add_argument("--method", help="default: the method of the published file")
    step.add_argument("--variant", help="default: the variant of the published file")
    _add_out(step, "FILE")


def list_weights(args: argparse.Namespace) -> None:
    """Print the authors' published weights."""
    from rich.table import Table

    from hirl.models.zoo import published_weights

    columns = ("name", "backbone", "epochs", "file")
    table = Table(*columns, box=None, pad_edge=False)
    for published in published_weights().values():
        table.add_row(*(str(getattr(published, column)) for column in columns))
    _print(table)


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
    config = load_study(args.study).resolve(method, variant, 0, _overrides(args))
    from hirl.models.weights import import_weights

    import_weights(args.file, args.out, config)


# --- tracking and publishing ------------------------------------------------------------------------------------------


def _add_tracking(steps: Any) -> None:
    track = _group(steps, "track", "show runs in MLflow")

    step = _step(track, "init", initialize_tracking, "create the store, before any job logs")
    _add_study(step)
    _add_uri(step)

    step = _step(track, "sync", sync_tracking, "replay the records of studies, finished or running, into the store")
    step.add_argument(
        "--results", type=Path, required=True, nargs="+", metavar="FOLDER", help="of studies, such as results/demo"
    )
    step.add_argument("--runs", nargs="+", metavar="RUN", help="default: all that the folder and scratch/ have")
    _add_uri(step)


def initialize_tracking(args: argparse.Namespace) -> None:
    """Create the MLflow store, before any job logs."""
    from hirl.tracking.mlflow import init

    init(args.uri, load_study(args.study).name)


def sync_tracking(args: argparse.Namespace) -> None:
    """Replay the records of studies into MLflow, and print where they are shown."""
    from hirl.tracking.mlflow import sync, view_address

    for folder in args.results:
        experiment = sync(folder, args.runs, args.uri, Path("scratch") / folder.name)
        print(f"{folder.name:24}{view_address(experiment, args.uri)}")


def _add_publishing(steps: Any) -> None:
    step = _step(steps, "publish", publish, "round weights to half precision, pack them for DVC, or unpack them")
    step.add_argument("action", choices=("round", "pack", "unpack"))
    step.add_argument("--runs", nargs="+", required=True, metavar="RUN")
    step.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    _add_out(step, "FOLDER")


def publish(args: argparse.Namespace) -> None:
    """Round, pack or unpack the weights of published runs."""
    from hirl.tracking import publish as publishing

    actions: dict[str, Callable[..., None]] = {
        "round": publishing.round_runs,
        "pack": publishing.pack,
        "unpack": publishing.unpack,
    }
    actions[args.action](args.source, args.runs, args.out)


# --- what several steps share -----------------------------------------------------------------------------------------


def _resolve(study: Study, args: argparse.Namespace) -> RunConfig:
    """Return the configuration of the run that an argument list, or its weights, name."""
    if args.method is None:
        _name_by_weights(args)
    backbone = getattr(args, "backbone", None)
    if args.method == UNTRAINED and "backbone" in args:
        if backbone is None or args.variant is not None:
            raise ValueError(f"--method {UNTRAINED} needs the name of its network: give --backbone and no --variant")
        return study.resolve_control(backbone, args.seed, _overrides(args))
    if backbone is not None:
        raise ValueError(f"--backbone belongs to --method {UNTRAINED}: use --set backbone.name={backbone} instead")
    if args.variant is None:
        raise ValueError(f"--method {args.method} needs a variant: add --variant baseline or --variant hirl")
    return study.resolve(args.method, args.variant, args.seed, _overrides(args))


def _name_by_weights(args: argparse.Namespace) -> None:
    """Fill in --method and --variant from weights that name the method that made them."""
    if args.weights is None:
        raise ValueError("no network is named: give --weights FILE, or --method and --variant")
    from hirl.models.weights import describe_weights

    known = describe_weights(args.weights)
    if "method" not in known:
        raise ValueError(f"{args.weights} does not say which method made it: add --method and --variant")
    args.method, args.variant = known["method"], known["variant"]


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    return dict(map(parse_override, args.set))


def _runs(study: Study, args: argparse.Namespace) -> list[str]:
    """Return the names of the runs that are asked for: all of the study's, when none is named."""
    return args.runs or [str(run) for run in study.run_names(_overrides(args))]


def _print(table: Table) -> None:
    from hirl.reporting.console import wide_console

    wide_console(table).print(table)


def _group(steps: Any, name: str, help: str) -> Any:
    group = steps.add_parser(name, help=help, description=help)
    return group.add_subparsers(required=True, metavar="STEP")


def _step(steps: Any, name: str, function: Callable[..., None], help: str) -> argparse.ArgumentParser:
    step = steps.add_parser(name, help=help, description=help)
    step.set_defaults(step=function)
    return step


def _add_study(step: argparse.ArgumentParser, default: str = "demo") -> None:
    step.add_argument("--study", default=default, help="a name in config/studies, or a YAML file (default %(default)s)")
    step.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as training.epochs=15; repeatable"
    )


def _add_run(step: argparse.ArgumentParser) -> None:
    """Add the options that name a run to train."""
    _add_study(step)
    step.add_argument("--method", required=True, help="a method of the study, such as dino")
    step.add_argument("--variant", required=True, help="baseline or hirl")
    step.add_argument("--seed", type=int, default=0)


def _add_network(step: argparse.ArgumentParser, weights: str) -> None:
    """Add the options that name a network to evaluate: a trained run's, or an untrained control's."""
    _add_study(step)
    step.add_argument("--method", help=f"a method's name, or {UNTRAINED}")
    step.add_argument("--variant", help="baseline or hirl")
    step.add_argument("--backbone", help=f"the network of --method {UNTRAINED}, such as resnet50")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--weights", type=Path, metavar="FILE", help=f"{weights}; none for --method {UNTRAINED}")


def _add_prepared_data(step: argparse.ArgumentParser) -> None:
    step.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the prepared data")


def _add_out(step: argparse.ArgumentParser, metavar: str, help: str | None = None) -> None:
    step.add_argument("--out", type=Path, required=True, metavar=metavar, help=help)


def _add_ranks(step: argparse.ArgumentParser) -> None:
    step.add_argument("--ranks", type=int, default=1, help="processes that share the work, one per GPU")


def _add_results(step: argparse.ArgumentParser) -> None:
    _add_study(step)
    step.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="the study's results")
    step.add_argument("--runs", nargs="+", metavar="RUN", help="default: all runs of the study")


def _add_uri(step: argparse.ArgumentParser) -> None:
    from hirl.tracking.mlflow import DEFAULT_URI

    step.add_argument("--uri", default=DEFAULT_URI, help="the MLflow store (default %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
