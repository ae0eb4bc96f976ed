from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hirl.cli import main
from hirl.config import load_study
from hirl.planning.cost import JOB_OVERHEAD_S, Cost
from hirl.planning.machine import Machine
from hirl.planning.plan import Check, check, check_steps, checks_table, wall_seconds


def a_cost(seconds: float, embedding: float = 0.0, clustering: float = 0.0) -> Cost:
    return Cost("any", seconds, embedding, clustering, 0.0, 0.0, 0.0)


def test_ranks_share_all_work():
    assert a_cost(80.0, embedding=16.0, clustering=8.0).wall(ranks=8) == 13.0


def test_runs_are_given_to_gpus_as_they_become_free():
    costs = [a_cost(seconds) for seconds in (3.0, 5.0, 4.0)]
    assert wall_seconds(costs, gpus=2, ranks=1) == 7.0  # 5, then 4 beside it, then 3 after the 4
    assert wall_seconds(costs, gpus=2, ranks=2) == 6.0  # one after the other, on both
    assert wall_seconds(costs, gpus=3, ranks=1) == 5.0


def test_a_run_that_forks_waits_until_its_baseline_is_trained():
    baseline = Cost("b", pretraining=4.0, embedding=0.0, clustering=0.0, evaluations=3.0, memory=0.0, disk=0.0)
    forked = Cost("h", 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, baseline="b", taken_over=2.0)
    other = a_cost(6.0)
    assert wall_seconds([forked, baseline], gpus=1, ranks=1) == 12.0
    assert wall_seconds([forked, baseline], gpus=2, ranks=1) == 4.0 + 5.0
    # the chain of the two is the longest and starts first; the second GPU is free for its end after 6 seconds
    assert wall_seconds([other, forked, baseline], gpus=2, ranks=1) == 6.0 + 5.0
    assert wall_seconds([other, forked, baseline], gpus=3, ranks=1) == 9.0


def test_a_forked_run_is_checked_with_the_epochs_that_it_takes_over(tmp_path):
    run = tmp_path / "runs" / "h"
    run.mkdir(parents=True)
    with (run / "history.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["epoch", "seconds"], [0, 4.0], [1, 6.0]])
    (found,) = check([Cost("h", JOB_OVERHEAD_S + 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, "b", taken_over=4.0)], tmp_path)
    assert (found.planned, found.measured) == (10.0, 10.0)


def test_a_plan_is_checked_against_a_record(tmp_path):
    run = tmp_path / "runs" / "any"
    run.mkdir(parents=True)
    with (run / "history.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["epoch", "seconds"], [0, 4.0], [1, 6.0]])
    (found,) = check([a_cost(JOB_OVERHEAD_S + 4.0, embedding=0.75, clustering=0.25)], tmp_path)
    assert (found.planned, found.measured) == (5.0, 10.0)
    assert found.error == 2.0
    with pytest.raises(ValueError, match=r"history\.csv is missing: --check needs the results of a study that was run"):
        check([a_cost(1.0)], Path(tmp_path, "elsewhere"))


def test_planned_steps_are_compared_with_real_ones(tiny_study):
    machine = Machine("any", 1.0, {"fp32": 0.1, "bf16": 0.2}, {"vit": 0.5, "resnet": 0.5})
    whole, shared = (check_steps(load_study(tiny_study), machine, ranks, ["simsiam"]) for ranks in (1, 2))
    assert [each.run for each in whole] == ["simsiam-baseline-s0", "simsiam-hirl-s0"]
    assert [each.planned for each in whole] == pytest.approx([2 * each.planned for each in shared])
    assert 0 < whole[0].planned < whole[1].planned  # HIRL adds operations
    assert all(each.measured > 0 for each in whole)


def test_a_step_beyond_memory_is_infinitely_long():
    table = checks_table([Check("any", 0.002, 0.004), Check("large", 0.002, float("inf"))], "ms")
    assert [list(column.cells) for column in table.columns] == [
        ["any", "large"],
        ["2 ms", "2 ms"],
        ["4 ms", "inf ms"],
        ["0.50", "0.00"],
    ]
    assert table.caption == "plan off by a factor of inf (median), inf (worst)"


def test_the_command_plans_a_study_and_refuses_an_unknown_gpu(tiny_study, capsys):
    assert main(["plan", "--study", tiny_study, "--gpu", "h200", "--count", "8", "--per-run", "2"]) == 0
    title, columns, *runs, total = capsys.readouterr().out.splitlines()
    assert title.split() == ["8", "x", "h200,", "2", "for", "each", "run"]
    assert columns.split()[0] == "run"
    assert len(runs) == 14
    assert total.startswith("all")
    assert main(["plan", "--study", tiny_study, "--gpu", "abacus"]) == 2
    assert "--gpu abacus is unknown: choose h200, h100, a100, here, or add it to" in capsys.readouterr().err
    assert main(["plan", "--study", tiny_study, "--gpu", "h200", "--count", "4", "--per-run", "8"]) == 2
    assert "--per-run 8 is not between 1 and --count 4: change either" in capsys.readouterr().err
