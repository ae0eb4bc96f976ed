from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("run", "answer"),
    [
        (("--method", "untrained"), "give --backbone and no --variant"),
        (("--method", "untrained", "--variant", "resnet8"), "give --backbone and no --variant"),
        (("--method", "simsiam"), "add --variant"),
        (("--method", "simsiam", "--variant", "hirl", "--backbone", "resnet8"), "--backbone belongs to"),
        (("--method", "sim-siam", "--variant", "hirl"), "'sim-siam' is unknown"),
        ((), "give --weights FILE, or --method and --variant"),
    ],
    ids=" ".join,
)
def test_an_incomplete_run_name_is_answered_with_what_is_missing(
    refused, tiny_study, tmp_path, run, answer: str
) -> None:
    assert answer in refused("evaluate", "knn", "--study", tiny_study, *run, "--out", tmp_path)
