"""The softmax and its logarithms, without a digit lost.

Half precision is computed and returned in float32; gradients come back in the input's own dtype.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from jaxloss import _check
from jaxloss._autodiff import custom_vjp
from jaxloss._elementary import safe_product
from jaxloss._exact import exp, inverse
from jaxloss._lanes import Rows
from jaxloss._row_blocks import by_rows, where_known
from jaxloss._row_sums import (
    exponentials_but,
    exponentials_of,
    is_below,
    less_maximum,
    maximum_and_others,
    maximum_rest_and_ties,
    maximum_rest_and_ties_once,
    maximum_rest_and_ties_twice,
    stored_exponentials_of,
)


def _log1p(excess: Array) -> Array:
    """log(1 + x) for x of at least 0."""
    # XLA's is within 0.8 ULP up to 0.41 and loses 2.5 beyond: there 1 + x is divided by a base near
    # to it, log(1 + x) = log(b) + log1p((x - (b - 1)) / b), and from 2 on it is rounded at no loss.
    one_and_half = (excess > 0.41) & (excess < 0.65)
    two = excess >= 0.65
    above_one = jnp.where(two, 1, jnp.where(one_and_half, 0.5, 0)).astype(excess.dtype)
    log = jnp.where(two, math.log(2), jnp.where(one_and_half, math.log(1.5), 0))
    near = log.astype(excess.dtype) + jnp.log1p((excess - above_one) / (1 + above_one))
    return jnp.where(excess < 2, near, jnp.log(1 + excess))


def _times_quotient(terms: Array, factor: Array, first: Array, second: Array) -> Array:
    """t f / (a + b), with what rounding takes off 1 / (a + b)."""
    rounded, lost = inverse(first, second)
    return terms * (factor * rounded) + terms * (factor * lost)


def _picked(logits: Array, index: Array, axis: int) -> Array:
    # Picked, then widened: a gather reads its operand from memory, as it came is half the size.
    return jnp.take_along_axis(logits, index, axis).astype(_check.wide(logits))


def logsumexp(logits: Real[ArrayLike, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""Logarithm of the sum of exponentials along one axis.

    $$\operatorname{lse}(z) = \log \sum_j e^{z_j} = m + \log(1 + T), \qquad m = \max_j z_j,$$

    with $T$ the sum of $e^{z_j - m}$ over all entries but one maximum, so that nothing is lost when
    one entry is far ahead. Gradient: `softmax(logits)`; entries of -inf have gradient 0. Where the
    maximum is infinite the value is the limit and the gradient NaN.

    Args:
        logits: real scores, at least one along `axis`.
        axis: the axis to reduce.

    Returns:
        The shape of `logits` without `axis`; float32, or float64 for float64 input.

    Raises:
        TypeError: `logits` are not real numbers, or `axis` is not an integer.
        ValueError: there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.logsumexp(jnp.array([1000.0, 1000.0]))
        Array(1000.693, dtype=float32)

    Source: Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA J. Numer. Anal. 41 (2021), section 3.
    """
    [logits] = _check.real_arrays("logsumexp", logits=logits)
    return _logsumexp(logits, _check.reduced_axis("logsumexp", axis, logits=logits))


@functools.partial(custom_vjp, static=1)
def _logsumexp(logits: Array, axis: int) -> Array:
    return _logsumexp_fwd(logits, axis)[0]


# d lse / dz_j = e_j / S, the softmax.


def _logsumexp_fwd(logits: Array, axis: int) -> tuple[Array, tuple[Array, ...]]:
    maximum, rest, ties = maximum_rest_and_ties(axis, logits)
    # XLA's CPU backend drops NaN from a row's maximum, but not from its sum.
    highest = maximum + 0 * jnp.sum(jnp.sign(logits.astype(maximum.dtype)), axis, keepdims=True)
    value = jnp.where(jnp.isinf(highest), highest, maximum + _log1p(rest + (ties - 1)))
    return jnp.squeeze(value, axis), (logits, maximum, rest, ties)


def _logsumexp_bwd(axis: int, residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array]:
    logits, maximum, rest, ties = residuals
    exponentials = stored_exponentials_of(logits.astype(maximum.dtype), maximum)
    gradient = _times_quotient(exponentials, jnp.expand_dims(cotangent, axis), rest, ties)
    return (gradient.astype(logits.dtype),)


_logsumexp.defvjp(_logsumexp_fwd, _logsumexp_bwd)


def log_softmax(logits: Real[ArrayLike, "*shape"], *, axis: int = -1) -> Float[Array, "*shape"]:
    r"""Logarithm of the softmax over one axis.

    $$\log p_j = (z_j - m) - \log(1 + T), \qquad p_j = e^{z_j} \big/ \sum_i e^{z_i},$$

    with $m$ and $T$ as in `logsumexp`, so that the log-probability of a class far ahead is $-T$ and
    not 0. Pullback: $\bar z = \bar y - p \sum_j \bar y_j$. A logit of -inf has log-probability -inf
    and takes no part; all of -inf, or any of +inf, gives NaN in value and gradient.

    Args:
        logits: real scores, at least one along `axis`.
        axis: the axis of the classes.

    Returns:
        The shape of `logits`; float32, or float64 for float64 input.

    Raises:
        TypeError: `logits` are not real numbers, or `axis` is not an integer.
        ValueError: there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.log_softmax(jnp.array([20.0, 0.0]))
        Array([-2.061e-09, -2.000e+01], dtype=float32)

    Source: Blanchard, Higham and Higham (2021), as for `logsumexp`.
    """
    [logits] = _check.real_arrays("log_softmax", logits=logits)
    return _log_softmax(logits, _check.reduced_axis("log_softmax", axis, logits=logits))


@functools.partial(custom_vjp, static=1)
def _log_softmax(logits: Array, axis: int) -> Array:
    return _log_softmax_fwd(logits, axis)[0]


# d log p_j / dz_i = [i = j] - p_i, so the pullback of g is g_i - p_i G with G = sum_j g_j. Where k
# alone attains the maximum p_k may round to 1, and p_k = 1 - T / S turns it into G T / S less the
# sum of the other g_j: against a target of all but all on k, two small numbers and not the
# difference of two large ones.


def _log_softmax_fwd(logits: Array, axis: int) -> tuple[Array, tuple[Array, ...]]:
    residuals = (logits, *maximum_rest_and_ties(axis, logits))
    return _log_probs(*residuals), residuals


def _log_probs(logits: Array, maximum: Array, rest: Array, ties: Array) -> Array:
    return (logits.astype(maximum.dtype) - maximum) - _log1p(rest + (ties - 1))


def _log_softmax_bwd(axis: int, residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array]:
    logits, maximum, rest, _ = residuals
    below = is_below(logits.astype(maximum.dtype), maximum)
    sums = (jnp.sum(array, axis, keepdims=True) for array in (cotangent, cotangent * below))
    return (_pulled_back(residuals, cotangent, *(where_known(rest, total) for total in sums)),)


def _pulled_back(
    residuals: tuple[Array, ...], cotangent: Array, total: Array, total_below: Array
) -> Array:
    """The pullback of a cotangent, from its sums over all entries and those below the maximum."""
    logits, maximum, rest, ties = residuals
    scores = logits.astype(maximum.dtype)
    # Not those to store: beside all else here they would take a tenth more time.
    exponentials = exponentials_of(scores, maximum)
    # T with the derivative of S - e_k.
    of_others = rest + (1 - exponentials)
    alone = (ties == 1) & (rest < 1) & (is_below(scores, maximum) == 0)
    share = jnp.where(alone, of_others, exponentials) * (total / (rest + ties))
    gradient = jnp.where(alone, share - total_below, cotangent - share)
    return gradient.astype(logits.dtype)


_log_softmax.defvjp(_log_softmax_fwd, _log_softmax_bwd)


def expected_log_softmax(
    logits: Real[ArrayLike, "*shape"], probabilities: Real[ArrayLike, "*shape"], *, axis: int = -1
) -> Float[Array, "..."]:
    r"""Mean of the `log_softmax` of each row under given probabilities.

    $$\sum_j q_j \log p_j$$

    with $0 \log 0 = 0$. Gradient: $q - p \sum_j q_j$ with respect to the logits, with the care of
    `log_softmax`, and $\log p$ with respect to the probabilities, 0 where $q_j \log p_j$ is
    $0 \cdot (-\infty)$. No log-probability is stored. The probabilities need not sum to 1.

    Args:
        logits: real scores, at least one along `axis`.
        probabilities: of the same shape.
        axis: the axis of the classes.

    Returns:
        The shape of `logits` without `axis`; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or `axis` is not an integer.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> logits = jnp.array([20.0, 0.0, -jnp.inf])
        >>> jaxloss.primitives.expected_log_softmax(logits, jnp.array([0.5, 0.5, 0.0]))
        Array(-10.0, dtype=float32)

    Source: Blanchard, Higham and Higham (2021), as for `logsumexp`.
    """
    function = "expected_log_softmax"
    logits, probabilities = _check.of_one_shape(
        function, logits=logits, probabilities=probabilities
    )
    axis = _check.reduced_axis(function, axis, logits=logits)
    if _check.wide(probabilities) != _check.wide(logits):
        logits = logits.astype(_check.wide(logits, probabilities))
    return _expected_log_softmax(logits, probabilities, axis)


@functools.partial(custom_vjp, static=1)
def _expected_log_softmax(logits: Array, probabilities: Array, axis: int) -> Array:
    return _expected_log_softmax_fwd(logits, probabilities, axis)[0]


# The pullback of log_softmax applied to the cotangent q, whose sums are taken with the row's; its
# log-probabilities come again from the row statistics.


def _expected_log_softmax_fwd(
    logits: Array, probabilities: Array, axis: int
) -> tuple[Array, tuple[Any, ...]]:
    value, *found, below, at = by_rows(_sums_by, _sums_elsewhere, axis, logits, probabilities)
    return jnp.squeeze(value, axis), (probabilities, (logits, *found), below, at)


def _sums_by(rows: Rows, axis: int, logits: Array, probabilities: Array) -> tuple[Array, ...]:
    factors = probabilities.astype(_check.wide(logits))

    def shifted(maximum: Array) -> tuple[Array]:
        return (safe_product(factors, logits.astype(maximum.dtype) - maximum),)

    maximum, rest, ties, below, at, total = maximum_rest_and_ties_twice(
        rows, axis, logits, factors, more=shifted
    )
    value = total - safe_product(below + at, _log1p(rest + (ties - 1)))
    return value, maximum, rest, ties, below, at


def _sums_elsewhere(axis: int, logits: Array, probabilities: Array) -> tuple[Array, ...]:
    factors = probabilities.astype(_check.wide(logits))
    *found, below, at = maximum_rest_and_ties_once(axis, logits, factors)
    terms = safe_product(factors, _log_probs(logits, *found))
    return jnp.sum(terms, axis, keepdims=True), *found, below, at


def _expected_log_softmax_bwd(
    axis: int, residuals: tuple[Any, ...], cotangent: Array
) -> tuple[Array, Array]:
    probabilities, statistics, below, at = residuals
    cotangent = jnp.expand_dims(cotangent, axis)
    factors = probabilities.astype(cotangent.dtype)
    to_logits = _pulled_back(
        statistics, factors * cotangent, (below + at) * cotangent, below * cotangent
    )
    log_probs = _log_probs(*statistics)
    kept = jnp.where((factors == 0) & jnp.isinf(log_probs), 0, log_probs)
    return to_logits, (kept * cotangent).astype(probabilities.dtype)


_expected_log_softmax.defvjp(_expected_log_softmax_fwd, _expected_log_softmax_bwd)


def log_softmax_at(
    logits: Real[ArrayLike, "..."], labels: Integer[ArrayLike, "*rows"], *, axis: int = -1
) -> Float[Array, "*rows"]:
    r"""Log-probability of one class in each row: `log_softmax` at the labels, without the rest.

    $$\log p_k = -\big[(m - z_k) + \log(1 + T_k + (e_k - 1))\big], \qquad
      e_j = e^{z_j - m}, \quad T_k = \sum_{j \ne k} e_j,$$

    a sum of terms that do not cancel, wherever the label's logit stands. Gradient: $[j = k] - p_j$,
    at the label itself $T_k / (T_k + e_k)$, so that a confident row keeps its tail. A logit of -inf
    off the label takes no part; on the label the value is -inf. All of -inf, or any of +inf, gives
    NaN in value and gradient, and so does a label out of range, negative ones included.

    Args:
        logits: real scores, at least one along `axis`.
        labels: class indices from 0 to the number of classes less 1, shaped as `logits` without
            `axis`; any integer dtype.
        axis: the axis of the classes.

    Returns:
        The shape of `labels`; float32, or float64 for float64 logits.

    Raises:
        TypeError: `logits` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, or the shapes do not agree.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.log_softmax_at(jnp.array([[20.0, 0.0]]), jnp.array([0]))
        Array([-2.061e-09], dtype=float32)

    Source: Blanchard, Higham and Higham (2021), as for `logsumexp`, with the label in the place of
    the maximum.
    """
    function = "log_softmax_at"
    [logits] = _check.real_arrays(function, logits=logits)
    axis = _check.reduced_axis(function, axis, logits=logits)
    return _log_softmax_at(logits, _check.class_labels(function, labels, axis, logits=logits), axis)


@functools.partial(custom_vjp, static=1)
def _log_softmax_at(logits: Array, labels: Array, axis: int) -> Array:
    return log_softmax_at_of(logits, labels, axis, stored=False)[0]


# d log p_k / dz_j = [j = k] - p_j: at the label 1 - e_k / (T_k + e_k) = T_k / (T_k + e_k),
# elsewhere -e_j / (T_k + e_k). T_k of a bad label is NaN, and all of the row with it.


def log_softmax_at_fwd(logits: Array, labels: Array, axis: int) -> tuple[Array, tuple[Array, ...]]:
    return log_softmax_at_of(logits, labels, axis, stored=True)


def log_softmax_at_of(
    logits: Array, labels: Array, axis: int, stored: bool
) -> tuple[Array, tuple[Array, ...]]:
    scores = logits.astype(_check.wide(logits))
    index, valid = _check.valid_index(jnp.expand_dims(labels, axis), scores.shape[axis])
    score = _picked(logits, index, axis)
    maximum, rest = maximum_and_others(logits, index, axis, stored)
    exponential = stored_exponentials_of(score, maximum)
    rest = jnp.where(valid, rest, jnp.nan)
    _, error = less_maximum(score, maximum)
    value = -((maximum - score) + (_log1p(rest + (exponential - 1)) - error))
    return jnp.squeeze(value, axis), (logits, index, maximum, exponential, rest)


def log_softmax_at_bwd(
    axis: int, residuals: tuple[Array, ...], cotangent: Array
) -> tuple[Array, None]:
    logits, index, maximum, exponential, rest = residuals
    scores = logits.astype(maximum.dtype)
    # The forward's terms, which XLA then keeps.
    exponentials = exponentials_but(scores, maximum, index, axis, stored=True)
    classes = jax.lax.broadcasted_iota(index.dtype, logits.shape, axis)
    complement = jnp.where(classes == index, rest, -exponentials)
    gradient = _times_quotient(complement, jnp.expand_dims(cotangent, axis), rest, exponential)
    return gradient.astype(logits.dtype), None


_log_softmax_at.defvjp(log_softmax_at_fwd, log_softmax_at_bwd)


def complement_at(residuals: tuple[Array, ...], log_prob: Array) -> Array:
    """1 - p_k of the label's class, which loses nothing where p_k rounds to 1."""
    *_, exponential, rest = residuals
    return _complement_of(log_prob, _times_quotient(rest, jnp.ones_like(rest), rest, exponential))


@jax.custom_jvp
def _complement_of(log_prob: Array, complement: Array) -> Array:
    return complement


# Of the quotient T / S the derivative would be a difference: -p dl is none.
@_complement_of.defjvp
def _complement_of_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    log_prob, complement = primals
    return complement, -exp(log_prob) * tangents[0]
