from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hirl.config import DataConfig
from hirl.data.images import choose, load_images, prepare
from hirl.data.synthetic.taxonomy import draw, write_taxonomy
from tests.data.image_folders import folder_config, prepare_error, write_image_folders


def test_the_taxonomy_keeps_its_pixels_and_its_tree(tmp_path):
    write_taxonomy(tmp_path / "packed", train=72, validation=36)
    prepare(DataConfig(), tmp_path / "packed", tmp_path / "out")
    train = load_images(tmp_path / "out", "train")
    assert [len(names) for names in train.class_names] == [36, 12, 4]
    fine, kind, plan = train.labels.T
    assert (kind == fine // 3).all()
    assert (plan == fine // 9).all()
    drawn = torch.from_numpy(draw(np.arange(72) % 36, np.arange(72), 32).images)
    assert {image.numpy().tobytes() for image in train.images} == {image.numpy().tobytes() for image in drawn}
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert facts["splits"] == {"train": 72, "validation": 36}
    assert facts["levels"] == ["class", "kind", "body plan"]


def test_files_storage_holds_the_same_images_in_the_same_order(tmp_path):
    root = write_image_folders(tmp_path / "in", ["cat", "dog"])
    prepare(folder_config(), root, tmp_path / "pixels")
    prepare(folder_config(storage="files"), root, tmp_path / "paths")
    pixels, paths = (load_images(tmp_path / name, "train") for name in ("pixels", "paths"))
    assert (pixels.labels == paths.labels).all()
    assert pixels.images[:, 0, 0, 0].tolist() == [Image.open(path).getpixel((0, 0)) for path in paths.paths]


def test_the_digest_follows_the_content(tmp_path):
    root = write_image_folders(tmp_path / "in", ["cat", "dog"])

    def digest():
        prepare(folder_config(), root, tmp_path / "out")
        return json.loads((tmp_path / "out" / "manifest.json").read_text())["digest"]

    before = digest()
    assert digest() == before
    Image.new("L", (12, 8), 99).save(root / "train/cat/0.png")
    assert digest() != before


def test_a_chosen_subset_is_balanced_and_always_the_same():
    labels = np.repeat([0, 1, 2], [50, 50, 4])
    some = choose(labels, 30, "train")
    assert np.bincount(labels[some]).tolist() == [13, 13, 4]  # the small class whole, the others share the rest
    assert (some == choose(labels, 30, "train")).all()
    assert set(choose(labels, 10, "train")) < set(some)
    assert sorted(choose(labels, None, "train")) == list(range(104))


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_a_broken_image_is_named(tmp_path, storage):
    root = write_image_folders(tmp_path / "in", ["cat", "dog"])
    (root / "train/dog/1.png").write_bytes(b"no image")
    message = prepare_error(folder_config(storage=storage), root, tmp_path / "out")
    assert "train/dog/1.png cannot be read as an image" in message


def test_more_images_than_there_are_are_refused(tmp_path):
    root = write_image_folders(tmp_path / "in", ["cat", "dog"])
    message = prepare_error(folder_config(validation_images=5), root, tmp_path / "out")
    assert message == "data.validation_images is 5, but there are 4: ask for at most as many"


def test_packed_data_have_no_files(tmp_path):
    write_taxonomy(tmp_path / "packed", train=36, validation=36, size=8)
    message = prepare_error(DataConfig(storage="files"), tmp_path / "packed", tmp_path / "out")
    assert message == 'data.storage is "files", but taxonomy is packed: set it to "memory"'


def test_unprepared_data_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        load_images(tmp_path, "train")
