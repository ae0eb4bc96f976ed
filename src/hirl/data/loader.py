"""Batches of prepared images: shuffled views to train on, or every image in order.

B images of a batch, S pixels a side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg

from hirl.config import ViewsConfig
from hirl.data.image_files import name_unreadable
from hirl.data.images import ImageSet, to_tensor
from hirl.data.views import Views, crop_boxes, resize_each
from hirl.distributed.collectives import local_slice, shard_range, world_size
from hirl.distributed.device import send

SHORTER_SIDE = 256 / 224  # of an evaluated image, over the side of its central square
PIECE = 128  # images that a worker reads at a time


def epoch_batches(
    images: ImageSet, batch_size: int, seed: int, epoch: int, views: Views, device: torch.device
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """One epoch of training batches, this rank's share: indices [B] and views [B, 3, size, size] each, on the device.

    The order is a permutation fixed by seed and epoch; what does not fill a batch is dropped. Views are drawn as a
    batch is asked for, from torch's default generator; the crops of files, made ahead by workers, depend on seed, epoch
    and index alone.

    Raises:
        ValueError: there are fewer images than one batch, the ranks cannot share it evenly, or a file cannot be read.
    """
    check_shared_evenly(batch_size)
    if len(images) < batch_size:
        raise ValueError(f"training.batch_size is {batch_size}, but there are {len(images)} images: lower it")
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(images)))
    batches = [local_slice(batch) for batch in order.split(batch_size)[: len(images) // batch_size]]
    if images.images is None:
        crops = load_in_workers(Crops(images, views.config, seed, epoch), batches, device)
        return _coloured(crops, batches, views, device)
    return ((send(index, device), views(send(images.images[index], device))) for index in batches)


def check_shared_evenly(batch_size: int) -> None:
    """A batch of training is for all ranks.

    Raises:
        ValueError: they cannot share it evenly.
    """
    if batch_size % world_size():
        raise ValueError(f"training.batch_size {batch_size} is no multiple of the {world_size()} ranks: change either")


def ordered_batches(images: ImageSet, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Every image of this rank's shard once, in order of its index: uint8 [B, 3, S, S] on the device.

    Raises:
        ValueError: a rank is left without an image, or a file cannot be read.
    """
    if (world_size() - 1) * math.ceil(len(images) / world_size()) >= len(images):
        raise ValueError(f"{len(images)} images are too few for {world_size()} ranks to share: take fewer ranks")
    own = shard_range(len(images))
    batches = torch.arange(own.start, own.stop).split(batch_size)
    if images.images is not None:
        return (images.images[index].to(device) for index in batches)
    return (batch for (batch,) in load_in_workers(Squares(images), batches, device))


class Crops(Dataset):
    """The random crops of image files, as bytes: between processes a quarter of what floats weigh."""

    def __init__(self, images: ImageSet, views: ViewsConfig, seed: int, epoch: int):
        self.images, self.views, self.entropy = images, views, (seed, epoch)

    def __getitem__(self, index: int) -> list[Tensor]:
        """All V crops of a size as one tensor [V, 3, size, size]: global ones, then local ones."""
        v, image = self.views, read_pixels(self.images.paths[index])
        seed = np.random.SeedSequence((*self.entropy, index)).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(seed[0]))  # a worker's; torch.manual_seed takes as long as a crop
        kinds = [(v.global_crops, v.global_size, v.global_scale), (v.local_crops, v.local_size, v.local_scale)]
        return [self._crops(image, *kind) for kind in kinds if kind[0]]

    def _crops(self, image: Tensor, count: int, size: int, scale: tuple[float, float]) -> Tensor:
        boxes, flipped = crop_boxes(count, *image.shape[1:], scale), torch.rand(count) < self.views.flip
        return resize_each(image.expand(count, -1, -1, -1), boxes, flipped, size, self.views.interpolation)


class Squares(Dataset):
    """Image files as they are evaluated, resized to be a little larger than the central square that is kept."""

    def __init__(self, images: ImageSet):
        self.images = images

    def __getitem__(self, index: int) -> list[Tensor]:
        size, image = self.images.image_size, read_pixels(self.images.paths[index])
        shorter_side = round(size * SHORTER_SIDE)
        scale = shorter_side / min(image.shape[1:])
        sides = [max(shorter_side, round(side * scale)) for side in image.shape[1:]]
        resized = F.interpolate(image[None], sides, mode="bicubic", antialias=True)[0]
        top, left = ((side - size) // 2 for side in sides)
        return [resized[:, top : top + size, left : left + size]]


def read_pixels(path: Path) -> Tensor:
    """The RGB pixels of an image file, uint8 [3, H, W].

    torchvision decodes the usual JPEGs, Pillow all else: both by libjpeg-turbo, but torchvision without a copy.

    Raises:
        ValueError: the file is missing, broken or no image.
    """
    with name_unreadable(path):
        content = np.fromfile(path, np.uint8)
        with Image.open(BytesIO(content)) as image:
            if image.format == "JPEG" and image.mode in ("L", "RGB"):
                with suppress(RuntimeError):  # Pillow has the last word on what is broken
                    return decode_jpeg(torch.from_numpy(content), ImageReadMode.RGB)
            return to_tensor(image.convert("RGB"))


def _coloured(
    loaded: Iterator[list[Tensor]], batches: Sequence[Tensor], views: Views, device: torch.device
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    for index, sizes in zip(batches, loaded, strict=True):
        crops = [crop.float() / 255 for crops in sizes for crop in crops.unbind(1)]
        yield send(index, device), views.color(crops)


def load_in_workers(dataset: Dataset, batches: Sequence[Tensor], device: torch.device) -> Iterator[list[Tensor]]:
    """What worker processes, as many as torch has threads, make of each batch's files; on the device.

    Each makes a piece of a batch at a time: the first batch is soon there, and what waits in shared memory is small,
    however large a batch.
    """
    pieces = [piece.tolist() for batch in batches for piece in batch.split(PIECE)]
    loader = DataLoader(
        dataset,
        batch_sampler=pieces,
        num_workers=torch.get_num_threads(),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the default one, which belongs to the views
    )
    made = ([part.to(device, non_blocking=True) for part in piece] for piece in in_one_line(loader))
    for batch in batches:
        yield [torch.cat(parts) for parts in zip(*islice(made, -(-len(batch) // PIECE)), strict=True)]


def in_one_line(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives; a user's mistake that a worker met is said in its own words, without its traceback.

    Raises:
        ValueError: a file cannot be read.
    """
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error
