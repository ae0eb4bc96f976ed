from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from hirl import cli
from hirl.planning import tune
from hirl.planning.tune import Candidate, advice, count_operations, pays_after, report


def way(precision: str, compiled: bool, step: float, start: float = 0.0) -> Candidate:
    return Candidate(precision, compiled, False, start=start, seconds=[step] * 3)


def test_the_command_measures_every_way_and_says_what_to_set(
    tiny_study: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # no compiler takes minutes
    monkeypatch.setattr(tune, "ROUNDS", 1)
    monkeypatch.setattr(tune, "STEPS", 1)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back afterwards
    assert cli.main(["tune", "--study", tiny_study, "--method", "beit", "--variant", "hirl"]) == 0
    head, names, *rows, use = capsys.readouterr().out.splitlines()
    assert head.startswith("beit-hirl-s0  batches of 16")
    assert names.split() == ["precision", "run", "images/s", "ratio", "memory", "of", "peak", "start", "pays", "after"]
    assert [row.split()[0] for row in rows] == ["fp32", "fp32", "bf16", "bf16"] * (1 + torch.cuda.is_available())
    assert [row.endswith("now") for row in rows].count(True) == 1
    assert use.startswith("use --set training.precision=")


def test_operations_grow_with_the_batch(tiny_run: Callable[..., Any]) -> None:
    one, two = (count_operations(tiny_run("simsiam", "hirl", training={"batch_size": batch})) for batch in (8, 16))
    assert two == 2 * one > 0


def test_compiling_pays_when_its_seconds_are_gained_back() -> None:
    plain, compiled, slower = way("fp32", False, 0.3, 1.0), way("fp32", True, 0.2, 21.0), way("bf16", True, 0.2, 9.0)
    assert pays_after(compiled, [plain, compiled]) == pytest.approx(200)  # 20 s, at 0.1 s a step
    assert pays_after(slower, [way("bf16", False, 0.1), slower]) == math.inf


def test_a_setting_that_gains_next_to_nothing_is_not_advised() -> None:
    ways = [way("fp32", False, 0.3), way("fp32", True, 0.2), way("bf16", False, 0.102), way("bf16", True, 0.1)]
    assert advice(ways) is ways[2]
    assert advice([*ways[:3], way("bf16", True, 0.05)]).compile


def test_what_does_not_fit_into_memory_is_told(tiny_run: Callable[..., Any]) -> None:
    ways = [Candidate("fp32", False, False), way("bf16", False, 0.1)]
    *_, row, _, _ = report(tiny_run("simsiam"), ways, 10**9, {"fp32": 1e11, "bf16": 1e11})
    assert row.split() == ["fp32", "as", "it", "is", "out", "of", "memory", "now"]
    with pytest.raises(ValueError, match=r"no setting fits into this GPU's memory: lower training\.batch_size"):
        advice(ways[:1])
