from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hirl.config import load_study
from hirl.config.yaml_files import parse_override, read_yaml
from tests.config.conftest import problem


@pytest.mark.parametrize("text", ["1e-4", "-2E3", ".5", "3."])
def test_floats_of_a_file_are_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.yaml").write_text(f"value: {text}")
    assert read_yaml(tmp_path / "own.yaml") == {"value": float(text)}


@pytest.mark.parametrize("text", ["1e-4a", "e5", "1.2.3", "resnet50"])
def test_texts_with_digits_stay_texts(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.yaml").write_text(f"value: {text}")
    assert read_yaml(tmp_path / "own.yaml") == {"value": text}


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", ".0001", "1E-4", "+1e-4"])
def test_floats_are_numbers_in_every_spelling(study, text: str) -> None:
    path = study(f"methods: [mocov2]\nall: {{training: {{optimizer: {{base_lr: {text}}}}}}}")
    config = load_study(path).resolve("mocov2", "hirl")
    assert config.training.optimizer.base_lr == pytest.approx(1e-4, rel=1e-15)
    assert parse_override(f"training.optimizer.base_lr={text}")[1] == pytest.approx(1e-4, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=[4, 2]", [4, 2]),
        ("a.b=all", "all"),
        ("a.b=true", True),
        ("a.b=x=y", "x=y"),
    ],
)
def test_overrides_are_read_as_yaml(text: str, value: Any) -> None:
    assert parse_override(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["epochs", "=3", "training.epochs=[1,"])
def test_an_incomplete_override_is_named(text: str) -> None:
    assert repr(text) in problem(lambda: parse_override(text))


def test_a_missing_file_is_answered_with_those_of_its_folder(tmp_path: Path) -> None:
    for name in ("swav", "dino"):
        (tmp_path / f"{name}.yaml").touch()
    message = problem(lambda: read_yaml(tmp_path / "moco.yaml"))
    assert "'moco'" in message
    assert message.endswith("known: dino, swav")


@pytest.mark.parametrize(
    ("text", "part"), [("[1, 2]", "must hold a mapping of keys to values, not list"), ("{a: [1", "is not valid YAML")]
)
def test_a_file_that_holds_no_mapping_is_named(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert f"{tmp_path}/own.yaml {part}" in problem(lambda: read_yaml(tmp_path / "own.yaml"))
