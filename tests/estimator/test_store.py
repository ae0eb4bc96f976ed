from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hirl.estimator.model import HIRL, load
from hirl.estimator.store import FORMAT, KIND, MODEL, is_model
from tests.estimator.test_model import Small


def same(one, other, pictures):
    """Compare two fitted estimators; features are stored in half precision."""
    assert torch.equal(one.tree_.assignments, other.tree_.assignments)
    assert np.array_equal(one.transform(pictures), other.transform(pictures))
    assert np.array_equal(one.predict_path(pictures), other.predict_path(pictures))
    assert np.allclose(one.features_, other.features_, rtol=1e-3)
    assert one.config_ == other.config_
    assert one.paths_ == other.paths_
    assert one.knn_accuracy_ == other.knn_accuracy_
    assert one.history_ == other.history_


def test_a_saved_estimator_is_loaded_as_it_was_by_file_and_by_folder(fitted, pictures, tmp_path):
    fitted.save(tmp_path / MODEL)
    for place in (tmp_path, tmp_path / MODEL):
        loaded = load(place)
        same(fitted, loaded, pictures)
        assert loaded.get_params() == fitted.get_params() | {"num_clusters": [6, 3, 2]}
        assert np.array_equal(loaded.class_labels_, fitted.class_labels_)
        assert loaded.classes_tree_ == fitted.classes_tree_


@pytest.mark.parametrize("method", ["mocov2", "swav", "dino"])
def test_every_kind_of_method_is_rebuilt(method, pictures, tmp_path):
    small = {"model.hidden_dim": 16, "model.embedding_dim": 8, "training.precision": "fp32"}
    model = HIRL(method, epochs=1, image_size=16, batch_size=16, num_clusters=(4, 2), settings=small).fit(pictures)
    model.save(tmp_path / "m.safetensors")
    same(model, load(tmp_path / "m.safetensors"), pictures)


def test_a_network_of_the_users_own_is_given_again(tiny_model, pictures, tmp_path):
    model = tiny_model(backbone=Small()).fit(pictures)
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors was fitted with a backbone of yours: load it with backbone="):
        load(tmp_path / "m.safetensors")
    same(model, load(tmp_path / "m.safetensors", backbone=Small()), pictures)
    with pytest.raises(ValueError, match="does not fit the backbone: give the network that it was fitted with"):
        load(tmp_path / "m.safetensors", backbone=torch.nn.Flatten())


def test_a_saved_estimator_gives_its_backbone_as_weights(fitted, tiny_model, class_folders, tmp_path):
    fitted.save(tmp_path / MODEL)
    again = tiny_model(weights=tmp_path, epochs=0).fit(class_folders)
    assert np.allclose(again.features_, fitted.features_, atol=1e-5)
    assert again.history_ == []


def test_the_weights_of_a_run_transform_and_cluster(fitted, tiny_model, class_folders, tmp_path):
    tiny_model(folder=tmp_path).fit(class_folders)
    run = tmp_path / "runs/simsiam-hirl-s0"
    model = load(run)
    assert np.allclose(model.transform(class_folders), fitted.features_, atol=1e-5)
    assert model.set_params(num_clusters=(4, 2)).fit(class_folders).tree_.num_clusters == (4, 2)


def test_files_of_another_format_and_other_files_are_told_apart(fitted, tmp_path):
    path = tmp_path / MODEL
    fitted.save(path)
    save_file(load_file(path), tmp_path / "new.safetensors", metadata={KIND: FORMAT + "1", "facts": json.dumps({})})
    with pytest.raises(ValueError, match="another version of hirl"):
        load(tmp_path / "new.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert not is_model(tmp_path / "other.safetensors")
    assert not is_model(tmp_path / "none")
    with pytest.raises(ValueError, match=r"other\.safetensors does not say which network it holds"):
        load(tmp_path / "other.safetensors")
