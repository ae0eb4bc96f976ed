from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hirl.config import CONFIG_ROOT, DataConfig
from hirl.data.class_tree import read_class_tree
from hirl.data.images import choose, load_images, prepare
from hirl.data.synthetic.taxonomy import draw, write_taxonomy


def make_folder(root, branches, train=4, validation=2, size=(12, 8)):
    """Image folders in which every class has a grey level of its own."""
    for split, count in (("train", train), ("val", validation)):
        for level, branch in enumerate(branches):
            folder = root / split / branch
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", size, 20 * level + number).save(folder / f"{number}.png")
    return root


def folder_config(**values):
    return DataConfig(name="folder", image_size=8, **values)


def refused(config, root, out):
    """The one line with which the data are refused; nothing is written."""
    with pytest.raises(ValueError, match=r".") as caught:
        prepare(config, root, out)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is prepared -------------------------------------------------------------------------------------------------


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


def test_nested_folders_are_the_class_tree_and_grey_becomes_rgb(tmp_path):
    branches = ["animal/mammal/cat", "animal/mammal/dog", "animal/other/frog", "vehicle/other/ship"]
    root = make_folder(tmp_path / "in", branches)
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


def test_files_storage_holds_the_same_images_in_the_same_order(tmp_path):
    root = make_folder(tmp_path / "in", ["cat", "dog"])
    prepare(folder_config(), root, tmp_path / "pixels")
    prepare(folder_config(storage="files"), root, tmp_path / "paths")
    pixels, paths = (load_images(tmp_path / name, "train") for name in ("pixels", "paths"))
    assert (pixels.labels == paths.labels).all()
    assert pixels.images[:, 0, 0, 0].tolist() == [Image.open(path).getpixel((0, 0)) for path in paths.paths]


def test_a_torchvision_name_reads_an_image_folder_too(tmp_path):
    root = make_folder(tmp_path / "in", ["cat", "dog"])
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


def test_the_digest_follows_the_content(tmp_path):
    root = make_folder(tmp_path / "in", ["cat", "dog"])

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


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_shipped_trees_are_read(name):
    path = f"config/trees/{name}.csv"
    classes = [line.split(",")[0] for line in (CONFIG_ROOT.parent / path).read_text().splitlines()[1:]]
    tree = read_class_tree(path, classes)
    assert [len(names) for names in tree.class_names] == {"cifar10": [10, 4, 2], "cifar100": [100, 20]}[name]
    assert all(np.bincount(parents).min() >= 2 for parents in tree.parents)
    assert tree.levels[0] == "class"
    if name == "cifar100":
        assert np.bincount(tree.parents[0]).tolist() == [5] * 20


# --- what is refused --------------------------------------------------------------------------------------------------


def test_missing_data_are_named(tmp_path):
    out = tmp_path / "out"
    assert "npz is missing: `dvc pull`" in refused(DataConfig(), tmp_path / "none", out)
    assert "none is missing" in refused(folder_config(), tmp_path / "none", out)
    assert "--data-root" in refused(folder_config(), None, out)
    assert "'nette' is unknown: choose taxonomy, sketches, folder," in refused(DataConfig(name="nette"), None, out)
    (tmp_path / "empty").mkdir()
    assert "no folder train" in refused(folder_config(), tmp_path / "empty", out)
    (tmp_path / "empty/train").mkdir()
    assert "no folder val, validation or test" in refused(folder_config(), tmp_path / "empty", out)
    (tmp_path / "empty/test").mkdir()
    assert "empty/train holds no image" in refused(folder_config(), tmp_path / "empty", out)


def test_a_broken_pack_is_named(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"half a file")
    assert "train.npz is broken" in refused(DataConfig(), tmp_path, tmp_path / "out")


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_a_broken_image_is_named(tmp_path, storage):
    root = make_folder(tmp_path / "in", ["cat", "dog"])
    (root / "train/dog/1.png").write_bytes(b"no image")
    message = refused(folder_config(storage=storage), root, tmp_path / "out")
    assert "train/dog/1.png cannot be read as an image" in message


def test_a_truncated_image_is_named(tmp_path):
    root = make_folder(tmp_path / "in", ["cat"], size=(64, 64))
    path = root / "train/cat/1.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert "train/cat/1.png cannot be read as an image" in refused(folder_config(), root, tmp_path / "out")


def test_misplaced_classes_and_images_are_named(tmp_path):
    out = tmp_path / "out"
    root = make_folder(tmp_path / "in", ["cat", "dog"])
    (root / "train/bird").mkdir()
    assert "train/bird holds no image" in refused(folder_config(), root, out)
    (root / "train/bird").rmdir()
    (root / "train/dog").rename(root / "train/hound")
    assert "val/dog is a class that" in refused(folder_config(), root, out)
    (root / "train/hound").rename(root / "train/dog")
    Image.new("L", (8, 8)).save(root / "val/stray.png")
    assert "val/stray.png lies beside class folders" in refused(folder_config(), root, out)
    uneven = make_folder(tmp_path / "uneven", ["cat", "bird/owl"])
    assert "different depths" in refused(folder_config(), uneven, out)


def test_more_images_than_there_are_is_refused(tmp_path):
    root = make_folder(tmp_path / "in", ["cat", "dog"])
    message = refused(folder_config(validation_images=5), root, tmp_path / "out")
    assert message == "data.validation_images is 5, but there are 4: ask for at most as many"


def test_packed_data_have_no_files(tmp_path):
    write_taxonomy(tmp_path / "packed", train=36, validation=36, size=8)
    message = refused(DataConfig(storage="files"), tmp_path / "packed", tmp_path / "out")
    assert message == 'data.storage is "files", but taxonomy is packed: set it to "memory"'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class,kind\ncat,animal\ndog,animal\nship,vehicle\n", "class 'ship' is not in the data set"),
        ("class,kind\ncat,animal\n", "the data set's class 'dog' is not in it"),
        ("class,kind\ncat,animal\ncat,animal\n", "class 'cat' stands in two rows"),
        ("class,kind,realm\ncat,pet,a\ndog,pet,b\n", "'pet' stands under 'a' and 'b'"),
        ("class,kind\ncat\n", "line 2: 'cat' must be 2 names"),
        ("name,parent\ncat,animal\n", "write class, then a name"),
        ("class,kind,kind\ncat,pet,animal\ndog,pet,animal\n", "write class, then a name"),
        ("", "write class, then a name"),
    ],
)
def test_a_wrong_class_tree_is_named(tmp_path, content, message):
    root = make_folder(tmp_path / "in", ["cat", "dog"])
    (tmp_path / "tree.csv").write_text(content)
    assert message in refused(folder_config(class_tree=str(tmp_path / "tree.csv")), root, tmp_path / "out")


def test_a_missing_class_tree_is_named(tmp_path):
    root = make_folder(tmp_path / "in", ["cat", "dog"])
    assert "none.csv is missing" in refused(folder_config(class_tree="none.csv"), root, tmp_path / "out")


def test_unprepared_data_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        load_images(tmp_path, "train")
