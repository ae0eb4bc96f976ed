"""Where images come from: the taxonomy, its sketches, a folder, ImageNet, Places205, or a data set of torchvision's."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hirl.config import CONFIG_ROOT, DataConfig
from hirl.data.class_tree import Branch, Lineage, folder_lineages
from hirl.data.synthetic.sketches import draw_sketches, sketch_paths
from hirl.data.synthetic.taxonomy import LEVELS

DOWNLOADS = Path("~/.cache/hirl").expanduser()
VALIDATION_FOLDERS = ("val", "validation", "test")  # the first there is
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"}
IMAGENET_FOLDERS = ("ILSVRC/Data/CLS-LOC", "ILSVRC/Data", ".")  # of the released archive, or below the root
PLACES_IMAGES = "data/vision/torralba/deeplearning/images256"  # as released
PLACES_LISTS = {"train": "train_places205.csv", "validation": "val_places205.csv"}
PLACES_CLASSES = 205
SKETCHES = {"train": 1800, "validation": 720}  # where no number is asked for
TORCHVISION = {  # name: class, arguments of the training and of the validation split
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "fashion_mnist": ("FashionMNIST", {"train": True}, {"train": False}),
    "mnist": ("MNIST", {"train": True}, {"train": False}),
    "stl10": ("STL10", {"split": "train"}, {"split": "test"}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
}
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises


@dataclass(frozen=True)
class Split:
    """One split of a source: labels [N] into its classes, and how to get the image of an index."""

    labels: np.ndarray
    picture: Callable[[int], Image.Image]
    paths: list[Path] | None = None


@dataclass(frozen=True)
class Source:
    """What a data set holds, before anything is chosen or decoded."""

    classes: list[Lineage]
    splits: dict[str, Split]  # train, validation
    root: Path
    levels: list[str] | None = None  # their names, finest first, where the source gives them


def open_source(config: DataConfig, root: str | Path | None) -> Source:
    """The source of a name, at its root.

    Raises:
        ValueError: the name is unknown, or the source is missing.
    """
    folders = {"folder": open_folder, "imagenet": open_imagenet, "places205": open_places205}
    name = config.name
    if name == "taxonomy":
        return open_taxonomy(Path(root or CONFIG_ROOT.parent / "data" / "taxonomy"))
    if name == "sketches":
        return open_sketches(config)
    if name in folders:
        if root is None:
            raise ValueError(f"data.name is {name}: say which folder, with --data-root FOLDER")
        return folders[name](Path(root))
    if name not in TORCHVISION:
        known = ", ".join(["taxonomy", "sketches", *folders, *TORCHVISION])
        raise ValueError(f"data.name {name!r} is unknown: choose {known}")
    root = Path(root or DOWNLOADS / name)
    return open_folder(root) if (root / "train").is_dir() else open_torchvision(name, root)


def open_taxonomy(root: Path) -> Source:
    """The packed pictures that `hirl.data.synthetic.taxonomy` draws.

    Raises:
        ValueError: a file is missing or broken.
    """
    splits = {}
    for name in ("train", "validation"):
        if not (root / f"{name}.npz").is_file():
            raise ValueError(f"{root}/{name}.npz is missing: `dvc pull` fetches it, `hirl data taxonomy` draws it")
        try:
            with np.load(root / f"{name}.npz") as content:
                images, labels, classes = content["images"], content["labels"], content["classes"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{root}/{name}.npz is broken: remove it, then `dvc pull` fetches it again") from error
        splits[name] = _packed_split(images, labels)
    return Source([tuple(lineage) for lineage in classes.tolist()], splits, root, list(LEVELS))


def open_sketches(config: DataConfig) -> Source:
    """The taxonomy's sketches, drawn on the spot: as many as are asked for, in the size asked for."""
    asked = {"train": config.train_images, "validation": config.validation_images}
    splits = {
        split: _packed_split(*draw_sketches(split, asked[split] or count, config.image_size))
        for split, count in SKETCHES.items()
    }
    return Source(sketch_paths(), splits, Path(), list(LEVELS))


def _packed_split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(labels, lambda index: Image.fromarray(images[index].transpose(1, 2, 0)))


def open_torchvision(name: str, root: Path) -> Source:
    """A data set of torchvision's, downloaded where it is not at hand.

    Raises:
        ValueError: it can be had neither way.
    """
    from torchvision import datasets

    kind, *arguments = TORCHVISION[name]
    try:
        loaded = [getattr(datasets, kind)(root, download=True, **kwargs) for kwargs in arguments]
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} is not in {root}, nor can it be downloaded ({reason}): give --data-root") from error
    labels = [np.asarray(data.targets if hasattr(data, "targets") else data.labels) for data in loaded]
    names = getattr(loaded[0], "classes", None) or [str(label) for label in range(labels[0].max() + 1)]
    splits = [
        Split(column, lambda index, data=data: data[index][0]) for column, data in zip(labels, loaded, strict=True)
    ]
    return Source([(name,) for name in names], dict(zip(("train", "validation"), splits, strict=True)), root)


def open_folder(root: Path) -> Source:
    """A folder with train/ and val/, validation/ or test/; in each, nested folders lead from coarse classes to fine.

    Raises:
        ValueError: a split, a class's images, or a training class is missing, or classes lie at different depths.
    """
    if not root.is_dir():
        raise ValueError(f"data folder {root} is missing: correct the path, or unpack the images there")
    validation = next((name for name in VALIDATION_FOLDERS if (root / name).is_dir()), None)
    if not (root / "train").is_dir():
        raise ValueError(f"{root} has no folder train: put a folder of images for each class there")
    if validation is None:
        raise ValueError(f"{root} has no folder val, validation or test: put a folder of images for each class there")
    train, held_out = list_images(root / "train"), list_images(root / validation)
    if unknown := sorted(set(held_out) - set(train)):
        stray = root.joinpath(validation, *unknown[0])
        raise ValueError(f"{stray} is a class that {root}/train lacks: add it there, or remove it here")
    depths = {len(branch): branch for branch in train}
    if len(depths) > 1:
        examples = " and ".join("/".join(branch) for branch in depths.values())
        raise ValueError(f"{root}/train: classes lie at different depths ({examples}): nest all alike")
    number = {branch: label for label, branch in enumerate(train)}
    splits = {name: _folder_split(images, number) for name, images in (("train", train), ("validation", held_out))}
    return Source(folder_lineages(list(train)), splits, root)


def open_imagenet(root: Path) -> Source:
    """ImageNet-1k or some of its classes: train/ and val/ of wnid folders, at the root or where the archive has them.

    Raises:
        ValueError: as `open_folder`, or the validation images are not sorted into wnid folders.
    """
    place = next((root / folder for folder in IMAGENET_FOLDERS if (root / folder / "train").is_dir()), root)
    if (place / "val").is_dir() and not any(entry.is_dir() for entry in os.scandir(place / "val")):
        raise ValueError(
            f"{place}/val has no class folders: sort its images into wnid folders, as valprep.sh of "
            "soumith/imagenetloader.torch does"
        )
    return open_folder(place)


def open_places205(root: Path) -> Source:
    """Places205 as released: the images in their long path, and a list of paths and labels for each split.

    Raises:
        ValueError: the images or a list are missing, a line is malformed, or the classes are not the 205.
    """
    images = root / PLACES_IMAGES
    if not images.is_dir():
        raise ValueError(f"{images} is missing: unpack the released archive of Places205 in {root}")
    listed = {split: _read_places(root / "trainvalsplit_places205" / name) for split, name in PLACES_LISTS.items()}
    folders = {label: path.rpartition("/")[0] for path, label in listed["train"]}
    if len(set(folders.values())) < PLACES_CLASSES:
        raise ValueError(
            f"{PLACES_LISTS['train']} must list a folder for each of {PLACES_CLASSES} classes: unpack it anew"
        )
    classes = [(folders[label].split("/", 1)[-1],) for label in range(PLACES_CLASSES)]  # a/abbey is abbey
    splits = {
        split: _file_split([images / path for path, _ in rows], np.array([label for _, label in rows]))
        for split, rows in listed.items()
    }
    return Source(classes, splits, images)


def _read_places(file: Path) -> list[tuple[str, int]]:
    """Paths and labels of a list."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: unpack trainvalsplit_places205.tar.gz of Places205 there")
    rows = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        path, _, label = line.rpartition(" ")
        if not path or not label.isdecimal() or int(label) >= PLACES_CLASSES:
            raise ValueError(f"{file}, line {number}: {line!r} must be a path, a space and a class from 0 to 204")
        rows.append((path, int(label)))
    return rows


def _folder_split(images: dict[Branch, list[Path]], number: dict[Branch, int]) -> Split:
    paths = [path for branch in images.values() for path in branch]
    labels = np.repeat([number[branch] for branch in images], [len(branch) for branch in images.values()])
    return _file_split(paths, labels)


def _file_split(paths: list[Path], labels: np.ndarray) -> Split:
    return Split(labels, lambda index: read_image(paths[index]), paths)


def list_images(folder: Path) -> dict[Branch, list[Path]]:
    """The images of every class folder, all sorted.

    Raises:
        ValueError: a class folder is empty, or images lie outside class folders.
    """
    classes = {}
    for place, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = [Path(place, name) for name in sorted(files) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        if images and (folders or place == str(folder)):
            raise ValueError(f"{images[0]} lies beside class folders, not in one: move it, or remove it")
        if not images and not folders:
            raise ValueError(f"{place} holds no image: add some, or remove the folder")
        if images:
            classes[Path(place).relative_to(folder).parts] = images
    return classes


def _unreadable(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be listed ({error.strerror}): let it be read") from error


def read_image(path: Path) -> Image.Image:
    """The decoded image of a file.

    Raises:
        ValueError: the file is missing, broken or no image.
    """
    with named(path), Image.open(path) as image:
        return image.convert("RGB")


def check_header(path: Path) -> None:
    """Looks at the head of an image file only.

    Raises:
        ValueError: the file is missing or no image.
    """
    with named(path), Image.open(path):
        pass


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Says in one line which image file cannot be read.

    Raises:
        ValueError: the file is missing, broken or no image.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: put it back, or prepare the data without it") from error
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image: replace or remove it") from error
