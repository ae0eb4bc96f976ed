from __future__ import annotations


def test_more_gpus_for_one_run_than_there_are_is_refused(refused, tiny_study) -> None:
    assert "--per-run 4 is not between 1 and --count 2" in refused(
        "plan", "--study", tiny_study, "--count", 2, "--per-run", 4
    )
