from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hirl.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from hirl.training.schedules import learning_rate, weight_decay

PER_EPOCH = 4


def training(*, decay: float = 0.1, final: float | None = None, **schedule: Any) -> TrainingConfig:
    """10 epochs of 4 steps, peak rate 0.5 * 512 / 256 = 1."""
    optimizer = OptimizerConfig(base_lr=0.5, weight_decay=decay, final_weight_decay=final)
    return TrainingConfig(epochs=10, batch_size=512, optimizer=optimizer, schedule=ScheduleConfig(**schedule))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, 0.2),  # start_lr
        (4, 0.6),  # half way up: (0.2 + 1) / 2
        (7, 0.9),
        (8, 1.0),  # the peak, when two epochs are over
        (24, 0.55),  # half way down: (1 + 0.1) / 2
        (16, 0.1 + 0.9 * (1 + 0.5**0.5) / 2),  # a quarter: cos(45 degrees)
        (40, 0.1),  # min_lr, where a step after the last would be
    ],
)
def test_warm_up_then_half_a_cosine(number: int, expected: float) -> None:
    config = training(warmup_epochs=2, start_lr=0.2, min_lr=0.1)
    assert learning_rate(config, number, PER_EPOCH) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup_epochs", [2, 2.6])
def test_a_warm_up_that_ends_at_the_peak_is_numpys_linspace(warmup_epochs: float) -> None:
    config = training(warmup_epochs=warmup_epochs, warmup_ends_at_peak=True, start_lr=0.1, min_lr=0.1)
    steps = math.ceil(warmup_epochs * PER_EPOCH)
    rates = [learning_rate(config, number, PER_EPOCH) for number in range(steps)]
    np.testing.assert_allclose(rates, np.linspace(0.1, 1, steps), rtol=1e-14)
    assert rates[-1] == config.effective_lr
    usual = training(warmup_epochs=warmup_epochs, start_lr=0.1, min_lr=0.1)
    after = range(steps, 10 * PER_EPOCH)
    assert [learning_rate(config, n, PER_EPOCH) for n in after] == [learning_rate(usual, n, PER_EPOCH) for n in after]


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert learning_rate(training(), 0, PER_EPOCH) == 1
    assert learning_rate(training(), 20, PER_EPOCH) == pytest.approx(0.5)


def test_start_and_end_rates_are_not_scaled_by_the_batch() -> None:
    config = training(warmup_epochs=1, start_lr=0.3, min_lr=0.01)
    larger = config.model_copy(update={"batch_size": 4096})
    assert larger.effective_lr == 8 * config.effective_lr
    for number in (0, 40):
        assert learning_rate(larger, number, PER_EPOCH) == pytest.approx(learning_rate(config, number, PER_EPOCH))


def test_a_rate_per_epoch_is_that_of_the_epochs_first_step() -> None:
    per_step, per_epoch = training(), training(per_epoch=True)
    for number in range(40):
        first = number // PER_EPOCH * PER_EPOCH
        assert learning_rate(per_epoch, number, PER_EPOCH) == learning_rate(per_step, first, PER_EPOCH)


def test_warm_up_may_take_the_whole_training() -> None:
    rates = [learning_rate(training(warmup_epochs=10), number, PER_EPOCH) for number in range(40)]
    assert rates == pytest.approx([number / 40 for number in range(40)])


def test_milestones_multiply_the_rate_instead_of_the_cosine() -> None:
    config = training(milestones=(3, 6), factor=0.2)
    rates = [learning_rate(config, number, PER_EPOCH) for number in range(40)]
    assert rates == pytest.approx([1.0] * 12 + [0.2] * 12 + [0.04] * 16)


def test_milestones_follow_a_warm_up() -> None:
    rates = [learning_rate(training(milestones=(3,), warmup_epochs=1), number, PER_EPOCH) for number in range(13)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75] + [1.0] * 8 + [0.1])


def test_weight_decay_is_constant_or_half_a_cosine() -> None:
    assert {weight_decay(training(), number, PER_EPOCH) for number in range(40)} == {0.1}
    rising = training(decay=0.04, final=0.4)
    values = [weight_decay(rising, number, PER_EPOCH) for number in (0, 20, 40)]
    assert values == pytest.approx([0.04, 0.22, 0.4])
