from __future__ import annotations

import numpy as np
import pytest
import torch
from lightly.loss.swav_loss import sinkhorn

from tests.methods.reference_losses import EXACT, SINGLE, Array, cross_entropy, numbers


def slow_codes(scores: Array, epsilon: float = 0.05, iterations: int = 3) -> Array:
    """Sinkhorn, cell by cell: prototypes share the batch equally, then images have a distribution each."""
    batch, prototypes = scores.shape
    q = np.array([[np.exp(scores[n, k] / epsilon) for n in range(batch)] for k in range(prototypes)])
    q = q / q.sum()
    for _ in range(iterations):
        for k in range(prototypes):
            q[k, :] = q[k, :] / q[k, :].sum() / prototypes
        for n in range(batch):
            q[:, n] = q[:, n] / q[:, n].sum() / batch
    return (q * batch).T


def slow_loss(scores: list[Array], temperature: float = 0.1) -> float:
    per_code = []
    for a in (0, 1):
        codes = slow_codes(scores[a])
        per_crop = [
            np.mean([cross_entropy(code, row) for code, row in zip(codes, scores[v] / temperature, strict=True)])
            for v in range(len(scores))
            if v != a
        ]
        per_code.append(np.mean(per_crop))
    return float(np.mean(per_code))


def random_scores(crops: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return list(torch.rand(crops, 6, 5, dtype=torch.float64) * 2 - 1)


def test_codes_are_the_formula_and_sum_to_one() -> None:
    scores = random_scores(1)[0]
    codes = numbers(sinkhorn(scores))
    np.testing.assert_allclose(codes, slow_codes(numbers(scores)), rtol=EXACT)
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=EXACT)


@pytest.mark.parametrize("local", [0, 3])
def test_loss_is_the_formula(make, local: int) -> None:
    scores = random_scores(2 + local)
    loss = make("swav").swapped_prediction(scores[:2], scores[2:])
    assert loss.item() == pytest.approx(slow_loss([numbers(view) for view in scores]), rel=EXACT)


def test_step_scores_every_crop_and_encodes_crops_of_one_size_together(make, views, at) -> None:
    method, batch, calls = make("swav").train(), views(local=2), []
    globals_, locals_ = method.encoder(torch.cat(batch[:2])), method.encoder(torch.cat(batch[2:]))
    scores = [numbers(method.prototypes(z)) for z in (*globals_.chunk(2), *locals_.chunk(2))]
    method.encoder.register_forward_hook(lambda *_: calls.append(1))
    output = method(batch, at())
    assert output.loss.item() == pytest.approx(slow_loss(scores), rel=SINGLE)
    assert len(calls) == 2
    assert 1 <= output.metrics["prototype_perplexity"] <= 12


def test_prototypes_are_compared_by_direction_alone(make) -> None:
    prototypes, embedding = make("swav").prototypes, torch.randn(4, 16)
    scores = prototypes(embedding)
    with torch.no_grad():
        prototypes.weight.mul_(torch.rand(12, 1) + 0.5)
    # cosines are at most 1 and float32 has 7 digits
    torch.testing.assert_close(prototypes(embedding * 3), scores, rtol=0, atol=1e-6)


def test_prototypes_are_frozen_for_the_first_steps(make, views, at) -> None:
    method = make("swav", model={"frozen_prototype_steps": 2})
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1)
    moved = []
    for number in range(4):
        before = method.prototypes.weight.clone()
        method.before_step(at(number))
        optimizer.zero_grad()
        method(views(), at(number)).loss.backward()
        optimizer.step()
        moved.append(not torch.equal(before, method.prototypes.weight))
    assert moved == [False, False, True, True]
