"""Divergences of a predicted distribution, given in logarithms, from a target."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _checked, _options
from jaxloss._autodiff import afresh, apart, custom_vjp
from jaxloss._exact import exponential
from jaxloss.primitives import log_cosh, safe_product


def _reduced(
    function: str,
    divergence: custom_vjp,
    log_probs: ArrayLike,
    targets: ArrayLike,
    log_targets: bool,
    axis: int,
    *,
    normalized: bool = True,
) -> Array:
    """The sum over the axis of an elementwise divergence, of distributions unless told so."""
    log_targets = _options.flag(function, "log_targets", log_targets)
    scores, masses = _check.matched(function, log_probs=log_probs, targets=targets)
    axis = _check.reduced_axis(function, axis, log_probs=scores)
    if normalized:
        # As they came: the sum of rounded numbers is not 1.
        _checked.distributions(function, axis, logs=True, log_probs=jnp.asarray(log_probs))
        _checked.distributions(function, axis, logs=log_targets, targets=jnp.asarray(targets))
    return jnp.sum(divergence(scores, masses, log_targets), axis)


def _targets_and_logarithms(targets: Array, log_targets: bool) -> tuple[Array, Array]:
    if log_targets:
        return exponential(targets)[0], targets
    # The guard keeps the logarithm's derivative at 0 out of derivatives of higher order.
    zero = targets == 0
    return targets, jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, targets)))


def _to_targets(slope: Array, probabilities: Array, log_targets: bool) -> Array:
    """The derivative with respect to what was given as targets, 0 for a target of no mass."""
    kept = jnp.where(probabilities == 0, 0, slope)
    return probabilities * kept if log_targets else kept


@_check.known_keywords
def kl_divergence(
    log_probs: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    log_targets: bool = False,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence of the predicted distribution from the target.

    $$\ell = \sum_j t_j (\log t_j - \log p_j)$$

    The prediction comes first, and in logarithms. Gradient: $-t$ with respect to `log_probs`, and
    $\log t - \log p + 1$ to the targets, 0 where $t = 0$. With $0 \log 0 = 0$, a class without
    target mass adds nothing, even at a log-probability of -inf. Nothing is normalised. PyTorch's
    `reduction="batchmean"` is our mean; its elementwise mean divides by the class count too.

    Args:
        log_probs: log-probabilities, at least one class along `axis`; -inf is allowed.
        targets: probabilities, or their logarithms, of the same shape.
        log_targets: whether `targets` are logarithms.
        axis: the axis of the classes.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 input. At least 0 for
        distributions, but for rounding: see `generalized_kl_divergence` where they nearly agree.

    Raises:
        TypeError: an input is not made of real numbers, `axis` is not an integer, or `log_targets`
            is not True or False.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> log_probs = jnp.log(jnp.array([[0.5, 0.5, 0.0]]))
        >>> jaxloss.kl_divergence(log_probs, jnp.array([[0.25, 0.75, 0.0]]))
        Array([0.1308], dtype=float32)

    Source: Kullback and Leibler, "On information and sufficiency" (1951); PyTorch `kl_div`.
    """
    return _reduced("kl_divergence", _relative_entropy, log_probs, targets, log_targets, axis)


@functools.partial(custom_vjp, static=1)
def _relative_entropy(log_probs: Array, targets: Array, log_targets: bool) -> Array:
    return _relative_entropy_fwd(log_probs, targets, log_targets)[0]


# t (log t - log p): -t with respect to log p, log t - log p + 1 to t. The value is of arithmetic
# alone, which a sum takes in without writing it to memory. The difference d may be inf, of a log p
# of -inf; then it is two finite factors, so that t = 0 makes it 0. With B a power of two they are
# min(B, d) and, from 1 to B, d / B. In a sum a minimum keeps the NaN of its second operand alone.


def _relative_entropy_fwd(
    log_probs: Array, targets: Array, log_targets: bool
) -> tuple[Array, tuple[Array, Array]]:
    smallest = float(jnp.finfo(targets.dtype).tiny)
    # Barred from XLA, which would make a clip of two bounds, that does not fuse.
    least, largest = apart(-1e30, 1 / smallest, dtype=targets.dtype)
    if log_targets:
        # Where it is below that bound the probability is 0.
        probabilities, logarithms = jnp.exp(targets), jnp.maximum(targets, least)
    else:
        # Of 0 that of 1, and of negative numbers NaN.
        nothing = 1 - jnp.square(jnp.sign(targets))
        probabilities, logarithms = targets, jnp.log(targets + nothing)
    difference = logarithms - log_probs
    beyond = jnp.minimum(jnp.maximum(difference * smallest, 1), largest)
    return probabilities * jnp.minimum(largest, difference) * beyond, (log_probs, targets)


def _relative_entropy_bwd(
    log_targets: bool, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    log_probs, targets = residuals
    if log_targets:
        # Times a one that XLA does not know: not the exponentials of the value.
        [one] = apart(1, dtype=targets.dtype)
        probabilities, logarithms = jnp.exp(targets * one), targets
    else:
        probabilities, logarithms = _targets_and_logarithms(targets, log_targets)
    to_targets = _to_targets(logarithms - log_probs + 1, probabilities, log_targets)
    return -probabilities * cotangent, to_targets * cotangent


_relative_entropy.defvjp(_relative_entropy_fwd, _relative_entropy_bwd)


@_check.known_keywords
def generalized_kl_divergence(
    log_probs: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    log_targets: bool = False,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence of measures that need not sum to one.

    $$\ell = \sum_j t_j \log \frac{t_j}{p_j} - t_j + p_j$$

    Each term is at least 0, and keeps its accuracy where the two nearly agree; for distributions
    the sum is `kl_divergence`. Gradient: $p - t$ with respect to `log_probs`, and
    $\log t - \log p$ to the targets, 0 where $t = 0$.

    Args:
        log_probs: logarithms of the predicted measure; -inf is allowed.
        targets: the target measure, or its logarithm, of the same shape.
        log_targets: whether `targets` are logarithms.
        axis: the axis of the classes.

    Returns:
        One loss per row; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, `axis` is not an integer, or `log_targets`
            is not True or False.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> log_probs = jnp.log(jnp.array([[1.0, 2.0, 3.0]]))
        >>> jaxloss.generalized_kl_divergence(log_probs, jnp.array([[1.0, 1.0, 0.0]]))
        Array([3.307], dtype=float32)

    Source: Bregman, "The relaxation method of finding the common point of convex sets" (1967);
    Optax `generalized_kl_divergence`.
    """
    return _reduced(
        "generalized_kl_divergence",
        _bregman,
        log_probs,
        targets,
        log_targets,
        axis,
        normalized=False,
    )


@functools.partial(custom_vjp, static=1)
def _bregman(log_probs: Array, targets: Array, log_targets: bool) -> Array:
    return _bregman_fwd(log_probs, targets, log_targets)[0]


# With d = log p - log t a term is t (e^d - 1 - d), and its derivatives are p - t with respect to
# log p and -d to t. Where |d| < 1 all three are small differences. Of logarithms d is exact:
#
#     e^d - 1 - d = d^2 (1/2! + d/3! + d^2/4! + ...),    p - t = t (e^d - 1).
#
# Of probabilities it is p - t, in which no log t is rounded. With s = (p - t) / (p + t) and
# R = 2 (s^2/3 + s^4/5 + ...)
#
#     d = 2 artanh s = s (2 + R),    a term is s ((p - t) - t R).
#
# Elsewhere it is (p - t) - t d, where nothing cancels much.


def _bregman_fwd(
    log_probs: Array, targets: Array, log_targets: bool
) -> tuple[Array, tuple[Array, Array]]:
    return _compared(log_probs, targets, log_targets)[0], (log_probs, targets)


def _bregman_bwd(
    log_targets: bool, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    log_probs, targets = afresh(*residuals)
    _, gap, change = _compared(log_probs, targets, log_targets)
    masses = exponential(targets)[0] if log_targets else targets
    return gap * cotangent, _to_targets(-change, masses, log_targets) * cotangent


_bregman.defvjp(_bregman_fwd, _bregman_bwd)


def _compared(log_probs: Array, targets: Array, log_targets: bool) -> tuple[Array, Array, Array]:
    """A term, p - t and log p - log t."""
    masses, logarithms = _targets_and_logarithms(targets, log_targets)
    predicted, relative = exponential(log_probs)
    # What the rounded exponentials are too small by.
    lost = jnp.where(jnp.isinf(predicted), 0, predicted * relative)
    if log_targets:
        lost = lost - jnp.where(jnp.isinf(masses), 0, masses * exponential(targets)[1])
    gap = (predicted - masses) + jax.lax.stop_gradient(lost)
    change = log_probs - logarithms
    if log_targets:
        near = jnp.abs(change) < 1
        small = jnp.where(near, change, 0)
        excess = _excess(small)
        near_gap, near_change, near_term = masses * (small + excess), change, masses * excess
    else:
        total = predicted + masses
        near = jnp.abs(gap) < math.tanh(0.5) * total
        near_gap = jnp.where(near, gap, 0)
        share = near_gap / jnp.where(near, total, 1)
        rest = _artanh_rest(share)
        near_change, near_term = share * (2 + rest), share * (near_gap - masses * rest)
    far = gap - safe_product(masses, log_probs - jnp.where(masses == 0, 0, logarithms))
    return (
        jnp.where(near, near_term, far),
        jnp.where(near, near_gap, gap),
        jnp.where(near, near_change, change),
    )


def _excess(change: Array) -> Array:
    """e^d - 1 - d, of |d| up to 1."""
    series = jnp.zeros_like(change)
    for n in range(12 if change.dtype == jnp.float32 else 21, 2, -1):
        series = series * change + 1 / math.factorial(n)
    squares = jnp.square(change)
    # Half the square is not rounded again, and the rest is small.
    return squares * 0.5 + squares * (change * series)


def _artanh_rest(share: Array) -> Array:
    """2 artanh(s) / s - 2, of |s| up to tanh(1/2)."""
    squares = jnp.square(share)
    series = jnp.zeros_like(squares)
    for n in range(12 if share.dtype == jnp.float32 else 25, 0, -1):
        series = squares * (series + 2 / (2 * n + 1))
    return series


@_check.known_keywords
def js_divergence(
    log_probs: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    log_targets: bool = False,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Jensen-Shannon divergence: of either distribution from the mean of the two.

    $$\ell = \tfrac12 \sum_j p_j \log \frac{p_j}{m_j} + \tfrac12 \sum_j t_j \log \frac{t_j}{m_j},
      \qquad m = \frac{p + t}{2}$$

    Symmetric, at least 0 and, for distributions, at most $\log 2$; accurate where the two nearly
    agree. Gradient: $\frac12 p \log(p / m)$ with respect to `log_probs`, $\frac12 \log(t / m)$ to
    the targets, 0 where they have no mass.

    Args:
        log_probs: log-probabilities, at least one class along `axis`; -inf is allowed.
        targets: probabilities, or their logarithms, of the same shape.
        log_targets: whether `targets` are logarithms.
        axis: the axis of the classes.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, `axis` is not an integer, or `log_targets`
            is not True or False.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> log_probs = jnp.log(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
        >>> jaxloss.js_divergence(log_probs, jnp.array([[0.5, 0.5], [0.0, 1.0]]))
        Array([0. , 0.6931], dtype=float32)

    Source: Lin, "Divergence measures based on the Shannon entropy" (1991).
    """
    return _reduced("js_divergence", _jensen_shannon, log_probs, targets, log_targets, axis)


@functools.partial(custom_vjp, static=1)
def _jensen_shannon(log_probs: Array, targets: Array, log_targets: bool) -> Array:
    return _jensen_shannon_fwd(log_probs, targets, log_targets)[0]


# With u = (log p - log t) / 2 the shares of p and t in 2m are sigma(2u) and sigma(-2u), and
#
#     log(p / m) = u - c(u),   log(t / m) = -u - c(u),   c = log cosh,
#
# so that a term is m (u tanh u - c(u)). Near 0 both parts are of the order of u^2 and differ by a
# factor of two: nothing is lost. Far from 0, with x = e^(-2|u|), c(u) = |u| - log 2 + log1p(x), the
# term's bracket is log 2 - log1p(x) - 2 |u| x / (1 + x) and the larger of the two logarithms
# log 2 - log1p(x). The derivatives are p log(p / m) / 2 with respect to log p and log(t / m) / 2 to
# t: m is stationary.


def _jensen_shannon_fwd(
    log_probs: Array, targets: Array, log_targets: bool
) -> tuple[Array, tuple[Array, Array]]:
    probabilities = exponential(targets)[0] if log_targets else targets
    mean = (jnp.exp(log_probs) + probabilities) / 2
    half, size = _half_difference(log_probs, targets, log_targets)
    small = size < 1
    near_half = jnp.where(small, half, 0)
    near = near_half * jnp.tanh(near_half) - log_cosh(near_half)
    tail = jnp.exp(-2 * size)
    far = math.log(2) - jnp.log1p(tail) - 2 * safe_product(tail, size) / (1 + tail)
    value = safe_product(mean, jnp.where(small, near, far))
    return value, (log_probs, targets)


def _jensen_shannon_bwd(
    log_targets: bool, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    log_probs, targets = afresh(*residuals)
    probabilities = exponential(targets)[0] if log_targets else targets
    half, size = _half_difference(log_probs, targets, log_targets)
    to_log_probs = safe_product(jnp.exp(log_probs), _log_of_share(half, size)) / 2
    to_targets = _to_targets(_log_of_share(-half, size) / 2, probabilities, log_targets)
    return to_log_probs * cotangent, to_targets * cotangent


_jensen_shannon.defvjp(_jensen_shannon_fwd, _jensen_shannon_bwd)


def _half_difference(log_probs: Array, targets: Array, log_targets: bool) -> tuple[Array, Array]:
    """u and |u|; 0 where neither has any mass."""
    _, _, change = _compared(log_probs, targets, log_targets)
    nothing = (log_probs == -jnp.inf) & (targets == (-jnp.inf if log_targets else 0))
    half = jnp.where(nothing, 0, change) / 2
    return half, jnp.where(half > 0, half, -half)


def _log_of_share(half: Array, size: Array) -> Array:
    """log(p / m) of u and |u|, or of -u that of t."""
    small = size < 1
    near_half = jnp.where(small, half, 0)
    far = math.log(2) - jnp.log1p(jnp.exp(-2 * size)) - jnp.where(half < 0, 2 * size, 0)
    return jnp.where(small, near_half - log_cosh(near_half), far)
