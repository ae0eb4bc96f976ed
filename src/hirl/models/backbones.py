"""Build backbones by name: images [B, 3, H, W] -> features [B, num_features].

Networks and their blocks are timm's. Added here are the sizes, the masked forward pass that iBOT and BEiT need, and the
papers' position embeddings.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed, gen_relative_position_index
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hirl.config import BackboneConfig
from hirl.models.resnet_layers import use_fast_layers

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel
IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

RESNETS: dict[str, dict[str, Any]] = {
    "resnet50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    "resnet18": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
    # for images of 32 pixels: a 3x3 stem that keeps their size
    "resnet18_small_images": {"block": BasicBlock, "layers": (2, 2, 2, 2), "small_stem": 1},
    # three stages that end in a 4x4 map: trains within minutes on a CPU
    "resnet8": {"block": BasicBlock, "layers": (1, 1, 1), "channels": (32, 64, 128), "small_stem": 2},
}
VITS: dict[str, dict[str, Any]] = {
    "vit_base_patch16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit_small_patch16": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_small_patch4": {"patch_size": 4, "embed_dim": 384, "depth": 7, "num_heads": 6},
    "vit_narrow_patch8": {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3},
    # a convolutional stem (Xiao et al., arXiv 2106.14881) lets a ViT train within minutes on a CPU
    "vitc_narrow_patch4": {"patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 2, "conv_stem": True},
}
NAMES = (*RESNETS, *VITS)
TIMM = "timm:"  # before the name of any other network of timm's


def build_backbone(config: BackboneConfig, image_size: int) -> Backbone:
    """Build a freshly initialised backbone: one of ours, or any network of timm's, such as timm:convnext_tiny.

    Args:
        image_size: side of the global views in pixels; sets the grid of a ViT's position embedding.

    Raises:
        ValueError: the name is unknown, or the image size is not a multiple of the patch size.
    """
    if config.name in RESNETS:
        options: dict[str, Any] = {"zero_init_last": config.zero_init_residual, "drop_path_rate": config.drop_path}
        network = _resnet(**options, **RESNETS[config.name])
        use_fast_layers(network)
        return network
    if config.name in VITS:
        return ViT(config, image_size, **VITS[config.name])
    if config.name.startswith(TIMM):
        return build_timm(config.name.removeprefix(TIMM), image_size)
    raise ValueError(f"backbone.name {config.name!r} is unknown; known: {', '.join(NAMES)}, and {TIMM}NAME for timm's")


class AnyBackbone(nn.Module):
    """Any network as a backbone: its output must be features [B, num_features].

    Args:
        network: images [B, 3, H, W], normalised with ImageNet's mean and standard deviation -> [B, num_features].
        image_size: side of the images that the width is measured with.
        normalization: the mean and the standard deviation that the network takes instead.

    Raises:
        ValueError: the output for such images is not [B, num_features].
    """

    def __init__(self, network: nn.Module, image_size: int, normalization: Normalization = IMAGENET):
        super().__init__()
        self.network = network
        (mean, std), (own_mean, own_std) = (torch.tensor(pair) for pair in (IMAGENET, normalization))
        self.register_buffer("scale", (std / own_std).view(3, 1, 1), persistent=False)
        self.register_buffer("offset", ((mean - own_mean) / own_std).view(3, 1, 1), persistent=False)
        self.num_features = self._measure_width(image_size)

    @torch.no_grad()
    def _measure_width(self, image_size: int) -> int:
        training, parameter = self.network.training, next(self.network.parameters(), torch.empty(0))
        images = torch.zeros(2, 3, image_size, image_size, device=parameter.device)
        try:
            features = self.eval()(images)
        except (RuntimeError, TypeError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the backbone fails on images [2, 3, {image_size}, {image_size}]: {reason}") from error
        self.train(training)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
            found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"the backbone's output for two images is {found}: make it features, [2, width]")
        return features.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, [B, num_features]."""
        return self.network(torch.addcmul(self.offset, images, self.scale))


def build_timm(name: str, image_size: int, **options: Any) -> AnyBackbone:
    """Build a network of timm's without its classifier, for images of any size that it can take.

    Args:
        options: of timm.create_model, such as pretrained.

    Raises:
        ValueError: timm has no such network, or it does not take images of this size.
    """
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3, cutoff=0.4)
        raise ValueError(f"timm has no network {name!r}: choose one of timm.list_models(), such as {', '.join(close)}")
    for sizes in ({"img_size": image_size, "dynamic_img_size": True}, {"img_size": image_size}, {}):
        with suppress(TypeError):  # the network has no such option
            network: Any = timm.create_model(name, num_classes=0, **sizes, **options)
            cfg = network.pretrained_cfg
            return AnyBackbone(network, image_size, (tuple(cfg["mean"]), tuple(cfg["std"])))
    raise AssertionError(name)


def _resnet(block: Any, layers: tuple[int, ...], small_stem: int = 0, **options: Any) -> ResNet:
    """Build a ResNet without classifier; `small_stem` is the stride of a 3x3 stem, 0 keeps ImageNet's stem."""
    if not small_stem:
        return ResNet(block, layers, num_classes=0, **options)
    channels = options.pop("channels", (64, 128, 256, 512))
    three_stages = len(layers) == 3
    if three_stages:  # timm builds four stages, over which the drop rate rises; the last is removed below
        layers, channels = (*layers, 1), (*channels, channels[-1])
        options["drop_path_rate"] *= (sum(layers) - 1) / (sum(layers) - 2)
    # timm sizes the stem's norm by stem_width only for deep stems, whose convolutions are replaced by one below
    stem = {"stem_type": "deep", "stem_width": channels[0] // 2}
    network: Any = ResNet(block, layers, num_classes=0, channels=channels, **stem, **options)
    network.conv1 = nn.Conv2d(3, channels[0], 3, stride=small_stem, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    if three_stages:
        network.layer4 = nn.Identity()
    return network


def _conv_stem(patch_size: int, dim: int) -> nn.Sequential:
    """Build 3x3 convolutions of stride 2 down to one vector per patch, instead of one large convolution."""
    layers: list[nn.Module] = []
    stages = int(math.log2(patch_size))
    for before, after in pairwise([3, *(dim >> (stages - stage) for stage in range(1, stages + 1))]):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))


class ViT(VisionTransformer):
    """timm's VisionTransformer for any image size, with a forward over partly masked patches.

    Position embeddings of another grid are interpolated bicubically with DINO's scale factor, (side + 0.1) / trained
    side. `sincos` is MoCo v3's fixed embedding and initialisation. `relative` is BEiT's: no embedding, but a bias for
    each offset between patches that all blocks add to their attention.
    """

    def __init__(self, config: BackboneConfig, image_size: int, patch_size: int, conv_stem: bool = False, **sizes: Any):
        if image_size % patch_size:
            raise ValueError(
                f"views.global_size {image_size} is not a multiple of {config.name}'s patch size {patch_size}: "
                "change either"
            )
        sincos, relative = (config.position_embedding == name for name in ("sincos", "relative"))
        super().__init__(
            img_size=image_size,
            patch_size=patch_size,
            num_classes=0,
            drop_path_rate=config.drop_path,
            dynamic_img_size=True,
            pos_embed="none" if relative else "learn",
            init_values=config.layer_scale,
            weight_init="moco" if sincos else "",
            fix_init=relative,
            **sizes,
        )
        if sincos:
            self._initialize_as_mocov3()
        if relative:
            self._initialize_as_beit()
        if conv_stem:
            self.patch_embed.proj = _conv_stem(patch_size, self.embed_dim)
        for block in self.blocks:  # on a CPU in bf16, torch's fused attention takes twice as long as two plain products
            block.attn.fused_attn = torch.cuda.is_available()

    def _initialize_as_mocov3(self) -> None:
        """Set fixed sin-cos positions and a Xavier-uniform patch projection (moco-v3, vits.py)."""
        positions = build_sincos2d_pos_embed(list(self.patch_embed.grid_size), self.embed_dim)
        self.pos_embed = nn.Parameter(F.pad(positions, (0, 0, 1, 0))[None], requires_grad=False)
        nn.init.normal_(self.cls_token, std=1e-6)
        projection = self.patch_embed.proj
        bound = math.sqrt(6 / (3 * math.prod(projection.kernel_size) + self.embed_dim))
        nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.zeros_(projection.bias)

    def _initialize_as_beit(self) -> None:
        """Add a bias per offset and head, and three for the class token (BEiT, modeling_pretrain.py)."""
        rows, columns = self.patch_embed.grid_size
        offsets = (2 * rows - 1) * (2 * columns - 1) + 3
        self.position_bias = nn.Parameter(torch.zeros(offsets, self.blocks[0].attn.num_heads))
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token after the last norm, [B, D]; the last block computes no other token."""
        return self.class_tokens(images, 1)

    def tokens(self, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """Return all tokens after the last norm, class token first, [B, 1 + P, D].

        Args:
            mask: bool [B, H/p, W/p], True where a patch is replaced by mask_token.
            mask_token: [D].
        """
        for tokens in self.each_block(images, mask, mask_token):
            last = tokens
        return self.norm(last)

    def class_tokens(self, images: Tensor, last_blocks: int) -> Tensor:
        """Return the class tokens of the last blocks, each after the last norm, concatenated: [B, last_blocks * D].

        The last block computes no other token.

        Source: DINO (arXiv 2104.14294), appendix F.2.
        """
        tokens, bias = self._embed(images)
        *before, last = self.blocks
        kept = []
        for number, block in enumerate(before):
            tokens = block(tokens, bias)
            if number >= len(self.blocks) - last_blocks:
                kept.append(tokens[:, 0])
        kept.append(class_token_after(last, tokens, bias))
        return self.norm(torch.stack(kept, dim=1)).flatten(1)

    def each_block(
        self, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield all tokens after each block, before the last norm; arguments as for `tokens`."""
        tokens, bias = self._embed(images, mask, mask_token)
        for block in self.blocks:
            tokens = block(tokens, bias)
            yield tokens

    def _embed(
        self, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return all tokens before the first block, and the bias of all blocks; arguments as for `tokens`."""
        patches = self.patch_embed(images)  # [B, H/p, W/p, D]
        if mask is not None:
            patches = torch.where(mask.unsqueeze(-1), mask_token.to(patches.dtype), patches)
        return self._pos_embed(patches), self._bias(*patches.shape[1:3])

    def _pos_embed(self, patches: Tensor) -> Tensor:
        batch, height, width, dim = patches.shape
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), patches.reshape(batch, -1, dim)], dim=1)
        return tokens if self.pos_embed is None else tokens + self._positions(height, width)

    def _positions(self, height: int, width: int) -> Tensor:
        return interpolate_positions(self.pos_embed, self.patch_embed.grid_size, (height, width))

    def _bias(self, height: int, width: int) -> Tensor | None:
        """Return the bias that every block adds to its attention, [heads, 1 + P, 1 + P]; other grids interpolate it."""
        if self.pos_embed is not None:
            return None
        shape = ((2 * height - 1) * (2 * width - 1) + 3, self.position_bias.shape[1])
        table = resize_rel_pos_bias_table_simple(self.position_bias, (height, width), shape)
        return F.embedding(_offsets(height, width, table.device), table).permute(2, 0, 1).contiguous()


Backbone = ResNet | ViT | AnyBackbone


def class_token_after(block: Any, tokens: Tensor, bias: Tensor | None) -> Tensor:
    """Return the class token [B, D] after a block of timm: `block(tokens, bias)[:, 0]`, up to rounding.

    The other tokens [B, 1 + P, D] are keys and values only, which spares most of the block's work.
    """
    attention, normed = block.attn, block.norm1(tokens)
    weight, offset = attention.qkv.weight, attention.qkv.bias
    heads, width = (attention.num_heads, -1), tokens.shape[2]
    query = F.linear(normed[:, :1], weight[:width], offset[:width]).unflatten(2, heads).transpose(1, 2)
    pairs = F.linear(normed, weight[width:], offset[width:]).unflatten(2, (2, *heads))
    key, value = pairs.permute(2, 0, 3, 1, 4)
    own_bias = None if bias is None else bias[:, :1]
    if attention.fused_attn:
        found = F.scaled_dot_product_attention(query, key, value, own_bias)
    else:
        logits = query * attention.scale @ key.mT
        found = (logits if own_bias is None else logits + own_bias).softmax(-1) @ value
    token = tokens[:, :1] + block.drop_path1(block.ls1(attention.proj(found.transpose(1, 2).flatten(2))))
    return (token + block.drop_path2(block.ls2(block.mlp(block.norm2(token)))))[:, 0]


def interpolate_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings to another grid, [1, 1 + rows * columns, D]; the class token's, first, is kept.

    Bicubic with DINO's scale factor (side + 0.1) / old side, which torch must not recompute.
    """
    if new_grid == grid:
        return positions
    patches = positions[:, 1:].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    scale = tuple((new + 0.1) / old for new, old in zip(new_grid, grid, strict=True))
    patches = F.interpolate(
        patches, scale_factor=scale, mode="bicubic", align_corners=False, recompute_scale_factor=False
    )
    return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


@lru_cache(maxsize=4)
def _offsets(height: int, width: int, device: torch.device) -> Tensor:
    """Return the row of the bias table for each pair of tokens, [1 + P, 1 + P]."""
    return gen_relative_position_index((height, width), class_token=True, device=device)
