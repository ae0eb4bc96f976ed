"""Write the atlas page: semantic trees to walk in, with every image, as one self-contained HTML file.

Shapes: N images, S of them shown.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Protocol

import jinja2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hirl.files import write_text
from hirl.hierarchy.tree import SemanticTree
from hirl.reporting.atlas_data import PICKS, AtlasClasses, Pack, choose_shown, nearest_images, pack_tree

PAGE = Path(__file__).parent / "page"  # the page's template, style and scripts
LIBRARY = "d3-hierarchy.min.js"  # of d3, which lays out the treemap
SCRIPTS = ("data.js", "map.js", "panel.js", "main.js")
# These bounds keep a page below 20 MB.
SHOWN_AT_MOST = 50_000  # images on a page
SHOWN_IN_ALL_RUNS = 120_000  # of these, times the runs
SHOWN_IN_ALL_TREES = 700_000  # of these and of four times the clusters, times the trees of the trainings
SPRITE_PIXELS = 2**25  # of all pictures: 134 MB once decoded
TILE_SIZES = (160, 128, 96, 64, 48, 32, 24, 16)  # of a picture, in pixels
QUALITY = 80  # of WebP
NEIGHBORS = 8


class Images(Protocol):
    """Pictures by index: uint8 [H, W, 3] arrays, or PIL images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class AtlasRun:
    """The trees of one run.

    Attributes:
        name: unique on the page, as in `dino-hirl-s0`.
        title: as shown.
        trees: (epoch, tree) in order of time; at least one.
        features: float [N, D], what central and doubtful images and neighbors are computed from; None shows none.
        baseline: the tree of the baseline's features, clustered the same way; None shows none.
        own: the tree of this run's features, clustered as the baseline's: what is fair to compare with it; or None.
        baseline_features: float [N, D], what neighbors under the baseline are computed from; None shows none.
    """

    name: str
    title: str
    trees: tuple[tuple[int, SemanticTree], ...]
    features: NDArray[np.float32] | None = None
    baseline: SemanticTree | None = None
    own: SemanticTree | None = None
    baseline_features: NDArray[np.float32] | None = None


def write_atlas(
    path: str | Path,
    runs: Sequence[AtlasRun],
    images: Images,
    classes: AtlasClasses | None = None,
    *,
    title: str,
    names: Sequence[str] | None = None,
) -> None:
    """Write a page on which the trees of several runs over the same images can be walked.

    Args:
        images: the N pictures; of many, a random sample is shown, while sizes and purities count all.
        classes: the true classes, where they are known.
        names: the images' names, such as files, for the search; the index without them.

    Raises:
        ValueError: there is no run, a run has no tree, or the numbers of images differ.
    """
    _check(runs, images, classes)
    shown, pack = choose_shown(len(images), shown_at_most(len(runs))), Pack()
    kept = trees_at_most(len(images), sum(runs[0].trees[-1][1].num_clusters), len(runs))
    sprite, tile, columns = _sprite(images, shown)
    facts: dict[str, Any] = {
        "title": title,
        "images": {"total": len(images), "shown": len(shown), "tile": tile, "columns": columns},
        "index": pack.add(shown),
        "picks": PICKS,
        "names": None if names is None else [names[i] for i in shown.tolist()],
        "classes": None if classes is None else _pack_labels(pack, shown, classes),
        "runs": [_pack_run(pack, run, shown, classes, kept) for run in runs],
    }
    write_text(path, _render(title, facts | {"table": pack.table()}, pack.block(), sprite))


def shown_at_most(runs: int) -> int:
    """Return the number of images that a page of so many runs shows at most."""
    return min(SHOWN_AT_MOST, SHOWN_IN_ALL_RUNS // runs)


def trees_at_most(images: int, clusters: int, runs: int) -> int:
    """Return the number of trees of each training that a page shows at most.

    Args:
        clusters: of all levels of a tree.
    """
    weight = min(images, shown_at_most(runs)) + 4 * clusters
    return max(2, SHOWN_IN_ALL_TREES // (weight * runs))


def _check(runs: Sequence[AtlasRun], images: Images, classes: AtlasClasses | None) -> None:
    if not runs:
        raise ValueError("the atlas has no run: name at least one run with a tree")
    counts = {"images": len(images)}
    if classes is not None:
        counts["labels"] = len(classes.labels)
    for run in runs:
        if not run.trees:
            raise ValueError(f"{run.name} has no tree: only HIRL runs past their start_epoch have one")
        trees = {f"epoch {epoch}": tree for epoch, tree in run.trees}
        trees |= {what: tree for what, tree in (("own", run.own), ("baseline", run.baseline)) if tree is not None}
        counts |= {f"tree of {run.name}, {what}": len(tree.assignments) for what, tree in trees.items()}
        for what, features in (("features", run.features), ("baseline features", run.baseline_features)):
            counts |= {} if features is None else {f"{what} of {run.name}": len(features)}
    for what, count in counts.items():
        if count != len(images):
            raise ValueError(
                f"{what}: {count} images, but there are {len(images)} pictures: give those of one data set"
            )


def _pack_labels(pack: Pack, shown: NDArray[np.int64], classes: AtlasClasses) -> dict[str, Any]:
    labels = [pack.add(column) for column in np.asarray(classes.labels)[shown].T]
    return {"levels": list(classes.levels), "names": [list(names) for names in classes.names], "labels": labels}


def _pack_run(
    pack: Pack, run: AtlasRun, shown: NDArray[np.int64], classes: AtlasClasses | None, kept: int
) -> dict[str, Any]:
    features, others = _unit(run.features), _unit(run.baseline_features)
    return {
        "name": run.name,
        "title": run.title,
        "trees": [
            {"epoch": epoch} | pack_tree(pack, tree, shown, features, classes)
            for epoch, tree in evenly(run.trees, kept)
        ],
        "own": None if run.own is None else pack_tree(pack, run.own, shown, features, classes),
        "baseline": None if run.baseline is None else pack_tree(pack, run.baseline, shown, others, classes),
        "neighbors": _pack_neighbors(pack, features, shown),
        "baseline_neighbors": _pack_neighbors(pack, others, shown),
    }


def evenly(items: Sequence[Any], at_most: int) -> list[Any]:
    """Return at most so many items, at least two, evenly spaced from the first to the last."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), at_most)).round().astype(int))
    return [items[place] for place in chosen.tolist()]


def _unit(features: NDArray[np.float32] | None) -> torch.Tensor | None:
    return None if features is None else F.normalize(torch.as_tensor(features).float(), dim=1)


def _pack_neighbors(pack: Pack, features: torch.Tensor | None, shown: NDArray[np.int64]) -> int | None:
    if features is None or len(shown) < 2:
        return None
    return pack.add(nearest_images(features[torch.from_numpy(shown)], min(NEIGHBORS, len(shown) - 1)))


def _sprite(images: Images, shown: NDArray[np.int64]) -> tuple[bytes, int, int]:
    """Return all shown pictures in one WebP picture, row by row, the side of each and their number per row."""
    largest = max(min(_pil(images[int(index)]).size) for index in shown[:: max(1, len(shown) // 32)])
    fits = [tile for tile in TILE_SIZES if tile**2 * len(shown) <= SPRITE_PIXELS]
    tile = next((size for size in fits if size <= largest), largest)
    columns = ceil(sqrt(len(shown)))
    sheet = Image.new("RGB", (columns * tile, ceil(len(shown) / columns) * tile))
    for place, index in enumerate(shown.tolist()):
        picture = _pil(images[index])
        if picture.size != (tile, tile):
            picture = ImageOps.fit(picture, (tile, tile))
        sheet.paste(picture, (place % columns * tile, place // columns * tile))
    content = io.BytesIO()
    sheet.save(content, "webp", quality=QUALITY, method=4)
    return content.getvalue(), tile, columns


def _pil(picture: Any) -> Image.Image:
    return (picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))).convert("RGB")


def _render(title: str, facts: dict[str, Any], block: bytes, sprite: bytes) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGE), autoescape=True, trim_blocks=True)
    return environment.get_template("atlas.html.jinja").render(
        title=title,
        labeled=facts["classes"] is not None,
        sampled=facts["images"]["shown"] < facts["images"]["total"],
        style=(PAGE / "atlas.css").read_text(),
        library=(PAGE / LIBRARY).read_text(),
        script="".join((PAGE / name).read_text() for name in SCRIPTS),
        facts=json.dumps(facts, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        block=base64.b64encode(block).decode(),
        sprite=base64.b64encode(sprite).decode(),
    )
