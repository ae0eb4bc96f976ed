"""Every source of images: folders, the packed taxonomy, torchvision's data sets, ImageNet and Places205."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hirl.config import DataConfig
from hirl.data.images import load_images, prepare
from hirl.data.sources import PLACES_IMAGES, open_any_folder
from tests.data.image_folders import folder_config, prepare_error, write_image_folders

FOLDERS = [f"{'abcdefghij'[label % 10]}/place_{label}" for label in range(204)] + ["t/theatre/outdoor"]


def save(path, gray=0):
    """Write an image of one gray level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), gray).save(path)


def prepared(root, out, name):
    prepare(DataConfig(name=name, storage="files"), root, out)
    return load_images(out, "train"), load_images(out, "validation")


def refused(root, name):
    """Return the one line with which a published data set is refused."""
    return prepare_error(DataConfig(name=name, storage="files"), root, root / "out")


# --- folders, packed pictures, torchvision's data sets ----------------------------------------------------------------


def test_nested_folders_are_the_class_tree_and_gray_becomes_rgb(tmp_path):
    branches = ["animal/mammal/cat", "animal/mammal/dog", "animal/other/frog", "vehicle/other/ship"]
    root = write_image_folders(tmp_path / "in", branches)
    prepare(folder_config(), root, tmp_path / "out")
    train = load_images(tmp_path / "out", "train")
    fine, middle, coarse = train.class_names
    assert fine == ["cat", "dog", "frog", "ship"]
    assert middle == ["mammal", "animal/other", "vehicle/other"]
    assert coarse == ["animal", "vehicle"]
    assert train.parents == [[0, 0, 1, 2], [0, 0, 1]]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["levels"] == ["class", "level 1", "level 2"]
    assert train.images.shape == (16, 3, 8, 8)
    assert (train.images[:, 0, 0, 0] // 20 == train.labels[:, 0]).all()


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_class_folders_without_splits_hold_out_a_tenth_of_each_class_always_the_same(tmp_path, storage):
    for label, branch in enumerate(["animal/cat", "animal/dog", "thing/cup"]):
        for number in range(20):
            save(tmp_path / "in" / branch / f"{number:02}.png", 20 * label + number)
    splits = []
    for out in ("one", "two"):
        prepare(folder_config(storage=storage), tmp_path / "in", tmp_path / out)
        splits.append([load_images(tmp_path / out, split) for split in ("train", "validation")])
    train, validation = splits[0]
    assert train.class_names == [["cat", "dog", "cup"], ["animal", "thing"]]
    assert [np.bincount(part.labels[:, 0]).tolist() for part in (train, validation)] == [[18] * 3, [2] * 3]
    if storage == "memory":
        grays = [set(part.images[:, 0, 0, 0].tolist()) for part in (train, validation)]
        assert not grays[0] & grays[1]
        assert all((one.images == other.images).all() for one, other in zip(*splits, strict=True))


def test_a_class_with_two_images_holds_out_one_and_a_class_with_one_none(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        save(tmp_path / "in" / name)
    prepare(folder_config(), tmp_path / "in", tmp_path / "out")
    found = [load_images(tmp_path / "out", split).labels[:, 0].tolist() for split in ("train", "validation")]
    assert sorted(found[0]) == [0, 1]
    assert found[1] == [0]


@pytest.mark.parametrize("name", ["folder", "unlabelled"])
def test_images_alone_have_no_classes(tmp_path, name):
    for number in range(10):
        save(tmp_path / "in" / f"{number}.png", number)
    train, validation = prepared(tmp_path / "in", tmp_path / "out", name)
    assert (len(train), len(validation)) == (9, 1)
    assert train.labels.shape == (9, 0)
    assert train.class_names == []
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["levels"] == []


def test_unlabelled_takes_all_images_below_a_folder_however_deep(tmp_path):
    for name in ("1.jpg", "a/2.png", "a/b/c/3.png", ".hidden/4.png", "a/.5.png"):
        save(tmp_path / "in" / name)
    assert sum(map(len, prepared(tmp_path / "in", tmp_path / "out", "unlabelled"))) == 3


def test_folders_that_cannot_be_classes_are_told_or_taken_without(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/c/3.png"):
        save(tmp_path / "in" / name)
    assert "different depths (a and b/c): nest all alike, or set data.name to unlabelled" in prepare_error(
        folder_config(), tmp_path / "in", tmp_path / "out"
    )
    name, source, remark = open_any_folder(tmp_path / "in")
    assert (name, source.classes) == ("unlabelled", [()])
    assert "different depths" in remark
    save(tmp_path / "in" / "stray.png")
    assert "stray.png lies beside class folders" in refused(tmp_path / "in", "folder")


def test_splits_with_a_mistake_in_them_are_not_taken_without_classes(tmp_path):
    root = write_image_folders(tmp_path / "in", ["cat", "dog"])
    (root / "train/dog").rename(root / "train/hound")
    with pytest.raises(ValueError, match="val/dog is a class that"):
        open_any_folder(root)


def test_one_image_cannot_be_split(tmp_path):
    save(tmp_path / "in" / "1.png")
    assert "has no two images of a class" in prepare_error(folder_config(), tmp_path / "in", tmp_path / "out")


def test_a_torchvision_name_reads_an_image_folder_too(tmp_path):
    root = write_image_folders(tmp_path / "in", ["cat", "dog"])
    prepare(DataConfig(name="cifar10", image_size=8, train_images=2), root, tmp_path / "out")
    assert load_images(tmp_path / "out", "train").labels.flatten().sort().values.tolist() == [0, 1]


def test_a_torchvision_set_is_read_from_its_archive(tmp_path, monkeypatch):
    from torchvision import datasets

    def fake(root, download, split):
        data = datasets.FakeData(6, (3, 8, 8), num_classes=3)
        data.labels = np.arange(6) % 3
        return data

    monkeypatch.setattr(datasets, "SVHN", fake)
    prepare(DataConfig(name="svhn", image_size=8), tmp_path, tmp_path / "out")
    train = load_images(tmp_path / "out", "train")
    assert train.class_names == [["0", "1", "2"]]
    assert train.images.shape == (6, 3, 8, 8)


def test_missing_data_are_named(tmp_path):
    out = tmp_path / "out"
    assert "npz is missing: `dvc pull`" in prepare_error(DataConfig(), tmp_path / "none", out)
    assert "none is missing" in prepare_error(folder_config(), tmp_path / "none", out)
    assert "--data-root" in prepare_error(folder_config(), None, out)
    assert "'nette' is unknown: choose taxonomy, sketches, folder," in prepare_error(
        DataConfig(name="nette"), None, out
    )
    (tmp_path / "empty").mkdir()
    assert "no folder train" in prepare_error(folder_config(), tmp_path / "empty", out)
    (tmp_path / "empty/train").mkdir()
    assert "no folder val, validation or test" in prepare_error(folder_config(), tmp_path / "empty", out)
    (tmp_path / "empty/test").mkdir()
    assert "empty/train holds no image" in prepare_error(folder_config(), tmp_path / "empty", out)


def test_a_broken_pack_is_named(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"half a file")
    assert "train.npz is broken" in prepare_error(DataConfig(), tmp_path, tmp_path / "out")


def test_a_truncated_image_is_named(tmp_path):
    root = write_image_folders(tmp_path / "in", ["cat"], size=(64, 64))
    path = root / "train/cat/1.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert "train/cat/1.png cannot be read as an image" in prepare_error(folder_config(), root, tmp_path / "out")


def test_misplaced_classes_and_images_are_named(tmp_path):
    out = tmp_path / "out"
    root = write_image_folders(tmp_path / "in", ["cat", "dog"])
    (root / "train/bird").mkdir()
    assert "train/bird holds no image" in prepare_error(folder_config(), root, out)
    (root / "train/bird").rmdir()
    (root / "train/dog").rename(root / "train/hound")
    assert "val/dog is a class that" in prepare_error(folder_config(), root, out)
    (root / "train/hound").rename(root / "train/dog")
    Image.new("L", (8, 8)).save(root / "val/stray.png")
    assert "val/stray.png lies beside class folders" in prepare_error(folder_config(), root, out)
    uneven = write_image_folders(tmp_path / "uneven", ["cat", "bird/owl"])
    assert "different depths" in prepare_error(folder_config(), uneven, out)


# --- ImageNet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["ILSVRC/Data/CLS-LOC", "ILSVRC/Data", "."])
def test_imagenet_is_found_in_each_of_its_layouts(tmp_path, place):
    for wnid in ("n01440764", "n01443537"):
        save(tmp_path / place / "train" / wnid / f"{wnid}_1.JPEG")
        save(tmp_path / place / "val" / wnid / "ILSVRC2012_val_1.JPEG")
    save(tmp_path / place / "test" / "ILSVRC2012_test_1.JPEG")  # unlabelled, as released
    train, validation = prepared(tmp_path, tmp_path / "out", "imagenet")
    assert train.class_names == [["n01440764", "n01443537"]]
    assert [path.parent.name for path in train.paths] == [train.class_names[0][label] for label in train.labels[:, 0]]
    assert len(validation) == 2


def test_validation_images_as_released_are_to_be_sorted(tmp_path):
    save(tmp_path / "train/n01440764/n01440764_1.JPEG")
    save(tmp_path / "val/ILSVRC2012_val_1.JPEG")
    assert f"{tmp_path}/val has no class folders: sort its images into wnid folders" in refused(tmp_path, "imagenet")


def test_imagenet_cannot_be_anywhere(tmp_path):
    assert f"{tmp_path} has no folder train" in refused(tmp_path, "imagenet")
    with pytest.raises(ValueError, match=r"data\.name is imagenet: give its folder with --data-root FOLDER"):
        prepare(DataConfig(name="imagenet"), None, tmp_path / "out")


# --- Places205 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """An image of every class for training, and of every second for validation, listed as in the release."""
    root = tmp_path_factory.mktemp("places")
    rows = {"train": list(enumerate(FOLDERS)), "val": list(enumerate(FOLDERS))[::-2]}
    for split, classes in rows.items():
        for label, folder in classes:
            save(root / PLACES_IMAGES / folder / f"{split}.png", label)
    write_lists(root, {split: [f"{f}/{split}.png {label}" for label, f in classes] for split, classes in rows.items()})
    return root


def write_lists(root, lines):
    for split, rows in lines.items():
        file = root / "trainvalsplit_places205" / f"{split}_places205.csv"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text("\n".join(rows) + "\n")


@pytest.fixture
def own_lists(released, tmp_path):
    """The released images with lists to write anew: what writes them, and the root."""
    place = tmp_path / PLACES_IMAGES
    place.parent.mkdir(parents=True)
    place.symlink_to(released / PLACES_IMAGES)
    good = [f"{folder}/train.png {label}" for label, folder in enumerate(FOLDERS)]

    def write(train=good, val=("t/theatre/outdoor/val.png 204",)):
        write_lists(tmp_path, {"train": train, "val": val})
        return tmp_path

    return write, good


def test_places205_is_read_as_released(released, tmp_path):
    train, validation = prepared(released, tmp_path, "places205")
    assert (len(train), len(validation)) == (205, 103)
    assert train.class_names[0][:2] == ["place_0", "place_1"]
    assert train.class_names[0][204] == "theatre/outdoor"
    for split in (train, validation):
        assert [Image.open(path).getpixel((0, 0)) for path in split.paths] == split.labels[:, 0].tolist()


def test_some_of_places205_fits_in_memory(released, tmp_path):
    prepare(DataConfig(name="places205", image_size=8, train_images=20), released, tmp_path)
    train = load_images(tmp_path, "train")
    assert (train.images[:, 0, 0, 0] == train.labels[:, 0]).all()
    assert len(np.unique(train.labels)) == 20


def test_missing_parts_of_places205_are_named(released, tmp_path):
    assert f"{PLACES_IMAGES} is missing: unpack" in refused(tmp_path, "places205")
    (tmp_path / PLACES_IMAGES).mkdir(parents=True)
    assert "trainvalsplit_places205/train_places205.csv is missing" in refused(tmp_path, "places205")


def test_a_listed_image_that_is_missing_is_named(own_lists):
    write, good = own_lists
    message = refused(write([*good, "a/place_0/gone.png 0"]), "places205")
    assert "a/place_0/gone.png is missing: put it back" in message


@pytest.mark.parametrize("line", ["a/place_0/train.png 205", "a/place_0/train.png -1", "a/place_0/train.png", "", "7"])
def test_a_wrong_line_is_named(own_lists, line):
    write, good = own_lists
    message = refused(write([good[0], line]), "places205")
    assert f"train_places205.csv, line 2: {line!r} must be a path, a space and a class from 0 to 204" in message


def test_other_classes_than_the_205_are_refused(own_lists):
    write, good = own_lists
    expected = "train_places205.csv must list a folder for each of 205 classes"
    assert expected in refused(write(good[1:]), "places205")
    assert expected in refused(write([*good[1:], "b/place_1/train.png 0"]), "places205")
