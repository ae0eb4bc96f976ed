"""The peers of this project's training: a baseline loop (PIL + fp32), and the loops of lightly's examples.

Each is an iterator that takes one training step at a time. Both make their views from PIL images in as many worker
processes as torch has threads, and train in fp32 with torch's default optimisers.
"""

# ruff: noqa: D102  the docstring of a recipe names its example

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, IBOTPatchLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightly.models.modules.heads import (
    DINOProjectionHead,
    MoCoProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, random_block_mask, update_drop_path_rate, update_momentum
from lightly.transforms import DINOTransform, IBOTTransform, MoCoV2Transform, SimSiamTransform, SwaVTransform
from PIL import Image, ImageFilter
from timm.models.resnet import ResNet
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from hirl.config import RunConfig, ViewsConfig
from hirl.data.images import ImageSet, load_images
from hirl.data.views import MEAN, STD
from hirl.distributed.device import choose_device
from hirl.methods.base import Step
from hirl.models.backbones import build_backbone
from hirl.models.resnet_layers import Conv2d
from hirl.training.loop import build_method

Views = Callable[[Image.Image], list[Tensor]]
PREFETCHED = 1  # batches that a worker makes ahead, which the benchmark must let pass before it measures


class Pictures(Dataset):
    """A data set of (index, views) of PIL images; files are opened at each access."""

    def __init__(self, images: ImageSet, views: Views):
        self.views, self.paths = views, images.paths
        self.held = [] if images.images is None else [as_pil(image) for image in images.images]

    def __len__(self) -> int:
        return len(self.held or self.paths)

    def __getitem__(self, index: int) -> tuple[int, list[Tensor]]:
        image = self.held[index] if self.held else Image.open(self.paths[index]).convert("RGB")
        return index, self.views(image)


def as_pil(image: Tensor) -> Image.Image:
    """Convert uint8 [3, H, W] to a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def batches(config: RunConfig, data: Path, views: Views) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield the indices and views of one batch after another, on the device."""
    device = choose_device()
    loader = DataLoader(
        Pictures(load_images(data, "train"), views),
        config.training.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=torch.get_num_threads(),
        prefetch_factor=PREFETCHED,
        pin_memory=device.type == "cuda",
    )
    for index, batch in loader:
        yield index, [view.to(device, non_blocking=True) for view in batch]


def with_torchs_layers(network: nn.Module) -> nn.Module:
    """Give a network's ResNets torch's own convolutions and pooling again, in place."""
    for layer in network.modules():
        if isinstance(layer, Conv2d):
            layer.__class__ = nn.Conv2d
        elif isinstance(layer, ResNet):
            layer.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network


def optimizer_of(parameters: Any, config: RunConfig) -> torch.optim.Optimizer:
    """Return the method's optimiser with the defaults of its library."""
    c, lr = config.training.optimizer, config.training.effective_lr
    if c.name == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=c.weight_decay)
    if c.name == "lars":
        return Lars(parameters, lr, c.momentum, weight_decay=c.weight_decay, trust_coeff=c.trust_coefficient)
    return torch.optim.SGD(parameters, lr, c.momentum, weight_decay=c.weight_decay)


# --- the baseline loop ------------------------------------------------------------------------------------------------


def baseline_loop(config: RunConfig, data: Path, tokenizer: Path | None) -> Iterator[None]:
    """Train this project's own method in a plain loop."""
    method = with_torchs_layers(build_method(config, tokenizer=tokenizer)).to(choose_device()).train()
    optimizer = optimizer_of(method.parameters(), config)
    for number, (index, views) in enumerate(batches(config, data, pil_views(config.views))):
        step = Step(number, 1000, config.training.epochs, index)
        method.before_step(step)
        loss = method(views, step).loss
        optimizer.zero_grad()
        loss.backward()
        if config.training.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(method.parameters(), config.training.optimizer.clip_norm)
        optimizer.step()
        method.after_step(step)
        loss.item()
        yield


def pil_views(config: ViewsConfig) -> Views:
    """Return a function that draws all views of a picture by torchvision's transforms."""
    kinds = [*range(config.global_crops), *[2] * config.local_crops]
    transforms = [pil_view(config, kind) for kind in kinds]
    return lambda image: [transform(image) for transform in transforms]


def pil_view(config: ViewsConfig, kind: int) -> v2.Compose:
    """Return the transform of the first global view, the second, or a local one; PIL blurs, as in the papers' code."""
    local = kind == 2
    size, scale = (config.local_size, config.local_scale) if local else (config.global_size, config.global_scale)
    jitter = config.jitter
    color_jitter = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    blur = v2.Lambda(lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(*config.blur_sigma))))
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale, interpolation=InterpolationMode(config.interpolation)),
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomApply([color_jitter], jitter.probability),
            v2.RandomGrayscale(config.grayscale),
            v2.RandomApply([blur], config.blur[kind]),
            v2.RandomSolarize(128, config.solarize[kind]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


# --- lightly's: its transforms, heads, losses and helpers, put together as in its examples/pytorch --------------------


def lightly(config: RunConfig, data: Path) -> Iterator[None]:
    """Train the method of lightly's example, with the configuration's network, widths and crops."""
    recipe = RECIPES[config.algorithm](config).to(choose_device()).train()
    optimizer = optimizer_of([parameter for parameter in recipe.parameters() if parameter.requires_grad], config)
    for _, views in batches(config, data, recipe.views):
        loss = recipe(views)
        loss.item()
        loss.backward()
        recipe.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        recipe.after_step()
        yield


class Recipe(nn.Module):
    """A method of lightly: `views` draws the views of a picture, `forward` returns the loss of a batch of them."""

    views: Views

    def __init__(self, config: RunConfig):
        super().__init__()
        self.config, self.model = config, config.model
        torch.manual_seed(config.seed)
        self.backbone = with_torchs_layers(build_backbone(config.backbone, config.views.global_size))
        self.width = self.backbone.num_features

    def after_backward(self) -> None:
        """Change the gradients as the example does."""

    def after_step(self) -> None:
        """Do what the example does after the optimiser's step."""


class MoCo(Recipe):
    """examples/pytorch/moco.py."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        self.views = MoCoV2Transform(input_size=config.views.global_size)
        self.head = MoCoProjectionHead(self.width, self.model.hidden_dim, self.model.embedding_dim)
        self.backbone_momentum, self.head_momentum = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.head_momentum)
        bank = (self.model.queue_size, self.model.embedding_dim)
        self.criterion = NTXentLoss(self.model.temperature, memory_bank_size=bank)

    def forward(self, views: list[Tensor]) -> Tensor:
        update_momentum(self.backbone, self.backbone_momentum, m=self.model.momentum)
        update_momentum(self.head, self.head_momentum, m=self.model.momentum)
        query = self.head(self.backbone(views[0]))
        key = self.head_momentum(self.backbone_momentum(views[1])).detach()
        return self.criterion(query, key)


class SimSiam(Recipe):
    """examples/pytorch/simsiam.py."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        dim = self.model.embedding_dim
        self.views = SimSiamTransform(input_size=config.views.global_size)
        self.projection = SimSiamProjectionHead(self.width, dim, dim)
        self.prediction = SimSiamPredictionHead(dim, self.model.predictor_hidden_dim, dim)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, views: list[Tensor]) -> Tensor:
        z0, z1 = (self.projection(self.backbone(view)) for view in views)
        p0, p1 = self.prediction(z0), self.prediction(z1)
        return 0.5 * (self.criterion(z0.detach(), p1) + self.criterion(z1.detach(), p0))


class SwAV(Recipe):
    """examples/pytorch/swav.py."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        sizes, counts = (config.views.global_size, config.views.local_size), (2, config.views.local_crops)
        self.views = SwaVTransform(crop_sizes=sizes, crop_counts=counts)
        self.head = SwaVProjectionHead(self.width, self.model.hidden_dim, self.model.embedding_dim)
        self.prototypes = SwaVPrototypes(self.model.embedding_dim, n_prototypes=self.model.prototypes)
        self.criterion = SwaVLoss(self.model.temperature, self.model.sinkhorn_iterations, self.model.epsilon)

    def forward(self, views: list[Tensor]) -> Tensor:
        self.prototypes.normalize()
        features = [self.prototypes(F.normalize(self.head(self.backbone(view)), dim=1)) for view in views]
        return self.criterion(features[:2], features[2:])


class DINO(Recipe):
    """examples/pytorch/dino.py."""

    transform = DINOTransform

    def __init__(self, config: RunConfig):
        super().__init__(config)
        v = config.views
        self.views = self.transform(
            global_crop_size=v.global_size,
            global_crop_scale=v.global_scale,
            local_crop_size=v.local_size,
            local_crop_scale=v.local_scale,
            n_local_views=v.local_crops,
        )
        self.backbone = self.network()
        sizes = (self.width, self.model.hidden_dim, self.model.embedding_dim, self.model.prototypes)
        self.student_head = DINOProjectionHead(*sizes, freeze_last_layer=self.model.frozen_prototype_epochs)
        self.teacher_backbone, self.teacher_head = copy.deepcopy(self.backbone), DINOProjectionHead(*sizes)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=self.model.prototypes)

    def network(self) -> nn.Module:
        return self.backbone

    def forward(self, views: list[Tensor]) -> Tensor:
        teacher = [self.teacher_head(self.teacher_backbone(view)) for view in views[:2]]
        student = [self.student_head(self.backbone(view)) for view in views]
        return self.criterion(teacher, student, epoch=0)

    def after_backward(self) -> None:
        self.student_head.cancel_last_layer_gradients(current_epoch=0)

    def after_step(self) -> None:
        update_momentum(self.backbone, self.teacher_backbone, m=self.model.momentum)
        update_momentum(self.student_head, self.teacher_head, m=self.model.momentum)


class IBOT(DINO):
    """examples/pytorch/ibot.py."""

    transform = IBOTTransform

    def __init__(self, config: RunConfig):
        super().__init__(config)
        self.patch_criterion = IBOTPatchLoss(output_dim=self.model.prototypes)

    def network(self) -> nn.Module:
        update_drop_path_rate(self.backbone, drop_path_rate=self.config.backbone.drop_path, mode="uniform")
        patches, stem = self.backbone.patch_embed, self.backbone.patch_embed.proj
        # lightly initialises a convolution here; the stem is put back afterwards
        patches.proj = nn.Conv2d(3, self.width, patches.patch_size, patches.patch_size)
        masked = MaskedVisionTransformerTIMM(vit=self.backbone, antialias=False, pos_embed_initialization="skip")
        patches.proj = stem
        return masked

    def forward(self, views: list[Tensor]) -> Tensor:
        global_views, local_views = torch.cat(views[:2]), torch.cat(views[2:])
        grid = self.backbone.vit.patch_embed.grid_size
        block_mask = random_block_mask(size=(len(global_views), *grid), device=global_views.device)
        mask = F.pad(block_mask.flatten(start_dim=1), (1, 0))  # the class token is not masked
        with torch.no_grad():
            tokens = self.teacher_backbone.encode(global_views)
            teacher, teacher_masked = self.teacher_head(tokens[:, 0]), self.teacher_head(tokens[mask])
        tokens = self.backbone.encode(global_views, mask=mask)
        student_masked = self.student_head(tokens[mask])
        local_tokens = self.backbone.encode(local_views)
        student = torch.cat([self.student_head(tokens[:, 0]), self.student_head(local_tokens[:, 0])])
        class_loss = self.criterion(teacher.chunk(2), student.chunk(len(views)), epoch=0)
        return class_loss + self.patch_criterion(teacher_masked, student_masked, mask=block_mask)


RECIPES = {"mocov2": MoCo, "simsiam": SimSiam, "swav": SwAV, "dino": DINO, "ibot": IBOT}
