"""Choose the labelled training images of semi-supervised tasks: drawn at random, or read from a list."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hirl.config import CONFIG_ROOT
from hirl.config.tasks import labels_file
from hirl.data.images import ImageSet, load_images
from hirl.files import atomic_path

SEED = 0  # the same for all runs, so that they share the labelled images
COLUMNS = ["index", "label"]


def choose_labels(data: Path, percent: int, given: str | None, out: Path) -> None:
    """Choose labelled images of the training split and write their indices and finest labels to a CSV file.

    Args:
        data: the prepared data.
        percent: of the training images. Every class has the same number, at least one; a class with fewer images gives
            all it has. The images of 1 % are among those of 10 %.
        given: a file that lists the images instead. Each line is the name of a file, such as n01440764_10183.JPEG, or
            the index of an image in memory. A relative path starts at the top of the repository.

    Raises:
        ValueError: the list is missing, repeats an image or names an unknown one; or a class has no labelled image.
    """
    images = load_images(data, "train")
    fine, names = images.labels[:, 0].numpy(), images.class_names[0]
    index = _draw(fine, percent, len(names)) if given is None else _read_list(given, images)
    if without := sorted(set(range(len(names))) - set(fine[index].tolist())):
        raise ValueError(f"{given or data}: class {names[without[0]]!r} has no labelled image: add one")
    with atomic_path(out) as path, path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerows([COLUMNS, *zip(index, fine[index], strict=True)])


def load_labelled(data: Path, percent: int) -> ImageSet:
    """Load the training images that `labels-{percent}.csv`, beside the prepared data, lists as labelled.

    Raises:
        ValueError: the file is missing or malformed, or was made for other data.
    """
    images, path = load_images(data, "train"), data / labels_file(percent)
    index = _read_labels(path, images)
    return replace(
        images,
        images=None if images.images is None else images.images[index],
        paths=images.paths and [images.paths[position] for position in index],
        labels=images.labels[index],
    )


def _draw(labels: np.ndarray, percent: int, classes: int) -> list[int]:
    generator = np.random.default_rng(SEED)
    each = max(1, round(len(labels) * percent / 100 / classes))
    drawn = [generator.permutation(np.flatnonzero(labels == number))[:each] for number in range(classes)]
    return sorted(np.concatenate(drawn).tolist())


def _read_list(given: str, images: ImageSet) -> list[int]:
    path = CONFIG_ROOT.parent / given
    if not path.is_file():
        raise ValueError(f"data.label_lists {given} is missing: correct the path")
    lines = [line for line in map(str.strip, path.read_text().splitlines()) if line]
    if twice := _first_twice(lines):
        raise ValueError(f"{given} names {twice!r} twice: remove one line")
    names = [file.name for file in images.paths] if images.paths else [str(index) for index in range(len(images))]
    number, listed = {name: index for index, name in enumerate(names)}, set(lines)
    if unknown := [line for line in lines if line not in number]:
        kind = "file name" if images.paths else "index"
        raise ValueError(f"{given}: {unknown[0]!r} is the {kind} of no training image: remove the line")
    if twice := _first_twice(name for name in names if name in listed):
        raise ValueError(f"{given}: {twice!r} is the name of two training images: give their files other names")
    return sorted(number[line] for line in lines)


def _first_twice(values: Iterable[str]) -> str | None:
    return next((value for value, times in Counter(values).items() if times > 1), None)


def _read_labels(path: Path, images: ImageSet) -> list[int]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: make it with the step that chooses the labelled images")
    with path.open(newline="") as handle:
        header, *rows = list(csv.reader(handle)) or [[]]
    if header != COLUMNS or not rows or not all(len(row) == 2 and all(map(str.isdigit, row)) for row in rows):
        raise ValueError(f"{path} holds no rows of index,label: remove it and choose the labelled images again")
    index, labels = zip(*(map(int, row) for row in rows), strict=True)
    if max(index) >= len(images) or images.labels[list(index), 0].tolist() != list(labels):
        raise ValueError(f"{path} was made for other data: remove it and choose the labelled images again")
    return list(index)
