from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hirl.methods.mocov3 import contrastive_loss
from tests.methods.reference_losses import EXACT, SINGLE, Array, log_softmax, numbers, unit


def slow_contrastive_loss(queries: Array, keys: Array, temperature: float) -> float:
    """2T times the cross-entropy of each query finding its own key in the batch."""
    losses = []
    for n, query in enumerate(queries):
        logits = np.array([unit(query) @ unit(key) for key in keys]) / temperature
        losses.append(-log_softmax(logits)[n])
    return 2 * temperature * float(np.mean(losses))


def test_loss_is_the_formula() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 6, 5, dtype=torch.float64)
    expected = slow_contrastive_loss(numbers(query), numbers(key), 0.2)
    assert contrastive_loss(query, key, 0.2).item() == pytest.approx(expected, rel=EXACT)


def test_step_crosses_the_views_and_predicts_from_the_query_alone(make_method, draw_views, step_at) -> None:
    method, batch = make_method("mocov3").train(), draw_views()
    queries = [numbers(method.predictor(method.query_encoder(view))) for view in batch]
    keys = [numbers(method.key_encoder(view)) for view in batch]
    expected = slow_contrastive_loss(queries[0], keys[1], 0.2) + slow_contrastive_loss(queries[1], keys[0], 0.2)
    assert method(batch, step_at()).loss.item() == pytest.approx(expected, rel=SINGLE)


def test_momentum_rises_to_one_along_a_cosine(make_method, step_at) -> None:
    for number in (0, 7, 14):
        method = make_method("mocov3", model={"momentum": 0.5})
        key, query = method.key_encoder.projector.layers[0].weight, method.query_encoder.projector.layers[0].weight
        with torch.no_grad():
            query.add_(1.0)
        before = key.clone()
        method.before_step(step_at(number))
        momentum = 1 - 0.5 * (1 + math.cos(math.pi * number / 15)) * (1 - 0.5)
        torch.testing.assert_close(key, before * momentum + query * (1 - momentum))  # float32's own tolerance


def test_heads_end_in_a_batch_norm_without_scale(make_method) -> None:
    method = make_method("mocov3")
    for head, layers in ((method.query_encoder.projector, 3), (method.predictor, 2)):
        linear = [layer for layer in head.layers if isinstance(layer, torch.nn.Linear)]
        assert len(linear) == layers
        assert all(layer.bias is None for layer in linear)
        assert not head.layers[-1].affine
