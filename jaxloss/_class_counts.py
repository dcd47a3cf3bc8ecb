"""What the counts of classes say: how to shift logits, and how to weigh losses."""

from __future__ import annotations

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _options
from jaxloss._elementary import xlogy
from jaxloss._vectors import scaled


def class_priors(counts: Real[ArrayLike, " classes"]) -> Float[Array, " classes"]:
    r"""The share of each class.

    $$\pi_c = n_c \big/ \sum_k n_k$$

    Args:
        counts: how often each class occurs, $n_c$, at least 0.

    Returns:
        Probabilities; float32, or float64 for float64 counts. All NaN if all counts are 0, or
        one is negative or infinite, where their values are not known while tracing.

    Raises:
        TypeError: `counts` are not real numbers.
        ValueError: there is none, one is negative or not finite, or all are 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.class_priors(jnp.array([6, 2, 0]))
        Array([0.75, 0.25, 0.  ], dtype=float32)
    """
    counts = _counts("class_priors", counts, minimum=0.0)
    return _shares(counts)


def logit_adjustment(
    counts: Real[ArrayLike, " classes"], tau: Real[ArrayLike, ""] = 1.0
) -> Float[Array, " classes"]:
    r"""Offsets of logits between a world of equally frequent classes and that of the counts.

    $$a_c = \tau \log \pi_c, \qquad \pi_c = n_c \big/ \sum_k n_k$$

    Added to the logits of a model trained on balanced batches, they give the probabilities at the
    true frequencies. Added in the loss, `cross_entropy(logits + adjustment, labels)`, they leave it
    to the logits alone to tell equally frequent classes apart; subtracted afterwards from a model's
    logits that was trained at the true frequencies, they do the same without training.

    Args:
        counts: how often each class occurs, $n_c$, at least 0. That of a class that never occurs
            is $-\infty$, which takes it out of the softmax, and must not be subtracted.
        tau: at least 0; 1 is Bayes' rule.

    Returns:
        One number for each class, 0 at most; float32, or float64 for float64 counts. NaN as in
        `class_priors`.

    Raises:
        TypeError: `counts` or `tau` are not real numbers.
        ValueError: as in `class_priors`, or `tau` is not a finite scalar of at least 0.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> undecided = jnp.array([0.0, 0.0])
        >>> jax.nn.softmax(undecided + jaxloss.logit_adjustment(jnp.array([60, 40]))).round(3)
        Array([0.6, 0.4], dtype=float32)

    Source: Menon, Jayasumana, Rawat, Jain, Veit and Kumar, "Long-tail learning via logit
    adjustment" (2021), equations 9 and 10.
    """
    counts = _counts("logit_adjustment", counts, minimum=0.0)
    tau = _options.number("logit_adjustment", "tau", tau, minimum=0.0).astype(counts.dtype)
    return xlogy(jnp.broadcast_to(tau, counts.shape), _shares(counts))


def effective_number_weights(
    counts: Real[ArrayLike, " classes"], beta: float | int
) -> Float[Array, " classes"]:
    r"""Class weights between equal and inverse to the counts, for `class_weighted`.

    $$w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_{c=1}^C w_c = C$$

    The effective number $(1 - \beta^n) / (1 - \beta)$ of $n$ examples grows like $n$ while that is
    well below $1 / (1 - \beta)$, and hardly beyond.

    Args:
        counts: how often each class occurs, $n_c$, more than 0.
        beta: from 0, for equal weights, to 1, for weights inverse to the counts.

    Returns:
        One weight for each class; float32, or float64 for float64 counts. All NaN if a count
        is not positive and its value not known while tracing.

    Raises:
        TypeError: `counts` are not real numbers, or `beta` is not a Python number.
        ValueError: there are no counts, one is not positive or not finite, or `beta` is not in
            [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.effective_number_weights(jnp.array([10, 100, 10000]), beta=0.999).round(2)
        Array([2.69, 0.28, 0.03], dtype=float32)

    Source: Cui, Jia, Lin, Song and Belongie, "Class-balanced loss based on effective number of
    samples" (2019), equation 3 and section 4.
    """
    function = "effective_number_weights"
    counts = _counts(function, counts, above=0.0)
    if isinstance(beta, bool) or not isinstance(beta, numbers.Real):
        raise TypeError(f"{function}: beta must be a Python number, got {_check.describe(beta)}.")
    if not 0 <= beta <= 1:
        raise ValueError(f"{function}: beta must be in [0, 1], got {beta}.")
    # Up to a factor. From the logarithm, lest 1 - beta^n of a beta near 1 lose its digits.
    log_beta = math.log(beta) if beta > 0 else -math.inf
    effective = counts if beta == 1 else -jnp.expm1(counts * log_beta)
    return len(counts) / effective / jnp.sum(1 / effective)


def _shares(counts: Array) -> Array:
    # Over a power of two, so that no sum overflows; that takes infinity for a large number.
    ratios, _ = scaled(counts, 0)
    return jnp.where(jnp.all(jnp.isfinite(counts)), ratios / jnp.sum(ratios), jnp.nan)


def _counts(function: str, counts: ArrayLike, **bounds: float) -> Array:
    array = _options.bounded(function, "counts", counts, **bounds)
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"{function}: counts must have the shape (classes,), of one class at least, got "
            f"{array.shape}; of labels, jnp.bincount(labels, length=classes) are the counts."
        )
    dtype = _check.wide(array)
    if not isinstance(counts, jax.core.Tracer):
        concrete, limits = np.asarray(counts, np.float64), jnp.finfo(dtype)
        if np.max(concrete) > float(limits.max):
            raise ValueError(f"{function}: counts must be finite as {limits.dtype}, got {counts}.")
        # XLA takes numbers below the least normal one for 0.
        if np.max(concrete) < float(limits.tiny):
            raise ValueError(f"{function}: counts must not all be 0, as {limits.dtype}.")
    return array.astype(dtype)
