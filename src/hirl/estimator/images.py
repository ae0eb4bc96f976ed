"""The images that an estimator is fitted to: opened from anything that holds pictures, prepared once, and in one order.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hirl.config import DataConfig, digest
from hirl.data.class_tree import ClassTree
from hirl.data.image_files import name_unreadable
from hirl.data.images import ImageSet, choose, load_images, prepare_source
from hirl.data.pictures import open_pictures, source_of_pictures
from hirl.data.sources import Source, open_any_folder, open_unlabelled
from hirl.files import read_json, write_json

SAMPLE = 64  # images whose size is looked at
SOURCE = "source.json"  # in the prepared data: what they were made from


@dataclass(frozen=True)
class OwnImages:
    """Images to fit, before any is decoded.

    Attributes:
        name: data.name, which opens them again; "pictures" for those that are no folder.
        remark: why the folders below are no classes; empty if they are or there are none.
    """

    name: str
    source: Source
    remark: str = ""

    @property
    def labelled(self) -> bool:
        """Return whether folders name the classes of the images."""
        return bool(self.source.classes[0])

    @property
    def count(self) -> int:
        """Return N, the images of all splits."""
        return sum(len(split.labels) for split in self.source.splits.values())

    @property
    def paths(self) -> list[Path] | None:
        """Return the files in the order of the fitted images, by path; None if the images are no files of a folder."""
        if self.name == "pictures":
            return None
        return sorted(path for split in self.source.splits.values() for path in split.paths or ())

    def typical_side(self) -> int:
        """Return the median of the shorter sides of some images, in pixels."""
        split = self.source.splits["train"]
        index = np.random.default_rng(0).permutation(len(split.labels))[:SAMPLE].tolist()
        return int(np.median([min(_size(split.paths, split.picture, i)) for i in index]))


def _size(paths: Sequence[Path] | None, picture: Any, index: int) -> tuple[int, int]:
    if paths is None:
        return picture(index).size
    with name_unreadable(paths[index]), Image.open(paths[index]) as image:
        return image.size


def open_images(images: Any, labels: bool = True) -> OwnImages:
    """Open images to fit: a folder, with classes if its folders can be classes, or what `open_pictures` takes.

    Args:
        labels: False takes a folder's images without classes.

    Raises:
        ValueError: they are missing, too few, or no pictures.
    """
    if isinstance(images, str | Path) and not Path(images).is_file():
        root = Path(images)
        if not labels:
            return OwnImages("unlabelled", open_unlabelled(DataConfig(), root))
        return OwnImages(*open_any_folder(root))
    return OwnImages("pictures", source_of_pictures(open_pictures(images)))


def prepare_once(config: DataConfig, own: OwnImages, out: Path) -> None:
    """Prepare images, unless the folder holds the same ones: files of the same names, sizes and times.

    Raises:
        ValueError: an image cannot be read.
    """
    files = [path for split in own.source.splits.values() for path in split.paths or ()]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    made_from = digest([config.model_dump(mode="json"), stats])
    is_prepared = (out / SOURCE).is_file() and (out / "manifest.json").is_file()
    if files and is_prepared and read_json(out / SOURCE)["digest"] == made_from:
        return
    (out / SOURCE).unlink(missing_ok=True)
    prepare_source(config, own.source, out)
    write_json(out / SOURCE, {"digest": made_from})


@dataclass(frozen=True)
class FittedImages:
    """All prepared images, and where they come from.

    Attributes:
        images: those of the training split, then those of the validation split.
        train: how many are of the training split.
        order: int64 [N], the rows of `images` in the order in which the user has them: that of the array, or by path.
        classes: the class tree.
    """

    images: ImageSet
    train: int
    order: NDArray[np.int64]
    classes: ClassTree


def load_fitted(own: OwnImages, data: Path) -> FittedImages:
    """Load the prepared images of all splits."""
    splits = {name: load_images(data, name) for name in own.source.splits}
    manifest = read_json(data / "manifest.json")
    classes = ClassTree(manifest["levels"], manifest["class_names"], manifest["parents"])
    return FittedImages(_joined(list(splits.values())), len(splits["train"]), _order(own), classes)


def _joined(splits: list[ImageSet]) -> ImageSet:
    first = splits[0]
    images = None if first.images is None else torch.cat([split.images for split in splits if split.images is not None])
    paths = None if first.paths is None else [path for split in splits for path in split.paths or ()]
    labels = torch.cat([split.labels for split in splits])
    return ImageSet(images, paths, labels, first.class_names, first.parents, first.image_size)


def _order(own: OwnImages) -> NDArray[np.int64]:
    """Return the prepared rows in the user's order; `prepare_source` puts each split into a fixed random order."""
    chosen = {name: choose(split.labels, None, name) for name, split in own.source.splits.items()}
    if own.name == "pictures":
        return np.argsort(chosen["train"])
    paths: list[Path] = []
    for name, split in own.source.splits.items():
        assert split.paths is not None
        paths += [split.paths[index] for index in chosen[name]]
    return np.array(sorted(range(len(paths)), key=paths.__getitem__))
