"""Block masks: as many patches as wanted at most, in blocks, and spread as the authors' loop spreads them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from hirl.config import IBOTConfig
from hirl.data.masks import block_masks


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [4, 8, 14])
def test_half_of_the_images_are_masked_within_the_ratio(grid):
    n = 2000
    masks = block_masks(n, grid, IBOTConfig())
    share = masks.float().mean((1, 2))
    assert masks.shape == (n, grid, grid)
    assert masks.dtype == torch.bool
    assert (share > 0).float().mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / n))
    assert share.max() <= 0.5


@pytest.mark.parametrize("wanted", [0.1, 0.3, 0.75])
def test_never_more_patches_are_masked_than_wanted_and_hardly_fewer(wanted):
    config = IBOTConfig(mask_probability=1, mask_ratio=(wanted, wanted))
    share = block_masks(500, 8, config).float().mean((1, 2))
    assert share.max() <= wanted
    assert share.mean() > 0.8 * wanted  # ten attempts in a row may fail


def test_masks_are_spread_as_by_the_authors_loop():
    n, grid = 1500, 8
    random.seed(0)
    config = IBOTConfig(mask_probability=1)
    theirs = torch.from_numpy(np.stack([authors_mask(grid, config) for _ in range(n)])).double()
    ours = block_masks(n, grid, config).double()
    for quantity in (patches, borders, middle):
        a, b = quantity(ours), quantity(theirs)
        error = math.sqrt((a.var() + b.var()) / n)
        assert a.mean().item() == pytest.approx(b.mean().item(), abs=4 * error), quantity.__name__


def test_masks_are_blocks():
    masks = block_masks(500, 8, IBOTConfig(mask_probability=1)).double()
    scattered = masks.flatten(1)[:, torch.randperm(64)].view_as(masks)
    assert borders(masks).mean() < 0.5 * borders(scattered).mean()


def test_the_same_seed_gives_the_same_masks():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(block_masks(8, 8, IBOTConfig()))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_nothing_is_masked_without_probability():
    assert not block_masks(16, 8, IBOTConfig(mask_probability=0)).any()


def patches(masks):
    return masks.sum((1, 2))


def borders(masks):
    """Neighbours of which one is masked."""
    return masks.diff(dim=1).abs().sum((1, 2)) + masks.diff(dim=2).abs().sum((1, 2))


def middle(masks):
    return masks[:, 2:-2, 2:-2].sum((1, 2))


def authors_mask(grid: int, config: IBOTConfig) -> np.ndarray:
    """One image's mask, attempt by attempt (iBOT, loader.py)."""
    wanted = random.uniform(*config.mask_ratio) * grid**2
    limit = -math.log(config.mask_aspect)
    mask = np.zeros((grid, grid), bool)
    failures = 0
    while mask.sum() < wanted and failures < 10:
        missing = wanted - mask.sum()
        area, ratio = random.uniform((grid // 3) ** 2, missing), math.exp(random.uniform(-limit, limit))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        failures += 1
        if h < grid and w < grid:
            top, left = random.randint(0, grid - h), random.randint(0, grid - w)
            block = mask[top : top + h, left : left + w]
            if 0 < h * w - block.sum() <= missing:
                block[:] = True
                failures = 0
    return mask
