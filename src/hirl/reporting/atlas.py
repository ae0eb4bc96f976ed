"""Draw the hierarchy atlas: the images that a run's last semantic tree put together, along its paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from hirl.data.image_files import read_image
from hirl.data.images import ImageSet, load_images
from hirl.reporting.runs import Run, assignments
from hirl.reporting.style import FAINT, INK, LOSS, figure_file

BRANCHES = {1: (12,), 2: (4, 3), 3: (3, 2, 2)}  # clusters shown per level, coarsest first: twelve rows of images
IMAGES_PER_ROW = 12
BOX_COLOR = "#f2f4f7"
BOX_WIDTH = 3  # in images
MARGIN = 0.06  # around an image or a box, in images


@dataclass(frozen=True)
class Strip:
    """A row of the atlas: a finest cluster, its path (coarsest first) and its images."""

    path: tuple[int, ...]
    images: np.ndarray


def strips(tree: np.ndarray) -> list[Strip]:
    """Return the paths to show: at every level the largest clusters, each with its largest children.

    Args:
        tree: cluster of every image, int [N, L], finest level first.
    """
    levels = tree.shape[1]
    branches = BRANCHES.get(levels, (3, 2, 2) + (1,) * (levels - 3))
    return list(_descend(tree, np.arange(len(tree)), (), branches))


def _descend(tree: np.ndarray, members: np.ndarray, path: tuple[int, ...], branches: Sequence[int]) -> Iterator[Strip]:
    """Yield the strips below a cluster, given by its path and the images in it."""
    level = tree.shape[1] - 1 - len(path)
    if level < 0:
        yield Strip(path, members)
        return
    for cluster, _ in Counter(tree[members, level].tolist()).most_common(branches[len(path)]):
        chosen = members[tree[members, level] == cluster]
        yield from _descend(tree, chosen, (*path, cluster), branches)


def atlas(run_folder: str | Path, data_folder: str | Path, path: str | Path) -> None:
    """Draw the largest semantic paths of a run's last tree: boxes from coarse to fine, then each cluster's images.

    The images are the first of the cluster in the data set's order, not selected. A frame marks an image whose class
    is not the cluster's most common one.

    Raises:
        ValueError: the run has no tree.
    """
    run = Run(Path(run_folder).parents[1], Path(run_folder).name)
    if not run.snapshots:
        raise ValueError(f"{run.folder}/snapshots holds no snapshot: only HIRL runs past their start_epoch have one")
    tree, data = assignments(run.snapshots[-1]), load_images(data_folder, "train")
    shown, levels = strips(tree), tree.shape[1]
    width = BOX_WIDTH * levels + IMAGES_PER_ROW
    with figure_file(path, (0.45 * width, 0.45 * len(shown) + 0.4), photographs=True) as figure:
        ax = figure.subplots()
        _boxes(ax, shown, tree, data)
        for row, strip in enumerate(shown):
            _pictures(ax, row, levels, strip, data)
        epoch = int(run.snapshots[-1].stem.removeprefix("epoch"))
        ax.set_title(f"{run.title}, semantic tree after {epoch} epochs: {_counts(tree)} clusters, largest first", pad=8)
        ax.set(xlim=(0, width), ylim=(len(shown), 0), aspect="equal")
        ax.axis("off")


def _counts(tree: np.ndarray) -> str:
    """Return the number of clusters per level, coarsest first."""
    return " > ".join(str(len(np.unique(column))) for column in tree.T[::-1])


def _boxes(ax: Axes, shown: list[Strip], tree: np.ndarray, data: ImageSet) -> None:
    """Draw a box per cluster and level, as tall as its strips."""
    for depth in range(tree.shape[1]):
        level = tree.shape[1] - 1 - depth
        heads = [strip.path[: depth + 1] for strip in shown]
        for head in dict.fromkeys(heads):
            top, height = heads.index(head), heads.count(head)
            left, width = depth * BOX_WIDTH + MARGIN, BOX_WIDTH - 2 * MARGIN
            ax.add_patch(
                plt.Rectangle((left, top + MARGIN), width, height - 2 * MARGIN, facecolor=BOX_COLOR, edgecolor=FAINT)
            )
            members = np.flatnonzero(tree[:, level] == head[-1])
            name, share = _majority(data, members, level)
            text = f"{len(members)} images\n{share:.0%} {shorten(name, 20, placeholder=' ...')}"
            middle = (left + width / 2, top + height / 2)
            ax.text(*middle, text, ha="center", va="center", fontsize=7, color=INK)


def _majority(data: ImageSet, members: np.ndarray, level: int) -> tuple[str, float]:
    """Return the most common true class of some images, and its share; levels beyond the classes' use the coarsest."""
    class_level = min(level, data.labels.shape[1] - 1)
    label, count = Counter(np.asarray(data.labels)[members, class_level].tolist()).most_common(1)[0]
    return data.class_names[class_level][label], count / len(members)


def _pictures(ax: Axes, row: int, levels: int, strip: Strip, data: ImageSet) -> None:
    """Draw the strip's first images, and frame those that are not of its most common class."""
    classes = np.asarray(data.labels)[:, 0]
    majority = Counter(classes[strip.images].tolist()).most_common(1)[0][0]
    left, shown = BOX_WIDTH * levels, strip.images[:IMAGES_PER_ROW]
    mosaic = side_by_side([picture(data, int(index)) for index in shown])
    extent = (left + MARGIN, left + len(shown) - MARGIN, row + 1 - MARGIN, row + MARGIN)
    ax.imshow(mosaic, extent=extent, zorder=2)
    for column in np.flatnonzero(classes[shown] != majority):
        corner, side = (left + column + MARGIN, row + MARGIN), 1 - 2 * MARGIN
        frame = plt.Rectangle(corner, side, side, fill=False, edgecolor=LOSS, linewidth=1.2)
        ax.add_patch(frame).set_zorder(3)


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Join square pictures [S, S, 3] to one with white gaps: matplotlib draws it in the time of a single picture."""
    size = len(pictures[0])
    gap = np.full((size, round(size * 2 * MARGIN / (1 - 2 * MARGIN)), 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def picture(data: ImageSet, index: int) -> np.ndarray:
    """Return one image as [H, W, 3] uint8, cropped to a square if it is read from a file."""
    if data.images is not None:
        return np.asarray(data.images[index]).transpose(1, 2, 0)
    assert data.paths is not None
    from PIL import ImageOps

    return np.asarray(ImageOps.fit(read_image(data.paths[index]), (96, 96)))
