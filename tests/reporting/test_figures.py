"""Figures are complete, show the data they claim to show, and are reproducible byte by byte."""

from __future__ import annotations

import shutil

import matplotlib.pyplot as plt
import pytest

from hirl.reporting.figures import draw_trainings, hierarchy, training
from hirl.reporting.summary import summarise

TASKS = ("knn", "finetune", "hierarchy")


def test_every_figure_is_there_and_no_blank_page(drawn):
    atlases = {"atlas-mocov2-hirl-s0.png", "atlas-ibot-hirl-s0.png"}
    assert set(drawn) == {"gains.png", "training.png", "hierarchy.png"} | atlases
    for path in drawn.values():
        picture = plt.imread(path)[..., :3]
        assert min(picture.shape[:2]) > 300
        ink = (picture < 0.95).any(axis=2).mean()
        assert 0.01 < ink < 0.9  # neither white nor a black box


def test_the_same_numbers_give_the_same_bytes(study, drawn, tmp_path):
    folder, runs = study
    training(folder, runs, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == drawn["training.png"].read_bytes()


def test_a_study_without_hirl_draws_what_it_has(study, tmp_path):
    folder, runs = study
    shutil.copytree(folder, tmp_path / "demo")
    baselines = [run for run in runs if "hirl" not in run]
    summarise(tmp_path / "demo", baselines, TASKS)
    assert [path.name for path in draw_trainings(tmp_path / "demo", baselines)] == ["training.png"]
    with pytest.raises(ValueError, match="no HIRL run"):
        hierarchy(tmp_path / "demo", baselines, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
