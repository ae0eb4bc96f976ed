"""YAML as the project reads it: files that hold a mapping, and the values of --set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hirl.config.suggestions import did_you_mean

MAX_VALUES = 10_000  # of one file, every alias expanded: a few short lines can stand for billions of values


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
        ValueError: the file is missing, is not YAML or holds no mapping, a mapping repeats a key, or aliases expand
            without end.
    """
    if not _is_file(path):
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        answer = f"{did_you_mean(path.stem, known)}known: {', '.join(known) or 'none'}"
        raise ValueError(f"there is no {path.parent.name} file {path.stem!r} ({path}); {answer}")
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values, not {type(value).__name__}")
    return value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that no file system takes
        raise ValueError(f"{str(path)[:80]}... cannot be a file: {error.strerror}") from error


def parse_override(text: str) -> tuple[str, Any]:
    """Split `training.epochs=15` into ("training.epochs", 15); the value is read as YAML.

    Raises:
        ValueError: there is no `=`, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {text!r} is not key=value: write it as --set training.epochs=15")
    try:
        return key.strip(), parse_yaml(value)
    except ValueError as error:
        raise ValueError(f"--set {text!r} is not valid YAML after the =: quote it, or close its brackets") from error


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: the text is not YAML, or holds what `read_yaml` refuses.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (KeyError, AttributeError) as error:  # PyYAML's own, of a tag such as !!bool before another value
        raise ValueError("a value does not fit its tag: remove the tag, such as !!bool") from error
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    finally:
        if loader is not None:
            loader.dispose()


def _count_values(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """Return the number of values of a node, every alias expanded.

    Args:
        counts: of the nodes counted before, by identity; None while a node is being counted.

    Raises:
        ValueError: a key is repeated, a node contains itself, or there are too many values.
    """
    if id(node) in counts:
        count = counts[id(node)]
        if count is None:
            raise ValueError(f"the alias of line {node.start_mark.line + 1} stands within its own anchor")
        return count
    counts[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [part for pair in node.value for part in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    count = 1 + sum(_count_values(child, counts) for child in children)
    if count > MAX_VALUES:
        raise ValueError(f"the aliases up to line {node.start_mark.line + 1} stand for more than {MAX_VALUES} values")
    counts[id(node)] = count
    return count


def _check_keys(node: yaml.MappingNode) -> None:
    """Check that keys are words and differ; of equal ones PyYAML would keep the last."""
    keys = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"the key in line {line} is no plain word")
        if key.value in keys:
            raise ValueError(f"the key {key.value!r} is repeated in line {line}")
        keys.add(key.value)
