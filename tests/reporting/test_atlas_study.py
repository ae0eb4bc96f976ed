"""The atlas page of a study shows its HIRL runs, with their baselines clustered the same way."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from hirl.data.images import ImageSet
from hirl.reporting import atlas_study
from hirl.reporting.atlas_study import StudyImages, write_study_atlas
from tests.reporting.conftest import IMAGES
from tests.reporting.test_atlas_page import facts_of

NAMES = ["untrained-resnet18-s0", "mocov2-baseline-s0", "mocov2-hirl-s0"]


def test_the_page_shows_every_snapshot_and_the_baseline_clustered_the_same_way(walked, tmp_path):
    write_study_atlas(walked, NAMES, tmp_path / "atlas.html")
    facts = facts_of(tmp_path / "atlas.html")
    (run,) = facts["runs"]
    assert run["title"] == "MoCo v2 + HIRL"
    assert [tree["epoch"] for tree in run["trees"]] == [2, 3, 4, 5]
    assert run["baseline"]["clusters"] == run["own"]["clusters"] == [24, 6, 3]
    assert facts["classes"]["levels"] == ["class", "group", "kingdom"]


def test_a_run_without_features_shows_its_trees_alone(study, tmp_path):
    folder, _ = study
    write_study_atlas(folder, ["mocov2-hirl-s0", "ibot-hirl-s1"], tmp_path / "atlas.html")
    runs = facts_of(tmp_path / "atlas.html")["runs"]
    assert [run["title"] for run in runs] == ["MoCo v2 + HIRL", "iBOT + HIRL, seed 1"]
    for run in runs:
        assert run["baseline"] is run["own"] is run["neighbors"] is None


def test_features_of_too_many_images_are_not_clustered(walked, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_study, "CLUSTERED_AT_MOST", IMAGES - 1)
    write_study_atlas(walked, NAMES, tmp_path / "atlas.html")
    (run,) = facts_of(tmp_path / "atlas.html")["runs"]
    assert run["baseline"] is run["own"] is None
    assert run["neighbors"] is not None


def test_a_study_without_trees_is_refused(walked, tmp_path):
    with pytest.raises(ValueError, match="none of the runs has a tree: name a HIRL run"):
        write_study_atlas(walked, ["mocov2-baseline-s0"], tmp_path / "atlas.html")


def test_pictures_come_from_memory_or_from_files(tmp_path):
    Image.new("RGB", (1400, 1000), (0, 200, 0)).save(tmp_path / "green.jpg")
    labels, names = torch.zeros(1, 1, dtype=torch.int64), [["green"]]
    from_file = StudyImages(ImageSet(None, [tmp_path / "green.jpg"], labels, names, [], 32))[0]
    assert from_file.size == (700, 500)  # decoded smaller, in less time
    pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    from_memory = StudyImages(ImageSet(pixels, None, labels, names, [], 2))[0]
    assert from_memory.shape == (2, 2, 3)
    assert from_memory[0, 1].tolist() == [1, 5, 9]
