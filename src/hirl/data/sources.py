"""Open data sources by name. SOURCES, at the end, maps every value of data.name to its source.

To add a data source, write a function here that returns a Source, and add it to SOURCES.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hirl.config import CONFIG_ROOT, DataConfig
from hirl.data.class_tree import Branch, Lineage, folder_lineages
from hirl.data.image_files import is_image, list_class_folders, list_images, read_image
from hirl.data.synthetic import sketches, taxonomy

DOWNLOADS = Path("~/.cache/hirl").expanduser()
NO_FOLDER = Path()  # the root of a source whose images are drawn
VALIDATION_FOLDERS = ("val", "validation", "test")  # the first that exists is taken
VALIDATION_SHARE = 0.1  # of the images of a folder without splits
IMAGENET_FOLDERS = ("ILSVRC/Data/CLS-LOC", "ILSVRC/Data", ".")  # where the released archive has train/, below the root
PLACES_IMAGES = "data/vision/torralba/deeplearning/images256"  # as released
PLACES_LISTS = {"train": "train_places205.csv", "validation": "val_places205.csv"}
PLACES_CLASSES = 205


@dataclass(frozen=True)
class Split:
    """One split of a source.

    Attributes:
        labels: int [N], each image's finest class.
        picture: returns the image of an index.
        paths: the image files, where there are any.
    """

    labels: np.ndarray
    picture: Callable[[int], Image.Image]
    paths: list[Path] | None = None


@dataclass(frozen=True)
class Source:
    """The content of a data set, before images are chosen or decoded.

    Attributes:
        classes: the lineage of every class; one without names, (), for images without classes.
        splits: "train" and "validation".
        levels: the names of the class levels, finest first, where the source gives them.
    """

    classes: Sequence[Lineage]
    splits: dict[str, Split]
    root: Path
    levels: list[str] | None = None


@dataclass(frozen=True)
class SourceEntry:
    """A row of SOURCES.

    Attributes:
        open: returns the source of a configuration at a root.
        default_root: where the images are if no root is given; None: the user has to give one.
        num_images: training and validation images of the whole set; None: they depend on the user's files.
    """

    open: Callable[[DataConfig, Path], Source]
    default_root: Path | None = None
    num_images: tuple[int, int] | None = None


def open_source(config: DataConfig, root: str | Path | None) -> Source:
    """Open the source that the configuration names.

    Raises:
        ValueError: the name is unknown, or the source is missing or broken.
    """
    if config.name not in SOURCES:
        raise ValueError(f"data.name {config.name!r} is unknown: choose {', '.join(SOURCES)}")
    entry = SOURCES[config.name]
    place = root or entry.default_root
    if place is None:
        raise ValueError(f"data.name is {config.name}: give its folder with --data-root FOLDER")
    return entry.open(config, Path(place))


# --- drawn pictures ---------------------------------------------------------------------------------------------------


def open_taxonomy(config: DataConfig, root: Path) -> Source:
    """Open the packed pictures that `hirl.data.synthetic.taxonomy` draws.

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
    return Source([tuple(lineage) for lineage in classes.tolist()], splits, root, list(taxonomy.LEVELS))


def open_sketches(config: DataConfig, root: Path) -> Source:
    """Draw the taxonomy's sketches: as many as the configuration asks for, in its size."""
    train, validation = sketches.NUM_IMAGES
    counts = {"train": config.train_images or train, "validation": config.validation_images or validation}
    splits = {
        name: _packed_split(*sketches.draw_sketches(name, count, config.image_size)) for name, count in counts.items()
    }
    return Source(sketches.sketch_paths(), splits, root, list(taxonomy.LEVELS))


def _packed_split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(labels, lambda index: Image.fromarray(images[index].transpose(1, 2, 0)))


# --- image files ------------------------------------------------------------------------------------------------------


def open_folder(config: DataConfig, root: Path) -> Source:
    """Open a folder of images in any of three layouts; nested class folders lead from coarse classes to fine.

    - train/ and val/, validation/ or test/, each with class folders.
    - Class folders alone: a tenth of each class is drawn as the validation split, always the same.
    - Images alone, which have no classes: a tenth is drawn likewise.

    Raises:
        ValueError: a split, a class's images, or a training class is missing, or classes lie at different depths.
    """
    if is_split(root):
        return _open_split_folder(root)
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    if not any(entry.is_dir() for entry in entries):
        if not any(is_image(entry.name) for entry in entries):
            raise ValueError(f"{root} has no folder train and no image: put images there, or a folder for each class")
        return _without_classes(root, list_images(root))
    classes = list_class_folders(root)
    _check_depths(root, classes)
    split = _folder_split(classes, {branch: label for label, branch in enumerate(classes)})
    return Source(folder_lineages(list(classes)), _draw_validation(root, split), root)


def open_unlabelled(config: DataConfig, root: Path) -> Source:
    """Open all images below a folder as images without classes; a tenth is drawn as the validation split.

    Raises:
        ValueError: the folder is missing, or holds fewer than two images.
    """
    _check_there(root)
    return _without_classes(root, list_images(root))


def open_any_folder(root: Path) -> tuple[str, Source, str]:
    """Open any folder of images: with classes if its folders can be classes, otherwise without.

    Returns:
        The data.name that opens it, the source, and why its folders are no classes: empty if they are classes.

    Raises:
        ValueError: the folder is missing or holds too few images, or it has splits and one of them is malformed.
    """
    if is_split(root):
        return "folder", _open_split_folder(root), ""
    images = list_images(root)
    if {path.parent for path in images} == {root}:
        return "unlabelled", _without_classes(root, images), ""
    try:
        return "folder", open_folder(DataConfig(), root), ""
    except ValueError as error:
        return "unlabelled", _without_classes(root, images), str(error).rpartition(": ")[0]


def is_split(root: Path) -> bool:
    """Return whether a folder has train/ and another split; one that has train/ alone is taken to lack the other."""
    _check_there(root)
    folders = {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")}
    return folders == {"train"} or ("train" in folders and not folders.isdisjoint(VALIDATION_FOLDERS))


def _without_classes(root: Path, images: list[Path]) -> Source:
    return Source([()], _draw_validation(root, _file_split(images, np.zeros(len(images), np.int64))), root)


def _draw_validation(root: Path, split: Split) -> dict[str, Split]:
    """Draw a tenth of each class for validation, at least one image where a class has two; the same at every call.

    Raises:
        ValueError: no class has two images.
    """
    order = np.random.default_rng(0).permutation(len(split.labels))
    drawn = []
    for label in np.unique(split.labels):
        members = order[split.labels[order] == label]
        drawn.append(members[: max(round(len(members) * VALIDATION_SHARE), int(len(members) > 1))])
    validation = np.sort(np.concatenate(drawn))
    if not len(validation):
        raise ValueError(f"{root} has no two images of a class, so that none can be held out: add images")
    train = np.setdiff1d(np.arange(len(split.labels)), validation)
    assert split.paths is not None
    paths = split.paths
    return {
        name: _file_split([paths[index] for index in chosen], split.labels[chosen])
        for name, chosen in (("train", train), ("validation", validation))
    }


def _open_split_folder(root: Path) -> Source:
    """Open a folder with train/ and val/, validation/ or test/; errors are those of `open_folder`."""
    validation_folder = _find_validation_folder(root)
    train, validation = list_class_folders(root / "train"), list_class_folders(validation_folder)
    if unknown := sorted(set(validation) - set(train)):
        stray = validation_folder.joinpath(*unknown[0])
        raise ValueError(f"{stray} is a class that {root}/train lacks: add it there, or remove it here")
    _check_depths(root / "train", train)
    labels = {branch: label for label, branch in enumerate(train)}
    splits = {"train": _folder_split(train, labels), "validation": _folder_split(validation, labels)}
    return Source(folder_lineages(list(train)), splits, root)


def _check_depths(folder: Path, classes: Iterable[Branch]) -> None:
    depths = {len(branch): branch for branch in classes}
    if len(depths) > 1:
        examples = " and ".join("/".join(branch) for branch in depths.values())
        raise ValueError(
            f"{folder}: classes lie at different depths ({examples}): nest all alike, or set data.name to unlabelled"
        )


def _check_there(root: Path) -> None:
    if not root.is_dir():
        raise ValueError(f"data folder {root} is missing: correct the path, or unpack the images there")


def _find_validation_folder(root: Path) -> Path:
    _check_there(root)
    if not (root / "train").is_dir():
        raise ValueError(f"{root} has no folder train: put a folder of images for each class there")
    for name in VALIDATION_FOLDERS:
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"{root} has no folder val, validation or test: put a folder of images for each class there")


def open_imagenet(config: DataConfig, root: Path) -> Source:
    """Open ImageNet-1k or some of its classes: train/ and val/ of wnid folders, at the root or as in the archive.

    Raises:
        ValueError: as `open_folder`, or the validation images are not sorted into wnid folders.
    """
    place = next((root / folder for folder in IMAGENET_FOLDERS if (root / folder / "train").is_dir()), root)
    if (place / "val").is_dir() and not any(entry.is_dir() for entry in os.scandir(place / "val")):
        raise ValueError(
            f"{place}/val has no class folders: sort its images into wnid folders, as valprep.sh of "
            "soumith/imagenetloader.torch does"
        )
    return _open_split_folder(place)


def open_places205(config: DataConfig, root: Path) -> Source:
    """Open Places205 as released: the images in their long path, and for each split a list of paths and labels.

    Raises:
        ValueError: the images or a list are missing, a line is malformed, or the classes are not the 205.
    """
    images = root / PLACES_IMAGES
    if not images.is_dir():
        raise ValueError(f"{images} is missing: unpack the released archive of Places205 in {root}")
    listed = {split: _read_places_list(root / "trainvalsplit_places205" / name) for split, name in PLACES_LISTS.items()}
    folders = {label: path.rpartition("/")[0] for path, label in listed["train"]}
    if len(set(folders.values())) < PLACES_CLASSES:
        raise ValueError(
            f"{PLACES_LISTS['train']} must list a folder for each of {PLACES_CLASSES} classes: unpack it anew"
        )
    classes = [(folders[label].split("/", 1)[-1],) for label in range(PLACES_CLASSES)]  # a/abbey is the class abbey
    splits = {}
    for split, rows in listed.items():
        splits[split] = _file_split([images / path for path, _ in rows], np.array([label for _, label in rows]))
    return Source(classes, splits, images)


def _read_places_list(file: Path) -> list[tuple[str, int]]:
    """Return the path and label of every line."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: unpack trainvalsplit_places205.tar.gz of Places205 there")
    rows = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        path, _, label = line.rpartition(" ")
        if not path or not label.isdecimal() or int(label) >= PLACES_CLASSES:
            raise ValueError(f"{file}, line {number}: {line!r} must be a path, a space and a class from 0 to 204")
        rows.append((path, int(label)))
    return rows


def _folder_split(images: dict[Branch, list[Path]], labels: dict[Branch, int]) -> Split:
    paths = [path for files in images.values() for path in files]
    counts = [len(files) for files in images.values()]
    return _file_split(paths, np.repeat([labels[branch] for branch in images], counts))


def _file_split(paths: list[Path], labels: np.ndarray) -> Split:
    return Split(labels, lambda index: read_image(paths[index]), paths)


# --- torchvision's data sets ------------------------------------------------------------------------------------------


def open_torchvision(dataset: str, arguments: dict[str, dict[str, Any]], config: DataConfig, root: Path) -> Source:
    """Open a data set of torchvision's, downloaded if it is not at the root; an image folder there is taken instead.

    Args:
        dataset: its class in torchvision.datasets.
        arguments: what asks that class for the "train" and the "validation" split.

    Raises:
        ValueError: it is not there and cannot be downloaded.
    """
    if (root / "train").is_dir():
        return open_folder(config, root)
    from torchvision import datasets

    try:
        loaded = {split: getattr(datasets, dataset)(root, download=True, **asked) for split, asked in arguments.items()}
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{config.name} is not in {root}, and its download failed ({reason}): give its folder with --data-root"
        ) from error
    splits = {split: _torchvision_split(data) for split, data in loaded.items()}
    num_classes = splits["train"].labels.max() + 1
    names = getattr(loaded["train"], "classes", None) or [str(label) for label in range(num_classes)]
    return Source([(name,) for name in names], splits, root)


def _torchvision_split(data: Any) -> Split:
    labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels)
    return Split(labels, lambda index: data[index][0])


def _by_flag(name: str, dataset: str, num_images: tuple[int, int]) -> SourceEntry:
    """Return the entry of a data set whose splits are train=True and train=False."""
    arguments = {"train": {"train": True}, "validation": {"train": False}}
    return SourceEntry(partial(open_torchvision, dataset, arguments), DOWNLOADS / name, num_images)


def _by_split(name: str, dataset: str, num_images: tuple[int, int]) -> SourceEntry:
    """Return the entry of a data set whose splits are called "train" and "test"."""
    arguments = {"train": {"split": "train"}, "validation": {"split": "test"}}
    return SourceEntry(partial(open_torchvision, dataset, arguments), DOWNLOADS / name, num_images)


# --- the table --------------------------------------------------------------------------------------------------------

SOURCES: dict[str, SourceEntry] = {
    "taxonomy": SourceEntry(open_taxonomy, CONFIG_ROOT.parent / "data" / "taxonomy", taxonomy.NUM_IMAGES),
    "sketches": SourceEntry(open_sketches, NO_FOLDER, sketches.NUM_IMAGES),
    "folder": SourceEntry(open_folder),
    "unlabelled": SourceEntry(open_unlabelled),
    "imagenet": SourceEntry(open_imagenet, num_images=(1_281_167, 50_000)),
    "places205": SourceEntry(open_places205, num_images=(2_448_873, 20_500)),
    "cifar10": _by_flag("cifar10", "CIFAR10", (50_000, 10_000)),
    "cifar100": _by_flag("cifar100", "CIFAR100", (50_000, 10_000)),
    "fashion_mnist": _by_flag("fashion_mnist", "FashionMNIST", (60_000, 10_000)),
    "mnist": _by_flag("mnist", "MNIST", (60_000, 10_000)),
    "stl10": _by_split("stl10", "STL10", (5_000, 8_000)),
    "svhn": _by_split("svhn", "SVHN", (73_257, 26_032)),
}
