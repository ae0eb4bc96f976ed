"""Learning rate and weight decay as functions of the number of the step."""

from __future__ import annotations

import math

from hirl.config import TrainingConfig
from hirl.methods.schedules import half_cosine, linear_warm_up


def learning_rate(config: TrainingConfig, number: int, per_epoch: int) -> float:
    """Return the rate of step `number`: linear warm-up to the effective rate, then half a cosine to min_lr.

    With `milestones` the rate is multiplied by `factor` at each of them instead. The first step after the warm-up has
    the effective rate; with `warmup_ends_at_peak` the last step of the warm-up has it too. With `per_epoch` the whole
    epoch has the rate of its first step (MoCo v2, SimSiam).
    """
    schedule, peak = config.schedule, config.effective_lr
    if schedule.per_epoch:
        number -= number % per_epoch
    warmup = schedule.warmup_epochs * per_epoch
    if number < warmup and schedule.warmup_ends_at_peak:
        return linear_warm_up(schedule.start_lr, peak, math.ceil(warmup), number)
    if number < warmup:
        return schedule.start_lr + (peak - schedule.start_lr) * number / warmup
    if schedule.milestones:
        return peak * schedule.factor ** sum(number >= milestone * per_epoch for milestone in schedule.milestones)
    return half_cosine(peak, schedule.min_lr, (number - warmup) / (config.epochs * per_epoch - warmup))


def weight_decay(config: TrainingConfig, number: int, per_epoch: int) -> float:
    """Return the weight decay of step `number`: constant, or half a cosine to final_weight_decay."""
    start, final = config.optimizer.weight_decay, config.optimizer.final_weight_decay
    return start if final is None else half_cosine(start, final, number / (config.epochs * per_epoch))
