"""The results that `make readme` puts into the README."""

from __future__ import annotations

from pathlib import Path

import pytest

from hirl.record import environment
from workflow.show_results import BLOCK, FIGURE, show

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
