from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hirl.config import ProbeConfig
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.contracts import FrozenInputs
from hirl.evaluation.probe import evaluate_features, fit, probe


def test_steps_are_those_of_torch_sgd():
    features, labels = torch.randn(50, 4, dtype=torch.float64), torch.randint(0, 3, (50,))
    config = ProbeConfig(epochs=3, batch_size=16, weight_decay=0.1)
    weight = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    peak = config.base_lr * 16 / 256
    optimizer = torch.optim.SGD([weight], lr=peak, momentum=config.momentum, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / 12)) / 2)
    order = torch.Generator().manual_seed(0)
    for _ in range(3):
        for batch in torch.randperm(50, generator=order).split(16):
            optimizer.zero_grad()
            F.cross_entropy(features[batch] @ weight.T, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(fit(features, labels, 3, config), weight.detach(), rtol=1e-10, atol=1e-12)  # float64


def test_separable_classes_are_learned_and_noise_is_not(make_cache):
    config = ProbeConfig(epochs=20)
    assert probe(make_cache(300, 100, noise=0.05), config) == {"top1": 100, "top5": 100}
    noise = probe(make_cache(300, 600, classes=10, noise=100.0), config)
    assert noise["top1"] == pytest.approx(10, abs=5)  # four standard errors of 600 guesses among ten
    assert noise["top5"] == pytest.approx(50, abs=8)


def test_scale_and_offset_of_the_features_do_not_matter(make_cache):
    cache, config = make_cache(300, 100), ProbeConfig(epochs=5)
    moved = FeatureCache(
        100 * cache.train + 30, 100 * cache.validation + 30, cache.train_labels, cache.validation_labels
    )
    assert probe(moved, config)["top1"] == pytest.approx(probe(cache, config)["top1"], abs=1)  # one image: rounding


def test_same_features_give_the_same_numbers(make_cache):
    cache, config = make_cache(300, 100), ProbeConfig(epochs=3)
    assert probe(cache, config) == probe(cache, config)


def test_dead_features_and_few_classes_are_no_error(make_cache):
    cache = make_cache(100, 50, classes=2)
    cache.train[:, 0] = 0
    metrics = probe(cache, ProbeConfig(epochs=2))
    assert np.isfinite(metrics["top1"])
    assert metrics["top5"] == 100


def test_result_holds_accuracies_and_settings(make_cache):
    result = evaluate_features(FrozenInputs(make_cache(60, 50)), ProbeConfig(epochs=2))
    assert set(result.metrics) == {"top1", "top5"}
    assert result.settings["epochs"] == 2
