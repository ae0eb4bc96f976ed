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


BOMB = "a0: &a0 [1, 2, 3]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seeds: [0]\nseeds: [1]", "the key 'seeds' is repeated in line 2"),
        ("all: {data: {name: cifar10, name: stl10}}", "the key 'name' is repeated in line 1"),
        ("a: &a [*a]", "the alias of line 1 stands within its own anchor"),
        ("a: &a {b: *a}", "the alias of line 1 stands within its own anchor"),
        ("? [a, b]\n: 1", "the key in line 1 is no plain word"),
        ("a: !!bool perhaps", "remove the tag"),
        ("a: " + "[" * 2000 + "]" * 2000, "nested too deeply"),
        (BOMB, "stand for more than 10000 values"),
    ],
    ids=["key", "inner key", "list in itself", "mapping in itself", "list as key", "tag", "depth", "bomb"],
)
def test_yaml_that_would_mislead_or_never_end_is_one_line(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    message = problem(lambda: read_yaml(path))
    assert message.startswith(f"{path} is not valid YAML: ")
    assert part in message


def test_a_merge_key_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")
    assert read_yaml(tmp_path / "own.yaml")["b"] == {"x": 1, "y": 3}


def test_a_file_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes("größe: 1".encode("latin-1"))
    assert "own.yaml is no UTF-8 text" in problem(lambda: read_yaml(tmp_path / "own.yaml"))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_cannot_be_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    assert name[:2] in problem(lambda: read_yaml(tmp_path / f"{name}.yaml"))
