"""Batches of augmented views with their classes, to train a classifier on.

B images of a rank's share of a batch, S pixels a side, C classes of the finest level.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

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

FLIP = 0.5


class LabelledBatches:
    """The training batches of any epoch, this rank's share: views [B, 3, S, S] and class probabilities [B, C].

    An epoch's order is a permutation fixed by seed and epoch; what does not fill a batch is dropped, and a set that is
    smaller than a batch is one, less what the ranks cannot share evenly. Pictures in memory that are only cropped and
    flipped are so all at once; files are cropped by worker processes, and what is more than that goes through timm's
    transform one by one, there too, with random numbers that depend on seed, epoch and index alone. The rest is drawn
    as a batch is asked for, from torch's default generator, for the batch of all ranks.

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
                f"there are {len(images)} images to learn from, but a step takes {smallest} at least, two a rank for "
                "mixup and cutmix: label more, or set both to 0"
            )

    def __len__(self) -> int:
        """The batches of an epoch."""
        return len(self.images) // self.batch_size

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch's batches.

        Raises:
            ValueError: a file cannot be read.
        """
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.images)))
        batches = [self._share(batch) for batch in order.split(self.batch_size)[: len(self)]]
        for index, views in zip(batches, self._views(batches, epoch), strict=True):
            yield self._mixed(views, send(self.targets[index], self.device))

    def _share(self, rows: Tensor) -> Tensor:
        """This rank's rows of a batch; where images are mixed, both of a pair: timm mixes row i with row -1 - i."""
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
        loaded = load_in_workers(_Augmented(images, c, self.seed, epoch), batches, self.device)
        return (views for (views,) in loaded)

    def _crops(self, index: Tensor) -> Tensor:
        pixels = send(self.images.images[index], self.device).float().div_(255)
        boxes = crop_boxes(self.batch_size, *pixels.shape[2:], self.augmentation.crop_scale, self.device)
        flipped = (torch.rand(self.batch_size, device=self.device) < FLIP).float()
        boxes, flipped = self._share(boxes), self._share(flipped)
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


class _Augmented(Dataset):
    """Images under timm's transform for training; beside RandAugment it is bicubic, else bilinear, as in the release.

    The release's colour jitter is not here: timm leaves it out beside RandAugment.
    """

    def __init__(self, images: ImageSet, augmentation: AugmentationConfig, seed: int, epoch: int):
        self.images, self.entropy = images, (seed, epoch)
        self.crop, *self.changes = create_transform(
            images.image_size,
            is_training=True,
            scale=augmentation.crop_scale,
            hflip=FLIP,
            color_jitter=None,
            auto_augment=augmentation.randaugment,
            interpolation="bilinear" if augmentation.randaugment is None else "bicubic",
            re_prob=augmentation.random_erasing,
            re_mode="pixel",
            separate=True,
        )

    def __getitem__(self, index: int) -> list[Tensor]:
        self._seed(index)
        view = self._cropped(index)
        for change in self.changes:
            view = change(view)
        return [view]

    def _cropped(self, index: int) -> Image.Image:
        """A file's bytes are cropped by the same draws in a quarter of the time that Pillow takes."""
        if self.images.images is not None:
            return self.crop(_picture(self.images.images[index]))
        (crop, flip), image = self.crop.transforms, read_pixels(self.images.paths[index])
        box = torch.tensor([crop.get_params(image, crop.scale, crop.ratio)])
        flipped = torch.rand(1) < flip.p
        return _picture(resize_each(image[None], box, flipped, self.images.image_size, crop.interpolation.value)[0])

    def _seed(self, index: int) -> None:
        """Seeds the three generators that timm's transforms draw from; the process is a worker's, not the trainer's."""
        words = np.random.SeedSequence((*self.entropy, index)).generate_state(3)
        seeds = (random.seed, np.random.seed, torch.default_generator.manual_seed)
        for seed, word in zip(seeds, words.tolist(), strict=True):
            seed(word)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _posterize(image: Image.Image, bits: int, **_: float) -> Image.Image:
    """timm's, which asks for 0 bits where a magnitude is drawn as 10: black, but Pillow 13 refuses."""
    return auto_augment.posterize(image, bits) if bits else Image.new(image.mode, image.size)


auto_augment.NAME_TO_OP |= {"Posterize": _posterize, "PosterizeIncreasing": _posterize}
