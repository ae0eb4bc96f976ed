"""The methods by name. A method's module is imported when it is built, so that this package starts without torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from hirl.config import MODEL_CONFIGS, Section

if TYPE_CHECKING:
    from torch import nn

    from hirl.methods.base import Method
    from hirl.models.tokenizer import Tokenizer

_METHODS: dict[str, type[Method]] = {}


def register(name: str, config: type[Section] | None = None) -> Callable[[type[Method]], type[Method]]:
    """Decorate a class to register it as the method `name`; a plugin gives its `config`, the typed hyper-parameters."""

    def decorate(method: type[Method]) -> type[Method]:
        _METHODS[name] = method
        if config is not None:
            MODEL_CONFIGS[name] = config
        return method

    return decorate


def create_method(name: str, backbone: nn.Module, config: Section, *parts: Tokenizer) -> Method:
    """Build a method around a backbone, with a tokenizer if it uses one; plugins must be loaded before."""
    if name not in _METHODS:
        importlib.import_module(f"hirl.methods.{name}")
    return _METHODS[name](backbone, config, *parts)
