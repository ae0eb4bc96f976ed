from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hirl.cli import main
from hirl.cli.parser import build_parser

COMMAND = Path(sys.executable).with_name("hirl")


def steps(parser: argparse.ArgumentParser, names: tuple[str, ...] = ()):
    """Yield the parser of each step and its names, such as ("data", "prepare")."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield names, parser
    for name, below in (item for group in groups for item in group.choices.items()):
        yield from steps(below, (*names, name))


STEPS = dict(steps(build_parser()))


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("pretran", "'pretran' is unknown; did you mean 'pretrain'? known: fit, atlas, embed"),
        ("pretrain --method simsiam", "the following arguments are required: --variant, --data"),
        ("pretrain --methd dino", "option --methd is unknown; did you mean '--method'? known: --help, --study"),
        ("evaluate knm", "'knm' is unknown; did you mean 'knn'? known: knn, probe"),
        ("publish shrink", "'shrink' is unknown; known: round, pack, unpack"),
    ],
)
def test_wrong_arguments_are_answered_in_one_line_with_what_was_meant(arguments: str, answer: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("hirl: ")
    assert said.count("\n") == 1
    assert answer in said


def test_an_option_may_be_cut_short_and_a_value_may_look_like_a_key() -> None:
    args = build_parser().parse_args(["tune", "--meth", "dino", "--var=hirl", "--set", "training.epochs=3"])
    assert (args.method, args.variant, args.set) == ("dino", "hirl", ["training.epochs=3"])


@pytest.mark.parametrize(("group", "shown"), [("", "pretrain"), ("data", "taxonomy"), ("weights", "fetch")])
def test_a_group_of_steps_alone_shows_its_help(group: str, shown: str, capsys) -> None:
    assert main(group.split()) == 0
    assert re.search(rf"^ +{shown} +\w", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("names", STEPS, ids=" ".join)
def test_every_step_has_an_example_that_it_takes(names: tuple[str, ...]) -> None:
    example = shlex.split(STEPS[names].epilog.removeprefix("example:\n"))
    assert tuple(example[: len(names) + 1]) == ("hirl", *names)
    assert callable(build_parser().parse_args(example[1:]).step)


def test_the_versions_are_told(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"hirl [\d.]+  Python 3[\d.]+  torch [\d.]+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("hirl pretr", "pretrain"),
        ("hirl pretrain --method mocov2 --vari", "--variant"),
        ("hirl pretrain --method sims", "simsiam"),
        ("hirl status imag", "imagenet"),
    ],
)
def test_a_shell_completes_steps_options_methods_and_studies(typed: str, completed: str, tmp_path) -> None:
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer")}
    line = {"COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_TYPE": "9"}
    subprocess.run([COMMAND], env=os.environ | asked | line, check=True)
    assert (tmp_path / "answer").read_text().strip() == completed


def test_help_imports_no_heavy_package() -> None:
    """Every job imports what the parser imports, so heavy packages must not be among it."""
    heavy = ("torch", "numpy", "timm", "lightly", "mlflow", "faiss", "sklearn", "matplotlib", "pandas", "rich")
    code = f"""
import contextlib, sys
from hirl.cli import main
from hirl.config import CONFIG_ROOT
with contextlib.suppress(SystemExit):
    main(["--help"])
print("heavy:", *(name for name in {(*heavy, "snakemake", "dvc")} if name in sys.modules))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.startswith("usage: hirl")
    assert answer.splitlines()[-1] == "heavy:"


def test_the_command_is_installed() -> None:
    answer = subprocess.run([COMMAND, "config", "show", "--study", "none"], capture_output=True, text=True)
    assert answer.returncode == 2
