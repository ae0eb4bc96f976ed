from __future__ import annotations

import numpy as np
import pytest

from hirl.config import CONFIG_ROOT
from hirl.data.synthetic.taxonomy import KINDS, NUM_CLASSES, class_paths, draw, write_taxonomy

PACKED = CONFIG_ROOT.parent / "data" / "taxonomy" / "validation.npz"
LABELS, KEYS = np.arange(NUM_CLASSES), np.arange(NUM_CLASSES) + 100


def test_a_picture_does_not_depend_on_its_batch():
    together, alone = draw(LABELS, KEYS, 32), draw(LABELS[7:8], KEYS[7:8], 32)
    assert (together.images[7] == alone.images[0]).all()
    assert (together.masks[7] == alone.masks[0]).all()


def test_key_and_seed_each_change_the_picture():
    picture = draw([4], [0], 32).images
    assert (draw([4], [1], 32).images != picture).any()
    assert (draw([4], [0], 32, seed=1).images != picture).any()


def test_a_size_is_a_resolution_of_the_same_scene():
    fine, coarse = draw(LABELS, KEYS, 96).masks, draw(LABELS, KEYS, 32).masks
    share = fine.reshape(NUM_CLASSES, 32, 3, 32, 3).mean((2, 4))
    # feelers and petals' tips are thinner than a coarse pixel: 3 of 100 pixels may fall to the other side
    assert ((share > 0.5) == coarse).mean() > 0.97


def test_the_mask_is_where_the_class_is_seen():
    """The same chance with another class leaves what lies outside both objects as it was."""
    perch, pansy = draw([0], [5], 32), draw([21], [5], 32)
    outside = ~(grown(perch.masks[0]) | grown(pansy.masks[0]))
    assert outside.mean() > 0.1
    assert (perch.images[0][:, outside] == pansy.images[0][:, outside]).all()
    assert (perch.images[0][:, perch.masks[0]] != pansy.images[0][:, perch.masks[0]]).mean() > 0.5


def grown(mask: np.ndarray) -> np.ndarray:
    """A mask and two pixels around it, where an edge's smoothing reaches."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2), (5, 5)).any((2, 3))


def test_objects_are_large_but_leave_room():
    share = draw(np.repeat(LABELS, 4), np.arange(4 * NUM_CLASSES), 32).masks.mean((1, 2))
    assert 0.25 < share.mean() < 0.5
    assert share.min() > 0.05


def test_the_tree_has_4_plans_of_3_kinds_of_3_classes_with_names_of_their_own():
    names, kinds, plans = (list(level) for level in zip(*class_paths(), strict=True))
    assert len(set(names)) == NUM_CLASSES == 36
    assert len(set(kinds)) == len(KINDS) == 12
    assert len(set(plans)) == 4
    assert kinds == sorted(kinds, key=kinds.index)  # siblings stand together


def test_written_splits_are_balanced_and_drawn_again_alike(tmp_path):
    write_taxonomy(tmp_path, train=72, validation=36, size=16, seed=3)
    with np.load(tmp_path / "train.npz") as train, np.load(tmp_path / "validation.npz") as validation:
        assert (np.bincount(train["labels"]) == 2).all()
        assert (np.bincount(validation["labels"]) == 1).all()
        assert (draw(train["labels"][:5], np.arange(5), 16, seed=3).images == train["images"][:5]).all()
        assert (draw(validation["labels"][:5], 72 + np.arange(5), 16, seed=3).images == validation["images"][:5]).all()
        assert [tuple(path) for path in train["classes"]] == class_paths()


def test_too_few_pictures_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="validation is 5: give at least 36"):
        write_taxonomy(tmp_path / "out", train=36, validation=5)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not PACKED.is_file(), reason="the packed pictures are not there: dvc pull")
def test_the_packed_pictures_are_what_the_generator_draws():
    with np.load(PACKED) as validation:
        first = 3600  # keys of validation follow those of training
        assert (draw(validation["labels"][:40], first + np.arange(40), 32).images == validation["images"][:40]).all()
