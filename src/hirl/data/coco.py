"""Load scenes (pictures with boxes and masks, annotated in COCO's JSON), one by one or in batches."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hirl.data.image_files import read_image
from hirl.data.images import to_tensor
from hirl.data.loader import in_one_line
from hirl.distributed.collectives import shard_range
from hirl.files import read_json

Example = tuple[Tensor, dict[str, Tensor]]  # uint8 [3, H, W]; boxes [N, 4], labels [N], masks [N, H, W]


@dataclass(frozen=True)
class SceneSet:
    """One split of a folder of scenes, whose images are ordered by their ids.

    Attributes:
        folder: the folder of the pictures.
        categories: the category ids of COCO for labels 1, 2, and so on.
        digest: the digest of the prepared folder's content.
    """

    annotations: COCO
    folder: Path
    categories: list[int]
    digest: str

    @property
    def images(self) -> list[int]:
        """Return the ids of all images, sorted."""
        return sorted(self.annotations.imgs)

    @property
    def with_objects(self) -> list[int]:
        """Return the ids of the images to train on: those with at least one object that is not a crowd."""
        return [image for image in self.images if self.objects(image)]

    def objects(self, image: int) -> list[dict[str, Any]]:
        """Return an image's annotations without crowds and without the few boxes in COCO that have no area."""
        return [a for a in self.annotations.imgToAnns[image] if not a["iscrowd"] and min(a["bbox"][2:]) > 0]

    def picture(self, image: int) -> Tensor:
        """Read an image, uint8 [3, H, W].

        Raises:
            ValueError: its file is missing or broken, or its size differs from the annotations.
        """
        facts = self.annotations.imgs[image]
        path = self.folder / facts["file_name"]
        pixels = to_tensor(read_image(path))
        if pixels.shape[1:] != (facts["height"], facts["width"]):
            raise ValueError(
                f"{path} is {pixels.shape[2]} x {pixels.shape[1]} pixels, but its annotations say "
                f"{facts['width']} x {facts['height']}: give the pictures that were annotated"
            )
        return pixels

    def example(self, image: int, flipped: bool) -> Example:
        """Return an image to train on and its targets: boxes [N, 4], labels [N] and masks [N, H, W]."""
        pixels, objects = self.picture(image), self.objects(image)
        height, width = pixels.shape[1:]
        corners = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32)
        corners[:, 2:] += corners[:, :2]
        boxes = corners.clamp(min=torch.zeros(4), max=torch.tensor([width, height, width, height]))
        masks = torch.from_numpy(np.stack([self.annotations.annToMask(a) for a in objects]))
        labels = torch.tensor([self.categories.index(a["category_id"]) + 1 for a in objects])
        if flipped:
            pixels, masks = pixels.flip(2), masks.flip(2)
            boxes = boxes * torch.tensor([-1, 1, -1, 1]) + torch.tensor([width, 0, width, 0])
            boxes = boxes[:, [2, 1, 0, 3]]
        return pixels, {"boxes": boxes, "labels": labels, "masks": masks}


def load_scenes(folder: str | Path, split: str) -> SceneSet:
    """Load a split, "train" or "validation", of a folder of scenes.

    Raises:
        ValueError: the manifest, the annotations or an image file is missing; the split has no objects; an annotation
            names an unknown image or category, has a box beside its image, or no mask of its image's size.
    """
    manifest = Path(folder) / "manifest.json"
    facts = read_json(manifest)
    path, images = (manifest.parent / facts[split][key] for key in ("annotations", "images"))
    content = read_json(path)
    _check(content, path, images)
    with redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        annotations = COCO()
        annotations.dataset = content
        annotations.createIndex()
    categories = sorted(annotations.cats)
    named = [annotations.cats[category]["name"] for category in categories]
    if named != facts["categories"]:
        raise ValueError(
            f"{path} has the categories {named}, but {manifest} says {facts['categories']}: prepare the scenes again"
        )
    scenes = SceneSet(annotations, images, categories, facts["digest"])
    if not scenes.with_objects:
        raise ValueError(f"{path} has no objects: give annotations of the {split} pictures")
    return scenes


def _check(content: Any, path: Path, folder: Path) -> None:
    """Check annotations before training on them, and fill in the fields that COCO's format leaves optional."""
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise ValueError(f"{path} is not COCO's JSON: it needs images, annotations and categories")
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: give the folder of the pictures that {path} describes")
    present = {entry.name for entry in os.scandir(folder)}
    for image in images.values():
        if image["file_name"] not in present and not (folder / image["file_name"]).is_file():
            raise ValueError(f"{path} names {image['file_name']}, which is not in {folder}: complete the pictures")
    for number, annotation in enumerate(content["annotations"]):
        where = f"{path}: annotations[{number}]"
        if missing := {"image_id", "category_id", "bbox", "segmentation"} - annotation.keys():
            raise ValueError(f"{where} has no {sorted(missing)[0]}: detection needs it, so add it")
        if annotation["image_id"] not in images:
            raise ValueError(f"{where} is of image {annotation['image_id']}, which is not listed: correct its image_id")
        if annotation["category_id"] not in categories:
            raise ValueError(
                f"{where} has category_id {annotation['category_id']}, which is unknown: choose {sorted(categories)}"
            )
        _check_object(annotation, images[annotation["image_id"]], where)
        annotation |= {"id": number + 1}  # pycocotools takes a match with id 0 for no match
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])


def _check_object(annotation: dict[str, Any], image: dict[str, Any], where: str) -> None:
    (x, y, width, height), size = annotation["bbox"], [image["height"], image["width"]]
    # one of COCO's own boxes has no height, so that is allowed; a box outside its image is a mistake
    if not (width >= 0 and height >= 0 and -width < x < size[1] and -height < y < size[0]):
        raise ValueError(
            f"{where} has bbox {annotation['bbox']} in an image of {size[1]} x {size[0]} pixels: "
            "give x, y, width and height in pixels, within the image"
        )
    mask = annotation["segmentation"]
    if not mask:
        raise ValueError(f"{where} has an empty segmentation: give polygons or a run-length encoding")
    if isinstance(mask, dict) and list(mask["size"]) != size:
        raise ValueError(f"{where} has a mask of size {mask['size']}, but its image has {size}: both are height, width")


# --- batches ----------------------------------------------------------------------------------------------------------


def training_batches(
    scenes: SceneSet, batch_size: int, seed: int, first: int, count: int, device: torch.device
) -> Iterator[list[Example]]:
    """Load this rank's slice of batches `first` to `first + count` of endless passes over a split.

    Each pass has its own order and flips.

    Raises:
        ValueError: a file cannot be read.
    """
    draws = _draws(scenes.with_objects, seed, first * batch_size, count * batch_size)
    own = shard_range(batch_size)
    return _load(_Examples(scenes), [batch[own.start : own.stop] for batch in _split(draws, batch_size)], device)


def ordered_pictures(scenes: SceneSet, batch_size: int, device: torch.device) -> Iterator[list[tuple[int, Tensor]]]:
    """Load batches of (id, pixels) of every image of this rank's shard, in order.

    Raises:
        ValueError: a file cannot be read.
    """
    own = shard_range(len(scenes.images))
    return _load(_Pictures(scenes), _split(scenes.images[own.start : own.stop], batch_size), device)


def _draws(images: list[int], seed: int, first: int, count: int) -> list[tuple[int, bool]]:
    """Return draws `first` to `first + count`: pairs of an image id and whether it is flipped.

    The draws of a pass depend on the seed and the number of the pass alone.
    """
    draws: list[tuple[int, bool]] = []
    start = first // len(images)
    for number in range(start, (first + count - 1) // len(images) + 1):
        generator = np.random.default_rng((seed, number))
        order, flips = generator.permutation(len(images)), generator.random(len(images)) < 0.5
        draws += [(images[position], bool(flip)) for position, flip in zip(order, flips, strict=True)]
    return draws[first - start * len(images) :][:count]


@dataclass(frozen=True)
class _Examples(Dataset):
    """A data set of training examples, indexed by draw: an image id and whether it is flipped."""

    scenes: SceneSet

    def __getitem__(self, draw: tuple[int, bool]) -> Example:
        return self.scenes.example(*draw)


@dataclass(frozen=True)
class _Pictures(Dataset):
    """A data set of pictures to detect objects in, indexed by image id."""

    scenes: SceneSet

    def __getitem__(self, image: int) -> tuple[int, Tensor]:
        return image, self.scenes.picture(image)


def _split(keys: list[Any], batch_size: int) -> list[list[Any]]:
    return [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]


def _load(dataset: Dataset, batches: list[list[Any]], device: torch.device) -> Iterator[list[Any]]:
    """Load batches as lists of items; workers read ahead only beside a GPU, as they would slow a network on a CPU."""
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=torch.get_num_threads() if device.type == "cuda" else 0,
        collate_fn=list,
        generator=torch.Generator(),  # not torch's default one, from which the network draws
    )
    return in_one_line(loader)
