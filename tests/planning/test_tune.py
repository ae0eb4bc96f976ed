from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from hirl import cli
from hirl.planning import tune
from hirl.planning.tune import (
    Candidate,
    Measurement,
    candidates_table,
    count_operations,
    pays_off_after,
    recommended,
)


def candidate(precision: str, compiled: bool, step: float, start: float = 0.0) -> Candidate:
    return Candidate(precision, compiled, False, start=start, seconds=[step] * 3)


def test_the_command_measures_every_candidate_and_recommends_one(
    tiny_study: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # a real compiler takes minutes
    monkeypatch.setattr(tune, "ROUNDS", 1)
    monkeypatch.setattr(tune, "STEPS", 1)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back afterwards
    assert cli.main(["tune", "--study", tiny_study, "--method", "beit", "--variant", "hirl"]) == 0
    head, names, *rows, use = capsys.readouterr().out.splitlines()
    assert head.startswith("beit-hirl-s0  batches of 16")
    assert names.split() == [
        "precision",
        "mode",
        "images/s",
        "speed-up",
        "memory",
        "MFU",
        "start",
        "pays",
        "off",
        "after",
    ]
    assert [row.split()[0] for row in rows] == ["fp32", "fp32", "bf16", "bf16"] * (1 + torch.cuda.is_available())
    assert [row.rstrip().endswith("now") for row in rows].count(True) == 1
    assert use.startswith("use --set training.precision=")


def test_operations_grow_with_the_batch(tiny_run: Callable[..., Any]) -> None:
    one, two = (count_operations(tiny_run("simsiam", "hirl", training={"batch_size": batch})) for batch in (8, 16))
    assert two == 2 * one > 0


def test_compiling_pays_off_when_its_seconds_are_gained_back() -> None:
    plain, compiled, slower = (
        candidate("fp32", False, 0.3, 1.0),
        candidate("fp32", True, 0.2, 21.0),
        candidate("bf16", True, 0.2, 9.0),
    )
    assert pays_off_after(compiled, [plain, compiled]) == pytest.approx(200)  # 20 s, at 0.1 s a step
    assert pays_off_after(slower, [candidate("bf16", False, 0.1), slower]) == math.inf


def test_a_setting_that_gains_next_to_nothing_is_not_recommended() -> None:
    candidates = [
        candidate("fp32", False, 0.3),
        candidate("fp32", True, 0.2),
        candidate("bf16", False, 0.102),
        candidate("bf16", True, 0.1),
    ]
    assert recommended(candidates) is candidates[2]
    assert recommended([*candidates[:3], candidate("bf16", True, 0.05)]).compile


def test_a_candidate_that_does_not_fit_into_memory_is_marked(tiny_run: Callable[..., Any]) -> None:
    candidates = [Candidate("fp32", False, False), candidate("bf16", False, 0.1)]
    measured = Measurement(candidates, 10**9, {"fp32": 1e11, "bf16": 1e11})
    columns = [list(column.cells) for column in candidates_table(tiny_run("simsiam"), measured).columns]
    first_row = [cells[0] for cells in columns if cells[0]]
    assert first_row == ["fp32", "eager", "out of memory", "now"]
    assert recommended(candidates).arguments.startswith("--set training.precision=bf16")


def test_settings_of_which_none_fits_into_memory_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no setting fits into this GPU's memory: lower training\.batch_size"):
        recommended([Candidate("fp32", False, False)])
