"""Losses of several classes."""

import jax.numpy as jnp
import numpy as np

import jaxloss
from tests.cases.case import (
    Case,
    logits_and_labels,
    logits_and_probabilities,
    normalized,
    one_hot,
)


def log_probs_and_labels(shape=(8, 5), axis=-1):
    def sample(rng):
        logits, labels = logits_and_labels(shape, axis)(rng)
        return np.log(normalized(logits, axis)), labels

    return sample


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


WEIGHTS = np.array([0.5, 1.0, 2.0, 0.1, 3.0])


def log_softmax(logits, axis):
    return logits - jnp.log(jnp.sum(jnp.exp(logits), axis, keepdims=True))


def weighted_soft_cross_entropy(
    logits, targets, class_weights, axis=-1, label_smoothing=0.0, z_loss=0.0
):
    rows, mixed = jnp.moveaxis(logits, axis, -1), jnp.moveaxis(targets, axis, -1)
    mixed = (1 - label_smoothing) * mixed + label_smoothing / rows.shape[-1]
    penalty = z_loss * jnp.log(jnp.sum(jnp.exp(rows), -1)) ** 2
    weights = jnp.asarray(class_weights, mixed.dtype)
    return penalty - jnp.sum(weights * mixed * log_softmax(rows, -1), -1)


def weighted_cross_entropy(logits, labels, class_weights, label_smoothing):
    targets = one_hot(labels, 5, -1)
    return weighted_soft_cross_entropy(logits, targets, class_weights, -1, label_smoothing)


def masked_cross_entropy(logits, labels, class_mask, label_smoothing):
    kept = np.flatnonzero(class_mask)
    places = np.searchsorted(kept, labels)
    return cross_entropy(logits[..., kept], places, label_smoothing=label_smoothing)


def softmax_focal(logits, labels, gamma=2.0, axis=-1):
    loss = cross_entropy(logits, labels, axis)
    return (1 - jnp.exp(-loss)) ** gamma * loss


def poly(logits, targets, epsilon=2.0, axis=-1):
    log_probs = log_softmax(logits, axis)
    return jnp.sum(targets * (epsilon * (1 - jnp.exp(log_probs)) - log_probs), axis)


def spread_logits_and_labels(rng, shape=(8, 5)):
    """Logits clear of ties, and of ties with a margin between: multiples of 0.37 and a little."""
    order = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    logits = 0.37 * order + rng.uniform(-0.02, 0.02, shape)
    return logits, rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)


def sparsemax(logits, targets):
    """1/2 |q - z|^2 - 1/2 |p - z|^2 with p on the support that Michelot's iteration finds."""
    support = jnp.ones_like(logits)
    for _ in range(logits.shape[-1]):
        total = jnp.sum(logits * support, -1, keepdims=True)
        threshold = (total - 1) / jnp.sum(support, -1, keepdims=True)
        support = support * (logits > threshold)
    projection = (logits - threshold) * support
    return jnp.sum((targets - logits) ** 2 - (projection - logits) ** 2, -1) / 2


def multi_margin(scores, labels, p=1, margin=1.0):
    own = -nll(scores, labels)[..., None]
    others = 1 - one_hot(labels, scores.shape[-1], -1)
    return jnp.mean(others * jnp.maximum(margin - own + scores, 0) ** p, -1)


def logits_and_lists(rng):
    lists = np.array([rng.permutation(5) for _ in range(8)]).astype(np.int32)
    for row, length in zip(lists, [0, 1, 2, 3, 4, 5, 2, 3], strict=True):
        row[length : length + 1] = -1
    return spread_logits_and_labels(rng)[0], lists


def multilabel_margin(scores, lists):
    rows = []
    for row, labels in zip(scores, np.asarray(lists).tolist(), strict=True):
        targets = labels[: labels.index(-1)] if -1 in labels else labels
        pairs = [(j, i) for j in targets for i in range(5) if i not in targets]
        rows.append(sum((jnp.maximum(1 - (row[j] - row[i]), 0) for j, i in pairs), 0 * row[0]) / 5)
    return jnp.stack(rows)


CLASSIFICATION = (
    Case(
        "nll",
        jaxloss.nll,
        log_probs_and_labels(),
        nll,
        lambda log_probs, labels: -one_hot(labels, 5, -1),
        linear=True,
        kinks=((([-np.inf, 0.0], 1), 0.0, [0.0, -1.0]), (([-np.inf, 0.0], 0), np.inf, [-1.0, 0.0])),
    ),
    Case(
        "nll-axis",
        jaxloss.nll,
        log_probs_and_labels((8, 3, 2), 1),
        nll,
        lambda log_probs, labels, axis: -one_hot(labels, 3, axis),
        {"axis": 1},
        linear=True,
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
        "cross_entropy-weights-smoothing",
        jaxloss.cross_entropy,
        logits_and_labels(),
        weighted_cross_entropy,
        options={"class_weights": WEIGHTS, "label_smoothing": 0.1},
    ),
    Case(
        "cross_entropy-probabilities-weights-z_loss-axis",
        jaxloss.cross_entropy,
        logits_and_probabilities((8, 5, 2), 1),
        weighted_soft_cross_entropy,
        options={"class_weights": WEIGHTS, "z_loss": 0.1, "axis": 1},
    ),
    Case(
        "cross_entropy-mask-smoothing",
        jaxloss.cross_entropy,
        lambda rng: (rng.normal(size=(8, 5)), rng.choice([0, 2, 4], 8).astype(np.int32)),
        masked_cross_entropy,
        options={"class_mask": np.array([True, False, True, True, True]), "label_smoothing": 0.2},
    ),
    Case(
        "softmax_focal",
        jaxloss.softmax_focal,
        logits_and_labels(),
        softmax_focal,
        kinks=(
            (([1.0, 1.0], 0), np.log(2) / 4, [-0.25 * (np.log(2) + 0.5), 0.25 * (np.log(2) + 0.5)]),
            (([3.0], 0), 0.0, [0.0]),
            (([200.0, 0.0], 0), 0.0, [0.0, 0.0]),
            (([0.0, -np.inf], 1), np.inf, [1.0, -1.0]),
        ),
    ),
    Case(
        "softmax_focal-gamma-axis",
        jaxloss.softmax_focal,
        logits_and_labels((8, 3, 2), 1),
        softmax_focal,
        options={"gamma": 0.5, "axis": 1},
    ),
    Case(
        "poly_cross_entropy",
        jaxloss.poly_cross_entropy,
        logits_and_labels(),
        lambda z, y: poly(z, one_hot(y, 5, -1)),
        kinks=((([1.0, 1.0], 0), np.log(2) + 1, [-1.0, 1.0]), (([3.0], 0), 0.0, [0.0])),
    ),
    Case(
        "poly_cross_entropy-probabilities-axis",
        jaxloss.poly_cross_entropy,
        logits_and_probabilities((8, 3, 2), 1),
        poly,
        options={"epsilon": -0.5, "axis": 1},
    ),
    Case(
        "sparsemax",
        jaxloss.sparsemax,
        spread_logits_and_labels,
        lambda z, y: sparsemax(z, one_hot(y, 5, -1)),
        kinks=(
            (([0.0, 0.0], 0), 0.25, [-0.5, 0.5]),
            (([2.0, 1.0], 0), 0.0, [0.0, 0.0]),
            (([9.0, -np.inf, 0.0], 0), 0.0, [0.0, 0.0, 0.0]),
            (([0.0, -np.inf], 1), np.inf, [1.0, -1.0]),
            (([np.inf, 0.0], 0), np.nan, [np.nan, np.nan]),
        ),
    ),
    Case(
        "sparsemax-probabilities-axis",
        jaxloss.sparsemax,
        lambda rng: (
            np.moveaxis(spread_logits_and_labels(rng, (8, 2, 5))[0], -1, 1),
            # Sixteenths, which sum to one in half precision too.
            np.moveaxis(rng.multinomial(16, np.full(5, 0.2), (8, 2)) / 16, -1, 1),
        ),
        lambda z, q, axis: sparsemax(jnp.moveaxis(z, 1, -1), jnp.moveaxis(q, 1, -1)),
        options={"axis": 1},
    ),
    Case(
        "multi_margin",
        jaxloss.multi_margin,
        spread_logits_and_labels,
        multi_margin,
        kinks=(
            (([2.0, 1.0], 0), 0.0, [0.0, 0.0]),
            (([0.0, 0.0, 0.0], 1), 2 / 3, [1 / 3, -2 / 3, 1 / 3]),
            (([3.0], 0), 0.0, [0.0]),
        ),
    ),
    Case(
        "multi_margin-square-margin-axis",
        jaxloss.multi_margin,
        lambda rng: (
            np.moveaxis(spread_logits_and_labels(rng, (8, 2, 5))[0], -1, 1),
            rng.integers(0, 5, (8, 2)),
        ),
        lambda z, y, p, margin, axis: multi_margin(jnp.moveaxis(z, 1, -1), y, p, margin),
        options={"p": 2, "margin": 1.5, "axis": 1},
    ),
    Case(
        "multiclass_hinge",
        jaxloss.multiclass_hinge,
        spread_logits_and_labels,
        lambda z, y: jnp.max(z + 1 - one_hot(y, 5, -1), -1) + nll(z, y),
        kinks=(
            (([2.0, 1.0], 0), 0.0, [0.0, 0.0]),
            (([0.0, 0.0, 0.0], 1), 1.0, [0.5, -1.0, 0.5]),
            (([3.0], 0), 0.0, [0.0]),
        ),
    ),
    Case(
        "multiclass_hinge-margin",
        jaxloss.multiclass_hinge,
        spread_logits_and_labels,
        lambda z, y, margin: jnp.max(z + margin * (1 - one_hot(y, 5, -1)), -1) + nll(z, y),
        options={"margin": 2.5},
    ),
    Case(
        "multiclass_perceptron",
        jaxloss.multiclass_perceptron,
        spread_logits_and_labels,
        lambda z, y: jnp.max(z, -1) + nll(z, y),
        kinks=(
            (([1.0, 1.0], 0), 0.0, [0.0, 0.0]),
            (([2.0, 1.0, 2.0], 1), 1.0, [0.5, -1.0, 0.5]),
        ),
    ),
    Case(
        "multilabel_margin",
        jaxloss.multilabel_margin,
        logits_and_lists,
        multilabel_margin,
        kinks=(
            (([1.0, 0.0], [0, -1]), 0.0, [0.0, 0.0]),
            (([0.0, 0.0], [-1, 1]), 0.0, [0.0, 0.0]),
            (([0.0, 0.0], [0, 1]), 0.0, [0.0, 0.0]),
            (([0.5, 0.0], [0, -1]), 0.25, [-0.5, 0.5]),
        ),
    ),
)
