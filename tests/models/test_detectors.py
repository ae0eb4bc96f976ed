from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import RoIHeads

from hirl.config import BackboneConfig, DetectionConfig
from hirl.models.backbones import ViT, build_backbone
from hirl.models.detectors import build_detector

SMALL = DetectionConfig(
    short_sides=[64],
    long_side=96,
    anchor_size=8,
    pre_nms_top_n=(50, 50),
    post_nms_top_n=(20, 20),
    roi_batch_size=16,
    channels=16,
    box_dim=16,
)
NECKS = [
    ("resnet8", "fpn"),
    ("resnet18", "fpn"),
    ("resnet18", "c4"),
    ("vit_narrow_patch8", "fpn"),
    ("vitc_narrow_patch4", "fpn"),
]


def detector_of(
    name: str, neck: str = "fpn", config: DetectionConfig = SMALL, size: int = 32
) -> tuple[nn.Module, nn.Module]:
    """A backbone, and a detector on another of the same parameters."""
    torch.manual_seed(0)
    backbone, own = (build_backbone(BackboneConfig(name=name), size) for _ in range(2))
    own.load_state_dict(backbone.state_dict())
    return backbone, build_detector(own, config.model_copy(update={"neck": neck}), 3, size)


def two_squares(side: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two gray images, a bright square of another category in each."""
    images, targets = [], []
    for label, corner in ((1, side // 8), (3, side // 3)):
        image, mask = torch.full((3, side, side), 0.4), torch.zeros(1, side, side, dtype=torch.uint8)
        inside = slice(corner, corner + side // 2)
        image[:, inside, inside], mask[:, inside, inside] = 0.9, 1
        box = torch.tensor([[corner, corner, corner + side // 2, corner + side // 2]], dtype=torch.float32)
        images.append(image)
        targets.append({"boxes": box, "labels": torch.tensor([label]), "masks": mask})
    return images, targets


@pytest.mark.parametrize(("name", "neck"), NECKS)
def test_every_parameter_learns(name, neck):
    _, detector = detector_of(name, neck)
    losses = detector.train()(*two_squares(64))
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())


@pytest.mark.parametrize(("name", "neck"), NECKS)
def test_what_is_found_lies_within_the_image(name, neck):
    _, detector = detector_of(name, neck)
    detector.eval().roi_heads.score_thresh = 0.0  # an untrained one is sure of nothing
    for found in detector(two_squares(48)[0]):
        assert 0 < len(found["boxes"]) <= 100
        assert found["boxes"].min() >= 0
        assert found["boxes"].max() <= 48
        assert found["masks"].shape == (len(found["boxes"]), 1, 48, 48)
        assert set(found["labels"].tolist()) <= {1, 2, 3}


@pytest.mark.parametrize(
    ("name", "neck", "strides"),
    [
        ("resnet18", "fpn", [4, 8, 16, 32, 64]),
        ("resnet18", "c4", [16]),
        ("resnet18_small_images", "fpn", [1, 2, 4, 8, 16]),
        ("resnet8", "fpn", [2, 4, 8, 16]),
        ("vit_small_patch16", "fpn", [4, 8, 16, 32, 64]),
        ("vit_narrow_patch8", "fpn", [2, 4, 8, 16, 32]),
        ("vitc_narrow_patch4", "fpn", [2, 4, 8, 16]),
    ],
)
def test_strides_of_the_maps(name, neck, strides):
    _, detector = detector_of(name, neck)
    maps = detector.eval().backbone(torch.randn(1, 3, 64, 128))
    assert [(level.shape[2], level.shape[3]) for level in maps.values()] == [(64 // s, 128 // s) for s in strides]
    pooled = list(maps)[: len(detector.backbone.strides)]
    assert [64 // maps[name].shape[2] for name in pooled] == detector.backbone.strides
    assert detector.roi_heads.box_roi_pool.featmap_names == pooled


def test_boxes_as_large_as_the_pretraining_pictures_are_pooled_where_a_classifier_looks():
    """At 224 pixels FPN's equation 1; a box of half the side one level finer."""
    for name, size in (("resnet18", 224), ("vit_small_patch16", 224), ("resnet8", 32), ("vitc_narrow_patch4", 32)):
        _, detector = detector_of(name, size=size)
        pool, stride = detector.roi_heads.box_roi_pool, detector.backbone.strides[-2]
        assert (pool.canonical_scale, 2**pool.canonical_level) == (size, stride)


@pytest.mark.parametrize(("name", "neck"), NECKS)
def test_the_detector_sees_what_its_backbone_saw(name, neck):
    backbone, detector = detector_of(name, neck)
    images, backbone, detector = torch.randn(2, 3, 64, 64), backbone.eval(), detector.eval()
    trunk = detector.backbone
    if isinstance(backbone, ViT):
        last = backbone.norm(trunk.body.tokens(images))
        assert torch.equal(last, backbone.tokens(images))
    else:
        last = list(trunk.body(images).values())[-1]
        last = detector.roi_heads.box_head.res5(last) if neck == "c4" else last
        assert torch.equal(last, backbone.forward_features(images))


def test_c4_finds_what_torchvisions_heads_find_that_compute_a_regions_maps_twice():
    _, detector = detector_of("resnet18", "c4")
    ours, images = detector.eval().roi_heads, two_squares(64)[0]
    ours.score_thresh = 0.2
    found = detector(images)
    detector.roi_heads = RoIHeads(
        ours.box_roi_pool,
        nn.Sequential(ours.box_head, nn.AdaptiveAvgPool2d(1)),
        ours.box_predictor,
        *(0.5, 0.5, 16, 0.25, None, 0.2, 0.5, 100),
        mask_roi_pool=ours.box_roi_pool,
        mask_head=ours.box_head,
        mask_predictor=ours.mask_predictor,
    ).eval()
    for mine, theirs in zip(found, detector(images), strict=True):
        assert len(mine["boxes"]) > 0
        for key in ("boxes", "labels", "scores", "masks"):
            torch.testing.assert_close(mine[key], theirs[key])  # a mean is summed in another order


def test_published_settings_are_torchvisions_mask_rcnn():
    """Its parameters fit ours by name, and both then find the same."""
    config = DetectionConfig(short_sides=[160], long_side=200, post_nms_top_n=(50, 50))
    detector = build_detector(build_backbone(BackboneConfig(name="resnet50"), 224), config, 90, 224).eval()
    theirs = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=160, max_size=200, rpn_post_nms_top_n_test=50
    ).eval()
    detector.load_state_dict(theirs.state_dict())
    detector.roi_heads.score_thresh = theirs.roi_heads.score_thresh = 0.0
    image = [torch.rand(3, 100, 120)]
    with torch.no_grad():
        (mine,), (other,) = detector(image), theirs(image)
    assert len(mine["boxes"]) > 0
    torch.testing.assert_close(mine["boxes"], other["boxes"])
    torch.testing.assert_close(mine["masks"], other["masks"])


def test_c4_needs_four_stages():
    with pytest.raises(ValueError, match=r"neck is c4, but the backbone has three stages: set it to fpn"):
        detector_of("resnet8", "c4")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "neck"), [("resnet50", "fpn"), ("resnet50", "c4"), ("vit_base_patch16", "fpn")])
def test_the_papers_networks_take_a_step(name, neck):
    config = DetectionConfig(short_sides=[224], long_side=320, roi_batch_size=32)
    _, detector = detector_of(name, neck, config, 224)
    sum(detector.train()(*two_squares(240)).values()).backward()
    torch.optim.SGD(detector.parameters(), lr=1e-3).step()
    assert all(parameter.isfinite().all() for parameter in detector.parameters())
