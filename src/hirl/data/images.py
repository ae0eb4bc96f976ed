"""Prepare the images of a source once for all jobs: decoded pixels, or paths to read at each step.

Shapes: N images, S pixels a side, L levels of classes, finest first.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from hirl.config import DataConfig
from hirl.data.class_tree import ClassTree, read_class_tree
from hirl.data.image_files import check_header
from hirl.data.sources import Source, Split, open_source
from hirl.files import atomic_path, read_json, sha256, write_json

BLOCK = 1024  # images that are submitted to the threads at a time


@dataclass(frozen=True)
class ImageSet:
    """One split of prepared data; an image's position is its stable index.

    Attributes:
        images: uint8 [N, 3, S, S], or None if `paths` are held.
        paths: image files, or None if `images` are held.
        labels: int64 [N, L], finest first; L is 0 for images without classes.
        class_names: the names of each level's classes.
        parents: for each level except the coarsest, every class's parent: a class one level up.
    """

    images: Tensor | None
    paths: list[Path] | None
    labels: Tensor
    class_names: list[list[str]]
    parents: list[list[int]]
    image_size: int

    def __len__(self) -> int:
        return len(self.labels)


def prepare(config: DataConfig, root: str | Path | None, out: str | Path) -> None:
    """Choose, check and (storage "memory") decode a data set's images, for every job of a study to read.

    Args:
        config: the data set, its size and storage.
        root: where the images are, or are downloaded to; None takes the source's default root.
        out: receives manifest.json and, for both splits, a safetensors file (storage "memory") or a CSV file ("files").

    Raises:
        ValueError: the source is unknown, missing or broken, its classes form no tree, or it has too few images.
    """
    prepare_source(config, open_source(config, root), Path(out))


def prepare_source(config: DataConfig, source: Source, out: Path) -> None:
    """Do as `prepare` with a source that is open."""
    tree = ClassTree.of(source.classes, source.levels)
    if config.class_tree is not None:
        tree = read_class_tree(config.class_tree, tree.class_names[0])
    asked = {"train": config.train_images, "validation": config.validation_images}
    chosen = {name: choose(split.labels, asked[name], name) for name, split in source.splits.items()}
    images = {name: _read(split, chosen[name], config) for name, split in source.splits.items()}

    manifest = out / "manifest.json"
    # the manifest is removed first and written last: its presence says that the other files are complete
    manifest.unlink(missing_ok=True)
    files = [
        _write_split(out / name, images[name], split, chosen[name], tree, source.root)
        for name, split in source.splits.items()
    ]
    facts = {
        "dataset": config.name,
        "image_size": config.image_size,
        "storage": config.storage,
        "levels": tree.levels,
        "class_names": tree.class_names,
        "parents": tree.parents,
        "splits": {name: len(index) for name, index in chosen.items()},
    }
    content = hashlib.sha256(json.dumps([facts, *map(sha256, files)]).encode()).hexdigest()
    root = str(source.root.resolve()) if config.storage == "files" else None
    write_json(manifest, facts | {"root": root, "digest": content})


def _read(split: Split, index: np.ndarray, config: DataConfig) -> Tensor | None:
    """Decode the chosen images; with storage "files" only check their headers and return None."""
    if config.storage == "memory":
        return decode(split, index, config.image_size)
    if split.paths is None:
        raise ValueError(f'data.storage is "files", but {config.name} is packed: set it to "memory"')
    paths = split.paths
    _in_threads(lambda position: check_header(paths[index[position]]), len(index))
    return None


def _write_split(
    stem: Path, images: Tensor | None, split: Split, index: np.ndarray, tree: ClassTree, root: Path
) -> Path:
    """Write one split: pixels and all labels of decoded images, otherwise paths and finest labels."""
    fine = split.labels[index]
    if images is not None:
        with atomic_path(stem.with_suffix(".safetensors")) as path:
            save_file({"images": images, "labels": torch.from_numpy(tree.labels(fine))}, path)
        return stem.with_suffix(".safetensors")
    assert split.paths is not None, "checked by _read"
    with atomic_path(stem.with_suffix(".csv")) as path, path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["path", "label"])
        writer.writerows((split.paths[i].relative_to(root), label) for i, label in zip(index, fine, strict=True))
    return stem.with_suffix(".csv")


def load_images(folder: str | Path, split: str) -> ImageSet:
    """Load a split, "train" or "validation", of prepared data.

    Raises:
        ValueError: the folder holds no prepared data.
    """
    folder = Path(folder)
    facts = read_json(folder / "manifest.json")
    names, parents, size = facts["class_names"], facts["parents"], facts["image_size"]
    if facts["storage"] == "memory":
        content = load_file(folder / f"{split}.safetensors")
        return ImageSet(content["images"], None, content["labels"], names, parents, size)
    with open(folder / f"{split}.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    labels = ClassTree(facts["levels"], names, parents).labels([int(row["label"]) for row in rows])
    paths = [Path(facts["root"]) / row["path"] for row in rows]
    return ImageSet(None, paths, torch.from_numpy(labels), names, parents, size)


def choose(labels: np.ndarray, count: int | None, split: str) -> np.ndarray:
    """Choose `count` images, balanced over the classes, or all for None: indices in a fixed random order.

    Raises:
        ValueError: there are fewer images than asked for.
    """
    if count is not None and count > len(labels):
        raise ValueError(f"data.{split}_images is {count}, but there are {len(labels)}: ask for at most as many")
    order = np.random.default_rng(0).permutation(len(labels))
    position = np.empty(len(labels), np.int64)  # of an image within its class
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        position[of_class] = np.arange(len(of_class))
    return order[np.argsort(position[order], kind="stable")][:count]


def decode(split: Split, index: np.ndarray, size: int, shorter_side: int | None = None) -> Tensor:
    """Decode images to uint8 [N, 3, size, size]: the shorter side resized, then the central square.

    Args:
        shorter_side: of the resized image, in pixels; None: `size`.

    Raises:
        ValueError: an image cannot be read.
    """
    images = torch.empty(len(index), 3, size, size, dtype=torch.uint8)

    def fill(position: int) -> None:
        images[position] = to_tensor(square(split.picture(index[position]), shorter_side or size, size))

    _in_threads(fill, len(index))
    return images


def _in_threads(work: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, BLOCK):
            list(pool.map(work, range(start, min(start + BLOCK, count))))


def square(image: Image.Image, shorter_side: int, size: int) -> Image.Image:
    """Return the central square of an image in RGB, after a bicubic resize of its shorter side."""
    image, scale = image.convert("RGB"), shorter_side / min(image.size)
    if scale != 1:
        image = image.resize([max(shorter_side, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
