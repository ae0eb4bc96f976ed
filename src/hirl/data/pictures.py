"""Take pictures from where a Python program has them: arrays, lists, image files and torch data sets.

Shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from hirl.data.image_files import list_images, name_unreadable, read_image, to_rgb
from hirl.data.sources import Source, Split

ACCEPTED = (
    "a folder, a list of files or pictures, a torch data set, or an array of uint8 or of floats in [0, 1], "
    "[N, H, W, 3], [N, 3, H, W] or gray [N, H, W]"
)


def open_pictures(pictures: Any) -> Split:
    """Return pictures as a split without classes; each is read when it is asked for.

    Args:
        pictures: a folder (all images below it, by path), one image file, a list of files or of pictures (PIL, arrays,
            tensors), an array or tensor of N pictures, or a torch.utils.data.Dataset with a length, whose items are
            pictures or tuples that start with one.

    Raises:
        ValueError: they are none of these, there is none, or they have a wrong dtype or shape.
    """
    if isinstance(pictures, str | Path):
        return _files([Path(pictures)] if Path(pictures).is_file() else _below(Path(pictures)))
    if isinstance(pictures, Dataset):
        return _split(_length(pictures), lambda index: _to_image(_first(pictures[index]), f"item {index}"))
    if isinstance(pictures, list | tuple):
        if pictures and all(isinstance(picture, str | Path) for picture in pictures):
            return _files([Path(picture) for picture in pictures])
        return _split(len(pictures), lambda index: _to_image(pictures[index], f"picture {index}"))
    array = _as_numbers(pictures)
    if array.ndim not in (3, 4):
        raise ValueError(f"the pictures are an array of shape {list(array.shape)}: give {ACCEPTED}")
    if array.ndim == 3 and 3 in (array.shape[0], array.shape[2]):
        raise ValueError(f"an array of shape {list(array.shape)} is one picture: give picture[None], or a list of them")
    _check_values(array, "the pictures")
    return _split(len(array), lambda index: _to_image(array[index], f"picture {index}"))


def source_of_pictures(split: Split) -> Source:
    """Return a source whose training split is all pictures; it has no validation split."""
    return Source([()], {"train": split}, Path())


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: give a folder of images, or an image file")
    return list_images(folder)


def _files(paths: list[Path]) -> Split:
    return Split(np.zeros(len(paths), np.int64), lambda index: read_image(paths[index]), paths)


def _split(count: int, picture: Callable[[int], Image.Image]) -> Split:
    if not count:
        raise ValueError(f"there is no picture: give {ACCEPTED}")
    picture(0)  # a wrong dtype or shape is found before any work
    return Split(np.zeros(count, np.int64), picture)


def _length(dataset: Any) -> int:
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{type(dataset).__name__} has no length, so its pictures have no fixed order: give {ACCEPTED}"
        )
    return len(dataset)


def _first(item: Any) -> Any:
    return item[0] if isinstance(item, tuple | list) else item


def _as_numbers(values: Any) -> np.ndarray:
    """Return an array or tensor of numbers as numpy's."""
    if not isinstance(values, np.ndarray | Tensor | np.memmap):
        raise ValueError(f"{type(values).__name__} holds no pictures: give {ACCEPTED}")
    return values.numpy(force=True) if isinstance(values, Tensor) else values


def _to_image(picture: Any, name: str) -> Image.Image:
    """Return one picture in RGB; channels may stand first or last."""
    if isinstance(picture, Image.Image):
        with name_unreadable(Path(name)):
            return to_rgb(picture)
    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    array = _as_numbers(picture)
    _check_values(array, name)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise ValueError(f"{name} has the shape {list(array.shape)}: give [H, W, 3], [3, H, W] or gray [H, W]")
    if array.dtype != np.uint8:
        array = (np.asarray(array, np.float32) * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _check_values(array: np.ndarray, name: str) -> None:
    """Check that pixels are bytes or floats in [0, 1].

    Raises:
        ValueError: they are not.
    """
    if array.dtype == np.uint8:
        return
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has the dtype {array.dtype}: give uint8, or floats in [0, 1]")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN fails here too
        raise ValueError(f"{name} has values from {array.min():g} to {array.max():g}: give floats in [0, 1], or uint8")
