"""`hirl ...`: every step of the workflow, alone. Heavy packages are imported by the step that needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hirl.config import (
    FrozenTask,
    RunConfig,
    TrainedTask,
    expected_runs,
    load_study,
    parse_override,
    provenance,
    resolve,
    resolve_control,
    study_name,
)
from hirl.distributed.launch import as_rank, gpus, is_launched, is_main_process, launch

if TYPE_CHECKING:
    from rich.table import Table

    from hirl.evaluation.run import EvaluationTarget

FROZEN: tuple[str, ...] = get_args(FrozenTask)
TRAINED: tuple[str, ...] = get_args(TrainedTask)
UNTRAINED = "untrained"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one step; a user's mistake is one line on stderr and exit code 2."""
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
    """Runs a step that computes: on GPUs of its own, in this process or in several."""
    if is_launched():
        with as_rank():
            args.step(args)
    elif args.ranks > 1:
        _run_config(args)  # mistakes in it are found now
        return launch(args.ranks, arguments)
    else:
        with gpus(1):
            args.step(args)
    return 0


# --- the steps --------------------------------------------------------------------------------------------------------


def show_config(args: argparse.Namespace) -> None:
    """Prints a run's configuration, and where each value came from."""
    from rich.table import Table

    config = _run_config(args)
    table = Table(box=None, pad_edge=False)
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    for key, value, origin in provenance(args.study, args.method, args.variant, args.seed, _overrides(args)):
        table.add_row(key, str(value), origin)
    table.add_row("training.effective_lr", f"{config.training.effective_lr:g}", "base_lr * batch_size / 256")
    table.add_row("hash", config.pretraining_hash, "all that decides the weights")
    _print(table)


def make_taxonomy(args: argparse.Namespace) -> None:
    """Draws the taxonomy's pictures."""
    from hirl.data.synthetic.taxonomy import write_taxonomy

    write_taxonomy(args.out, train=args.train, validation=args.validation, size=args.size, seed=args.seed)


def prepare_data(args: argparse.Namespace) -> None:
    """Decodes and splits a study's images, or those it is transferred to."""
    from hirl.data.images import prepare

    config = _any_run(args)
    prepare(config.transfer_data if args.transfer else config.data, args.data_root, args.out)


def prepare_scenes(args: argparse.Namespace) -> None:
    """Draws the scenes of a study's detection, or looks at a folder in COCO's layout."""
    from hirl.data.synthetic.scenes import prepare_scenes

    prepare_scenes(_any_run(args).scenes, args.data_root, args.out)


def choose_labels(args: argparse.Namespace) -> None:
    """Writes which images keep their labels."""
    from hirl.data.label_subsets import choose_labels

    given = _any_run(args).data.label_lists.get(args.percent)
    choose_labels(args.data, args.percent, given, args.out)


def train_tokenizer(args: argparse.Namespace) -> None:
    """Trains the tokenizer whose tokens a method predicts."""
    config = _run_config(args)
    from hirl.training.train_tokenizer import train_tokenizer

    train_tokenizer(config, args.data, args.out, args.scratch)


def pretrain_run(args: argparse.Namespace) -> None:
    """Trains one run, or goes on with it."""
    config = _run_config(args)
    from hirl.tracking.mlflow import live_run
    from hirl.training.loop import pretrain

    follower = live_run(config.name, config.model_dump(mode="json")) if is_main_process() else None
    pretrain(config, args.data, args.out, args.scratch, follower, load_study(args.study).plugins, args.tokenizer)


def plan(args: argparse.Namespace) -> None:
    """Prints what a study will cost, or how far that is from what it did cost."""
    from hirl.planning.machine import find_machine
    from hirl.planning.plan import check, checks_table, costs_table
    from hirl.planning.plan import plan as plan_study

    ranks = args.per_run or args.count
    if not 1 <= ranks <= args.count:
        raise ValueError(f"--per-run {ranks} is not within 1 and --count {args.count}: change either")
    with gpus(1) if args.gpu == "here" else nullcontext():
        machine = find_machine(args.gpu)
        planned = plan_study(args.study, machine, ranks, _overrides(args), args.data)
    if args.check is None:
        _print(costs_table(planned, machine, args.count, ranks))
    else:
        _print(checks_table(check(planned, args.check)))


def tune(args: argparse.Namespace) -> None:
    """Prints how fast a run's steps are on this machine, with every setting of speed."""
    config = _run_config(args)
    from hirl.planning.tune import tune

    with gpus(1):
        tune(config, load_study(args.study).plugins)


def extract_features(args: argparse.Namespace) -> None:
    """Writes the features of a run's backbone, or of an untrained one."""
    target = _evaluation_target(args)
    from hirl.evaluation.run import extract_features

    if (features := extract_features(target)) is not None:
        features.save(args.out)


def evaluate(args: argparse.Namespace) -> None:
    """Runs evaluations of one network: on its frozen features, or by training it further."""
    if args.out is None and args.weights is None:
        raise ValueError("say where the results go: --out FOLDER")
    target = _evaluation_target(args, features=args.features is not None and set(args.tasks) <= set(FROZEN))
    from hirl.evaluation.run import evaluate_frozen, evaluate_trained, print_metrics

    out = args.out or args.weights.parent / "evaluation"
    if frozen := [task for task in args.tasks if task in FROZEN]:
        evaluate_frozen(frozen, target, out, args.features, args.snapshot)
    if trained := [task for task in args.tasks if task in TRAINED]:
        evaluate_trained(trained, target, out, args.scratch or Path("scratch") / target.config.study)
    if is_main_process():
        print_metrics(out, args.tasks)


def list_weights(args: argparse.Namespace) -> None:
    """Prints the authors' published weights."""
    from rich.table import Table

    from hirl.models.zoo import published_weights

    columns = ("name", "backbone", "epochs", "file")
    table = Table(*columns, box=None, pad_edge=False)
    for published in published_weights().values():
        table.add_row(*(str(getattr(published, column)) for column in columns))
    _print(table)


def fetch_weights(args: argparse.Namespace) -> None:
    """Downloads published weights, or goes on with it."""
    from hirl.models.zoo import fetch_weights

    print(fetch_weights(args.name, args.out))


def import_weights(args: argparse.Namespace) -> None:
    """Turns a checkpoint of the authors' into weights of ours."""
    from hirl.models.zoo import recognise

    known = recognise(args.file)
    method, variant = (getattr(args, key) or getattr(known, key, None) for key in ("method", "variant"))
    if method is None or variant is None:
        raise ValueError(f"{args.file} is none of the published names: add --method and --variant")
    config = resolve(args.study, method, variant, 0, _overrides(args))
    from hirl.models.weights import import_weights

    import_weights(args.file, args.out, config)


def summarise(args: argparse.Namespace) -> None:
    """Writes the summary, the tables and the figures, and prints the table."""
    from hirl.reporting.figures import draw_figures
    from hirl.reporting.summary import print_table, summarise

    print_table(summarise(args.results, _runs(args), _tasks(args)))
    draw_figures(args.results, _runs(args))


def write_report(args: argparse.Namespace) -> None:
    """Writes the self-contained report."""
    from hirl.reporting.report import write_report

    write_report(args.results, _runs(args), args.out)


def initialise_tracking(args: argparse.Namespace) -> None:
    """Makes the MLflow store, before any job logs."""
    from hirl.tracking.mlflow import init

    init(args.uri, study_name(args.study))


def sync_tracking(args: argparse.Namespace) -> None:
    """Replays a study's records into MLflow."""
    from hirl.tracking.mlflow import sync

    sync(args.results, _runs(args), args.uri, Path("scratch") / study_name(args.study))


def publish(args: argparse.Namespace) -> None:
    """Rounds, packs or unpacks published runs."""
    from hirl.tracking import publish as publishing

    action: Callable[..., None] = {
        "round": publishing.round_runs,
        "pack": publishing.pack,
        "unpack": publishing.unpack,
    }[args.action]
    action(args.source, args.runs, args.out)


def _print(table: Table) -> None:
    """Prints a table, each row on one line: better wider than the window than cut."""
    from rich.console import Console

    needed = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, needed)).print(table)


# --- arguments --------------------------------------------------------------------------------------------------------


def _run_config(args: argparse.Namespace) -> RunConfig:
    """The configuration of the run that an argument list, or its weights, name; a control has its backbone's."""
    if args.method is None:
        _name_by_weights(args)
    if args.method == UNTRAINED:
        return resolve_control(args.study, args.variant, _overrides(args))
    return resolve(args.study, args.method, args.variant, args.seed, _overrides(args))


def _any_run(args: argparse.Namespace) -> RunConfig:
    """The configuration of any run of a study: all have the same data."""
    return resolve(args.study, next(iter(load_study(args.study).methods)), "baseline", 0, _overrides(args))


def _name_by_weights(args: argparse.Namespace) -> None:
    """Weights that say which method made them need no --method."""
    if args.weights is None:
        raise ValueError("say what is evaluated: --weights FILE, or --method and --variant")
    from hirl.models.weights import describe_weights

    known = describe_weights(args.weights)
    if "method" not in known:
        raise ValueError(f"{args.weights} does not say which method made it: add --method and --variant")
    args.method, args.variant = known["method"], known["variant"]


def _evaluation_target(args: argparse.Namespace, features: bool = False) -> EvaluationTarget:
    """The network an argument list names, and the folders it is evaluated on; cached features replace its weights."""
    config = _run_config(args)
    if not features and (args.weights is None) != (args.method == UNTRAINED):
        raise ValueError(f"give --weights for a trained run, and none for --method {UNTRAINED}")
    from hirl.evaluation.run import EvaluationTarget

    parts = ("data", "transfer", "scenes")
    folders = {part: getattr(args, part, None) or Path("results") / config.study / part for part in parts}
    return EvaluationTarget(config, args.method, args.variant, args.seed, args.weights, folders)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    return dict(map(parse_override, args.set))


def _runs(args: argparse.Namespace) -> list[str]:
    return args.runs or expected_runs(args.study)


def _tasks(args: argparse.Namespace) -> Sequence[str]:
    return args.tasks or load_study(args.study).tasks


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(
        prog="hirl", description="Hierarchical image representation learning, step by step."
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")

    config = _group(steps, "config", "look at configurations")
    step = _step(config, "show", show_config, "a run's configuration and where each value came from")
    _add_run(step)

    data = _group(steps, "data", "make and prepare images")
    step = _step(data, "taxonomy", make_taxonomy, "draw pictures of a known three-level tree")
    step.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    step.add_argument("--train", type=int, default=3600, help="training pictures (default %(default)s)")
    step.add_argument("--validation", type=int, default=1080, help="validation pictures (default %(default)s)")
    step.add_argument("--size", type=int, default=32, help="side in pixels (default %(default)s)")
    step.add_argument("--seed", type=int, default=0)
    step = _step(data, "prepare", prepare_data, "decode and split a study's images")
    _add_study(step)
    step.add_argument("--transfer", action="store_true", help="of the images that the study's networks move on to")
    step.add_argument("--data-root", type=Path, metavar="FOLDER", help="where the images are, or are downloaded to")
    step.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    step = _step(data, "scenes", prepare_scenes, "scenes with boxes and masks: drawn, or a folder in COCO's layout")
    _add_study(step)
    step.add_argument("--data-root", type=Path, metavar="FOLDER", help="where annotations/ and the images are")
    step.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    step = _step(data, "labels", choose_labels, "which images keep their labels, for semi-supervised learning")
    _add_study(step)
    step.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the prepared data")
    step.add_argument("--percent", type=int, required=True, choices=(1, 10))
    step.add_argument("--out", type=Path, required=True, metavar="FILE")

    step = _step(steps, "tokenizer", train_tokenizer, "train the tokenizer that BEiT predicts, or go on with it")
    _add_run(step)
    step.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the prepared data")
    step.add_argument("--out", type=Path, required=True, metavar="FILE")
    step.add_argument("--scratch", type=Path, required=True, metavar="FOLDER", help="keeps the resume state")
    _add_ranks(step)

    step = _step(steps, "pretrain", pretrain_run, "train one run, or go on with it")
    _add_run(step)
    step.add_argument("--tokenizer", type=Path, metavar="FILE", help="for BEiT: `hirl tokenizer`'s, or DALL-E's")
    step.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the prepared data")
    step.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets the results, at the end")
    step.add_argument("--scratch", type=Path, required=True, metavar="FOLDER", help="keeps the resume state")
    _add_ranks(step)

    step = _step(steps, "plan", plan, "what a study will cost: GPU hours, time, memory, disk")
    _add_study(step, "imagenet")
    step.add_argument("--gpu", default="here", help="a name in config/hardware.yaml; default: this machine, measured")
    step.add_argument("--count", type=int, default=1, help="GPUs, or cores where there is none (default %(default)s)")
    step.add_argument("--per-run", type=int, help="GPUs that share a run's work (default: all)")
    step.add_argument(
        "--data", type=Path, metavar="FOLDER", help="prepared data, where the images' number is not known"
    )
    step.add_argument("--check", type=Path, metavar="FOLDER", help="results of the study: planned against measured")

    step = _step(steps, "tune", tune, "measure which precision and which switches make a run fast on this machine")
    _add_run(step)

    step = _step(steps, "features", extract_features, "features of a run's backbone")
    _add_run(step)
    step.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the prepared data")
    step.add_argument("--weights", type=Path, metavar="FILE", help="of a trained run; --method untrained takes none")
    step.add_argument("--out", type=Path, required=True, metavar="FILE")
    _add_ranks(step)

    step = _step(steps, "evaluate", evaluate, "evaluations of one network")
    step.add_argument("tasks", nargs="+", choices=(*FROZEN, *TRAINED), metavar="TASK", help=", ".join(FROZEN + TRAINED))
    _add_run(step, required=False)
    step.add_argument("--weights", type=Path, metavar="FILE", help="of a run, or imported; these may name the method")
    step.add_argument("--features", type=Path, metavar="FILE", help=f"for {', '.join(FROZEN)}; else extracted now")
    step.add_argument("--snapshot", type=Path, metavar="FILE", help="the tree that `hierarchy` looks at")
    for name, whose in (("data", "prepared data"), ("transfer", "transfer data"), ("scenes", "scenes")):
        step.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"default: the study's {whose} in results/")
    step.add_argument("--scratch", type=Path, metavar="FOLDER", help="keeps the resume state; default: scratch/STUDY")
    step.add_argument("--out", type=Path, metavar="FOLDER", help="gets TASK.json; default: evaluation/ by the weights")
    _add_ranks(step)

    step = _step(steps, "summarise", summarise, "the summary, tables and figures of a study")
    _add_results(step)
    step.add_argument("--tasks", nargs="+", choices=FROZEN + TRAINED, help="default: the study's")
    step = _step(steps, "report", write_report, "one self-contained page about a study")
    _add_results(step)
    step.add_argument("--out", type=Path, required=True, metavar="FILE")

    weights = _group(steps, "weights", "the weights that the paper's authors published")
    _step(weights, "list", list_weights, "their names")
    step = _step(weights, "fetch", fetch_weights, "download some, or go on with it")
    step.add_argument("name", help="such as mocov2-hirl; see `hirl weights list`")
    step.add_argument("--out", type=Path, default=Path("scratch"), metavar="FOLDER", help="default: %(default)s")
    step = _step(weights, "import", import_weights, "make them weights that every evaluation takes")
    step.add_argument("file", type=Path, metavar="FILE", help="a checkpoint of theirs, backbone alone or whole")
    _add_run(step, required=False, study="imagenet")
    step.add_argument("--out", type=Path, required=True, metavar="FILE")

    track = _group(steps, "track", "show runs in MLflow")
    step = _step(track, "init", initialise_tracking, "make the store, before any job logs")
    _add_study(step)
    _add_uri(step)
    step = _step(track, "sync", sync_tracking, "replay a study's records into the store")
    _add_results(step)
    _add_uri(step)

    step = _step(steps, "publish", publish, "round, pack or unpack weights")
    step.add_argument("action", choices=("round", "pack", "unpack"))
    step.add_argument("--runs", nargs="+", required=True, metavar="RUN")
    step.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    step.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    return parser


def _group(steps: Any, name: str, help: str) -> Any:
    group = steps.add_parser(name, help=help, description=help)
    return group.add_subparsers(required=True, metavar="STEP")


def _step(steps: Any, name: str, function: Callable[..., None], help: str) -> argparse.ArgumentParser:
    step = steps.add_parser(name, help=help, description=help)
    step.set_defaults(step=function)
    return step


def _add_study(step: argparse.ArgumentParser, default: str = "demo") -> None:
    step.add_argument("--study", default=default, help="a name in config/studies, or a YAML file (default %(default)s)")
    step.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="training.epochs=15; repeatable")


def _add_run(step: argparse.ArgumentParser, required: bool = True, study: str = "demo") -> None:
    _add_study(step, study)
    step.add_argument("--method", required=required, help="a method's name, or `untrained`")
    step.add_argument("--variant", required=required, help="baseline or hirl; of `untrained`, the backbone's name")
    step.add_argument("--seed", type=int, default=0)


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
