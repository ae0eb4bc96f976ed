"""Every protocol keeps the contract that the table of tasks gives it."""

from __future__ import annotations

from importlib import import_module
from inspect import signature

import pytest

from hirl.config import FROZEN, TASKS, TRAINED
from hirl.evaluation.contracts import FrozenProtocol, TrainedProtocol


def parameters(function: object) -> list[str]:
    return [name for name in signature(function).parameters if name != "self"]


@pytest.mark.parametrize("task", FROZEN)
def test_a_frozen_task_has_a_frozen_protocol(task: str) -> None:
    module = import_module(f"hirl.evaluation.{TASKS[task].module}")
    assert parameters(module.evaluate_features) == parameters(FrozenProtocol.evaluate_features)
    assert not hasattr(module, "train_and_evaluate")


@pytest.mark.parametrize("task", TRAINED)
def test_a_trained_task_has_a_trained_protocol(task: str) -> None:
    module = import_module(f"hirl.evaluation.{TASKS[task].module}")
    assert parameters(module.train_and_evaluate) == parameters(TrainedProtocol.train_and_evaluate)
    assert not hasattr(module, "evaluate_features")
