"""Load batches of prepared images: shuffled views to train on, or every image in order.

Shapes: B images of a batch, S pixels a side.
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
from hirl.data.image_files import name_unreadable, to_rgb
from hirl.data.images import ImageSet, to_tensor
from hirl.data.views import Views, crop_boxes, resize_each
from hirl.distributed.collectives import local_slice, shard_range, world_size
from hirl.distributed.device import send

SHORTER_SIDE = 256 / 224  # of an evaluated image, relative to the side of its central square
PIECE = 128  # images that a worker loads at a time


def epoch_batches(
    images: ImageSet, batch_size: int, seed: int, epoch: int, views: Views, device: torch.device
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Load this rank's slices of one epoch of training batches: indices [B] and views [B, 3, size, size] on the device.

    The order is a permutation fixed by seed and epoch; an incomplete last batch is dropped. Views are drawn from
    torch's default generator when a batch is requested. The crops of image files are made ahead by worker processes and
    depend on seed, epoch and index alone.

    Raises:
        ValueError: there are fewer images than one batch, the ranks do not divide it, or a file cannot be read.
    """
    check_shared_evenly(batch_size)
    if len(images) < batch_size:
        raise ValueError(f"training.batch_size is {batch_size}, but there are {len(images)} images: lower it")
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(images)))
    batches = [local_slice(batch) for batch in order.split(batch_size)[: len(images) // batch_size]]
    if images.images is None:
        crops = load_in_workers(Crops(images, views.config, seed, epoch), batches, device)
        return _color(crops, batches, views, device)
    return ((send(index, device), views(send(images.images[index], device))) for index in batches)


def check_shared_evenly(batch_size: int) -> None:
    """Check that a training batch is a multiple of the ranks.

    Raises:
        ValueError: it is not.
    """
    if batch_size % world_size():
        raise ValueError(
            f"training.batch_size {batch_size} is not a multiple of the {world_size()} ranks: change either"
        )


def ordered_batches(images: ImageSet, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Load every image of this rank's shard once, in the order of indices: uint8 [B, 3, S, S] on the device.

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
    """A data set of random crops of image files, as bytes: workers send a quarter of what floats would take."""

    def __init__(self, images: ImageSet, views: ViewsConfig, seed: int, epoch: int):
        assert images.paths is not None
        self.paths, self.views, self.entropy = images.paths, views, (seed, epoch)

    def __getitem__(self, index: int) -> list[Tensor]:
        """Return the V crops of each size as one tensor [V, 3, size, size]: global crops, then local crops."""
        v, image = self.views, read_pixels(self.paths[index])
        seed = np.random.SeedSequence((*self.entropy, index)).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(seed[0]))  # torch.manual_seed takes as long as a crop
        kinds = [(v.global_crops, v.global_size, v.global_scale), (v.local_crops, v.local_size, v.local_scale)]
        return [self._crops(image, *kind) for kind in kinds if kind[0]]

    def _crops(self, image: Tensor, count: int, size: int, scale: tuple[float, float]) -> Tensor:
        _, height, width = image.shape
        boxes, flipped = crop_boxes(count, height, width, scale), torch.rand(count) < self.views.flip
        return resize_each(image.expand(count, -1, -1, -1), boxes, flipped, size, self.views.interpolation)


class Squares(Dataset):
    """A data set of central squares of image files, for evaluation, after a resize to slightly more than the square."""

    def __init__(self, images: ImageSet):
        assert images.paths is not None
        self.paths, self.image_size = images.paths, images.image_size

    def __getitem__(self, index: int) -> list[Tensor]:
        size, image = self.image_size, read_pixels(self.paths[index])
        shorter_side = round(size * SHORTER_SIDE)
        scale = shorter_side / min(image.shape[1:])
        sides = [max(shorter_side, round(side * scale)) for side in image.shape[1:]]
        resized = F.interpolate(image[None], sides, mode="bicubic", antialias=True)[0]
        top, left = ((side - size) // 2 for side in sides)
        return [resized[:, top : top + size, left : left + size]]


def read_pixels(path: Path) -> Tensor:
    """Read the RGB pixels of an image file, uint8 [3, H, W].

    torchvision decodes gray and RGB JPEGs, with one copy less; Pillow decodes everything else. Both use libjpeg-turbo.

    Raises:
        ValueError: the file is missing, broken or not an image, or its values have no known range.
    """
    with name_unreadable(path):
        content = np.fromfile(path, np.uint8)
        with Image.open(BytesIO(content.data)) as image:
            if image.format == "JPEG" and image.mode in ("L", "RGB"):
                with suppress(RuntimeError):  # a file is broken only if Pillow, below, cannot read it either
                    return decode_jpeg(torch.from_numpy(content), ImageReadMode.RGB)
            return to_tensor(to_rgb(image))


def _color(
    loaded: Iterator[list[Tensor]], batches: Sequence[Tensor], views: Views, device: torch.device
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    for index, sizes in zip(batches, loaded, strict=True):
        crops = [crop.float() / 255 for crops in sizes for crop in crops.unbind(1)]
        yield send(index, device), views.color(crops)


def load_in_workers(dataset: Dataset, batches: Sequence[Tensor], device: torch.device) -> Iterator[list[Tensor]]:
    """Load batches in as many worker processes as torch has threads, and send them to the device.

    A worker loads a piece of a batch at a time, so that the first batch arrives soon and shared memory stays small even
    with large batches.
    """
    pieces = [piece.tolist() for batch in batches for piece in batch.split(PIECE)]
    loader = DataLoader(
        dataset,
        batch_sampler=pieces,
        num_workers=torch.get_num_threads(),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # not torch's default one, from which the views are drawn
    )
    loaded = ([part.to(device, non_blocking=True) for part in piece] for piece in in_one_line(loader))
    for batch in batches:
        batch_pieces = islice(loaded, math.ceil(len(batch) / PIECE))
        yield [torch.cat(parts) for parts in zip(*batch_pieces, strict=True)]


def in_one_line(loader: DataLoader) -> Iterator[Any]:
    """Yield from a loader; raise a worker's ValueError again as its one line, without the worker's traceback.

    Raises:
        ValueError: a file cannot be read.
    """
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error
