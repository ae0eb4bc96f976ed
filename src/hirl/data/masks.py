"""Draw block masks of patches for masked image modelling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hirl.config import MaskConfig

BLOCK_ATTEMPTS = 10


def block_masks(num_images: int, grid: int, config: MaskConfig) -> Tensor:
    """Draw masks, True where a patch is masked: bool [N, grid, grid], on the CPU.

    An image is masked with `mask_probability`; its target ratio is uniform in `mask_ratio`. Blocks are placed until the
    target is reached or none of ten candidates fits, so that an image never has more masked patches than its target.

    The authors (and lightly's random_block_mask) loop over images, blocks and attempts. Here there is one loop over
    blocks, for all images at once; it runs on the CPU, since every block depends on the blocks before it.

    Source: iBOT (arXiv 2111.07832, section 3.2) and its loader.py, after BEiT (arXiv 2106.08254, algorithm 1).
    """
    wanted = torch.empty(num_images).uniform_(*config.mask_ratio) * grid**2
    wanted *= torch.rand(num_images) < config.mask_probability
    masks = torch.zeros(num_images, grid, grid)
    placed = wanted > 0
    while placed.any():
        missing = (wanted - masks.sum((1, 2)))[:, None]
        rows, columns = _draw_blocks(missing.expand(-1, BLOCK_ATTEMPTS), grid, config.mask_aspect)
        fresh = rows.sum(2) * columns.sum(2) - ((rows @ masks) * columns).sum(2)
        fits = (fresh > 0) & (fresh <= missing)
        placed &= fits.any(1)
        first = fits.byte().argmax(1)[:, None, None]
        block = rows.take_along_dim(first, 1).mT * columns.take_along_dim(first, 1)
        masks = torch.maximum(masks, block * placed[:, None, None])
    return masks.bool()


def _draw_blocks(missing: Tensor, grid: int, aspect: float) -> Tensor:
    """Draw a block for each number of missing patches [N, A]: 1 in its rows, then in its columns, [2, N, A, grid].

    A block's area lies between (grid / 3)^2 and the number of missing patches; one as large as the grid is left empty.
    """
    smallest = torch.full_like(missing, (grid // 3) ** 2)
    area = torch.lerp(smallest, missing.clamp(min=0), torch.rand(missing.shape))
    ratio = torch.empty(missing.shape).uniform_(math.log(aspect), -math.log(aspect)).exp()
    size = torch.stack([area * ratio, area / ratio]).sqrt().round()
    size *= (size < grid).all(0)
    start = (torch.rand(size.shape) * (grid - size + 1)).floor()
    offset = torch.arange(grid) - start[..., None]
    return ((offset >= 0) & (offset < size[..., None])).float()
