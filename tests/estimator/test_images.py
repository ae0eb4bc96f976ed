from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from hirl.config import DataConfig
from hirl.estimator.images import load_fitted, open_images, prepare_once


def config(name="folder", storage="memory"):
    return DataConfig(name=name, image_size=16, storage=storage)


def flattened(root, out):
    """Copy the images of class folders into one flat folder."""
    out.mkdir()
    for path in sorted(root.rglob("*.png")):
        shutil.copy(path, out / f"{path.parent.name}{path.name}")
    return out


def test_class_folders_are_classes_unless_told_otherwise(class_folders):
    assert open_images(class_folders).labelled
    assert not open_images(class_folders, labels=False).labelled
    assert open_images(class_folders).count == open_images(class_folders, labels=False).count == 48


def test_a_flat_folder_and_folders_of_different_depth_have_no_classes(class_folders, tmp_path):
    flat = flattened(class_folders, tmp_path / "flat")
    assert not open_images(flat).labelled
    assert open_images(flat).remark == ""
    (flat / "more").mkdir()
    shutil.copy(next(flat.glob("*.png")), flat / "more")
    assert not open_images(flat).labelled
    assert "lies beside class folders" in open_images(flat).remark


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_fitted_rows_are_the_files_by_path(class_folders, tmp_path, storage):
    own = open_images(class_folders)
    prepare_once(config(storage=storage), own, tmp_path)
    found = load_fitted(own, tmp_path)
    labels = found.images.labels[found.order, 0].tolist()
    assert [found.classes.class_names[0][label] for label in labels] == [path.parent.name for path in own.paths]
    assert found.train == 48 - 4  # a tenth of twelve, at least one, of each class


def test_fitted_rows_of_an_array_have_its_order(pictures, tmp_path):
    own = open_images(pictures)
    assert own.paths is None
    prepare_once(config("pictures"), own, tmp_path)
    found = load_fitted(own, tmp_path)
    assert np.array_equal(found.images.images[torch.from_numpy(found.order)].permute(0, 2, 3, 1).numpy(), pictures)


def test_images_are_prepared_again_only_if_a_file_has_changed(class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "in")
    prepare_once(config(), open_images(root), tmp_path / "out")
    manifest = tmp_path / "out/manifest.json"
    made = manifest.stat().st_mtime_ns
    prepare_once(config(), open_images(root), tmp_path / "out")
    assert manifest.stat().st_mtime_ns == made
    (root / "red/00.png").write_bytes((root / "blue/00.png").read_bytes())
    prepare_once(config(), open_images(root), tmp_path / "out")
    assert manifest.stat().st_mtime_ns > made


def test_the_typical_side_is_the_shorter_one(tmp_path):
    assert open_images([np.zeros((20, 40, 3), np.uint8)] * 3).typical_side() == 20
