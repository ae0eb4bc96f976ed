from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hirl.data.pictures import open_pictures, source_of_pictures

BYTES = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)


class Labelled(Dataset):
    """PIL pictures with labels, as torchvision's data sets give them."""

    def __len__(self):
        return len(BYTES)

    def __getitem__(self, index):
        return Image.fromarray(BYTES[index]), 7


class Endless(IterableDataset):
    def __iter__(self):
        yield BYTES[0]


def read(pictures):
    split = open_pictures(pictures)
    return np.stack([np.asarray(split.picture(index)) for index in range(len(split.labels))])


@pytest.mark.parametrize(
    "pictures",
    [
        BYTES,
        BYTES.transpose(0, 3, 1, 2),
        torch.from_numpy(BYTES),
        (BYTES / 255).astype(np.float32),
        torch.from_numpy(BYTES / 255).permute(0, 3, 1, 2),
        list(BYTES),
        [Image.fromarray(picture) for picture in BYTES],
        Labelled(),
        TensorDataset(torch.from_numpy(BYTES), torch.zeros(5)),
    ],
    ids=["bytes", "channels first", "tensor", "floats", "float tensor", "list", "PIL", "data set", "tensor data set"],
)
def test_pictures_are_the_same_in_every_form(pictures):
    assert np.array_equal(read(pictures), BYTES)


def test_a_folder_a_file_and_a_list_of_files_are_read_by_path(tmp_path):
    for number, picture in enumerate(BYTES):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.glob("*.png"))
    assert np.array_equal(read(tmp_path), BYTES)
    assert np.array_equal(read(files[::-1]), BYTES[::-1])
    assert open_pictures(str(files[2])).paths == [files[2]]


def test_gray_pictures_become_rgb():
    gray = BYTES[..., 0]
    for form in (gray, gray[..., None], gray[:, None]):
        assert np.array_equal(read(form), np.repeat(gray[..., None], 3, axis=3))


def test_pictures_have_no_classes_and_no_validation_split():
    source = source_of_pictures(open_pictures(BYTES))
    assert source.classes == [()]
    assert list(source.splits) == ["train"]


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (BYTES.astype(np.int64), "dtype int64: give uint8, or floats in [0, 1]"),
        (BYTES.astype(np.float32), "values from 0 to 255: give floats in [0, 1], or uint8"),
        (np.full((2, 4, 4, 3), np.nan), "give floats in [0, 1]"),
        (BYTES[0], "is one picture: give picture[None]"),
        (BYTES[0, :, :, 0], "of shape [12, 10]: give a folder"),
        (np.zeros((2, 4, 4, 5), np.uint8), "shape [4, 4, 5]: give [H, W, 3], [3, H, W] or gray [H, W]"),
        (np.zeros((0, 4, 4, 3), np.uint8), "there is no picture"),
        ([], "there is no picture"),
        ({"a": 1}, "dict holds no pictures: give a folder"),
        ([object()], "object holds no pictures"),
        (Endless(), "Endless has no length"),
        ("nowhere", "nowhere is missing: give a folder of images, or an image file"),
    ],
)
def test_what_holds_no_pictures_is_refused_in_one_line(pictures, said):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        open_pictures(pictures)
    assert said in str(caught.value)
