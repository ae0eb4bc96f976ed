"""Plugins: Python files of a study that register methods of your own."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Iterable
from pathlib import Path


def load_plugins(paths: Iterable[str]) -> None:
    """Import the Python files that register methods of your own.

    Raises:
        ValueError: a file is missing, or its code raises an error.
    """
    for path in map(Path, paths):
        check_plugin(path)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except Exception as error:  # it is the user's code, which may raise anything
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise ValueError(
                f"plugin {path}: {type(error).__name__}: {error} ({Path(line.filename).name}, line {line.lineno})"
            ) from error


def check_plugin(path: Path) -> None:
    """Check that a plugin exists.

    Raises:
        ValueError: it is missing.
    """
    if not path.is_file():
        raise ValueError(f"plugin {path} is missing: correct the study's `plugins`")
