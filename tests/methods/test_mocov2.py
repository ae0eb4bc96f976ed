from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.methods.mocov2 import info_nce
from tests.methods.slow import EXACT, SINGLE, Array, log_softmax, numbers, unit


def slow_info_nce(queries: Array, keys: Array, queue: Array, temperature: float) -> float:
    """Each query against its own key (column 0) and every key of the queue."""
    losses = []
    for query, key in zip(queries, keys, strict=True):
        logits = [unit(query) @ unit(key)] + [unit(query) @ negative for negative in queue]
        losses.append(-log_softmax(np.array(logits) / temperature)[0])
    return float(np.mean(losses))


def test_loss_is_the_formula() -> None:
    torch.manual_seed(0)
    query, key, queue = (F.normalize(torch.randn(n, 5, dtype=torch.float64), dim=1) for n in (4, 4, 9))
    expected = slow_info_nce(numbers(query), numbers(key), numbers(queue), 0.2)
    assert info_nce(query, key, queue, 0.2).item() == pytest.approx(expected, rel=EXACT)


def test_step_takes_queries_of_view_0_keys_of_view_1_and_the_queue_of_earlier_batches(make, views, at) -> None:
    method, batch = make("mocov2").train(), views()
    queue = method.queue.clone()
    queries, keys = method.query_encoder(batch[0]), method.key_encoder(batch[1])
    expected = slow_info_nce(numbers(queries), numbers(keys), numbers(queue), 0.2)
    assert method(batch, at()).loss.item() == pytest.approx(expected, rel=SINGLE)


def test_queue_swaps_its_oldest_keys_for_the_batch_round_and_round(make, views, at) -> None:
    method = make("mocov2", model={"queue_size": 20})
    expected, oldest = method.queue.clone(), 0
    for seed in range(4):  # 4 batches of 8 go once round a ring of 20 and overlap its start
        batch = views(seed=seed)
        keys = F.normalize(method.key_encoder(batch[1]), dim=1)
        for key in keys:
            expected[oldest] = key
            oldest = (oldest + 1) % 20
        method(batch, at())
        assert torch.equal(method.queue, expected)


def test_keys_come_from_the_already_moved_key_encoder(make, views, at) -> None:
    method, batch = make("mocov2", model={"momentum": 0.5}), views()
    with torch.no_grad():
        for parameter in method.query_encoder.parameters():
            parameter.add_(0.1)
    keys_before = F.normalize(method.key_encoder(batch[1]), dim=1)
    method.before_step(at())
    keys_after = F.normalize(method.key_encoder(batch[1]), dim=1)
    method(batch, at())
    entered: Tensor = method.queue[: len(keys_after)]
    assert torch.equal(entered, keys_after)
    assert not torch.allclose(entered, keys_before)


def test_a_queue_shorter_than_the_batch_is_refused(make, views, at) -> None:
    with pytest.raises(ValueError, match=r"model\.queue_size 4 is less than a batch of 8"):
        make("mocov2", model={"queue_size": 4})(views(), at())
