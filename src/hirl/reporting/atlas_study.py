"""Write the atlas page of a study: its HIRL runs, and their baselines' features clustered the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hirl.config import TreeKMeansConfig
from hirl.config.run_name import RunName
from hirl.data.image_files import to_rgb
from hirl.data.images import ImageSet, load_images
from hirl.distributed.device import seed_step
from hirl.hierarchy.kmeans import hierarchical_kmeans
from hirl.hierarchy.tree import SemanticTree
from hirl.reporting.atlas_page import AtlasClasses, AtlasRun, evenly, trees_at_most, write_atlas
from hirl.reporting.runs import Run, level_names, open_runs

CLUSTERED_AT_MOST = 200_000  # images whose features are clustered here, which takes a CPU minutes
DRAFT = (320, 320)  # pixels at which a large JPEG is decoded at least


@dataclass(frozen=True)
class StudyImages:
    """The training images of prepared data, by index."""

    data: ImageSet

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> NDArray[np.uint8] | Image.Image:
        if self.data.images is not None:
            return self.data.images[index].permute(1, 2, 0).numpy()
        assert self.data.paths is not None
        with Image.open(self.data.paths[index]) as image:
            image.draft("RGB", DRAFT)
            return to_rgb(image)


@dataclass
class _Clusterings:
    """Trees of the features of runs; those of a baseline serve all its variants with as many clusters."""

    made: dict[tuple[str, tuple[int, ...]], SemanticTree] = field(default_factory=dict)

    def tree(self, run: Run, like: Run) -> SemanticTree | None:
        """Return the tree of a run's features, clustered with another run's settings; None without features."""
        features = run.features()
        if features is None or len(features) > CLUSTERED_AT_MOST:
            return None
        settings = like.config["hierarchy"]
        key = (run.name, tuple(settings["num_clusters"]))
        if key not in self.made:
            seed_step(run.seed, -1)  # as before a training's first step
            config = TreeKMeansConfig(**settings["kmeans"])
            self.made[key] = hierarchical_kmeans(torch.from_numpy(features), key[1], config, run.seed)
        return self.made[key]


def write_study_atlas(study_folder: str | Path, names: Sequence[str], path: str | Path) -> None:
    """Write the page of those of the named runs that have trees.

    A baseline is shown beside a run where its features are in the study's folder, and where the images are few enough
    to cluster them here.

    Raises:
        ValueError: no run has a tree, or the data is missing.
    """
    study_folder = Path(study_folder)
    data = load_images(study_folder / "data", "train")
    runs = [run for run in open_runs(study_folder, names) if run.has_tree and _snapshots(run)]
    if not runs:
        raise ValueError(f"{study_folder}: none of the runs has a tree: name a HIRL run past its start_epoch in --runs")
    clusters, clusterings = sum(runs[0].config["hierarchy"]["num_clusters"]), _Clusterings()
    kept = trees_at_most(len(data), clusters, len(runs))
    write_atlas(
        path,
        [_atlas_run(run, kept, clusterings) for run in runs],
        StudyImages(data),
        _classes(study_folder, data),
        title=f"HIRL atlas: {study_folder.name}",
        names=None if data.paths is None else [file.name for file in data.paths],
    )


def _snapshots(run: Run) -> list[tuple[int, Path]]:
    """Return the saved trees with the number of epochs before each."""
    return [(int(path.stem.removeprefix("epoch")), path) for path in run.snapshots]


def _atlas_run(run: Run, kept: int, clusterings: _Clusterings) -> AtlasRun:
    trees = tuple((epoch, SemanticTree.load(path)) for epoch, path in evenly(_snapshots(run), kept))
    baseline = Run(run.study_folder, str(RunName(run.method, "baseline", run.seed)))
    return AtlasRun(
        run.name,
        run.title + (f", seed {run.seed}" if run.seed else ""),
        trees,
        run.features(),
        clusterings.tree(baseline, run),
        clusterings.tree(run, run),
        baseline.features(),
    )


def _classes(study_folder: Path, data: ImageSet) -> AtlasClasses | None:
    """Return the classes of the data; None if all images have the same."""
    if len(data.class_names[0]) < 2:
        return None
    return AtlasClasses(level_names(study_folder), data.class_names, data.labels.numpy())
