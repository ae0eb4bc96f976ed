"""The atlas shows the images of the largest clusters."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from hirl.data.images import ImageSet
from hirl.reporting.atlas import atlas, picture, side_by_side, strips
from hirl.reporting.runs import Run, assignments


def test_the_atlas_shows_the_images_of_the_data(drawn):
    """The fixture's images are red, green or blue with noise, so the atlas must hold all three colors."""
    picture = plt.imread(drawn["atlas-mocov2-hirl-s0.png"])[..., :3]
    for channel in range(3):
        others = np.delete(picture, channel, axis=2).max(axis=2)
        assert ((picture[..., channel] > 0.4) & (others < 0.3)).mean() > 0.02


def test_the_atlas_shows_the_largest_clusters_first(study):
    tree = assignments(Run(study[0], "mocov2-hirl-s0").snapshots[-1])
    shown = strips(tree)
    assert len(shown) == 12  # three coarse clusters, two children each, two of theirs each
    for strip in shown:
        coarse, middle, fine = strip.path
        assert (tree[strip.images] == [fine, middle, coarse]).all()
        assert (np.diff(strip.images) > 0).all()  # in the order of the data set
    sizes = [np.count_nonzero(tree[:, 2] == strip.path[0]) for strip in shown]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("levels", "rows"), [(1, 12), (2, 12), (3, 12), (4, 12)])
def test_trees_of_any_depth_fit(levels, rows):
    fine = np.arange(1024) % 256
    tree = np.stack([fine // 4**level for level in range(levels)], axis=1)
    assert len(strips(tree)) == rows


def test_images_from_files_are_cropped_to_squares(tmp_path):
    Image.new("RGB", (40, 20), (0, 200, 0)).save(tmp_path / "wide.png")
    data = ImageSet(None, [tmp_path / "wide.png"], torch.zeros(1, 1, dtype=torch.int64), [["green"]], [], 32)
    assert (picture(data, 0) == (0, 200, 0)).all()
    assert picture(data, 0).shape == (96, 96, 3)


def test_a_run_without_a_tree_has_no_atlas(study, tmp_path):
    folder, _ = study
    with pytest.raises(ValueError, match="mocov2-baseline-s0/snapshots holds no snapshot: only HIRL runs"):
        atlas(folder / "runs" / "mocov2-baseline-s0", folder / "data", tmp_path / "atlas.png")
    assert not (tmp_path / "atlas.png").exists()


def test_pictures_side_by_side_are_parted_by_white():
    joined = side_by_side([np.full((32, 32, 3), shade, np.uint8) for shade in (10, 20, 30)])
    assert joined.shape == (32, 3 * 32 + 2 * 4, 3)
    assert joined[0, :, 0].tolist() == [10] * 32 + [255] * 4 + [20] * 32 + [255] * 4 + [30] * 32
