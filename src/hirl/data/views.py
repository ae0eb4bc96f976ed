"""Draw random views of a batch of images: torchvision's transforms, each image with its own parameters.

Every operation is one expression over the whole batch, on the batch's device and without waiting for it: crops and
blurs are two small matrix products per image, blends and grayscale an affine map of its colours. Random numbers come
from the default generator of that device and are drawn for the batch of all ranks. Call it outside autocast, which
would round pixels to bfloat16.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.config import ViewsConfig
from hirl.distributed.collectives import local_slice, world_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
ASPECT = (3 / 4, 4 / 3)  # range of a crop's width over its height
CROP_ATTEMPTS = 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LOCAL = 2  # the index of local views in the configuration's triples
LARGE = 64  # pixels a side; a CPU resizes larger images one by one, since dense products would cost more


class Views:
    """Draw the views of a batch: one or two global views, then the local views.

    Source: MoCo v2 (arXiv 2003.04297, section 3), multi-crop of SwAV (arXiv 2006.09882, section 3.2), solarising of
    BYOL (arXiv 2006.07733, appendix B).
    """

    def __init__(self, config: ViewsConfig):
        self.config = config

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return all views of uint8 images [N, 3, H, W], normalised: float [N, 3, size, size] each."""
        return self.color(self.crop(images))

    @torch.no_grad()
    def crop(self, images: Tensor) -> list[Tensor]:
        """Return random resized and flipped crops, float in [0, 1], of uint8 images [N, 3, H, W]."""
        c = self.config
        pixels = images.float().div_(255)
        kinds = [(c.global_size, c.global_scale)] * c.global_crops + [(c.local_size, c.local_scale)] * c.local_crops
        return [self._crop(pixels, size, scale) for size, scale in kinds]

    def _crop(self, pixels: Tensor, size: int, scale: tuple[float, float]) -> Tensor:
        n, _, height, width = pixels.shape
        boxes = crop_boxes(n * world_size(), height, width, scale, pixels.device)
        flipped = _chosen(n * world_size(), self.config.flip, pixels.device)
        return resized_crop(pixels, local_slice(boxes), local_slice(flipped), size, self.config.interpolation)

    @torch.no_grad()
    def color(self, crops: list[Tensor]) -> list[Tensor]:
        """Return copies of a batch's crops [N, 3, size, size]: jittered, grayscaled, blurred, solarised, normalised."""
        kinds = [*range(self.config.global_crops), *[LOCAL] * self.config.local_crops]
        return [self._color(crop, kind) for crop, kind in zip(crops, kinds, strict=True)]

    def _color(self, images: Tensor, kind: int) -> Tensor:
        c, n, device = self.config, len(images) * world_size(), images.device
        if c.jitter.probability:
            images = jitter(images, *map(local_slice, self._draw_jitter(n, device)))
        if c.grayscale:
            images = grayscale(images, local_slice(_chosen(n, c.grayscale, device)))
        if c.blur[kind]:
            sigma = torch.empty(n, device=device).uniform_(*c.blur_sigma)
            images = blur(images, local_slice(sigma * _chosen(n, c.blur[kind], device)), c.blur_sigma[1])
        if c.solarize[kind]:
            images = solarize(images, local_slice(_chosen(n, c.solarize[kind], device)))
        return normalize(images)

    def _draw_jitter(self, n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the operations' order [N, 4], factors [N, 3] and hue turns [N]; neutral without jitter."""
        c = self.config.jitter
        order = torch.rand(n, 4, device=device).argsort(1)
        chosen = _chosen(n, c.probability, device)
        ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in (c.brightness, c.contrast, c.saturation)]
        factors = torch.stack([torch.empty(n, device=device).uniform_(*r) for r in ranges], dim=1)
        turns = torch.empty(n, device=device).uniform_(-c.hue, c.hue)
        return order, torch.lerp(torch.ones_like(factors), factors, chosen[:, None]), turns * chosen


def evaluation_view(images: Tensor) -> Tensor:
    """Return uint8 images [N, 3, H, W] unchanged but normalised."""
    return normalize(images.float().div_(255))


def normalize(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean from images in [0, 1] and divide by its standard deviation."""
    mean, std = (_constant(v, images.device).view(3, 1, 1) for v in (MEAN, STD))
    return (images - mean).div_(std)


def denormalize(views: Tensor) -> Tensor:
    """Return the pixels of normalised views, in [0, 1]."""
    mean, std = (_constant(v, views.device).view(3, 1, 1) for v in (MEAN, STD))
    return (views * std + mean).clamp_(0, 1)


# --- crops ------------------------------------------------------------------------------------------------------------


def crop_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], device: torch.device | str = "cpu"
) -> Tensor:
    """Draw boxes in an image of height x width: int64 [N, 4], rows (top, left, height, width).

    As torchvision's RandomResizedCrop: the area is uniform in scale, the aspect ratio log-uniform in 3/4..4/3. The
    first of ten draws that fits is taken, or the largest central box of an allowed ratio if none does.
    """
    area = height * width * torch.empty(n, CROP_ATTEMPTS, device=device).uniform_(*scale)
    ratio = torch.empty(n, CROP_ATTEMPTS, device=device).uniform_(*map(math.log, ASPECT)).exp_()
    heights, widths = (area / ratio).sqrt_().round_(), (area * ratio).sqrt_().round_()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.byte().argmax(1, keepdim=True)
    size = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)
    space = _constant((height, width), torch.device(device))
    corner = (torch.rand(n, 2, device=device) * (space - size + 1)).floor_()
    return torch.where(
        fits.any(1, keepdim=True), torch.cat([corner, size], dim=1), central_box(height, width, device)
    ).long()


def central_box(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the largest central box with an allowed aspect ratio: [4]."""
    h, w = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return _constant(((height - h) // 2, (width - w) // 2, h, w), torch.device(device))


def resized_crop(images: Tensor, boxes: Tensor, flipped: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize boxes [N, 4] of images [N, 3, H, W] in [0, 1] with antialiasing; flip those whose flipped [N] is 1."""
    if not images.is_cuda and max(images.shape[2:]) > LARGE:
        return resize_each(images, boxes, flipped, size, interpolation).clamp_(0, 1)
    top, left, height, width = boxes.unbind(1)
    rows = resize_weights(top, height, images.shape[2], size, interpolation)
    columns = resize_weights(left, width, images.shape[3], size, interpolation)
    columns = torch.lerp(columns, columns.flip(1), flipped[:, None, None])
    return _separable(images, rows, columns).clamp_(0, 1)


def resize_each(images: Tensor, boxes: Tensor, flipped: Tensor, size: int, interpolation: str) -> Tensor:
    """Do as `resized_crop` image by image on a CPU; bytes stay bytes, floats are not clamped."""
    crops = torch.empty(len(images), 3, size, size, dtype=images.dtype)
    for crop, image, (top, left, height, width), flip in zip(crops, images, boxes.tolist(), flipped, strict=True):
        box = image[None, :, top : top + height, left : left + width]
        resized = F.interpolate(box, (size, size), mode=interpolation, antialias=True)[0]
        crop.copy_(resized.flip(2) if flip else resized)
    return crops


def resize_weights(start: Tensor, length: Tensor, full: int, size: int, interpolation: str) -> Tensor:
    """Return the weights [N, size, full] that resize the pixels [start, start + length) of `full` to `size`.

    The filter is a triangle (bilinear) or Keys' cubic with a = -1/2 (bicubic), widened by the scale when shrinking.
    """
    pixel = torch.arange(full, device=start.device) + 0.5 - start[:, None, None]
    scale = length[:, None, None] / size
    center = (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    distance = (pixel - center).div_(scale.clamp(min=1)).abs_()
    weights = triangle(distance) if interpolation == "bilinear" else cubic(distance)
    weights *= (pixel > 0) & (pixel < length[:, None, None])
    return weights.div_(weights.sum(2, keepdim=True))


def triangle(distance: Tensor) -> Tensor:
    """Return 1 - distance, but at least 0."""
    return (1 - distance).clamp_(min=0)


def cubic(distance: Tensor) -> Tensor:
    """Return Keys' cubic with a = -1/2, as the sum of its piece on [0, 1] and its piece on [1, 2]."""
    inner, outer = distance.clamp(max=1), distance.clamp(1, 2)
    return (1.5 * inner - 2.5) * inner**2 + 1 - 0.5 * (((outer - 5) * outer + 8) * outer - 4)


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply rows [N, h, H] and columns [N, w, W] to all channels of images [N, 3, H, W]."""
    across = torch.bmm(images.flatten(1, 2), columns.mT)  # the three channels in one product
    return rows[:, None] @ across.unflatten(1, images.shape[1:3])


# --- colours ----------------------------------------------------------------------------------------------------------


def jitter(images: Tensor, order: Tensor, factors: Tensor, turns: Tensor) -> Tensor:
    """Change brightness, contrast, saturation (factors [N, 3]) and hue (turns [N]) in each image's own order [N, 4].

    Hue costs most, so it runs once for all images, between the blends before it and the blends after it.
    """
    hue_stage = (order == HUE).byte().argmax(1)
    factors = torch.cat([factors, torch.ones_like(turns)[:, None]], dim=1).gather(1, order)
    for stage in range(HUE):
        images = _blend(images, order[:, stage], torch.where(hue_stage > stage, factors[:, stage], 1.0))
    images = turn_hue(images, turns)
    for stage in range(1, HUE + 1):
        images = _blend(images, order[:, stage], torch.where(hue_stage < stage, factors[:, stage], 1.0))
    return images


def _blend(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Blend images by `factor` with black (brightness), their mean gray (contrast) or their grayscale (saturation)."""
    weights = _constant(GRAY_WEIGHTS, images.device)
    matrix = factor[:, None, None] * torch.eye(3, device=images.device)
    matrix += ((1 - factor) * (operation == SATURATION))[:, None, None] * weights
    constant = (1 - factor) * (operation == CONTRAST) * (images.mean((2, 3)) @ weights)
    return torch.baddbmm(constant[:, None, None], matrix, images.flatten(2)).clamp_(0, 1).view_as(images)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of images [N, 3, H, W] in [0, 1] by so many full turns [N].

    In HSV, channel n of (5, 3, 1) is value - chroma * clamp(2 - d, 0, 1), where d is the distance of hue + n from 2 on
    a circle of six.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    not_red, not_green = (value - red).sign_(), (value - green).sign_()  # lerp, as torch.where is slow on a CPU
    green_or_blue = torch.lerp((blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4), not_green)
    hue = torch.lerp(green - blue, green_or_blue, not_red).div_(chroma.clamp(min=1e-12).mul_(6))
    hue += turns[:, None, None]
    # (n - 2) / 6 + 1.5, since frac needs a positive argument
    offset = _constant((2, 5 / 3, 4 / 3), images.device).view(3, 1, 1)
    distance = (hue[:, None] + offset).frac_().sub_(0.5).abs_()
    weight = torch.rsub(distance, 2, alpha=6).clamp_(0, 1)
    return torch.addcmul(value[:, None], weight, chroma[:, None], value=-1)


def grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """Return images [N, 3, H, W], in grayscale where chosen [N] is 1."""
    weights = _constant(GRAY_WEIGHTS, images.device).expand(3, 3)
    matrix = torch.lerp(torch.eye(3, device=images.device), weights, chosen[:, None, None])
    return torch.bmm(matrix, images.flatten(2)).view_as(images)


def blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur images [N, 3, S, S] with Gaussians of sigma [N] <= largest pixels, mirrored at the edge; 0 does nothing."""
    weights = blur_weights(sigma, largest, images.shape[3])
    return _separable(images, weights, weights)


def blur_weights(sigma: Tensor, largest: float, size: int) -> Tensor:
    """Return the weights of Gaussian blurs, [N, size, size], cut off at four times the largest sigma."""
    radius = min(math.ceil(4 * largest), size - 1)
    taps = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.softmax(-0.5 * (taps / sigma.clamp(min=1e-6)[:, None]) ** 2, dim=1)
    position = torch.arange(size, device=sigma.device)
    source = (position[:, None] + taps).abs()
    source = size - 1 - (size - 1 - source).abs()
    return torch.einsum("nk,ikp->nip", kernel, (source[..., None] == position).float())


def solarize(images: Tensor, chosen: Tensor) -> Tensor:
    """Invert the values above 1/2 of images in [0, 1] where chosen [N] is 1."""
    return images - (2 * images - 1).clamp_(min=0).mul_(chosen[:, None, None, None])


def _chosen(n: int, probability: float, device: torch.device) -> Tensor:
    """Draw 1 with the probability, otherwise 0: float [N]."""
    return (torch.rand(n, device=device) < probability).float()


@lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers on a device; they are cached, since every copy to a device waits for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)
