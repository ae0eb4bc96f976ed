from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.methods.mocov2 import info_nce
from tests.methods.reference_losses import EXACT, SINGLE, Array, log_softmax, numbers, unit

SAME = 1e-6  # between unit vectors of float32 networks that saw their images in another order


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


def test_step_takes_queries_of_view_0_keys_of_view_1_and_the_queue_of_earlier_batches(
    make_method, draw_views, step_at
) -> None:
    """Batch statistics are those of groups of four images; the images of the keys are shuffled."""
    method, batch = make_method("mocov2").train(), draw_views()
    # the same networks, given one group at a time
    alone = make_method("mocov2", model={"batch_norm_groups": 1}).train()
    queue = method.queue.clone()
    queries = torch.cat([alone.query_encoder(half) for half in batch[0].chunk(2)])
    torch.manual_seed(5)
    order = torch.randperm(len(batch[1]))
    shuffled = torch.cat([alone.key_encoder(half) for half in batch[1][order].chunk(2)])
    keys = torch.empty_like(shuffled)
    keys[order] = shuffled
    expected = slow_info_nce(numbers(queries), numbers(keys), numbers(queue), 0.2)
    torch.manual_seed(5)
    assert method(batch, step_at()).loss.item() == pytest.approx(expected, rel=SINGLE)
    ours, theirs = (dict(encoders.named_buffers()) for encoders in (method, alone))
    norms = [name for name in theirs if "running" in name or "tracked" in name]
    assert norms
    torch.testing.assert_close([ours[name] for name in norms], [theirs[name] for name in norms])


def test_images_of_one_group_do_not_influence_another(make_method, draw_views, step_at) -> None:
    method, batch = make_method("mocov2").train(), draw_views()
    embedding = method([batch[0].requires_grad_(), batch[1]], step_at()).embedding
    (gradient,) = torch.autograd.grad(embedding[:4].square().sum(), batch[0])
    assert gradient[:4].abs().amax(dim=(1, 2, 3)).min() > 0
    assert gradient[4:].abs().max() == 0


def test_the_queue_replaces_its_oldest_keys_by_those_of_the_batch(make_method, draw_views, step_at) -> None:
    method = make_method("mocov2", model={"queue_size": 20}).eval()  # a key without batch statistics is its image's own
    expected, oldest = method.queue.clone(), 0
    for seed in range(4):  # 4 batches of 8 go once round a ring of 20 and overlap its start
        batch = draw_views(seed=seed)
        for key in F.normalize(method.key_encoder(batch[1]), dim=1):
            expected[oldest] = key
            oldest = (oldest + 1) % 20
        method(batch, step_at())
        torch.testing.assert_close(method.queue, expected, rtol=0, atol=SAME)


def test_keys_come_from_the_updated_key_encoder(make_method, draw_views, step_at) -> None:
    method, batch = make_method("mocov2", model={"momentum": 0.5}).eval(), draw_views()
    with torch.no_grad():
        for parameter in method.query_encoder.parameters():
            parameter.add_(0.1)
    before = F.normalize(method.key_encoder(batch[1]), dim=1)
    method.before_step(step_at())
    after = F.normalize(method.key_encoder(batch[1]), dim=1)
    method(batch, step_at())
    entered: Tensor = method.queue[: len(after)]
    torch.testing.assert_close(entered, after, rtol=0, atol=SAME)
    assert not torch.allclose(entered, before, rtol=0, atol=1000 * SAME)


def test_a_queue_shorter_than_the_batch_is_refused(make_method, draw_views, step_at) -> None:
    with pytest.raises(ValueError, match=r"model\.queue_size 4 is less than the batch of 8: raise it"):
        make_method("mocov2", model={"queue_size": 4})(draw_views(), step_at())
