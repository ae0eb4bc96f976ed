"""Plugins: Python files of a study that register methods of your own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path


def load_plugins(paths: Iterable[str]) -> None:
    """Import the Python files that register methods of your own.

    Raises:
        ValueError: a file is missing.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"plugin {path} is missing: correct the study's `plugins`")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
