"""Relative entropies of rows, and sums of them: values and gradients."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._autodiff import apart, custom_vjp
from jaxloss._check import widened
from jaxloss._elementary import quotient
from jaxloss._exact import exp, exponential, exponential_excess, log_one_plus
from jaxloss._row_blocks import row_sum


@functools.partial(custom_vjp, static=2)
def relative_entropy(log_probs: Array, targets: Array, log_targets: bool, axis: int) -> Array:
    return _relative_entropy_fwd(log_probs, targets, log_targets, axis)[0]


# t (log t - log p): -t with respect to log p, log t - log p + 1 to t. The value is of arithmetic
# alone, which a sum takes in without writing it to memory. The difference d is inf where log p is
# -inf; then it is two finite factors, so that t = 0 makes it 0: with B a power of two min(B, d),
# and d / B where that is above 1. A log p of inf, which is none, gives NaN there. In a sum a
# minimum keeps the NaN of its second operand alone.


def _relative_entropy_fwd(
    log_probs: Array, targets: Array, log_targets: bool, axis: int
) -> tuple[Array, tuple[Array, Array]]:
    value = row_sum(_relative_entropy_terms, axis, log_targets, log_probs, targets)
    return value, (log_probs, targets)


def _relative_entropy_terms(log_targets: bool, log_probs: Array, targets: Array) -> Array:
    limits = jnp.finfo(targets.dtype)
    smallest, largest = float(limits.tiny), float(limits.max)
    # Barred from XLA, which would make a clip of two bounds, that does not fuse.
    least, bound, most = apart(-1e30, 1 / smallest, largest, dtype=targets.dtype)
    if log_targets:
        # The exponential of what is below that bound is 0.
        masses, logarithms = exp(targets), jnp.maximum(targets, least)
    else:
        # log 1 for a target of 0; negative ones give NaN.
        masses, logarithms = targets, jnp.log(targets + (1 - jnp.square(jnp.sign(targets))))
    difference = logarithms - log_probs
    beyond = jnp.minimum(jnp.maximum(difference * smallest, 1), most)
    return masses * jnp.minimum(bound, difference) * beyond


def _relative_entropy_bwd(
    log_targets: bool, axis: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    cotangent = jnp.expand_dims(cotangent, axis)
    log_probs, targets = _recomputed(residuals) if log_targets else widened(*residuals)
    masses = exp(targets) if log_targets else targets
    change = _logarithms(targets, log_targets) - log_probs
    to_targets = _to_targets(change + 1, masses, log_targets)
    return _as_given(residuals, -masses * cotangent, to_targets * cotangent)


relative_entropy.defvjp(_relative_entropy_fwd, _relative_entropy_bwd)


@functools.partial(custom_vjp, static=2)
def bregman(log_probs: Array, targets: Array, log_targets: bool, axis: int) -> Array:
    return _bregman_fwd(log_probs, targets, log_targets, axis)[0]


# With d = log p - log t a term is t (e^d - 1 - d), and its derivatives are p - t with respect to
# log p and -d to t. Of logarithms d is exact, and where |d| < 1
#
#     e^d - 1 - d = d^2 (1/2! + d/3! + d^2/4! + ...).
#
# Of probabilities p - t is, as no log t is rounded in it. With s = (p - t) / (p + t), of |s| < 1/2,
# and R = 2 (s^2/3 + s^4/5 + ...),
#
#     d = 2 artanh s = s (2 + R),    a term is s ((p - t) - t R).
#
# Elsewhere it is (p - t) - t d, where nothing cancels much.


def _bregman_fwd(
    log_probs: Array, targets: Array, log_targets: bool, axis: int
) -> tuple[Array, tuple[Array, Array]]:
    value = row_sum(_bregman_terms, axis, log_targets, log_probs, targets, long=True)
    return value, (log_probs, targets)


def _bregman_terms(log_targets: bool, log_probs: Array, targets: Array) -> Array:
    _, masses, gap = _masses(log_probs, targets, log_targets)
    if log_targets:
        change = log_probs - targets
        near, small = _where_small(change, 1.0)
        term = masses * exponential_excess(small)
    else:
        change = log_probs - _logarithms(targets, log_targets)
        near, share = _where_small(_share(gap, masses), 0.5)
        term = share * (gap - masses * _artanh_rest(share))
    far = gap - masses * jnp.where(masses == 0, 0, change)
    return jnp.where(near, term, far)


def _bregman_bwd(
    log_targets: bool, axis: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    cotangent = jnp.expand_dims(cotangent, axis)
    log_probs, targets = _recomputed(residuals)
    _, masses, gap = _masses(log_probs, targets, log_targets)
    change = log_probs - _logarithms(targets, log_targets)
    if not log_targets:
        near, share = _where_small(_share(gap, masses), 0.5)
        change = jnp.where(near, share * (2 + _artanh_rest(share)), change)
    to_targets = _to_targets(-change, masses, log_targets)
    return _as_given(residuals, gap * cotangent, to_targets * cotangent)


bregman.defvjp(_bregman_fwd, _bregman_bwd)


@functools.partial(custom_vjp, static=2)
def jensen_shannon(log_probs: Array, targets: Array, log_targets: bool, axis: int) -> Array:
    return _jensen_shannon_fwd(log_probs, targets, log_targets, axis)[0]


# With s = (p - t) / (p + t) the shares are p / m = 1 + s and t / m = 1 - s, and a term is
#
#     m/2 ((1 + s) log(1 + s) + (1 - s) log(1 - s)) = m (s^2/(1 2) + s^4/(3 4) + s^6/(5 6) + ...).
#
# The derivatives are p log(p / m) / 2 with respect to log p and log(t / m) / 2 to t: m is
# stationary.


def _jensen_shannon_fwd(
    log_probs: Array, targets: Array, log_targets: bool, axis: int
) -> tuple[Array, tuple[Array, Array]]:
    value = row_sum(_jensen_shannon_terms, axis, log_targets, log_probs, targets, long=True)
    return value, (log_probs, targets)


def _jensen_shannon_terms(log_targets: bool, log_probs: Array, targets: Array) -> Array:
    predicted, masses, gap = _masses(log_probs, targets, log_targets)
    share = jnp.where(masses < 0, jnp.nan, _share(gap, masses))
    near, small = _where_small(share, 0.5)
    squares = jnp.square(small)
    series = jnp.zeros_like(squares)
    for n in range(12 if squares.dtype == jnp.float32 else 26, 0, -1):
        series = squares * (series + 1 / (2 * n * (2 * n - 1)))
    far = predicted * _log_of_share(share, predicted, masses)
    far = far + masses * _log_of_share(-share, masses, predicted)
    return jnp.where(near, (predicted / 2 + masses / 2) * series, far / 2)


def _jensen_shannon_bwd(
    log_targets: bool, axis: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    cotangent = jnp.expand_dims(cotangent, axis)
    log_probs, targets = _recomputed(residuals)
    predicted, masses, gap = _masses(log_probs, targets, log_targets)
    share = jnp.where(masses < 0, jnp.nan, _share(gap, masses))
    to_log_probs = predicted * _log_of_share(share, predicted, masses) / 2
    to_targets = _to_targets(_log_of_share(-share, masses, predicted) / 2, masses, log_targets)
    return _as_given(residuals, to_log_probs * cotangent, to_targets * cotangent)


jensen_shannon.defvjp(_jensen_shannon_fwd, _jensen_shannon_bwd)


def _log_of_share(share: Array, part: Array, other: Array) -> Array:
    """log(1 + s), where 1 + s = a / m of m = (a + b) / 2; 0 where a is."""
    near, small = _where_small(share, 0.5)
    known = near | (part == 0)
    part, mean = jnp.where(known, 1, part), jnp.where(known, 1, part / 2 + other / 2)
    ratio = quotient(part, mean)
    # Before it is flushed to 0.
    tiny = ratio < 2.0**-60
    far = jnp.where(tiny, jnp.log(part) - jnp.log(mean), jnp.log(jnp.where(tiny, 1, ratio)))
    # A share that is NaN shows, also where there is no mass.
    return jnp.where(near, log_one_plus(small), far) + 0 * share


def _logarithms(targets: Array, log_targets: bool) -> Array:
    if log_targets:
        return targets
    # The guard keeps the logarithm's derivative at 0 out of derivatives of higher order.
    zero = targets == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, targets)))


def _to_targets(slope: Array, masses: Array, log_targets: bool) -> Array:
    """The derivative with respect to what was given as targets, 0 for a target of no mass."""
    return jnp.where(masses == 0, 0, masses * slope if log_targets else slope)


def _recomputed(residuals: tuple[Array, Array]) -> tuple[Array, Array]:
    """The same numbers, of which XLA computes all again: that costs less than storing it."""
    log_probs, targets = widened(*residuals)
    [one] = apart(1, dtype=targets.dtype)
    return log_probs * one, targets * one


def _as_given(residuals: tuple[Array, Array], *gradients: Array) -> tuple[Array, Array]:
    """Gradients in the dtypes of what they are gradients to."""
    first, second = (g.astype(x.dtype) for g, x in zip(gradients, residuals, strict=True))
    return first, second


def _masses(log_probs: Array, targets: Array, log_targets: bool) -> tuple[Array, Array, Array]:
    """p, t and p - t; the last is t (e^d - 1) where logarithms are less than 1 apart."""
    predicted, lost = _exponential_and_lost(log_probs)
    if not log_targets:
        return predicted, targets, (predicted - targets) + lost
    masses, lost_of_masses = _exponential_and_lost(targets)
    near, small = _where_small(log_probs - targets, 1.0)
    gap = (predicted - masses) + (lost - lost_of_masses)
    return predicted, masses, jnp.where(near, masses * (small + exponential_excess(small)), gap)


def _exponential_and_lost(values: Array) -> tuple[Array, Array]:
    """e^x, and what rounding took off it, a constant 0 to derivatives."""
    exponentials, relative = exponential(values)
    finite = jnp.minimum(exponentials, float(jnp.finfo(values.dtype).max))
    return exponentials, jax.lax.stop_gradient(finite * relative)


def _share(gap: Array, masses: Array) -> Array:
    """(p - t) / (p + t), 0 of 0 and 0."""
    # Halves, whose sum does not overflow.
    mean = gap / 2 + masses
    return quotient(gap / 2, jnp.where(mean == 0, 1, mean))


def _where_small(values: Array, bound: float) -> tuple[Array, Array]:
    """Whether |x| is below a bound, and x there, elsewhere 0."""
    small = jnp.abs(values) < bound
    return small, jnp.where(small, values, 0)


def _artanh_rest(share: Array) -> Array:
    """2 artanh(s) / s - 2, of |s| up to 1/2."""
    squares = jnp.square(share)
    series = jnp.zeros_like(squares)
    for n in range(11 if share.dtype == jnp.float32 else 25, 0, -1):
        series = squares * (series + 2 / (2 * n + 1))
    return series
