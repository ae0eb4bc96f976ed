"""Prepare scenes for detection: drawn from the taxonomy's objects, or a user's folder in COCO's layout.

Shapes: S pixels a side, M objects of a scene.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from hirl.config import ScenesConfig
from hirl.data.synthetic.taxonomy import NUM_CLASSES, PLANS, Chance, backdrop, coordinates, lit, paint, quantized, turn
from hirl.files import make_folder, read_json, sha256, write_json, write_text

FOLDERS = {"train": "train2017", "validation": "val2017"}  # COCO's names of the splits
SEEDS = {"train": 3, "validation": 4}  # other drawn data sets use other seeds
OBJECTS = (2, 3, 4)  # how many a drawn scene may have
RADII = (0.25, 0.6)  # range of an object's frame, in halves of the scene's side
OVERLAP = 0.1  # allowed overlap of two frames' circles, in halves of the scene's side
SMALLEST = 32  # pixels a side: in smaller scenes objects show no texture
ENTRIES = {  # the keys that COCO's JSON needs
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"id", "image_id", "category_id", "bbox", "segmentation"},
    "categories": {"id", "name"},
}
CLASSES_PER_PLAN = NUM_CLASSES // len(PLANS)
KEYS = 8  # of random numbers, reserved for each scene: one for itself and one for each object


class Split(NamedTuple):
    """The annotations and images of one split.

    Attributes:
        content: COCO's JSON.
        images: drawn ones, uint8 [3, S, S] each, or a user's folder.
        annotations: the user's file that holds `content`, if there is one.
    """

    content: dict[str, Any]
    images: list[np.ndarray] | Path
    annotations: Path | None = None


class Scene(NamedTuple):
    """A picture and its objects, which may hide each other.

    Attributes:
        image: uint8 [3, S, S].
        labels: [M], of the taxonomy's classes.
        masks: bool [M, S, S], the visible part of each object.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def prepare_scenes(config: ScenesConfig, root: str | Path | None, out: str | Path) -> None:
    """Draw scenes, or check a user's, and write manifest.json with the annotations and images of both splits.

    Args:
        config: the kind, size and number of scenes.
        root: for the name "coco", a folder with annotations/instances_{train,val}2017.json, train2017/ and val2017/.
        out: receives manifest.json, and drawn scenes in COCO's layout or the annotations of a user's first images.
            Paths in the manifest are relative to it, those of the user's files absolute.

    Raises:
        ValueError: the number of scenes to draw is not set, or annotations or images are missing, broken or too few.
    """
    out = Path(out)
    asked = {"train": config.train_images, "validation": config.validation_images}
    splits = find_scenes(root, asked) if config.name == "coco" else draw_scenes(config.image_size, asked)
    manifest = out / "manifest.json"
    # the manifest is removed first and written last: its presence says that the other files are complete
    manifest.unlink(missing_ok=True)
    facts: dict[str, Any] = {"name": config.name}
    digest = hashlib.sha256()
    for split, found in splits.items():
        annotations, images = _write_split(found, out, FOLDERS[split])
        facts[split] = {"annotations": str(annotations), "images": str(images)}
        digest.update(sha256(out / annotations).encode())
        if isinstance(found.images, list):
            digest.update(np.stack(found.images).tobytes())
    facts["categories"] = [category["name"] for category in splits["train"].content["categories"]]
    write_json(manifest, facts | {"digest": digest.hexdigest()})


def _write_split(found: Split, out: Path, name: str) -> tuple[Path, Path]:
    """Write a split unless its files are the user's; return the manifest's paths of annotations and images."""
    annotations, images = found.annotations, found.images
    if annotations is None:
        annotations = Path("annotations", f"instances_{name}.json")
        write_text(out / annotations, json.dumps(found.content))
    if isinstance(images, list):
        make_folder(out / name)
        for facts, image in zip(found.content["images"], images, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(out / name / facts["file_name"])
        images = Path(name)
    return annotations, images


# --- drawn scenes -----------------------------------------------------------------------------------------------------


def draw_scenes(size: int, asked: dict[str, int | None]) -> dict[str, Split]:
    """Draw the scenes of both splits; their categories are the body plans.

    Raises:
        ValueError: the number of scenes is not set, or scenes would be too small.
    """
    counts = {}
    for split, count in asked.items():
        if count is None:
            raise ValueError(f"scenes.{split}_images is not set: say how many scenes to draw")
        counts[split] = count
    if size < SMALLEST:
        raise ValueError(f"scenes.image_size is {size}: give at least {SMALLEST} pixels")
    splits = {}
    for split, count in counts.items():
        scenes = [draw_scene(number, size, SEEDS[split]) for number in range(count)]
        splits[split] = Split(_annotate(scenes), [scene.image for scene in scenes])
    return splits


def _annotate(scenes: list[Scene]) -> dict[str, Any]:
    """Return COCO's JSON of scenes."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, scene in enumerate(scenes, 1):
        height, width = scene.masks.shape[1:]
        images.append({"id": image, "file_name": f"{image:012d}.png", "height": height, "width": width})
        codes = run_lengths.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0), np.uint8))
        for label, code in zip(scene.labels, codes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label) // CLASSES_PER_PLAN + 1,
                    "bbox": run_lengths.toBbox(code).tolist(),
                    "area": int(run_lengths.area(code)),
                    "segmentation": code | {"counts": code["counts"].decode()},
                    "iscrowd": 0,
                }
            )
    categories = [{"id": plan, "name": name, "supercategory": name} for plan, name in enumerate(PLANS, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def draw_scene(number: int, size: int, seed: int) -> Scene:
    """Draw a scene of a few of the taxonomy's objects; its number and the seed fix it."""
    key = number * KEYS
    chance = Chance(np.array([key]), size, seed)
    x, y = coordinates(chance.noise.shape)
    image = backdrop(x, y, chance)
    seen: list[np.ndarray] = []
    labels, frames = arrange(np.random.default_rng((seed, key, 1)))
    for place, (label, (left, up, radius)) in enumerate(zip(labels, frames, strict=True), 1):
        own = Chance(np.array([key + place]), 0, seed)
        u, v = turn(x - left, y - up, np.radians(own.uniform(-28, 28)))
        u, v = u * np.where(own.uniform(0, 1) < 0.5, -1, 1) / radius, v * own.uniform(0.9, 1.1) / radius
        image, cover = paint(image, u, v, 2 / (size * radius), int(label), own)
        seen = [*(visible * (1 - cover[0]) for visible in seen), cover[0]]
    image = lit(image, x, y, chance) + chance.noise[:, None] * chance.uniform(0, 0.02)[:, None]
    return Scene(quantized(image)[0], labels, np.stack(seen) > 0.5)


def arrange(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw classes [M] and frames [M, 3] (x, y, radius) of a scene's objects: the largest first, behind the others."""
    radii = np.sort(generator.uniform(*RADII, generator.choice(OBJECTS)))[::-1]
    frames = np.empty((0, 3))
    for radius in radii:
        places = generator.uniform(0.8 * radius - 1, 1 - 0.8 * radius, (50, 2))  # up to a tenth may be cut off
        apart = np.hypot(*(places[:, None] - frames[:, :2]).transpose(2, 0, 1)) - frames[:, 2] - radius
        room = apart.min(1, initial=np.inf)
        chosen = places[
            np.argmax(np.minimum(room, -OVERLAP))
        ]  # the first place with enough room, or the one with the most
        frames = np.vstack([frames, [*chosen, radius]])
    return generator.integers(NUM_CLASSES, size=len(radii)), frames


# --- a user's scenes --------------------------------------------------------------------------------------------------


def find_scenes(root: str | Path | None, asked: dict[str, int | None]) -> dict[str, Split]:
    """Find the splits of a folder in COCO's layout, cut to the first images by id if a number is asked for.

    Raises:
        ValueError: no folder is given; annotations or images are missing, broken or too few; the splits differ in their
            categories.
    """
    if root is None:
        raise ValueError("scenes.name is coco: give its folder with --data-root FOLDER")
    splits = {split: _find_split(Path(root).resolve(), split, count) for split, count in asked.items()}
    train, validation = (found.content["categories"] for found in splits.values())
    if train != validation:
        files = " and ".join(f"instances_{name}.json" for name in FOLDERS.values())
        raise ValueError(f"{root}: {files} have different categories: give both the same list")
    return splits


def _find_split(root: Path, split: str, count: int | None) -> Split:
    file, folder = root / "annotations" / f"instances_{FOLDERS[split]}.json", root / FOLDERS[split]
    for path, there in ((file, file.is_file()), (folder, folder.is_dir())):
        if not there:
            raise ValueError(f"{path} is missing: unpack COCO's images and annotations in {root}")
    content = read_json(file)
    _check_form(content, file)
    annotations: Path | None = file
    content["categories"].sort(key=lambda category: category["id"])
    if count is not None:
        content, annotations = _first(content, count, split), None
    present = set(os.listdir(folder))
    for name in (image["file_name"] for image in content["images"]):
        if name not in present and not (folder / name).is_file():
            raise ValueError(
                f"{folder}/{name} is missing, though instances_{FOLDERS[split]}.json lists it: unpack all images there"
            )
    return Split(content, folder, annotations)


def _check_form(content: Any, path: Path) -> None:
    for part, keys in ENTRIES.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or any(not isinstance(e, dict) or not e.keys() >= keys for e in entries):
            raise ValueError(
                f"{path} is not COCO's JSON: {part} must be a list of entries with {', '.join(sorted(keys))}"
            )


def _first(content: dict[str, Any], count: int, split: str) -> dict[str, Any]:
    """Return the annotations of the first `count` images by id."""
    images = sorted(content["images"], key=lambda image: image["id"])[:count]
    if len(images) < count:
        raise ValueError(f"scenes.{split}_images is {count}, but there are {len(images)}: ask for at most as many")
    chosen = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in chosen]
    return {"images": images, "annotations": annotations, "categories": content["categories"]}
