"""Batches of prepared images: shuffled views to train on, or every image in order.

B images of a batch, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hirl.data.images import ImageSet, square, to_tensor
from hirl.data.sources import read_image
from hirl.data.views import Views
from hirl.ranks import shard, share, world_size

SHORTER_SIDE = 256 / 224  # of an evaluated image, over the side of its central square


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
    if batch_size % world_size():
        raise ValueError(f"training.batch_size {batch_size} is no multiple of the {world_size()} ranks: change either")
    if len(images) < batch_size:
        raise ValueError(f"training.batch_size is {batch_size}, but there are {len(images)} images: lower it")
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(images)))
    batches = [share(batch) for batch in order.split(batch_size)[: len(images) // batch_size]]
    if images.images is None:
        return _coloured(load_in_workers(_Crops(images, views, seed, epoch), batches, device), batches, views, device)
    return ((index.to(device), views(images.images[index].to(device))) for index in batches)


def ordered_batches(images: ImageSet, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Every image of this rank's shard once, in order of its index: uint8 [B, 3, S, S] on the device.

    Raises:
        ValueError: a file cannot be read.
    """
    batches = torch.arange(len(images))[shard(len(images))].split(batch_size)
    if images.images is not None:
        return (images.images[index].to(device) for index in batches)
    return (batch.to(device, non_blocking=True) for (batch,) in load_in_workers(_Squares(images), batches, device))


class _Crops(Dataset):
    """The random crops of image files, as bytes [3, size, size]: between processes a quarter of what floats weigh."""

    def __init__(self, images: ImageSet, views: Views, seed: int, epoch: int):
        self.images, self.views, self.entropy = images, views, (seed, epoch)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = to_tensor(read_image(self.images.paths[index]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((*self.entropy, index)).generate_state(1, np.uint64)[0]))
            crops = self.views.crop(image[None])
        return [(crop[0] * 255).round().byte() for crop in crops]


class _Squares(Dataset):
    """Image files as they are evaluated: a little larger than the central square that is kept."""

    def __init__(self, images: ImageSet):
        self.images = images

    def __getitem__(self, index: int) -> list[Tensor]:
        size = self.images.image_size
        return [to_tensor(square(read_image(self.images.paths[index]), round(size * SHORTER_SIDE), size))]


def _coloured(
    loaded: Iterator[list[Tensor]], batches: Sequence[Tensor], views: Views, device: torch.device
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    for index, crops in zip(batches, loaded, strict=True):
        yield index.to(device), views.colour([crop.to(device, non_blocking=True).float() / 255 for crop in crops])


def load_in_workers(dataset: Dataset, batches: Sequence[Tensor], device: torch.device) -> Iterator[list[Tensor]]:
    """What worker processes, as many as torch has threads, make of each batch's files."""
    loader = DataLoader(
        dataset,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=torch.get_num_threads(),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the default one, which belongs to the views
    )
    return in_one_line(loader)


def in_one_line(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives; a user's mistake that a worker met is said in its own words, without its traceback.

    Raises:
        ValueError: a file cannot be read.
    """
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error
