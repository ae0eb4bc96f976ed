"""Build Mask R-CNN on a ResNet or a plain ViT from torchvision's parts.

Detectors take lists of images in [0, 1], [3, H, W] of any size, and of targets: boxes [N, 4], labels [N] from 1 on and
masks [N, H, W]. In training they return a dictionary of losses, otherwise each image's boxes, labels, scores and masks.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from hirl.config import DetectionConfig
from hirl.data.views import MEAN, STD
from hirl.models.backbones import ViT

ASPECTS = (0.5, 1.0, 2.0)  # height over width of anchors
C4_SIZES = 5  # anchor sizes on the single feature map of C4, each twice the one before


def build_detector(
    backbone: ResNet | ViT, config: DetectionConfig, categories: int, image_size: int
) -> GeneralizedRCNN:
    """Build Mask R-CNN on a backbone, which becomes part of it with its present weights.

    Args:
        categories: the number of classes without the background.
        image_size: side of the images in pretraining. A box of this size is pooled from the second-coarsest map: that
            of a ResNet's last stage but one, or of a ViT's patches.

    Raises:
        ValueError: the configuration asks for C4 but the network has no fourth stage.

    Source: Mask R-CNN (arXiv 1703.06870); FPN (arXiv 1612.03144, equation 1); ViTDet (arXiv 2203.16527)
    """
    trunk: C4Trunk | SimplePyramid | ResNetPyramid
    if config.neck == "c4" and isinstance(backbone, ResNet):
        trunk, heads = C4Trunk(backbone), _c4_heads(backbone, config, categories)
        sizes = [tuple(config.anchor_size << step for step in range(C4_SIZES))]
    else:
        if isinstance(backbone, ViT):
            trunk = SimplePyramid(backbone, config.channels)
        else:
            trunk = ResNetPyramid(backbone, config.channels)
        heads = _pyramid_heads(trunk.strides, config, categories, image_size)
        sizes = [(config.anchor_size << level,) for level in range(len(trunk.strides) + 1)]
    rpn = _region_proposals(trunk.out_channels, sizes, config)
    resize = GeneralizedRCNNTransform(config.short_sides, config.long_side, MEAN, STD, size_divisible=trunk.strides[-1])
    return GeneralizedRCNN(trunk, rpn, heads, resize)


# --- trunks: images [B, 3, H, W] -> maps by name, finest first; boxes are pooled from those listed in `strides` -------


class ResNetPyramid(nn.Module):
    """A feature pyramid on all stages of a ResNet, and a subsampled map for proposals only."""

    def __init__(self, backbone: ResNet, channels: int):
        super().__init__()
        stages = _stages(backbone)
        self.strides = [_stem_stride(backbone) << level for level in range(len(stages))]
        self.out_channels = channels
        self.body = IntermediateLayerGetter(backbone, {f"layer{level + 1}": str(level) for level in range(len(stages))})
        self.fpn = FeaturePyramidNetwork(stages, channels, LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of every level."""
        return self.fpn(self.body(images))


class C4Trunk(nn.Module):
    """The trunk of C4: a ResNet up to its third stage, of stride 16 (res4); the last stage (res5) belongs to the heads.

    Raises:
        ValueError: the network has three stages.
    """

    def __init__(self, backbone: ResNet):
        super().__init__()
        if len(_stages(backbone)) < 4:
            raise ValueError("evaluation.detection.neck is c4, but the backbone has three stages: set it to fpn")
        self.strides = [_stem_stride(backbone) << 2]
        self.out_channels = _stages(backbone)[2]
        self.body = IntermediateLayerGetter(backbone, {"layer3": "0"})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the single map of stride 16, named "0"."""
        return self.body(images)


class SimplePyramid(nn.Module):
    """Maps with strides of 1/4 to 2 times the patch size, made from the last block, and one more for proposals.

    They are made before the ViT's last norm, as in the paper, since each level has its own norms. Strides below 2,
    which small patches would give, are left out, as in a ResNet.

    Source: ViTDet (arXiv 2203.16527, section 3)
    """

    def __init__(self, backbone: ViT, channels: int):
        super().__init__()
        patch, dim = backbone.patch_embed.patch_size[0], backbone.embed_dim
        assert patch in (4, 8, 16), "maps are doubled and halved"
        backbone.norm = nn.Identity()
        self.body = backbone
        self.strides = [stride for stride in (patch // 4, patch // 2, patch, 2 * patch) if stride > 1]
        self.levels = nn.ModuleList(_pyramid_level(dim, patch / stride, channels) for stride in self.strides)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of every level."""
        sides = [side // self.body.patch_embed.patch_size[0] for side in images.shape[2:]]
        patches = self.body.tokens(images)[:, 1:].transpose(1, 2).unflatten(2, sides)
        maps = OrderedDict((str(number), level(patches)) for number, level in enumerate(self.levels))
        return maps | {"pool": F.max_pool2d(maps[str(len(self.levels) - 1)], 1, stride=2)}


def _pyramid_level(dim: int, scale: float, channels: int) -> nn.Sequential:
    """Build the layers from the patches' map to one of `scale` times its resolution."""
    layers: list[nn.Module] = []
    if scale == 4:
        layers += [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2), LayerNorm2d(dim // 2), nn.GELU()]
        dim //= 2
    if scale >= 2:
        layers += [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)]
        dim //= 2
    if scale < 1:
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Conv2d(dim, channels, 1, bias=False), LayerNorm2d(channels)]
    return nn.Sequential(*layers, nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels))


def _stages(backbone: Any) -> list[int]:
    """Return the channels of each stage."""
    stages = [getattr(backbone, info["module"]) for info in backbone.feature_info if "layer" in info["module"]]
    channels = [info["num_chs"] for info in backbone.feature_info if "layer" in info["module"]]
    return [width for width, stage in zip(channels, stages, strict=True) if not isinstance(stage, nn.Identity)]


def _stem_stride(backbone: Any) -> int:
    return backbone.conv1.stride[0] * (1 if isinstance(backbone.maxpool, nn.Identity) else 2)


# --- heads ------------------------------------------------------------------------------------------------------------


def _region_proposals(channels: int, sizes: list[tuple[int, ...]], config: DetectionConfig) -> RegionProposalNetwork:
    """Build the proposal network on all maps of a trunk; `sizes` are the sides of each map's anchors."""
    anchors = AnchorGenerator(sizes, (ASPECTS,) * len(sizes))
    return RegionProposalNetwork(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=dict(zip(("training", "testing"), config.pre_nms_top_n, strict=True)),
        post_nms_top_n=dict(zip(("training", "testing"), config.post_nms_top_n, strict=True)),
        nms_thresh=0.7,
    )


def _region_heads(heads: type[RoIHeads], config: DetectionConfig, **parts: Any) -> RoIHeads:
    """Build box and mask heads with the thresholds of the paper."""
    return heads(
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.roi_batch_size,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        **parts,
    )


def _pyramid_heads(strides: list[int], config: DetectionConfig, categories: int, image_size: int) -> RoIHeads:
    """Build heads with two hidden layers for boxes and four convolutions for masks."""
    levels = [str(level) for level in range(len(strides))]
    level = int(log2(strides[-2]))
    pool = partial(MultiScaleRoIAlign, levels, sampling_ratio=2, canonical_scale=image_size, canonical_level=level)
    width = config.channels
    return _region_heads(
        RoIHeads,
        config,
        box_roi_pool=pool(7),
        box_head=TwoMLPHead(width * 7**2, config.box_dim),
        box_predictor=FastRCNNPredictor(config.box_dim, categories + 1),
        mask_roi_pool=pool(14),
        mask_head=MaskRCNNHeads(width, (width,) * 4, dilation=1),
        mask_predictor=MaskRCNNPredictor(width, width, categories + 1),
    )


def _c4_heads(backbone: Any, config: DetectionConfig, categories: int) -> RoIHeads:
    """Build heads of the last stage and an extra norm, shared by boxes and masks."""
    width = backbone.num_features
    return _region_heads(
        C4Heads,
        config,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, sampling_ratio=2),
        box_head=nn.Sequential(OrderedDict(res5=backbone.layer4, norm=nn.BatchNorm2d(width))),
        box_predictor=FastRCNNPredictor(width, categories + 1),
        mask_predictor=MaskRCNNPredictor(width, config.channels, categories + 1),
    )


class C4Heads(RoIHeads):
    """Heads that predict boxes and masks from the same maps of a region; boxes from the mean over each map.

    Source: Mask R-CNN (arXiv 1703.06870, figure 4, left), with the extra norm of MoCo (arXiv 1911.05722, appendix)
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return, as torchvision's heads, the detections of each image and the losses; one of them is empty."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets)
        logits, offsets = self.box_predictor(self._maps(features, proposals, image_shapes).mean(dim=(2, 3)))
        boxes, scores, labels = self.postprocess_detections(logits, offsets, proposals, image_shapes)
        masks = maskrcnn_inference(self.mask_predictor(self._maps(features, boxes, image_shapes)), labels)
        found = zip(boxes, scores, labels, masks, strict=True)
        return [dict(zip(("boxes", "scores", "labels", "masks"), parts, strict=True)) for parts in found], {}

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        proposals, matches, labels, offsets = self.select_training_samples(proposals, targets)
        maps = self._maps(features, proposals, image_shapes)
        classifier, box = fastrcnn_loss(*self.box_predictor(maps.mean(dim=(2, 3))), labels, offsets)
        objects = [label > 0 for label in labels]
        mask = maskrcnn_loss(
            self.mask_predictor(maps[torch.cat(objects)]),
            [boxes[chosen] for boxes, chosen in zip(proposals, objects, strict=True)],
            [target["masks"] for target in targets],
            [target["labels"] for target in targets],
            [match[chosen] for match, chosen in zip(matches, objects, strict=True)],
        )
        return {"loss_classifier": classifier, "loss_box_reg": box, "loss_mask": mask}

    def _maps(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        return self.box_head(self.box_roi_pool(features, boxes, image_shapes))
