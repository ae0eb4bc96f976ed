"""Formulas as plain loops in float64, with which the tests compare the methods' losses."""

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


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def cross_entropy(target: Array, logits: Array) -> float:
    """Return the cross-entropy of one image's logits [K] with a distribution [K]."""
    return float(-sum(p * log_p for p, log_p in zip(target, log_softmax(logits), strict=True)))
