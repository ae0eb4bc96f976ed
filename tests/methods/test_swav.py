from __future__ import annotations

import numpy as np
import pytest
import torch
from lightly.loss.swav_loss import sinkhorn

from tests.methods.reference_losses import EXACT, SINGLE, Array, cross_entropy, numbers


def slow_codes(logits: Array, epsilon: float = 0.05, iterations: int = 3) -> Array:
    """Sinkhorn, cell by cell: prototypes share the batch equally, then images have a distribution each."""
    batch, prototypes = logits.shape
    q = np.array([[np.exp(logits[n, k] / epsilon) for n in range(batch)] for k in range(prototypes)])
    q = q / q.sum()
    for _ in range(iterations):
        for k in range(prototypes):
            q[k, :] = q[k, :] / q[k, :].sum() / prototypes
        for n in range(batch):
            q[:, n] = q[:, n] / q[:, n].sum() / batch
    return (q * batch).T


def slow_loss(logits: list[Array], temperature: float = 0.1) -> float:
    per_code = []
    for a in (0, 1):
        codes = slow_codes(logits[a])
        per_crop = [
            np.mean([cross_entropy(code, row) for code, row in zip(codes, logits[v] / temperature, strict=True)])
            for v in range(len(logits))
            if v != a
        ]
        per_code.append(np.mean(per_crop))
    return float(np.mean(per_code))


def random_logits(crops: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return list(torch.rand(crops, 6, 5, dtype=torch.float64) * 2 - 1)


def test_codes_are_the_formula_and_sum_to_one() -> None:
    logits = random_logits(1)[0]
    codes = numbers(sinkhorn(logits))
    np.testing.assert_allclose(codes, slow_codes(numbers(logits)), rtol=EXACT)
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=EXACT)


@pytest.mark.parametrize("local", [0, 3])
def test_loss_is_the_formula(make_method, local: int) -> None:
    logits = random_logits(2 + local)
    loss = make_method("swav").swapped_prediction(logits[:2], logits[2:])
    assert loss.item() == pytest.approx(slow_loss([numbers(view) for view in logits]), rel=EXACT)


def test_step_uses_every_crop_and_encodes_crops_of_one_size_together(make_method, draw_views, step_at) -> None:
    method, batch, calls = make_method("swav").train(), draw_views(local=2), []
    globals_, locals_ = method.encoder(torch.cat(batch[:2])), method.encoder(torch.cat(batch[2:]))
    logits = [numbers(method.prototypes(z)) for z in (*globals_.chunk(2), *locals_.chunk(2))]
    method.backbone.register_forward_hook(lambda *_: calls.append(1))
    output = method(batch, step_at())
    assert output.loss.item() == pytest.approx(slow_loss(logits), rel=SINGLE)
    assert len(calls) == 2
    assert 1 <= output.metrics["prototype_perplexity"] <= 12


def test_prototypes_are_compared_by_direction_alone(make_method) -> None:
    prototypes, embedding = make_method("swav").prototypes, torch.randn(4, 16)
    logits = prototypes(embedding)
    with torch.no_grad():
        prototypes.weight.mul_(torch.rand(12, 1) + 0.5)
    # cosines are at most 1 and float32 has 7 digits
    torch.testing.assert_close(prototypes(embedding * 3), logits, rtol=0, atol=1e-6)


def test_prototypes_are_frozen_for_the_first_steps(make_method, draw_views, step_at) -> None:
    method = make_method("swav", model={"frozen_prototype_steps": 2})
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1)
    moved = []
    for number in range(4):
        before = method.prototypes.weight.clone()
        method.before_step(step_at(number))
        optimizer.zero_grad()
        method(draw_views(), step_at(number)).loss.backward()
        optimizer.step()
        moved.append(not torch.equal(before, method.prototypes.weight))
    assert moved == [False, False, True, True]
