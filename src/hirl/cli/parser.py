"""The parser of the command line. A new group of steps is a module with `add`, and its row in `GROUPS`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hirl.cli import (
    config,
    data,
    evaluation,
    own_images,
    planning,
    publishing,
    reporting,
    status,
    tracking,
    training,
    weights,
)
from hirl.config.suggestions import unknown

GROUPS = (  # in the order of `hirl --help`
    own_images,
    config,
    data,
    training,
    status,
    planning,
    evaluation,
    reporting,
    weights,
    tracking,
    publishing,
)


class Parser(argparse.ArgumentParser):
    """Answers a mistake in one line, with the word that was probably meant."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> Any:
        """Print one line and exit with code 2."""
        self.exit(2, f"hirl: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; answer an unknown option before another one is missed."""
        if args is not None and self._subparsers is None:
            self._check_options(args)
        return super().parse_known_args(args, namespace)

    def _check_options(self, args: Sequence[str]) -> None:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for arg in args:
            name = arg.partition("=")[0]
            if name == "--":
                return
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                self.error(f"option {name} {unknown(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} {unknown(value, action.choices)}")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with the names of steps in one column, and examples as they are written."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)
        self._action_max_length = 14  # argparse forgets that the names of steps are indented


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="hirl",
        description="HIRL: every step of the workflow, alone. `hirl STEP --help` explains a step.",
        epilog="`make reproduce` runs all steps of the demo; `hirl status`, in a second terminal, says how far it is.",
    )
    parser.add_argument("--version", action=_Version, help="print the versions of hirl, Python and torch")
    parser.set_defaults(step=lambda _: parser.print_help())
    steps = parser.add_subparsers(metavar="STEP")
    for group in GROUPS:
        group.add(steps)
    return parser


class _Version(argparse.Action):
    """Print the versions, which are read only when they are asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import platform
        from importlib.metadata import version

        print(f"hirl {version('hirl')}  Python {platform.python_version()}  torch {version('torch')}")
        parser.exit()
