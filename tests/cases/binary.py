"""Losses of two classes: a probability, a logit or a score against a target or a sign."""

import jax.numpy as jnp
import numpy as np

import jaxloss
from tests.cases.case import (
    Case,
    clear,
    logits_and_targets,
    probabilities_and_targets,
    real,
    signs,
)


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


def sigmoid_focal(logits, targets, gamma=2.0, alpha=None):
    p = 1 / (1 + jnp.exp(-logits))
    wrong = targets * (1 - p) + (1 - targets) * p
    balance = 1 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)
    return balance * wrong**gamma * logistic(logits, targets)


def scores_and_signs(rng):
    """Scores clear of 0, 1 and 1.8 in size."""
    return clear(rng), signs(rng)


BINARY = (
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
        logits_and_targets,
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
        logits_and_targets,
        logistic,
        logistic_gradient,
        {"pos_weight": 3.0, "label_smoothing": 0.1},
    ),
    Case(
        "binary_cross_entropy_with_logits-weights",
        jaxloss.binary_cross_entropy_with_logits,
        logits_and_targets,
        logistic,
        logistic_gradient,
        {"pos_weight": np.array([0.5, 1.0, 2.0, 7.0])},
    ),
    Case(
        "multilabel_soft_margin",
        jaxloss.multilabel_soft_margin,
        logits_and_targets,
        lambda z, y: jnp.mean(logistic(z, y), -1),
        lambda z, y: logistic_gradient(z, y) / 4,
        kinks=((([0.0, 0.0], [0.0, 1.0]), np.log(2), [0.25, -0.25]),),
    ),
    Case(
        "multilabel_soft_margin-weights-axis",
        jaxloss.multilabel_soft_margin,
        lambda rng: (rng.normal(size=(8, 3, 2)), rng.uniform(size=(8, 3, 2))),
        lambda z, y, class_weights, axis: jnp.mean(class_weights[:, None] * logistic(z, y), axis),
        lambda z, y, class_weights, axis: class_weights[:, None] * logistic_gradient(z, y) / 3,
        {"class_weights": np.array([0.5, 1.0, 3.0]), "axis": 1},
    ),
    Case(
        "sigmoid_focal",
        jaxloss.sigmoid_focal,
        logits_and_targets,
        sigmoid_focal,
        kinks=(
            ((0.0, 1.0), np.log(2) / 4, -(np.log(2) + 0.5) / 4),
            ((np.inf, 1.0), 0.0, 0.0),
            ((-np.inf, 0.0), 0.0, 0.0),
            ((np.inf, 0.0), np.inf, 1.0),
            ((-np.inf, 1.0), np.inf, -1.0),
        ),
    ),
    Case(
        "sigmoid_focal-options",
        jaxloss.sigmoid_focal,
        lambda rng: (rng.normal(size=(8, 4)) * 3, rng.integers(0, 2, (8, 4)).astype(float)),
        sigmoid_focal,
        options={"gamma": 0.7, "alpha": 0.3},
    ),
    *(
        Case(name, loss, scores_and_signs, formula, gradient, kinks=kinks)
        for name, loss, formula, gradient, kinks in (
            (
                "hinge",
                jaxloss.hinge,
                lambda z, y: jnp.maximum(1 - y * z, 0),
                lambda z, y: np.where(y * z < 1, -y, 0),
                (((1.0, 1), 0.0, 0.0), ((-1.0, -1), 0.0, 0.0), ((0.0, 1), 1.0, -1.0)),
            ),
            (
                "squared_hinge",
                jaxloss.squared_hinge,
                lambda z, y: jnp.maximum(1 - y * z, 0) ** 2,
                lambda z, y: -2 * y * np.maximum(1 - y * z, 0),
                (((1.0, 1), 0.0, 0.0), ((0.5, -1), 2.25, 3.0)),
            ),
            (
                "perceptron",
                jaxloss.perceptron,
                lambda z, y: jnp.maximum(-y * z, 0),
                lambda z, y: np.where(y * z < 0, -y, 0),
                (((0.0, 1), 0.0, 0.0), ((0.0, -1), 0.0, 0.0), ((2.0, -1), 2.0, 1.0)),
            ),
            (
                "soft_margin",
                jaxloss.soft_margin,
                lambda z, y: jnp.log(1 + jnp.exp(-y * z)),
                lambda z, y: -y / (1 + np.exp(y * z)),
                (
                    ((0.0, 1), np.log(2), -0.5),
                    ((-100.0, 1), 100.0, -1.0),
                    ((np.inf, 1), 0.0, 0.0),
                    ((np.inf, -1), np.inf, 1.0),
                ),
            ),
        )
    ),
    Case(
        "hinge_embedding",
        jaxloss.hinge_embedding,
        scores_and_signs,
        lambda d, y: jnp.where(y == 1, d, jnp.maximum(1 - d, 0)),
        lambda d, y: np.where(y == 1, 1, -1.0 * (d < 1)),
        kinks=(((1.0, -1), 0.0, 0.0), ((0.0, 1), 0.0, 1.0), ((np.inf, -1), 0.0, 0.0)),
        linear=True,
    ),
    Case(
        "hinge_embedding-margin",
        jaxloss.hinge_embedding,
        scores_and_signs,
        lambda d, y, margin: jnp.where(y == 1, d, jnp.maximum(margin - d, 0)),
        lambda d, y, margin: np.where(y == 1, 1, -1.0 * (d < margin)),
        {"margin": 1.8},
        linear=True,
    ),
    Case(
        "margin_ranking",
        jaxloss.margin_ranking,
        lambda rng: (*real(rng), signs(rng)),
        lambda a, b, y: jnp.maximum(-y * (a - b), 0),
        lambda a, b, y: np.where(y * (a - b) < 0, -y, 0),
        kinks=(((1.0, 1.0, 1), 0.0, 0.0), ((1.0, 1.0, -1), 0.0, 0.0), ((3.0, 1.0, -1), 2.0, 1.0)),
    ),
    Case(
        "margin_ranking-margin",
        jaxloss.margin_ranking,
        lambda rng: (*real(rng), signs(rng)),
        lambda a, b, y, margin: jnp.maximum(margin - y * (a - b), 0),
        lambda a, b, y, margin: np.where(y * (a - b) < margin, -y, 0),
        {"margin": 0.9},
        kinks=(((1.9, 1.0, 1), 0.0, 0.0),),
    ),
)
