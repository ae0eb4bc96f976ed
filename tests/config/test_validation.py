from __future__ import annotations

from typing import Any

import pytest

from hirl.config.sections import HierarchyConfig, Section, TrainingConfig, ViewsConfig
from hirl.config.validation import validate
from tests.config.conftest import problem


def test_what_is_right_becomes_a_section() -> None:
    config = validate(TrainingConfig, {"epochs": 3, "optimizer": {"name": "lars"}}, "own.yaml")
    assert (config.epochs, config.optimizer.name) == (3, "lars")


def test_all_mistakes_stand_in_one_line_behind_the_file() -> None:
    message = problem(lambda: validate(TrainingConfig, {"epochs": 0, "optimizer": {"clip_norm": -1}}, "own.yaml"))
    first, second = message.removeprefix("own.yaml: ").split("; ")
    assert first.startswith("epochs = 0: ")
    assert second.startswith("optimizer.clip_norm = -1: ")


def test_an_unknown_key_is_answered_with_those_of_its_section() -> None:
    message = problem(lambda: validate(ViewsConfig, {"jitter": {"hues": 0.1}}, "own.yaml"))
    known = "brightness, contrast, hue, probability, saturation"
    assert message == f"own.yaml: unknown key 'jitter.hues'; did you mean 'hue'? known here: {known}"


@pytest.mark.parametrize(
    ("section", "content", "part"),
    [
        (TrainingConfig, {"epochs": 0}, "mine: model.epochs = 0: "),
        (TrainingConfig, {"epoch": 1}, "mine: unknown key 'model.epoch'"),
    ],
)
def test_keys_in_errors_have_the_prefix(section: type[Section], content: dict[str, Any], part: str) -> None:
    assert problem(lambda: validate(section, content, "mine", "model.")).startswith(part)


def test_an_error_names_the_key_alone_where_several_types_are_allowed() -> None:
    message = problem(lambda: validate(HierarchyConfig, {"negatives": "some"}, "own.yaml"))
    assert message.count("negatives = 'some': ") == message.count("negatives") == 2  # once for each type
