"""Load batches of augmented views with their class probabilities, to train a classifier on.

Shapes: B images of a rank's slice of a batch, S pixels a side, C classes of the finest level.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor
from torch.utils.data import Dataset

from hirl.config import AugmentationConfig, ViewsConfig
from hirl.data.images import ImageSet
from hirl.data.loader import Crops, load_in_workers, read_pixels
from hirl.data.views import crop_boxes, evaluation_view, normalize, resize_each, resized_crop
from hirl.distributed.collectives import local_slice, world_size
from hirl.distributed.device import send

FLIP = 0.5  # probability of a horizontal flip


class LabelledBatches:
    """This rank's slices of the training batches of any epoch: views [B, 3, S, S] and class probabilities [B, C].

    An epoch's order is a permutation fixed by seed and epoch. An incomplete last batch is dropped; a set smaller than a
    batch becomes one batch, without the images that the ranks cannot share evenly.

    Images in memory that are only cropped and flipped are processed as a batch. Image files, and any stronger
    augmentation (timm's transforms, image by image), are processed by worker processes with random numbers that depend
    on seed, epoch and index alone. All other random numbers come from torch's default generator when a batch is
    requested, and are drawn for the batch of all ranks.

    Source: Mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899), RandAugment (arXiv 1909.13719), as BEiT fine-tunes.
    """

    def __init__(
        self, images: ImageSet, batch_size: int, augmentation: AugmentationConfig, seed: int, device: torch.device
    ):
        self.images, self.augmentation, self.seed, self.device = images, augmentation, seed, device
        self.targets, self.classes = images.labels[:, 0], len(images.class_names[0])
        self.mixup = _mixup(augmentation, self.classes)
        smallest = world_size() * (2 if self.mixup else 1)  # images are mixed in pairs
        self.batch_size = min(batch_size, len(images)) // smallest * smallest
        if not self.batch_size:
            raise ValueError(
                f"there are {len(images)} images to train on, but a step needs at least {smallest}, two per rank for "
                "mixup and cutmix: label more, or set both to 0"
            )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.images) // self.batch_size

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Load an epoch's batches.

        Raises:
            ValueError: a file cannot be read.
        """
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.images)))
        batches = [self._local_rows(batch) for batch in order.split(self.batch_size)[: len(self)]]
        for index, views in zip(batches, self._views(batches, epoch), strict=True):
            yield self._mixed(views, send(self.targets[index], self.device))

    def _local_rows(self, rows: Tensor) -> Tensor:
        """Return this rank's rows of a batch; with mixing, both rows of each pair, as timm mixes rows i and -1 - i."""
        if self.mixup is None:
            return local_slice(rows)
        first, second = rows.chunk(2)
        return torch.cat([local_slice(first), local_slice(second.flip(0)).flip(0)])

    def _views(self, batches: list[Tensor], epoch: int) -> Iterator[Tensor]:
        images, c = self.images, self.augmentation
        simple = c.randaugment is None and c.random_erasing == 0
        if images.images is not None and simple:
            return map(self._crops, batches)
        if simple:
            one = ViewsConfig(global_crops=1, global_size=images.image_size, global_scale=c.crop_scale, flip=FLIP)
            loaded = load_in_workers(Crops(images, one, self.seed, epoch), batches, self.device)
            return (evaluation_view(crops.squeeze(1)) for (crops,) in loaded)
        loaded = load_in_workers(Augmented(images, c, self.seed, epoch), batches, self.device)
        return (views for (views,) in loaded)

    def _crops(self, index: Tensor) -> Tensor:
        assert self.images.images is not None
        pixels = send(self.images.images[index], self.device).float().div_(255)
        height, width = pixels.shape[2:]
        boxes = crop_boxes(self.batch_size, height, width, self.augmentation.crop_scale, self.device)
        flipped = (torch.rand(self.batch_size, device=self.device) < FLIP).float()
        boxes, flipped = self._local_rows(boxes), self._local_rows(flipped)
        return normalize(resized_crop(pixels, boxes, flipped, self.images.image_size, "bilinear"))

    def _mixed(self, views: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.mixup is None:
            return views, mixup_target(targets, self.classes, smoothing=self.augmentation.label_smoothing)
        np.random.seed(int(torch.randint(2**32, ())))  # timm draws from numpy's generator
        return self.mixup(views, targets)


def _mixup(augmentation: AugmentationConfig, classes: int) -> Mixup | None:
    if not augmentation.mixup and not augmentation.cutmix:
        return None
    smoothing = augmentation.label_smoothing
    return Mixup(augmentation.mixup, augmentation.cutmix, label_smoothing=smoothing, num_classes=classes)


class Augmented(Dataset):
    """A data set under timm's training transform, bicubic with RandAugment and bilinear without, as in BEiT's release.

    The release's colour jitter is missing here, as timm drops it when there is RandAugment.
    """

    def __init__(self, images: ImageSet, augmentation: AugmentationConfig, seed: int, epoch: int):
        self.images, self.entropy = images, (seed, epoch)
        self.crop, *self.changes = create_transform(
            images.image_size,
            is_training=True,
            scale=augmentation.crop_scale,
            hflip=FLIP,
            color_jitter=None,  # type: ignore[arg-type]
            auto_augment=augmentation.randaugment,
            interpolation="bilinear" if augmentation.randaugment is None else "bicubic",
            re_prob=augmentation.random_erasing,
            re_mode="pixel",
            separate=True,
        )

    def __getitem__(self, index: int) -> list[Tensor]:
        self._seed(index)
        view: Any = self._crop(index)  # first an image, then a tensor
        for change in self.changes:
            view = change(view)
        return [view]

    def _crop(self, index: int) -> Image.Image:
        """Crop and flip an image; files are resized by torch, four times as fast as by Pillow, with timm's draws."""
        if self.images.images is not None:
            return self.crop(_picture(self.images.images[index]))
        assert self.images.paths is not None
        (crop, flip), image = self.crop.transforms, read_pixels(self.images.paths[index])
        box = torch.tensor([crop.get_params(image, crop.scale, crop.ratio)])
        flipped = torch.rand(1) < flip.p
        return _picture(resize_each(image[None], box, flipped, self.images.image_size, crop.interpolation.value)[0])

    def _seed(self, index: int) -> None:
        """Seed the three generators that timm's transforms draw from; this runs in a worker, not in the trainer."""
        python, numpy, torchs = np.random.SeedSequence((*self.entropy, index)).generate_state(3).tolist()
        random.seed(python)
        np.random.seed(numpy)
        torch.default_generator.manual_seed(torchs)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _posterize(image: Image.Image, bits: int, **_: float) -> Image.Image:
    """Posterize as timm does; magnitude 10 means 0 bits, a black image, which Pillow 13 refuses to make."""
    return auto_augment.posterize(image, bits) if bits else Image.new(image.mode, image.size)


auto_augment.NAME_TO_OP |= {"Posterize": _posterize, "PosterizeIncreasing": _posterize}
