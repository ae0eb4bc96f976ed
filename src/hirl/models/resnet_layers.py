"""Layers of ResNets in the form that a CPU runs fastest; only rounding differs.

On a map of 2x2 pixels most weights of a 3x3 kernel only meet the zeros around it: 16 of 36 products count, on one pixel
1 of 9. oneDNN's convolutions compute all of them, or run at a small part of the processor's rate. One product of
matrices does neither.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from timm.models.resnet import ResNet
from torch import Tensor, nn

SMALL = 2  # pixels a side of the largest map that is multiplied


def use_fast_layers(network: ResNet) -> None:
    """Make a network's convolutions `Conv2d` and its pooling `GlobalAverage`; parameters and their names stay."""
    for layer in network.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = Conv2d
    network.global_pool = GlobalAverage()


class GlobalAverage(nn.Module):
    """The mean over a map's pixels, [B, C, H, W] -> [B, C].

    The gradient of torch's pooling is not channels-last, which makes the layers below it convert or read it slowly.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Average over the pixels."""
        return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class Conv2d(nn.Conv2d):
    """torch's convolution; on a CPU, padded 3x3 kernels on small maps become matrix products."""

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps [B, C, H, W]."""
        multiplied = self.kernel_size == (3, 3) and self.padding == (1, 1) and self.dilation == (1, 1)
        if maps.is_cuda or max(maps.shape[2:]) > SMALL or not multiplied or self.groups > 1 or self.bias is not None:
            return super().forward(maps)
        return multiply_map(maps, self.weight, self.stride)


def multiply_map(maps: Tensor, weight: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Convolve maps [B, C, H, W] of at most 2x2 pixels with kernels [D, C, 3, 3], padded by one: [B, D, H', W'].

    The matrix has a row for each output channel and pixel, and a column for each input pixel and channel.
    """
    batch, channels, height, width = maps.shape
    rows, columns = ((side - 1) // step + 1 for side, step in zip((height, width), stride, strict=True))
    kernels = weight.permute(0, 2, 3, 1).flatten(1, 2)  # [D, 9, C]; no copy in channels_last
    matrix = kernels.index_select(1, _met_weights(height, width, *stride)).view(-1, height * width * channels)
    products = F.linear(maps.permute(0, 2, 3, 1).reshape(batch, -1), matrix)
    return products.view(batch, -1, rows, columns).contiguous(memory_format=torch.channels_last)


@lru_cache
def _met_weights(height: int, width: int, row_step: int, column_step: int) -> Tensor:
    """Return which of a kernel's nine weights each input pixel meets, output pixel by output pixel: [H'W'HW]."""
    return torch.tensor(
        [
            3 * (row - top + 1) + column - left + 1
            for top in range(0, height, row_step)
            for left in range(0, width, column_step)
            for row in range(height)
            for column in range(width)
        ]
    )
