"""Layers of ResNets for a CPU: the same maths as torch's."""

import pytest
import torch
from torch import nn

from hirl.config import BackboneConfig
from hirl.models.backbones import build_backbone
from hirl.models.resnet_layers import Conv2d, GlobalAverage, multiply_map

SIZES = [(1, 1), (1, 2), (2, 1), (2, 2)]
TOLERANCE = 1e-5  # sums of up to 108 products in another order


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_small_maps_give_torchs_convolution_and_gradients(size, stride):
    torch.manual_seed(0)
    maps, weight = torch.randn(5, 12, *size, requires_grad=True), torch.randn(7, 12, 3, 3, requires_grad=True)
    expected = nn.functional.conv2d(maps, weight, stride=stride, padding=1)
    found = multiply_map(maps, weight, (stride, stride))
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    for one, other in zip(
        torch.autograd.grad(found, (maps, weight), gradient),
        torch.autograd.grad(expected, (maps, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("options", [{"kernel_size": 1}, {"kernel_size": 3}, {"kernel_size": 3, "padding": 1}])
@pytest.mark.parametrize("side", [2, 3, 4])
def test_every_other_convolution_is_torchs(options, side):
    if side < options["kernel_size"] - 2 * options.get("padding", 0):
        pytest.skip("the kernel is larger than the map")
    layer = nn.Conv2d(4, 6, bias=False, stride=2, **options)
    maps = torch.randn(3, 4, side, side)
    expected = layer(maps)
    layer.__class__ = Conv2d
    torch.testing.assert_close(layer(maps), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_mean_over_pixels_passes_on_a_gradient_in_channels_last():
    maps = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    active, gradients = maps.relu(), []
    active.register_hook(gradients.append)
    pooled = GlobalAverage()(active)
    torch.testing.assert_close(pooled, active.mean((2, 3)))
    pooled.square().sum().backward()
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gradients[0], (2 * pooled / 30)[:, :, None, None].expand_as(active))


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet18_small_images"])
def test_a_resnets_features_are_those_of_torchs_layers(name):
    torch.manual_seed(0)
    network = build_backbone(BackboneConfig(name=name), image_size=16)
    images = torch.randn(4, 3, 16, 16)
    features = network(images)
    for layer in network.modules():
        if type(layer) is Conv2d:
            layer.__class__ = nn.Conv2d
    network.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # twenty layers of batch norm over few values magnify the rounding of a product
    torch.testing.assert_close(features, network(images), rtol=1e-3, atol=1e-3)
