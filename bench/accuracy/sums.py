"""Sums of many terms, whose truth is one of float64 numbers without rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.accuracy.regimes import Arrays, Draw, Regimes
from bench.accuracy.truths import Truth


def _squares(length: int) -> Any:
    def sample(draw: Draw) -> Arrays:
        return draw.rng.normal(size=(1, length)), np.zeros((1, length))

    return sample


def _logits(draw: Draw) -> Arrays | None:
    # The truth is no better than float64 itself.
    return (
        None if draw.dtype == np.float64 else (draw.rng.normal(size=(1, 2**20)), np.zeros(1, int))
    )


SQUARES: Regimes = {f"2^{n} terms": _squares(2**n) for n in (20, 24)}
CLASSES: Regimes = {"2^20 classes": _logits}


def mean_of_squares(errors: np.ndarray, targets: np.ndarray) -> Truth:
    errors = (errors - targets)[0]
    high = errors * errors
    # What a product of float64 numbers is rounded by (Dekker, 1971); that of others is exact.
    large = errors * (2**27 + 1)
    large = large - (large - errors)
    small = errors - large
    low = ((large * large - high) + 2 * large * small) + small * small
    mean = math.fsum(np.concatenate([high, low])) / errors.size
    return Truth(_exact(np.array([mean])), _exact(2 * errors[None] / errors.size), None)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> Truth:
    exponentials = np.exp(logits[0])
    total = math.fsum(exponentials)
    gradient = exponentials / total
    gradient[labels[0]] -= 1
    loss = math.log(total) - logits[0, labels[0]]
    return Truth(_exact(np.array([loss])), _exact(gradient[None]), None)


def _exact(numbers: np.ndarray) -> np.ndarray:
    """With a second part of 0."""
    return np.stack([numbers, np.zeros_like(numbers)], -1)
