from __future__ import annotations

import numpy as np
import pytest
import torch

from hirl.methods.simsiam import negative_cosine
from tests.methods.reference_losses import EXACT, SINGLE, Array, numbers, unit


def slow_cosine(predictions: Array, projections: Array) -> float:
    return float(np.mean([unit(p) @ unit(z) for p, z in zip(predictions, projections, strict=True)]))


def test_cosine_is_the_formula() -> None:
    torch.manual_seed(0)
    p, z = torch.randn(2, 4, 5, dtype=torch.float64)
    assert negative_cosine(p, z).item() == pytest.approx(-slow_cosine(numbers(p), numbers(z)), rel=EXACT)


def test_loss_is_the_mean_over_both_directions(make_method, draw_views, step_at) -> None:
    method, batch = make_method("simsiam").train(), draw_views()
    z = [method.encoder(view) for view in batch]
    p = [method.predictor(projection) for projection in z]
    expected = -(slow_cosine(numbers(p[0]), numbers(z[1])) + slow_cosine(numbers(p[1]), numbers(z[0]))) / 2
    # the cosines of an untrained predictor cancel to a hundredth of their terms: rel to those, not to the sum
    assert method(batch, step_at()).loss.item() == pytest.approx(expected, abs=SINGLE)


def test_the_target_takes_no_gradient(make_method, draw_views, step_at) -> None:
    """With zero weights in the predictor, a gradient of the encoder could only come through the targets."""
    method = make_method("simsiam")
    last = method.predictor.layers[-1]
    torch.nn.init.zeros_(last.weight)
    method(draw_views(), step_at()).loss.backward()
    assert last.bias.grad.abs().max() > 0
    assert all(parameter.grad.abs().max() == 0 for parameter in method.encoder.parameters())


def test_each_view_is_encoded_once(make_method, draw_views, step_at) -> None:
    method, calls = make_method("simsiam"), []
    method.backbone.register_forward_hook(lambda *_: calls.append(1))
    method(draw_views(), step_at())
    assert len(calls) == 2


def test_the_predictors_rate_is_fixed(make_method) -> None:
    method = make_method("simsiam")
    encoder, predictor = method.parameter_groups()
    assert predictor["fixed_lr"]
    assert "fixed_lr" not in encoder
    assert set(predictor["params"]) == set(method.predictor.parameters())
