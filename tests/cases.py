"""The table of cases: one row per loss and option, run through every law of the suite.

Formulas are plain float64 maths, with none of the library's care: `formula` for autodiff, and
`gradient`, with respect to the first argument, by hand from a textbook. Samples are smooth points.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss
from jaxloss import primitives

Sampler = Callable[[np.random.Generator], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Case:
    """A loss with options, and what is known of it."""

    id: str
    loss: Callable[..., jax.Array]
    sample: Sampler
    formula: Callable[..., jax.Array]
    gradient: Callable[..., np.ndarray]
    options: Mapping[str, Any] = field(default_factory=dict)
    # (arguments, loss, gradient of its first argument) where the derivative jumps or the loss is 0.
    kinks: tuple[tuple[tuple[Any, ...], Any, Any], ...] = ()

    @property
    def name(self) -> str:
        return self.loss.__name__

    @property
    def bound(self) -> Callable[..., jax.Array]:
        """The loss with its options, as a user would fix them."""
        return functools.partial(self.loss, **self.options)

    @property
    def axis(self) -> int:
        """The class axis, for a loss that reduces one."""
        return self.options.get("axis", -1)

    @property
    def reduces(self) -> bool:
        """Whether the loss has a class axis."""
        return "axis" in inspect.signature(self.loss).parameters

    def __call__(self, *arrays: Any) -> jax.Array:
        return self.loss(*arrays, **self.options)

    def plain(self, *arrays: Any) -> jax.Array:
        return self.formula(*arrays, **self.options)

    def arrays(self, rng: np.random.Generator, dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
        """A sample whose floating arrays have the given dtype."""
        return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in self.sample(rng))


def real(rng):
    """Errors clear of every kink of the table: 0, 0.3, 1 and 1.7."""
    targets = rng.normal(size=(8, 4))
    errors = rng.choice([0.12, 0.6, 1.3, 2.2], (8, 4)) * rng.choice([-1, 1], (8, 4))
    return targets + errors * rng.uniform(0.95, 1.05, (8, 4)), targets


def logits_and_labels(shape=(8, 5), axis=-1, dtype=np.int32):
    def sample(rng):
        rows = np.delete(shape, axis)
        return rng.normal(size=shape) * 2, rng.integers(0, shape[axis], rows).astype(dtype)

    return sample


def normalized(scores, axis):
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis, keepdims=True)


def logits_and_probabilities(shape=(8, 5), axis=-1):
    def sample(rng):
        return rng.normal(size=shape) * 2, normalized(rng.normal(size=shape), axis)

    return sample


def log_probs_and_labels(shape=(8, 5), axis=-1):
    def sample(rng):
        logits, labels = logits_and_labels(shape, axis)(rng)
        return np.log(normalized(logits, axis)), labels

    return sample


def probabilities_and_targets(rng):
    return rng.uniform(0.05, 0.95, (8, 4)), rng.uniform(0.05, 0.95, (8, 4))


def scores_and_targets(rng):
    return rng.normal(size=(8, 4)) * 3, rng.uniform(0.05, 0.95, (8, 4))


def one_hot(labels, size, axis):
    return np.moveaxis(np.eye(size)[np.asarray(labels)], -1, axis)


def smooth_l1(predictions, targets, beta):
    size = jnp.abs(predictions - targets)
    return jnp.where(size < beta, size**2 / (2 * beta), size - beta / 2)


def huber(predictions, targets, delta):
    size = jnp.abs(predictions - targets)
    return jnp.where(size < delta, size**2 / 2, delta * (size - delta / 2))


def nll(log_probs, labels, axis=-1):
    return -jnp.sum(one_hot(labels, log_probs.shape[axis], axis) * log_probs, axis)


def soft_cross_entropy(logits, targets, axis=-1, label_smoothing=0.0):
    targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[axis]
    normalizer = jnp.log(jnp.sum(jnp.exp(logits), axis, keepdims=True))
    return -jnp.sum(targets * (logits - normalizer), axis)


def cross_entropy(logits, labels, axis=-1, label_smoothing=0.0):
    targets = one_hot(labels, logits.shape[axis], axis)
    return soft_cross_entropy(logits, targets, axis, label_smoothing)


def soft_cross_entropy_gradient(logits, targets, axis=-1, label_smoothing=0.0):
    mixed = (1 - label_smoothing) * targets + label_smoothing / logits.shape[axis]
    return normalized(logits, axis) * mixed.sum(axis, keepdims=True) - mixed


def cross_entropy_gradient(logits, labels, axis=-1, label_smoothing=0.0):
    targets = one_hot(labels, logits.shape[axis], axis)
    return soft_cross_entropy_gradient(logits, targets, axis, label_smoothing)


def binary_cross_entropy(predictions, targets, label_smoothing=0.0):
    targets = (1 - label_smoothing) * targets + label_smoothing / 2
    return -targets * jnp.log(predictions) - (1 - targets) * jnp.log(1 - predictions)


def binary_cross_entropy_gradient(predictions, targets, label_smoothing=0.0):
    targets = (1 - label_smoothing) * targets + label_smoothing / 2
    return (predictions - targets) / (predictions * (1 - predictions))


def logistic(logits, targets, pos_weight=1.0, label_smoothing=0.0):
    targets = (1 - label_smoothing) * targets + label_smoothing / 2
    weight = jnp.broadcast_to(jnp.asarray(pos_weight, logits.dtype), logits.shape)
    probabilities = 1 / (1 + jnp.exp(-logits))
    return -weight * targets * jnp.log(probabilities) - (1 - targets) * jnp.log(1 - probabilities)


def logistic_gradient(logits, targets, pos_weight=1.0, label_smoothing=0.0):
    targets = (1 - label_smoothing) * targets + label_smoothing / 2
    probabilities = 1 / (1 + np.exp(-logits))
    return (1 - targets) * probabilities - pos_weight * targets * (1 - probabilities)


def clipped(predictions, targets, delta):
    return np.clip(predictions - targets, -delta, delta)


CASES = (
    Case(
        "squared_error",
        jaxloss.squared_error,
        real,
        lambda p, t: (p - t) ** 2,
        lambda p, t: 2 * (p - t),
        kinks=(((1.0, 1.0), 0.0, 0.0),),
    ),
    Case(
        "absolute_error",
        jaxloss.absolute_error,
        real,
        lambda p, t: jnp.abs(p - t),
        lambda p, t: np.sign(p - t),
        kinks=(((1.0, 1.0), 0.0, 0.0),),
    ),
    Case(
        "smooth_l1",
        jaxloss.smooth_l1,
        real,
        smooth_l1,
        lambda p, t, beta: clipped(p, t, beta) / beta,
        {"beta": 1.0},
        kinks=(((1.0, 0.0), 0.5, 1.0), ((-1.0, 0.0), 0.5, -1.0), ((0.0, 0.0), 0.0, 0.0)),
    ),
    Case(
        "smooth_l1-beta",
        jaxloss.smooth_l1,
        real,
        smooth_l1,
        lambda p, t, beta: clipped(p, t, beta) / beta,
        {"beta": 0.3},
    ),
    Case(
        "smooth_l1-absolute",
        jaxloss.smooth_l1,
        real,
        lambda p, t, beta: jnp.abs(p - t),
        lambda p, t, beta: np.sign(p - t),
        {"beta": 0},
        kinks=(((1.0, 1.0), 0.0, 0.0), ((0.0, 2.0), 2.0, -1.0)),
    ),
    Case(
        "huber",
        jaxloss.huber,
        real,
        huber,
        clipped,
        {"delta": 1.0},
        kinks=(((1.0, 0.0), 0.5, 1.0), ((-1.0, 0.0), 0.5, -1.0), ((0.0, 0.0), 0.0, 0.0)),
    ),
    Case("huber-delta", jaxloss.huber, real, huber, clipped, {"delta": 1.7}),
    Case(
        "log_cosh",
        jaxloss.log_cosh,
        real,
        lambda p, t: jnp.log(jnp.cosh(p - t)),
        lambda p, t: np.tanh(p - t),
        kinks=(((1.0, 1.0), 0.0, 0.0),),
    ),
    Case(
        "nll",
        jaxloss.nll,
        log_probs_and_labels(),
        nll,
        lambda log_probs, labels: -one_hot(labels, 5, -1),
        kinks=((([-np.inf, 0.0], 1), 0.0, [0.0, -1.0]), (([-np.inf, 0.0], 0), np.inf, [-1.0, 0.0])),
    ),
    Case(
        "nll-axis",
        jaxloss.nll,
        log_probs_and_labels((8, 3, 2), 1),
        nll,
        lambda log_probs, labels, axis: -one_hot(labels, 3, axis),
        {"axis": 1},
    ),
    Case(
        "cross_entropy",
        jaxloss.cross_entropy,
        logits_and_labels(),
        cross_entropy,
        cross_entropy_gradient,
        kinks=(
            (([1.0, 1.0], 0), np.log(2), [-0.5, 0.5]),
            (([0.0, 0.0, -np.inf], 0), np.log(2), [-0.5, 0.5, 0.0]),
            (([0.0, 0.0, -np.inf], 2), np.inf, [0.5, 0.5, -1.0]),
            (([3.0], 0), 0.0, [0.0]),
        ),
    ),
    Case(
        "cross_entropy-axis",
        jaxloss.cross_entropy,
        logits_and_labels((8, 3, 2), 1, np.int8),
        cross_entropy,
        cross_entropy_gradient,
        {"axis": 1},
    ),
    Case(
        "cross_entropy-smoothing",
        jaxloss.cross_entropy,
        logits_and_labels((8, 5), -1, np.uint8),
        cross_entropy,
        cross_entropy_gradient,
        {"label_smoothing": 0.1},
    ),
    Case(
        "cross_entropy-probabilities",
        jaxloss.cross_entropy,
        logits_and_probabilities(),
        soft_cross_entropy,
        soft_cross_entropy_gradient,
        kinks=(
            (([1.0, 1.0], [1.0, 0.0]), np.log(2), [-0.5, 0.5]),
            (([0.0, 0.0, -np.inf], [1.0, 0.0, 0.0]), np.log(2), [-0.5, 0.5, 0.0]),
            (([0.0, 0.0, -np.inf], [0.0, 0.0, 1.0]), np.inf, [0.5, 0.5, -1.0]),
        ),
    ),
    Case(
        "cross_entropy-probabilities-smoothing-axis",
        jaxloss.cross_entropy,
        logits_and_probabilities((8, 3, 2), 1),
        soft_cross_entropy,
        soft_cross_entropy_gradient,
        {"axis": -2, "label_smoothing": 0.2},
    ),
    Case(
        "binary_cross_entropy",
        jaxloss.binary_cross_entropy,
        probabilities_and_targets,
        binary_cross_entropy,
        binary_cross_entropy_gradient,
        kinks=(
            ((0.0, 0.0), 0.0, 1.0),
            ((1.0, 1.0), 0.0, -1.0),
            ((0.0, 1.0), np.inf, -np.inf),
            ((1.0, 0.0), np.inf, np.inf),
        ),
    ),
    Case(
        "binary_cross_entropy-smoothing",
        jaxloss.binary_cross_entropy,
        probabilities_and_targets,
        binary_cross_entropy,
        binary_cross_entropy_gradient,
        {"label_smoothing": 0.1},
    ),
    Case(
        "binary_cross_entropy_with_logits",
        jaxloss.binary_cross_entropy_with_logits,
        scores_and_targets,
        logistic,
        logistic_gradient,
        kinks=(
            ((0.0, 1.0), np.log(2), -0.5),
            ((np.inf, 1.0), 0.0, 0.0),
            ((-np.inf, 0.0), 0.0, 0.0),
            ((np.inf, 0.0), np.inf, 1.0),
            ((-np.inf, 1.0), np.inf, -1.0),
        ),
    ),
    Case(
        "binary_cross_entropy_with_logits-weight-smoothing",
        jaxloss.binary_cross_entropy_with_logits,
        scores_and_targets,
        logistic,
        logistic_gradient,
        {"pos_weight": 3.0, "label_smoothing": 0.1},
    ),
    Case(
        "binary_cross_entropy_with_logits-weights",
        jaxloss.binary_cross_entropy_with_logits,
        scores_and_targets,
        logistic,
        logistic_gradient,
        {"pos_weight": np.array([0.5, 1.0, 2.0, 7.0])},
    ),
)


def logits_only(shape=(8, 5)):
    return lambda rng: (rng.normal(size=shape) * 2,)


def softmax_jacobian_sum(logits, axis=-1):
    """The pullback of ones through log_softmax."""
    return 1 - logits.shape[axis] * normalized(logits, axis)


# What losses are made of goes through the same laws, where they apply.
PRIMITIVES = (
    Case(
        "logsumexp",
        primitives.logsumexp,
        logits_only(),
        lambda z: jnp.log(jnp.sum(jnp.exp(z), -1)),
        lambda z: normalized(z, -1),
        kinks=(
            (([1.0, 1.0],), 1 + np.log(2), [0.5, 0.5]),
            (([0.0, -np.inf],), 0.0, [1.0, 0.0]),
            (([-np.inf, -np.inf],), -np.inf, [np.nan, np.nan]),
            (([np.inf, 0.0],), np.inf, [np.nan, np.nan]),
            (([0.0, np.inf],), np.inf, [np.nan, np.nan]),
        ),
    ),
    Case(
        "logsumexp-axis",
        primitives.logsumexp,
        logits_only((8, 3, 2)),
        lambda z, axis: jnp.log(jnp.sum(jnp.exp(z), axis)),
        normalized,
        {"axis": 1},
    ),
    Case(
        "log_softmax",
        primitives.log_softmax,
        logits_only(),
        lambda z: z - jnp.log(jnp.sum(jnp.exp(z), -1, keepdims=True)),
        softmax_jacobian_sum,
    ),
    Case(
        "log_softmax-axis",
        primitives.log_softmax,
        logits_only((8, 3, 2)),
        lambda z, axis: z - jnp.log(jnp.sum(jnp.exp(z), axis, keepdims=True)),
        softmax_jacobian_sum,
        {"axis": 1},
    ),
    Case(
        "log_softmax_at",
        primitives.log_softmax_at,
        logits_and_labels(),
        lambda z, labels: -cross_entropy(z, labels),
        lambda z, labels: -cross_entropy_gradient(z, labels),
    ),
    Case(
        "expected_log_softmax",
        primitives.expected_log_softmax,
        logits_and_probabilities(),
        lambda z, q: -soft_cross_entropy(z, q),
        lambda z, q: -soft_cross_entropy_gradient(z, q),
        kinks=(
            (([0.0, -np.inf], [2.0, 0.0]), 0.0, [0.0, 0.0]),
            (([0.0, -np.inf], [0.0, 1.0]), -np.inf, [-1.0, 1.0]),
        ),
    ),
    Case(
        "safe_product",
        primitives.safe_product,
        probabilities_and_targets,
        lambda x, y: x * y,
        lambda x, y: y,
        kinks=(((0.0, -np.inf), 0.0, 0.0), ((2.0, np.inf), np.inf, np.inf)),
    ),
)
