"""Write the atlas of a fitted estimator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from hirl.data.pictures import open_pictures
from hirl.data.sources import Split
from hirl.reporting.atlas_data import AtlasClasses
from hirl.reporting.atlas_page import AtlasRun
from hirl.reporting.atlas_page import write_atlas as write_page

if TYPE_CHECKING:
    from hirl.estimator.model import HIRL


class Pictures:
    """The pictures of a split by index, as the atlas takes them."""

    def __init__(self, split: Split):
        self.split = split

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> Image.Image:
        return self.split.picture(index)


def write_atlas(model: HIRL, path: str | Path, pictures: Any = None, title: str | None = None) -> None:
    """Write the atlas of a fitted estimator, as `HIRL.write_atlas` says."""
    if pictures is None and model.paths_ is None:
        raise ValueError("the fitted pictures are no files: give them to the atlas again")
    split = open_pictures(model.paths_ if pictures is None else pictures)
    config, tree = model.config_, model.tree_
    name = f"{config.method}-{config.variant}" if model.history_ else config.backbone.name
    names = None if model.paths_ is None else _short(model.paths_)
    tree_classes = model.classes_tree_
    classes = None
    if tree_classes.levels:
        classes = AtlasClasses(
            tuple(tree_classes.levels), tuple(map(tuple, tree_classes.class_names)), model.class_labels_
        )
    run = AtlasRun(name, name, ((len(model.history_), tree),), model.features_)
    write_page(path, [run], Pictures(split), classes, title=title or name, names=names)


def _short(paths: list[Path]) -> list[str]:
    """Return the paths below the folder that they have in common."""
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return [str(path.relative_to(common)) for path in paths]
