from __future__ import annotations

import json

import numpy as np
import pytest

from hirl.config import DataConfig
from hirl.data.images import load_images, prepare
from hirl.data.synthetic.sketches import draw_sketches, sketch_paths
from hirl.data.synthetic.taxonomy import NUM_CLASSES, class_paths


def test_a_sketch_depends_neither_on_its_batch_nor_on_how_many_are_asked_for():
    few, _ = draw_sketches("train", 40, 16)
    many, _ = draw_sketches("train", 130, 16)
    assert (many[:40] == few).all()


def test_the_splits_share_no_picture():
    train, validation = (draw_sketches(split, 72, 16)[0] for split in ("train", "validation"))
    assert not {picture.tobytes() for picture in train} & {picture.tobytes() for picture in validation}


def test_the_tree_is_the_taxonomys_without_its_hues():
    assert [path[1:] for path in sketch_paths()] == [path[1:] for path in class_paths()]
    assert len({name for name, _, _ in sketch_paths()}) == NUM_CLASSES
    assert sketch_paths()[:3] == [(f"{texture} perch", "perch", "fish") for texture in ("sparse", "medium", "dense")]


def test_hues_say_nothing_of_a_class_and_shapes_do():
    """Correlations over classes of what two halves of the pictures look like on average: 0 where a class has no say."""
    images, labels = draw_sketches("train", 40 * NUM_CLASSES, 16)
    pixels = images / 255
    light = pixels.mean(1)
    hues = (pixels - light[:, None]).mean((2, 3))
    # a class's mean over 20 pictures: chance correlates 36 of them by 1 / sqrt(36) = 0.17, so 0.5 is three times that
    assert np.abs(agreement(hues, labels)).max() < 0.5
    assert agreement(light.std((1, 2))[:, None], labels).min() > 0.5


def agreement(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each column, the correlation between classes' means over the first half of the pictures and the second."""
    halves = [
        np.stack([half[classes == label].mean(0) for label in range(NUM_CLASSES)])
        for half, classes in zip(np.split(values, 2), np.split(labels, 2), strict=True)
    ]
    return np.array([np.corrcoef(*columns)[0, 1] for columns in zip(*(half.T for half in halves), strict=True)])


def test_prepared_sketches_are_as_many_as_asked_for_and_always_the_same(tmp_path):
    config = DataConfig(name="sketches", image_size=16, train_images=72, validation_images=36)
    digests = set()
    for out in (tmp_path / "one", tmp_path / "two"):
        prepare(config, None, out)
        digests.add(json.loads((out / "manifest.json").read_text())["digest"])
    assert len(digests) == 1
    train = load_images(tmp_path / "one", "train")
    assert [len(names) for names in train.class_names] == [36, 12, 4]
    assert train.images.shape == (72, 3, 16, 16)
    assert (np.bincount(train.labels[:, 0]) == 2).all()


def test_sketches_have_no_files(tmp_path):
    with pytest.raises(ValueError, match=r'data\.storage is "files", but sketches is packed: set it to "memory"$'):
        prepare(DataConfig(name="sketches", storage="files", train_images=36, validation_images=36), None, tmp_path)
