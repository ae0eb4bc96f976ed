"""List image files by class folder, decode them, and name the ones that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from hirl.data.class_tree import Branch

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"}
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class DepthError(Exception):
    """An image's values have no known range. `name_unreadable` puts the file before the message."""


def list_class_folders(folder: Path) -> dict[Branch, list[Path]]:
    """Return the images of every class folder, classes and images sorted by name.

    Raises:
        ValueError: a class folder is empty, or images lie outside class folders.
    """
    classes = {}
    for place, folders, files in os.walk(folder, onerror=_raise_unlistable, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = [Path(place, name) for name in sorted(files) if is_image(name)]
        if images and (folders or place == str(folder)):
            raise ValueError(f"{images[0]} lies beside class folders, not in one: move it, or remove it")
        if not images and not folders:
            raise ValueError(f"{place} holds no image: add some, or remove the folder")
        if images:
            classes[Path(place).relative_to(folder).parts] = images
    return classes


def list_images(folder: Path) -> list[Path]:
    """Return all images below a folder, however deep, sorted by path; hidden folders are left out.

    Raises:
        ValueError: there is none, or a folder cannot be listed.
    """
    images = []
    for place, folders, files in os.walk(folder, onerror=_raise_unlistable, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [Path(place, name) for name in files if is_image(name)]
    if not images:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"{folder} holds no image: put files there that end in one of {known}")
    return sorted(images)


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image; hidden files are none."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _raise_unlistable(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename} cannot be listed ({error.strerror}): check its permissions") from error


def read_image(path: Path) -> Image.Image:
    """Decode an image file to RGB of 8 bits; 16-bit gray values keep their high bits.

    Raises:
        ValueError: the file is missing, broken or not an image, or holds 32-bit values, whose range is unknown.
    """
    _check_regular(path)
    with name_unreadable(path), Image.open(path) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB of 8 bits; 16-bit gray values keep their high bits.

    Raises:
        DepthError: it holds 32-bit values, whose range is unknown.
    """
    _check_depth(image)
    if image.mode.startswith("I;16"):  # Pillow would cut every value above 255 to white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("RGB")


def _check_depth(image: Image.Image) -> None:
    if image.mode in ("I", "F"):
        raise DepthError("holds 32-bit values, whose range is unknown: save it with 8 or 16 bits per channel")


def check_header(path: Path) -> None:
    """Check that a file starts as an image does, without decoding it.

    Raises:
        ValueError: the file is missing or not an image.
    """
    _check_regular(path)
    with name_unreadable(path), Image.open(path) as image:
        _check_depth(image)


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path} is no regular file: remove it")


@contextmanager
def name_unreadable(path: Path) -> Iterator[None]:
    """Turn any error of reading an image into one line that names its file.

    Raises:
        ValueError: the file is missing, broken or not an image, or of a depth that `to_rgb` refuses.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: put it back, or prepare the data without it") from error
    except DepthError as error:
        raise ValueError(f"{path} {error}") from error
    except PILLOW_ERRORS as error:
        raise ValueError(f"{path} cannot be read as an image: replace or remove it") from error
