from __future__ import annotations

import pytest
import torch
import yaml

from hirl.config import load_study
from hirl.estimator.defaults import Choices
from hirl.estimator.fitting import STUDY, Frozen, configure, describe
from hirl.estimator.images import open_images
from hirl.methods.base import Step


def test_the_study_of_a_fit_can_be_run_as_any_other(class_folders, tmp_path):
    own = open_images(class_folders)
    config, hierarchy = configure(own, Choices("dino", "hirl"), {}, 0, tmp_path)
    study = load_study(str(tmp_path / STUDY))
    assert study.resolve("dino", "hirl") == config
    assert config.hierarchy == hierarchy
    assert str(study.run_names()[0]) == "dino-hirl-s0"
    assert "48 images" in (tmp_path / STUDY).read_text().splitlines()[0]


def test_a_baseline_ends_with_the_tree_that_hirl_would_make(class_folders, tmp_path):
    own = open_images(class_folders)
    config, hierarchy = configure(own, Choices("dino", "baseline"), {}, 0, tmp_path)
    assert config.hierarchy is None
    assert hierarchy == configure(own, Choices("dino", "hirl"), {}, 0, tmp_path)[1]


def test_settings_go_before_the_defaults_and_are_not_written_as_such(class_folders, tmp_path):
    config, _ = configure(open_images(class_folders), Choices(), {"training.optimizer.base_lr": 0.5}, 3, tmp_path)
    assert config.training.optimizer.base_lr == 0.5
    assert config.seed == 3
    assert "optimizer" not in yaml.safe_load((tmp_path / STUDY).read_text())["methods"]["mocov2"]["training"]


@pytest.mark.parametrize(("trains", "said"), [(True, "20 epochs of batches of 8"), (False, "no training; clusters")])
def test_one_line_describes_what_is_done(class_folders, tmp_path, trains, said):
    own = open_images(class_folders)
    config, hierarchy = configure(own, Choices(epochs=20), {}, 0, tmp_path)
    line = describe(own, config, hierarchy, trains, "mine.safetensors")
    assert "px with weights of mine.safetensors" in line
    assert line.startswith("48 images of 4 classes: ")
    assert said in line
    assert "\n" not in line


def test_frozen_features_are_their_own_embedding_and_have_no_loss():
    network = torch.nn.Flatten()
    network.num_features = 12
    frozen = Frozen(network)
    images = torch.rand(2, 3, 2, 2)
    assert torch.equal(frozen.embed(images), images.flatten(1))
    with pytest.raises(NotImplementedError):
        frozen([images], Step(0, 1, 1, torch.arange(2)))
