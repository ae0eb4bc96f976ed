from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hirl.config import DataConfig
from hirl.data.images import load_images, prepare
from hirl.data.label_subsets import choose_labels, load_labelled

SIZES = {"n01": 40, "n02": 40, "n03": 4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, Path]:
    """84 pictures of three classes, one of them small, prepared as pixels and as paths."""
    root = tmp_path_factory.mktemp("labels")
    for split in ("train", "val"):
        for level, (name, count) in enumerate(SIZES.items()):
            (root / "in" / split / name).mkdir(parents=True)
            for number in range(count if split == "train" else 1):
                Image.new("L", (8, 8), 40 * level + number).save(root / "in" / split / name / f"{name}_{number}.PNG")
    for storage in ("memory", "files"):
        prepare(DataConfig(name="folder", image_size=8, storage=storage), root / "in", root / storage)
    return {storage: root / storage for storage in ("memory", "files")}


@pytest.fixture
def data(prepared, tmp_path) -> Path:
    """A copy of the pixels to write to."""
    for path in prepared["memory"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def drawn(data: Path, percent: int, out: Path) -> list[int]:
    choose_labels(data, percent, None, out)
    return [int(row["index"]) for row in rows(out)]


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_classes_have_the_same_number_or_all_they_have(prepared, tmp_path):
    labels = load_images(prepared["memory"], "train").labels[:, 0]
    for percent, expected in ((1, [1, 1, 1]), (10, [3, 3, 3]), (50, [14, 14, 4])):  # of 84 images, a third each
        index = drawn(prepared["memory"], percent, tmp_path / "labels.csv")
        assert torch.bincount(labels[index]).tolist() == expected
        assert len(set(index)) == len(index)
        assert [int(row["label"]) for row in rows(tmp_path / "labels.csv")] == labels[index].tolist()


def test_the_draw_is_always_the_same_and_grows(prepared, tmp_path):
    few, more, again = (drawn(prepared["memory"], percent, tmp_path / "labels.csv") for percent in (1, 10, 1))
    assert few == again
    assert set(few) < set(more)
    assert few != sorted(np.unique(load_images(prepared["memory"], "train").labels[:, 0], return_index=True)[1])


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_labelled_images_are_those_of_the_file(prepared, tmp_path, storage):
    images = load_images(prepared[storage], "train")
    for path in prepared[storage].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = drawn(tmp_path, 10, tmp_path / "labels-10.csv")
    few = load_labelled(tmp_path, 10)
    assert len(few) == 9
    assert torch.equal(few.labels, images.labels[index])
    if storage == "memory":
        assert torch.equal(few.images, images.images[index])
    else:
        assert few.paths == [images.paths[position] for position in index]


# --- a given list -----------------------------------------------------------------------------------------------------


def test_a_list_of_file_names_is_matched_by_name(prepared, tmp_path):
    listed = ["n03_2.PNG", "n01_17.PNG", "n02_0.PNG", "n01_3.PNG"]
    (tmp_path / "list.txt").write_text("\n".join(listed) + "\n")
    choose_labels(prepared["files"], 1, str(tmp_path / "list.txt"), tmp_path / "labels.csv")
    paths = load_images(prepared["files"], "train").paths
    assert {paths[int(row["index"])].name: row["label"] for row in rows(tmp_path / "labels.csv")} == {
        "n01_17.PNG": "0",
        "n01_3.PNG": "0",
        "n02_0.PNG": "1",
        "n03_2.PNG": "2",
    }


def test_a_list_of_indices_serves_images_in_memory(prepared, tmp_path):
    labels = load_images(prepared["memory"], "train").labels[:, 0].tolist()
    listed = [labels.index(2), labels.index(0), labels.index(1)]
    (tmp_path / "list.txt").write_text("\n".join(map(str, listed)))
    choose_labels(prepared["memory"], 1, str(tmp_path / "list.txt"), tmp_path / "labels.csv")
    assert [(int(row["index"]), int(row["label"])) for row in rows(tmp_path / "labels.csv")] == sorted(
        zip(listed, (2, 0, 1), strict=True)
    )


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "content", "message"),
    [
        ("files", "n01_0.PNG\nn09_1.PNG", "'n09_1.PNG' is the file name of no training image: remove the line"),
        ("memory", "0\n84", "'84' is the index of no training image: remove the line"),
        ("files", "n01_0.PNG\nn02_0.PNG\nn01_0.PNG", "names 'n01_0.PNG' twice: remove one line"),
        ("files", "n01_0.PNG\nn03_0.PNG", "class 'n02' has no labelled image: add one"),
        ("files", "", "class 'n01' has no labelled image: add one"),
        ("files", None, "is missing: correct the path"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(prepared, tmp_path, storage, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        choose_labels(prepared[storage], 1, str(tmp_path / "list.txt"), tmp_path / "labels.csv")
    assert str(tmp_path / "list.txt") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "labels.csv").exists()


def test_a_name_that_two_images_bear_is_refused(tmp_path):
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "cat")):
        (tmp_path / "in" / split / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "in" / split / name / "0.png")
    prepare(DataConfig(name="folder", image_size=8, storage="files"), tmp_path / "in", tmp_path / "out")
    (tmp_path / "list.txt").write_text("0.png")
    with pytest.raises(ValueError, match=r"'0\.png' is the name of two training images"):
        choose_labels(tmp_path / "out", 1, str(tmp_path / "list.txt"), tmp_path / "labels.csv")


def test_a_class_without_any_image_is_named(data):
    content = load_file(data / "train.safetensors")
    kept = content["labels"][:, 0] != 1
    save_file({name: values[kept] for name, values in content.items()}, data / "train.safetensors")
    with pytest.raises(ValueError, match=f"{data}: class 'n02' has no labelled image"):
        choose_labels(data, 1, None, data / "labels-1.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "labels-1.csv is missing: make it"),
        ("", "holds no rows of index,label"),
        ("index,label\n", "holds no rows of index,label"),
        ("index,label\n3\n", "holds no rows of index,label"),
        ("index,label\n3,cat\n", "holds no rows of index,label"),
        ("index,label\n,3\n", "holds no rows of index,label"),
        ("index,label\n84,0\n", "was made for other data"),
        ("index,label\n0,7\n", "was made for other data"),
    ],
)
def test_a_labels_file_that_does_not_fit_is_refused(data, content, message):
    if content is not None:
        (data / "labels-1.csv").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_labelled(data, 1)
    assert "\n" not in str(caught.value)
