"""Nested mappings: merged, flattened, and built from dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted keys: {"a": {"b": 1}} -> {"a.b": 1}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def nest(key: str, value: Any) -> dict[str, Any]:
    """Return the nested mapping of one dotted key: ("a.b", 1) -> {"a": {"b": 1}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merge `layer` into `base`: mappings key by key, everything else whole."""
    for key, value in layer.items():
        if isinstance(value, Mapping):
            below = base.get(key)
            base[key] = dict(below) if isinstance(below, Mapping) else {}
            merge(base[key], value)
        else:
            base[key] = value
