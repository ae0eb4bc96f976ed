"""What several steps share: the options that name a run or a folder, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hirl.config import CONFIG_ROOT, UNTRAINED, VARIANTS, RunConfig, Study, load_study, parse_override
from hirl.distributed.launch import is_main_process

if TYPE_CHECKING:
    from rich.table import Table


def resolve(study: Study, args: argparse.Namespace) -> RunConfig:
    """Return the configuration of the run that an argument list, or its weights, name."""
    if args.method is None:
        _name_by_weights(args)
    backbone = getattr(args, "backbone", None)
    if args.method == UNTRAINED and "backbone" in args:
        if backbone is None or args.variant is not None:
            raise ValueError(f"--method {UNTRAINED} needs the name of its network: give --backbone and no --variant")
        return study.resolve_control(backbone, args.seed, overrides(args))
    if backbone is not None:
        raise ValueError(f"--backbone belongs to --method {UNTRAINED}: use --set backbone.name={backbone} instead")
    if args.variant is None:
        raise ValueError(f"--method {args.method} needs a variant: add --variant baseline or --variant hirl")
    return study.resolve(args.method, args.variant, args.seed, overrides(args))


def _name_by_weights(args: argparse.Namespace) -> None:
    """Fill in --method and --variant from weights that name the method that made them."""
    if args.weights is None:
        raise ValueError("no network is named: give --weights FILE, or --method and --variant")
    from hirl.models.weights import describe_weights

    known = describe_weights(args.weights)
    if "method" not in known:
        raise ValueError(f"{args.weights} does not say which method made it: add --method and --variant")
    args.method, args.variant = known["method"], known["variant"]


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of --set."""
    return dict(map(parse_override, args.set))


def run_names(study: Study, args: argparse.Namespace) -> list[str]:
    """Return the names of the runs that are asked for: all of the study's, when none is named."""
    return args.runs or [str(run) for run in study.run_names(overrides(args))]


def announce(name: str, text: str, stream: TextIO | None = None) -> None:
    """Say at once what a step does, before its imports take seconds.

    Args:
        stream: default: stdout. stderr keeps stdout for a table.
    """
    if is_main_process():
        print(f"{name}  {text}", file=stream, flush=True)


def print_table(table: Table) -> None:
    """Print a table, each of its rows on one line."""
    from hirl.reporting.console import wide_console

    wide_console(table).print(table)


def add_group(steps: Any, name: str, help: str) -> Any:
    """Add a step that consists of steps; return what they are added to."""
    group = steps.add_parser(name, help=help, description=help)
    group.set_defaults(step=lambda _: group.print_help())
    return group.add_subparsers(metavar="STEP")


def add_step(
    steps: Any, name: str, function: Callable[..., None], help: str, example: str = ""
) -> argparse.ArgumentParser:
    """Add a step, which calls a function with its arguments.

    Args:
        example: a whole command, shown at the end of the step's help.
    """
    step = steps.add_parser(name, help=help, description=help, epilog=example and f"example:\n  {example}")
    step.set_defaults(step=function)
    return step


def add_study(step: argparse.ArgumentParser, default: str = "demo") -> None:
    """Add the options that name a study and change its settings."""
    study = step.add_argument(
        "--study", default=default, help="a name in config/studies, or a YAML file (default %(default)s)"
    )
    study.completer = _complete_studies  # type: ignore[attr-defined]
    step.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as training.epochs=15; repeatable"
    )


def add_run(step: argparse.ArgumentParser) -> None:
    """Add the options that name a run to train."""
    add_study(step)
    add_method(step, required=True, help="a method of the study, such as dino")
    step.add_argument("--variant", required=True, help="baseline or hirl").completer = _complete_variants  # type: ignore[attr-defined]
    step.add_argument("--seed", type=int, default=0)


def add_method(step: argparse.ArgumentParser, **options: Any) -> None:
    """Add the option that names a method."""
    step.add_argument("--method", **options).completer = _complete_methods  # type: ignore[attr-defined]


def add_network(step: argparse.ArgumentParser, weights: str) -> None:
    """Add the options that name a network to evaluate: a trained run's, or an untrained control's."""
    add_study(step)
    add_method(step, help=f"a method's name, or {UNTRAINED}")
    step.add_argument("--variant", help="baseline or hirl").completer = _complete_variants  # type: ignore[attr-defined]
    step.add_argument("--backbone", help=f"the network of --method {UNTRAINED}, such as resnet50")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--weights", type=Path, metavar="FILE", help=f"{weights}; none for --method {UNTRAINED}")


def add_prepared_data(step: argparse.ArgumentParser) -> None:
    """Add the option that names the prepared data."""
    step.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the prepared data")


def add_out(step: argparse.ArgumentParser, metavar: str, help: str | None = None) -> None:
    """Add the option that names where results go."""
    step.add_argument("--out", type=Path, required=True, metavar=metavar, help=help)


def add_scratch(step: argparse.ArgumentParser) -> None:
    """Add the option that names where resume states are kept."""
    about = "keeps resume states, each in a folder named by what decides its result; default: scratch/STUDY"
    step.add_argument("--scratch", type=Path, metavar="FOLDER", help=about)


def scratch_root(args: argparse.Namespace, config: RunConfig) -> Path:
    """Return the folder of all resume states."""
    return args.scratch or Path("scratch") / config.study


def add_ranks(step: argparse.ArgumentParser) -> None:
    """Add the option that shares the work among processes; it marks a step that computes."""
    step.add_argument("--ranks", type=int, default=1, help="processes that share the work, one per GPU")


def add_results(step: argparse.ArgumentParser) -> None:
    """Add the options that name the results of a study."""
    add_study(step)
    step.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="the study's results")
    step.add_argument("--runs", nargs="+", metavar="RUN", help="default: all runs of the study")


def add_uri(step: argparse.ArgumentParser) -> None:
    """Add the option that names the MLflow store."""
    from hirl.tracking.mlflow import DEFAULT_URI

    step.add_argument("--uri", default=DEFAULT_URI, help="the MLflow store (default %(default)s)")


# --- what the shell completes -----------------------------------------------------------------------------------------


def _complete_studies(**_: Any) -> list[str]:
    return study_names()


def _complete_methods(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return list(load_study(parsed_args.study).config.methods)


def _complete_variants(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return list(dict.fromkeys([*VARIANTS, *load_study(parsed_args.study).config.variants]))


def study_names() -> list[str]:
    """Return the names of the studies in config/studies."""
    return sorted(path.stem for path in (CONFIG_ROOT / "studies").glob("*.yaml"))
