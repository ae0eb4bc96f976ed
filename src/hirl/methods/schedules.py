"""Schedules of one number: a learning rate, a weight decay, a momentum, a temperature.

Methods and the training core both use them.
"""

from __future__ import annotations

import math


def half_cosine(start: float, end: float, progress: float) -> float:
    """Return the value at `progress` of half a cosine from `start` (progress 0) to `end` (progress 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def linear_warm_up(start: float, end: float, count: int, number: int) -> float:
    """Return np.linspace(start, end, count)[number]: the last of `count` values, and every one after it, is `end`."""
    return end if number >= count - 1 else start + (end - start) * number / (count - 1)
