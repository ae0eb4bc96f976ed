"""The baselines by name. A module is imported when its method is built, so that listing names costs no torch."""

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
    """Class decorator that gives a method its name; a method of your own brings its typed hyper-parameters along."""

    def decorate(method: type[Method]) -> type[Method]:
        _METHODS[name] = method
        if config is not None:
            MODEL_CONFIGS[name] = config
        return method

    return decorate


def create_method(name: str, backbone: nn.Module, config: Section, *parts: Tokenizer) -> Method:
    """Builds a method around a freshly built backbone, and a tokenizer if it uses one; load plugins before."""
    if name not in _METHODS:
        importlib.import_module(f"hirl.methods.{name}")
    return _METHODS[name](backbone, config, *parts)
