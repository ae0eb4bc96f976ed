from __future__ import annotations

from hirl.cli import main


def test_labels_of_every_percentage_are_chosen_at_once(tiny_study, tiny_data, tmp_path) -> None:
    call = ("data", "labels", "--study", tiny_study, "--data", tiny_data, "--out", tmp_path)
    assert main([str(part) for part in call]) == 0
    assert {path.name for path in tmp_path.glob("*.csv")} == {"labels-1.csv", "labels-10.csv"}
