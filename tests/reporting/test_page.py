"""The results that `make readme` puts into the README."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hirl.tracking.record import environment
from workflow.show_results import BLOCK, FIGURE, chance, show

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_results_and_figures_are_put_into_the_page(study, drawn, tmp_path):
    folder, runs = study
    page = tmp_path / "README.md"
    page.write_text(README)
    for _ in range(2):  # the second time replaces the first
        show(page, folder, tmp_path / "images")
    filled = BLOCK.search(page.read_text())[0]
    assert (folder / "table.md").read_text() in filled
    trained = [run for run in runs if not run.startswith("untrained")]
    assert filled.count(f"\n{len(trained)} pre-trainings, ") == 1
    assert environment()["processor"] in filled
    assert {path.name for path in (tmp_path / "images").iterdir()} == {
        found["name"] for found in FIGURE.finditer(README)
    }


def test_an_unfinished_study_leaves_the_page_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(README)
    with pytest.raises(ValueError, match="holds no finished study: run `make reproduce` first"):
        show(page, tmp_path / "demo", tmp_path / "images")
    assert page.read_text() == README


def test_chance_is_the_largest_difference_of_each_number_over_the_trained_runs():
    columns = ["method", "variant", "seed", "task", "metric", "value"]
    trained = [
        ["dino", "baseline", 0, "knn", "top1", 20.0],
        ["dino", "hirl", 0, "knn", "top1", 30.0],
        ["dino", "hirl", 0, "detection", "ap_box", 9.0],
        ["dino", "hirl", 0, "knn", "top1_k10", 0.0],  # no column of the table
        ["untrained", "resnet8", 0, "knn", "top1", 10.0],
    ]
    rounded = [[*row[:5], row[5] + moved] for row, moved in zip(trained, (0.5, -1.5, 2.0, 50.0, 60.0), strict=True)]
    said = chance(*(pd.DataFrame(rows, columns=columns) for rows in (trained, rounded)), Path("weights/summary.csv"))
    assert "(`weights/summary.csv`, 2 runs), differ by at most: kNN top-1 1.5, Detection AP 2.0." in said
