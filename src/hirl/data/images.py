"""Images of any source, prepared once for every job: decoded in memory, or as paths to read at each step.

N images, S pixels a side, L levels of classes, finest first.
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
from hirl.data.sources import Split, open_source
from hirl.files import atomic_path, read_json, sha256, write_json

BLOCK = 1024  # images handed to the threads at a time


@dataclass(frozen=True)
class ImageSet:
    """One split of prepared data; an image's position is its stable index."""

    images: Tensor | None  # uint8 [N, 3, S, S]; None where paths are held
    paths: list[Path] | None
    labels: Tensor  # int64 [N, L], finest first
    class_names: list[list[str]]  # of each level
    parents: list[list[int]]  # of each level but the coarsest: a class's class one level up
    image_size: int

    def __len__(self) -> int:
        return len(self.labels)


def prepare(config: DataConfig, root: str | Path | None, out: str | Path) -> None:
    """Chooses, checks and (storage "memory") decodes a data set's images, for every job of a study to read.

    Args:
        config: which images.
        root: where they lie, or are downloaded to; None is the repository's own for the taxonomy, and a folder of the
            user's cache for torchvision's data sets.
        out: gets manifest.json and, for both splits, a safetensors file (storage "memory") or a CSV file ("files").

    Raises:
        ValueError: the source is unknown, missing or broken, its classes form no tree, or more is asked than it holds.
    """
    out = Path(out)
    source = open_source(config, root)
    tree = ClassTree.of(source.classes, source.levels)
    if config.class_tree is not None:
        tree = read_class_tree(config.class_tree, tree.class_names[0])
    asked = {"train": config.train_images, "validation": config.validation_images}
    chosen = {name: choose(split.labels, asked[name], name) for name, split in source.splits.items()}
    images = {name: _read(split, chosen[name], config) for name, split in source.splits.items()}

    manifest = out / "manifest.json"
    manifest.unlink(missing_ok=True)  # it says that the rest is whole: first to go, last to come
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
    """Decodes the chosen images, or only looks at their heads where they stay in files: a million take minutes."""
    if config.storage == "memory":
        return decode(split, index, config.image_size)
    if split.paths is None:
        raise ValueError(f'data.storage is "files", but {config.name} is packed: set it to "memory"')
    _in_threads(lambda position: check_header(split.paths[index[position]]), len(index))
    return None


def _write_split(
    stem: Path, images: Tensor | None, split: Split, index: np.ndarray, tree: ClassTree, root: Path
) -> Path:
    """Writes one split: pixels and labels where images were decoded, else paths and finest labels."""
    fine = split.labels[index]
    if images is not None:
        with atomic_path(stem.with_suffix(".safetensors")) as path:
            save_file({"images": images, "labels": torch.from_numpy(tree.labels(fine))}, path)
        return stem.with_suffix(".safetensors")
    with atomic_path(stem.with_suffix(".csv")) as path, path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["path", "label"])
        writer.writerows((split.paths[i].relative_to(root), label) for i, label in zip(index, fine, strict=True))
    return stem.with_suffix(".csv")


def load_images(folder: str | Path, split: str) -> ImageSet:
    """A split, "train" or "validation", of prepared data.

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
    """Indices of `count` images, the classes in balance, shuffled; always the same. None chooses all.

    Raises:
        ValueError: more are asked than there are.
    """
    if count is not None and count > len(labels):
        raise ValueError(f"data.{split}_images is {count}, but there are {len(labels)}: ask for at most as many")
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # an image's place among those of its class
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        turn[of_class] = np.arange(len(of_class))
    return order[np.argsort(turn[order], kind="stable")][:count]


def decode(split: Split, index: np.ndarray, size: int) -> Tensor:
    """Images as uint8 [N, 3, size, size]: the shorter side resized to `size`, then the central square.

    Raises:
        ValueError: an image cannot be read.
    """
    images = torch.empty(len(index), 3, size, size, dtype=torch.uint8)

    def fill(position: int) -> None:
        images[position] = to_tensor(square(split.picture(index[position]), size, size))

    _in_threads(fill, len(index))
    return images


def _in_threads(work: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, BLOCK):
            list(pool.map(work, range(start, min(start + BLOCK, count))))


def square(image: Image.Image, shorter_side: int, size: int) -> Image.Image:
    """The central square of an image in RGB, after its shorter side is resized, bicubic."""
    image, scale = image.convert("RGB"), shorter_side / min(image.size)
    if scale != 1:
        image = image.resize([max(shorter_side, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
