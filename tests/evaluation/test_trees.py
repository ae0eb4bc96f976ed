import json
from pathlib import Path

import pytest
import torch

from hirl.evaluation.trees import compare_trees, qualities_table
from hirl.reporting.console import wide_console
from hirl.training.checkpoint import write_state
from hirl.training.loop import build_method


@pytest.fixture
def state(tiny_run, tmp_path: Path) -> Path:
    """The state of an untrained baseline."""
    path = tmp_path / "epoch0001.pt"
    write_state(path, {"network": build_method(tiny_run("simsiam")).state_dict()})
    return path


def variants(tiny_run) -> list:
    return [tiny_run("simsiam", "hirl", hierarchy=values) for values in ({}, {"tree": "random"})]


def test_trees_of_one_state_are_compared_with_classes_and_with_themselves(tiny_run, tiny_data, state) -> None:
    published, random = compare_trees(variants(tiny_run), state, tiny_data)
    assert published.agreement["clusters_level0"] == 6
    assert all(len(quality.stability) == 3 for quality in (published, random))
    assert all(-100 <= value <= 100.001 for value in published.stability)  # AMI may be below zero by chance
    assert random.stability == pytest.approx([100] * 3)  # the same tree whatever k-means draws
    assert abs(random.agreement["ami_level2"]) < 30  # chance, on a few dozen images


def test_a_state_of_hirl_and_one_of_its_baseline_give_the_same_trees(tiny_run, tiny_data, state, tmp_path) -> None:
    wrapped = tmp_path / "checkpoint00001.pt"
    baseline = torch.load(state, weights_only=True)["network"]
    write_state(wrapped, {"network": {f"method.{key}": value for key, value in baseline.items()}})
    found = [next(compare_trees(variants(tiny_run), path, tiny_data)).agreement for path in (state, wrapped)]
    assert found[0] == found[1]


def test_a_state_of_another_network_is_named(tiny_run, tiny_data, state) -> None:
    with pytest.raises(ValueError, match=r"epoch0001\.pt is of another network than dino-hirl-s0"):
        next(compare_trees([tiny_run("dino", "hirl")], state, tiny_data))


def test_a_file_that_is_no_state_is_named(tiny_run, tiny_data, tmp_path) -> None:
    (tmp_path / "state.pt").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"state\.pt is no readable state"):
        next(compare_trees(variants(tiny_run), tmp_path / "state.pt", tiny_data))


def test_the_table_has_a_line_per_level(tiny_run, tiny_data, state, capsys) -> None:
    table = qualities_table(list(compare_trees(variants(tiny_run)[:1], state, tiny_data)))
    wide_console(table).print(table)
    head, *lines = capsys.readouterr().out.splitlines()
    assert "stability" in head
    assert [line.split()[:2] for line in lines[:1]] == [["hirl", "0"]]
    assert len(lines) == 3
