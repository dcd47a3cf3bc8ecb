"""Where a loss is tried: inputs of the kinds on which formulas lose their digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

Arrays = tuple[np.ndarray, ...]


class Draw(NamedTuple):
    """Of a number of examples, in a dtype."""

    rng: np.random.Generator
    count: int
    dtype: np.dtype

    @property
    def info(self) -> Any:
        return ml_dtypes.finfo(self.dtype)

    @property
    def largest(self) -> float:
        return float(self.info.max)

    @property
    def eps(self) -> float:
        return float(self.info.eps)

    @property
    def nats(self) -> float:
        """How far ahead a class can be before its loss is no normal number."""
        return float(-np.log(float(self.info.smallest_normal)) - 3)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=(self.count, *shape))

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        return self.rng.uniform(low, high, (self.count, *shape))

    def signs(self, *shape: int) -> np.ndarray:
        return self.rng.choice([-1.0, 1.0], (self.count, *shape))

    def rounded(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.dtype).astype(np.float64)


Sampler = Callable[[Draw], "Arrays | None"]
Regimes = dict[str, Sampler]


def _scaled(scale: float) -> Sampler:
    def sample(draw: Draw) -> Arrays | None:
        if scale > draw.largest / 1e3 or scale < 1e3 * float(draw.info.smallest_normal):
            return None
        return scale * draw.normal(), np.zeros(draw.count)

    return sample


def _offset(draw: Draw) -> Arrays:
    targets = draw.rounded(1e4 + draw.normal())
    return targets + draw.normal(), targets


ERRORS: Regimes = {
    "benign": lambda draw: (draw.normal(), draw.normal()),
    "offset 1e4": _offset,
    "tiny errors": _scaled(1e-8),
    "tiniest errors": _scaled(1e-15),
    "huge": _scaled(1e18),
    "near the largest": lambda draw: (
        draw.signs() * draw.largest * draw.uniform(0.3, 0.99),
        draw.uniform(-1, 1),
    ),
    "all sizes": lambda draw: (
        draw.signs() * 10.0 ** draw.uniform(-4, 4),
        draw.signs() * 10.0 ** draw.uniform(-4, 4),
    ),
}

POSITIVE: Regimes = {
    "benign": lambda draw: (draw.uniform(0, 5), draw.uniform(0.5, 5)),
    "nearly equal": lambda draw: _near(draw, draw.uniform(0.1, 5)),
    "all sizes": lambda draw: (10.0 ** draw.uniform(-4, 4), 10.0 ** draw.uniform(-4, 4)),
}


def _near(draw: Draw, targets: np.ndarray) -> Arrays:
    targets = draw.rounded(targets)
    return targets * (1 + draw.eps * np.round(draw.uniform(-40, 40))), targets


def _signed(values: Callable[[Draw], np.ndarray], ahead: float = 0) -> Sampler:
    """A score of a size, with the sign of its target (ahead 1), the other (-1), or either (0)."""

    def sample(draw: Draw) -> Arrays:
        targets, sizes = draw.signs(), values(draw)
        return (sizes if ahead == 0 else ahead * targets * np.abs(sizes)), targets

    return sample


SIGNED: Regimes = {
    "benign": _signed(lambda draw: draw.normal()),
    "confident": _signed(lambda draw: draw.uniform(1, draw.nats), 1),
    "wrong": _signed(lambda draw: draw.uniform(1, draw.nats), -1),
    "tiny": _signed(lambda draw: 1e-4 * draw.normal()),
    "near the largest": _signed(lambda draw: draw.largest * draw.uniform(0.1, 0.4), -1),
}


def _of_zero_and_one(sampler: Sampler) -> Sampler:
    def sample(draw: Draw) -> Arrays | None:
        scores, signs = sampler(draw) or (None, None)
        return None if scores is None else (scores, (signs + 1) / 2)

    return sample


HARD: Regimes = {name: _of_zero_and_one(sampler) for name, sampler in SIGNED.items()}
SOFT: Regimes = {
    "benign": lambda draw: (draw.normal(), draw.uniform(0, 1)),
    "confident": lambda draw: (draw.uniform(-30, 30), draw.uniform(0, 1)),
    "all but hard": lambda draw: (
        draw.uniform(-30, 30),
        np.where(draw.signs() > 0, 1 - draw.eps, draw.eps),
    ),
}
PROBABILITIES: Regimes = {
    "benign": lambda draw: (draw.uniform(0.05, 0.95), draw.rng.integers(0, 2, draw.count) * 1.0),
    "near 0": lambda draw: (
        10.0 ** draw.uniform(-min(draw.nats / 2.5, 30), -1),
        draw.rng.integers(0, 2, draw.count) * 1.0,
    ),
    "near 1": lambda draw: (
        1 - draw.eps * np.round(draw.uniform(1, 50)),
        draw.rng.integers(0, 2, draw.count) * 1.0,
    ),
}
SOFT_PROBABILITIES: Regimes = {
    "benign": lambda draw: (draw.uniform(0.05, 0.95), draw.uniform(0, 1)),
}

CLASSES = 7


def _labels(draw: Draw) -> np.ndarray:
    return draw.rng.integers(0, CLASSES, draw.count)


def _of_class(draw: Draw, low: float, high: float) -> Arrays:
    """Labels whose score is above all others by so much, or below if negative."""
    scores, labels = draw.normal(CLASSES), _labels(draw)
    rows = np.arange(draw.count)
    scores[rows, labels] = -np.inf
    scores[rows, labels] = np.max(scores, 1) + draw.uniform(low, high)
    return scores, labels


def _logits(scale: float, offset: float = 0) -> Sampler:
    def sample(draw: Draw) -> Arrays | None:
        if offset * draw.eps > 1000 or offset > draw.largest:
            return None
        return offset + scale * draw.normal(CLASSES), _labels(draw)

    return sample


def _offset_by(offset: float) -> Sampler:
    """Logits whose differences are whole steps of the dtype there."""

    def sample(draw: Draw) -> Arrays | None:
        if offset > draw.largest / 4:
            return None
        steps = np.round(draw.normal(CLASSES) * max(1, 0.5 / (offset * draw.eps)))
        return offset * (1 + 2 * draw.eps * steps), _labels(draw)

    return sample


LOGITS: Regimes = {
    "benign": _logits(1),
    "spread": _logits(10),
    "offset 1e4": _offset_by(1e4),
    "offset 1e8": _offset_by(1e8),
    "confident": lambda draw: _of_class(draw, 1, draw.nats - 4),
    "wrong": lambda draw: _of_class(draw, -draw.nats + 4, -1),
    "tiny": _logits(1e-4),
    "ties": lambda draw: (np.round(draw.normal(CLASSES)), _labels(draw)),
}


def _distribution(draw: Draw, spread: float = 1) -> np.ndarray:
    scores = np.exp(spread * draw.normal(CLASSES))
    return scores / np.sum(scores, 1, keepdims=True)


def _soft(scale: float, of_class: bool = False) -> Sampler:
    def sample(draw: Draw) -> Arrays:
        logits = scale * draw.normal(CLASSES)
        return logits, np.eye(CLASSES)[_labels(draw)] if of_class else _distribution(draw)

    return sample


SOFT_LABELS: Regimes = {
    "benign": _soft(1),
    "spread": _soft(10),
    "one-hot": _soft(1, True),
    "offset 1e4": lambda draw: (
        1e4 * (1 + 2 * draw.eps * np.round(draw.normal(CLASSES) * max(1, 5e-5 / draw.eps))),
        _distribution(draw),
    ),
    "near the truth": lambda draw: (
        lambda targets: (np.log(targets) + 1e-2 * draw.normal(CLASSES), targets)
    )(_distribution(draw)),
}


def _two_distributions(difference: float | None, logs: bool) -> Sampler:
    def sample(draw: Draw) -> Arrays:
        log_targets = draw.rounded(np.log(_distribution(draw)))
        log_probs = np.log(_distribution(draw))
        if difference is not None:
            log_probs = log_targets + difference * draw.normal(CLASSES)
        return log_probs, log_targets if logs else np.exp(log_targets)

    return sample


def distributions(logs: bool) -> Regimes:
    return {
        "benign": _two_distributions(None, logs),
        "close": _two_distributions(1e-2, logs),
        "nearly equal": _two_distributions(1e-5, logs),
    }


FEATURES = 6


def _vectors(count: int, scales: tuple[float, ...]) -> Sampler:
    def sample(draw: Draw) -> Arrays | None:
        small = 1e3 * float(draw.info.smallest_normal)
        if max(scales) > draw.largest / 1e3 or min(scales) < small:
            return None
        return tuple(scale * draw.normal(FEATURES) for scale in scales[:count])

    return sample


def _parallel(size: float, scale: float) -> Sampler:
    def sample(draw: Draw) -> Arrays | None:
        first = draw.normal(FEATURES)
        if size < draw.eps or scale * 1e3 > draw.largest:
            return None
        return first, scale * (first + size * draw.normal(FEATURES))

    return sample


def _last_digits(draw: Draw) -> Arrays:
    first = draw.rounded(draw.normal(FEATURES))
    return first, first * (1 + draw.eps * np.round(draw.uniform(-2, 2, FEATURES)))


VECTORS: Regimes = {
    "benign": _vectors(2, (1, 1)),
    "scales": _vectors(2, (1e15, 1e-15)),
    "nearly parallel": _parallel(1e-3, 1),
    "more nearly": _parallel(1e-6, 3.3),
    "last digits": _last_digits,
}


def with_signs(regimes: Regimes) -> Regimes:
    def signed(sampler: Sampler) -> Sampler:
        def sample(draw: Draw) -> Arrays | None:
            arrays = sampler(draw)
            return None if arrays is None else (*arrays, draw.signs())

        return sample

    return {name: signed(sampler) for name, sampler in regimes.items()}


def _triplets(scale: float) -> Sampler:
    def sample(draw: Draw) -> Arrays:
        anchors = draw.rounded(draw.normal(FEATURES))
        positives = anchors + scale * draw.normal(FEATURES)
        return anchors, positives, anchors + 0.2 * draw.normal(FEATURES)

    return sample


def _coinciding(draw: Draw) -> Arrays:
    anchors, positives = _last_digits(draw)
    return anchors, positives, anchors + 0.2 * draw.normal(FEATURES)


TRIPLETS: Regimes = {
    "benign": _triplets(0.3),
    "near": _triplets(1e-3),
    "last digits": _coinciding,
}


def of_first(regimes: Regimes) -> Regimes:
    """The first array alone."""

    def first(sampler: Sampler) -> Sampler:
        def sample(draw: Draw) -> Arrays | None:
            arrays = sampler(draw)
            return None if arrays is None else arrays[:1]

        return sample

    return {name: first(sampler) for name, sampler in regimes.items()}


def some(*names: str, of: Regimes) -> Regimes:
    return {name: of[name] for name in names}


COUNTS: Regimes = {"benign": lambda draw: (draw.normal(), np.floor(draw.uniform(0, 9)))}
MEASUREMENTS: Regimes = {
    "benign": lambda draw: (draw.normal(), draw.normal(), draw.uniform(0.1, 4))
}
DISTANCES: Regimes = {"benign": lambda draw: (draw.uniform(0, 2), draw.signs())}
RANKED: Regimes = {"benign": lambda draw: (draw.normal(), draw.normal(), draw.signs())}
POWERS: Regimes = {"benign": lambda draw: (draw.uniform(0.1, 5), draw.uniform(-2, 2))}
MULTILABEL: Regimes = {
    "benign": lambda draw: (draw.normal(CLASSES), (draw.signs(CLASSES) + 1) / 2),
    "confident": lambda draw: (
        lambda signs: (signs * draw.uniform(1, draw.nats - 2, CLASSES), (signs + 1) / 2)
    )(draw.signs(CLASSES)),
}
MASKS: Regimes = {
    "benign": lambda draw: (draw.uniform(0, 1, CLASSES), (draw.signs(CLASSES) + 1) / 2)
}
HIDDEN: Regimes = {"benign": lambda draw: (draw.normal(FEATURES), _labels(draw))}


def _several(draw: Draw) -> Arrays:
    """As PyTorch has them: -1 after the last."""
    labels = np.argsort(draw.normal(CLASSES), 1)
    counts = draw.rng.integers(1, CLASSES, (draw.count, 1))
    return draw.normal(CLASSES), np.where(np.arange(CLASSES) < counts, labels, -1)


SEVERAL_LABELS: Regimes = {"benign": _several}

# Whole batches as examples, flat: of a few vectors in space; of frames of a few symbols.
SPACE, SYMBOLS = 3, 4
BATCHES: Regimes = {
    "benign": lambda draw: (draw.normal(4 * SPACE), draw.normal(4 * SPACE)),
    "near": lambda draw: (lambda a: (a, a + 1e-3 * draw.normal(4 * SPACE)))(
        draw.rounded(draw.normal(4 * SPACE))
    ),
}
LABELLED_BATCHES: Regimes = {
    "benign": lambda draw: (
        draw.normal(4 * SPACE),
        np.broadcast_to(np.array([0, 1, 0, 1]), (draw.count, 4)),
    )
}
FRAMES: Regimes = {
    name: (
        lambda draw, scale=scale: (
            scale * draw.normal(5 * SYMBOLS),
            draw.rng.integers(1, SYMBOLS, (draw.count, 2)),
        )
    )
    for name, scale in {"benign": 1.0, "spread": 5.0}.items()
}
