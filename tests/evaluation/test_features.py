from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hirl.config import BackboneConfig
from hirl.data.images import ImageSet
from hirl.data.views import evaluation_view
from hirl.evaluation import features as module
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.features import extract_features, make_cache
from hirl.models.backbones import build_backbone
from tests.run_on_ranks import on_two_ranks


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(0, 256, (11, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    return ImageSet(pixels, None, torch.arange(22).reshape(11, 2), [["a"] * 21, ["b"] * 22], [[0] * 21], 8)


@pytest.fixture
def backbone() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.BatchNorm1d(5), nn.Dropout())


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_every_image_once_in_order_whatever_the_batch(images, backbone, batch_size):
    features = extract_features(backbone, images, torch.device("cpu"), batch_size)
    backbone.eval()
    expected = torch.cat([backbone(evaluation_view(image[None])) for image in images.images])
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected.detach(), rtol=1e-5, atol=1e-6)  # float32, other orders of summation


def test_the_backbone_is_frozen_and_keeps_its_mode(images, backbone):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    for training in (True, False):
        features = extract_features(backbone.train(training), images, torch.device("cpu"), 4)
        assert backbone.training is training
        assert not features.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_cache_holds_both_splits(images, backbone, monkeypatch):
    half = ImageSet(images.images[:6], None, images.labels[:6], images.class_names, images.parents, 8)
    monkeypatch.setattr(module, "load_images", lambda data, split: {"train": images, "validation": half}[split])
    cache = make_cache(backbone, "data", torch.device("cpu"), 4)
    assert cache.train.shape == (11, 5)
    assert np.allclose(cache.validation, cache.train[:6], atol=1e-6)  # float32
    assert np.array_equal(cache.validation_labels, images.labels[:6])


def both_splits(folder: Path) -> FeatureCache | None:
    torch.manual_seed(0)
    return make_cache(build_backbone(BackboneConfig(name="resnet8"), 32), folder, torch.device("cpu"), 16)


def test_two_ranks_share_the_images_and_rank_0_gets_all_features(tiny_data):
    first, second = on_two_ranks(both_splits, tiny_data)
    alone = both_splits(tiny_data)
    assert second is None
    for name, rows in vars(alone).items():
        np.testing.assert_allclose(vars(first)[name], rows, rtol=0, atol=1e-5)  # a batch of another size sums otherwise
