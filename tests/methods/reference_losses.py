"""The formulas as loops in float64, slow and obvious: what the methods' losses are compared with."""

from __future__ import annotations

import numpy as np
from torch import Tensor

Array = np.ndarray
EXACT = 1e-9  # relative, for float64 against float64
SINGLE = 1e-5  # relative, for the float32 of networks


def numbers(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def unit(vector: Array) -> Array:
    return vector / np.sqrt(np.sum(vector**2))


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())


def cross_entropy(target: Array, scores: Array) -> float:
    """Of one image: a distribution [K] against raw scores [K]."""
    return float(-sum(p * log_p for p, log_p in zip(target, log_softmax(scores), strict=True)))
