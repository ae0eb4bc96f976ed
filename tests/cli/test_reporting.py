from __future__ import annotations

import pytest

from hirl.cli import main


@pytest.mark.parametrize("named", [[], ["--runs", "simsiam-hirl-s0"]], ids=["all", "named"])
def test_figures_are_drawn_of_the_named_runs_or_of_all(named: list[str], tiny_study, tmp_path, monkeypatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("hirl.reporting.figures.draw_trainings", lambda _, runs: drawn.extend(runs))
    assert main(["figures", "--study", tiny_study, "--results", str(tmp_path), *named]) == 0
    assert "simsiam-hirl-s0" in drawn
    assert (len(drawn) == 1) == bool(named)


def test_the_atlas_of_a_study_is_written_of_the_named_runs(tiny_study, tmp_path, monkeypatch) -> None:
    written: list[object] = []
    monkeypatch.setattr("hirl.reporting.atlas_study.write_study_atlas", lambda *given: written.extend(given))
    named = ["--runs", "simsiam-hirl-s0", "--out", str(tmp_path / "atlas.html")]
    assert main(["study-atlas", "--study", tiny_study, "--results", str(tmp_path), *named]) == 0
    assert written == [tmp_path, ["simsiam-hirl-s0"], tmp_path / "atlas.html"]
