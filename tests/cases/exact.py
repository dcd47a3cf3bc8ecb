"""Losses by mpmath, of a row of numbers and a class or a target, with no care but many digits."""

import jax
import mpmath
import numpy as np

from tests.cases.large import KERNEL, PARAMETERS


def behind(z, y):
    return mpmath.log(mpmath.fsum(mpmath.exp(x - z[y]) for x in z))


def cross_entropy(z, y, axis=-1):
    return [behind(z, y)]


def softmax_focal(z, y, gamma=2.0, axis=-1):
    loss = behind(z, y)
    return [(1 - mpmath.exp(-loss)) ** gamma * loss]


def poly_cross_entropy(z, y, epsilon=2.0, axis=-1):
    loss = behind(z, y)
    return [loss + epsilon * (1 - mpmath.exp(-loss))]


def log_softmax(z, y, axis=-1):
    return [-behind(z, k) for k in range(len(z))]


def logsumexp(z, y, axis=-1):
    return [mpmath.log(mpmath.fsum(map(mpmath.exp, z)))]


def softplus(z, y=0):
    return mpmath.log1p(mpmath.exp(z))


def binary(z, y, pos_weight=1.0):
    return pos_weight * y * softplus(-z) + (1 - y) * softplus(z)


def focal(z, y, gamma=2.0, alpha=None):
    wrong = y / (1 + mpmath.exp(z)) + (1 - y) / (1 + mpmath.exp(-z))
    balance = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return balance * wrong**gamma * binary(z, y)


def linear_loss(hidden, y, block_size=None):
    kernel = np.asarray(KERNEL, np.float32).astype(float)
    return [behind(product(hidden, kernel), y)]


def statistics(hidden, y, block_size=None):
    z = product(hidden, np.asarray(KERNEL, np.float32).astype(float))
    log_probs = log_softmax(z, y)
    entropy = -mpmath.fsum(mpmath.exp(x) * x for x in log_probs)
    return [log_probs[y], *logsumexp(z, y), entropy]


def adaptive_loss(hidden, y, block_size=None):
    head, tails, bias = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float32).astype(float),
        (PARAMETERS.head, PARAMETERS.tails, PARAMETERS.bias),
    )
    scores = [z + b for z, b in zip(product(hidden, head), bias, strict=True)]
    if y < 2:
        return [behind(scores, y)]
    cluster, place = (2, y - 2) if y < 4 else (3, 0)
    inner, kernel = tails[cluster - 2]
    return [behind(scores, cluster) + behind(product(product(hidden, inner), kernel), place)]


def product(row, matrix):
    return [mpmath.fdot(row, column) for column in matrix.T]


def ctc(z, labels):
    """By the sum over walks through blanks and labels, of five frames of four classes."""
    symbols = [0, labels[0], 0, labels[1], 0]
    walks = [1, 0, 0, 0, 0]
    for frame in np.reshape(z, (5, 4)):
        odds = [mpmath.exp(x) for x in frame]
        shares = [x / mpmath.fsum(odds) for x in odds]
        arrived = [walks[k] + (walks[k - 1] if k else 0) for k in range(5)]
        arrived[3] += walks[1] if labels[0] != labels[1] else 0
        walks = [shares[k] * (arrived[n]) for n, k in enumerate(symbols)]
    return [-mpmath.log(walks[3] + walks[4])]


EXACT = {
    "linear_cross_entropy": linear_loss,
    "linear_statistics": statistics,
    "adaptive_softmax": adaptive_loss,
    "ctc": ctc,
    "cross_entropy": cross_entropy,
    "softmax_focal": softmax_focal,
    "poly_cross_entropy": poly_cross_entropy,
    "log_softmax": log_softmax,
    "log_softmax_at": lambda z, y, axis=-1: [-behind(z, y)],
    "expected_log_softmax": lambda z, y: [-behind(z, y)],
    "logsumexp": logsumexp,
    "binary_cross_entropy_with_logits": lambda z, y, **o: [binary(*z, y, **o)],
    "sigmoid_focal": lambda z, y, **o: [focal(*z, y, **o)],
    "soft_margin": lambda z, y: [softplus(-y * z[0])],
    "softplus": lambda z, y: [softplus(*z)],
    "multilabel_soft_margin": lambda z, y: [sum(map(binary, z, y)) / len(z)],
}
