"""Sums of many terms, whose truth is one of float64 numbers without rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mpmath import mp, mpf

from bench.accuracy.regimes import Arrays, Draw, Regimes
from bench.accuracy.truths import Truth


def _squares(length: int) -> Any:
    def sample(draw: Draw) -> Arrays:
        return draw.rng.normal(size=(1, length)), np.zeros((1, length))

    return sample


def _logits(rows: int, classes: int, scale: float = 1.0) -> Any:
    def sample(draw: Draw) -> Arrays | None:
        # The truth of the longest is no better than float64 itself.
        if draw.dtype == np.float64 and classes > 1000:
            return None
        labels = draw.rng.integers(0, classes, rows)
        return scale * draw.rng.normal(size=(rows, classes)), labels

    return sample


SQUARES: Regimes = {f"2^{n} terms": _squares(2**n) for n in (20, 24)}
CLASSES: Regimes = {
    "100 classes": _logits(64, 100),
    "100, spread": _logits(64, 100, 10),
    "1000 classes": _logits(32, 1000),
    "1000, spread": _logits(32, 1000, 10),
    "2^20 classes": _logits(1, 2**20),
}


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
    of_row = _row if logits.shape[1] <= 1000 else _long_row
    values, gradients = zip(*map(of_row, logits, labels), strict=True)
    return Truth(np.stack(values), np.stack(gradients), None)


def _row(logits: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    with mp.workdps(60):
        exponentials = [mp.exp(mpf(z) - mpf(logits[label])) for z in logits.tolist()]
        others = mp.fsum(exponentials[:label] + exponentials[label + 1 :])
        gradient = [e / (1 + others) for e in exponentials]
        gradient[label] = -others / (1 + others)
        return _split(mp.log1p(others)), np.array([_split(slope) for slope in gradient])


def _split(number: Any) -> np.ndarray:
    return np.array([float(number), float(number - float(number))])


def _long_row(logits: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    exponentials = np.exp(logits)
    total = math.fsum(exponentials)
    gradient = exponentials / total
    gradient[label] -= 1
    return _exact(np.array(math.log(total) - logits[label])), _exact(gradient)


def _exact(numbers: np.ndarray) -> np.ndarray:
    """With a second part of 0."""
    return np.stack([numbers, np.zeros_like(numbers)], -1)
