"""YAML as the project reads it: files that hold a mapping, and the values of --set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hirl.config.suggestions import did_you_mean


class _Loader(yaml.SafeLoader):
    """Reads floats as YAML 1.2 does: 1e-4 is a number, where PyYAML alone reads a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ValueError: the file is missing, is not YAML, or holds no mapping.
    """
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        answer = f"{did_you_mean(path.stem, known)}known: {', '.join(known) or 'none'}"
        raise ValueError(f"there is no {path.parent.name} file {path.stem!r} ({path}); {answer}")
    try:
        value = yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values, not {type(value).__name__}")
    return value


def parse_override(text: str) -> tuple[str, Any]:
    """Split `training.epochs=15` into ("training.epochs", 15); the value is read as YAML.

    Raises:
        ValueError: there is no `=`, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {text!r} is not key=value: write it as --set training.epochs=15")
    try:
        return key.strip(), yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text!r} is not valid YAML after the =: quote it, or close its brackets") from error
