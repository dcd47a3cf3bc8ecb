"""Losses of real predictions that large errors do not dominate, one value per element."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _options, primitives
from jaxloss._autodiff import apart, custom_vjp
from jaxloss._exact import tanh


@_check.known_keywords
def smooth_l1(
    predictions: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"],
    *,
    beta: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "*shape"]:
    r"""Smooth L1 loss: the absolute error with its kink rounded off within `beta`.

    $$\ell = \begin{cases} e^2 / (2\beta) & |e| < \beta \\ |e| - \beta/2 & \text{otherwise}
      \end{cases} \qquad e = \text{prediction} - \text{target}$$

    Gradient: $e / \beta$ clipped to [-1, 1]. With `beta=0` this is `absolute_error`, gradient 0 at
    0. It is not `huber`, which is $\delta$ times as large.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape.
        beta: where the parabola meets the lines, at least 0, in the targets' unit.

    Returns:
        One loss per element, in the targets' unit; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, or `beta` is negative or not a scalar. (A traced `beta` that
            turns out negative gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.smooth_l1(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]))
        Array([0.125, 2.5  ], dtype=float32)

    Source: Girshick, "Fast R-CNN" (2015), equation 3; PyTorch `smooth_l1_loss`.
    """
    predictions, targets = _check.matched("smooth_l1", predictions=predictions, targets=targets)
    width = _width("smooth_l1", "beta", beta, predictions.dtype)
    return _smooth_l1(predictions, targets, width, jnp.ones_like(width))


@_check.known_keywords
def huber(
    predictions: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"],
    *,
    delta: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "*shape"]:
    r"""Huber's loss: quadratic within `delta` of the target, linear beyond.

    $$\ell = \begin{cases} e^2 / 2 & |e| < \delta \\ \delta (|e| - \delta/2) & \text{otherwise}
      \end{cases} \qquad e = \text{prediction} - \text{target}$$

    Gradient: $e$ clipped to $[-\delta, \delta]$. It is $\delta$ times `smooth_l1` with
    $\beta = \delta$; the two agree at $\delta = 1$ only.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape.
        delta: where the parabola meets the lines, at least 0, in the targets' unit.

    Returns:
        One loss per element, in the square of the targets' unit; float32, or float64 for float64
        input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, or `delta` is negative or not a scalar. (A traced `delta`
            that turns out negative gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]), delta=2.0)
        Array([0.125, 4.   ], dtype=float32)

    Source: Huber, "Robust estimation of a location parameter" (1964), section 4; PyTorch
    `huber_loss`.
    """
    predictions, targets = _check.matched("huber", predictions=predictions, targets=targets)
    width = _width("huber", "delta", delta, predictions.dtype)
    return _smooth_l1(predictions, targets, width, width)


def _width(function: str, name: str, value: ArrayLike, dtype: jnp.dtype) -> Array:
    width = _options.number(function, name, value, minimum=0.0).astype(dtype)
    # The smallest normal number stands for 0, which would give 0 / 0: the loss differs by less than
    # that number, times the error in huber.
    return jnp.maximum(width, float(jnp.finfo(dtype).tiny))


@custom_vjp
def _smooth_l1(predictions: Array, targets: Array, width: Array, steepness: Array) -> Array:
    return _smooth_l1_fwd(predictions, targets, width, steepness)[0]


# A parabola up to |e| = w, then lines of slope k. With a = |e|, s = min((k / w) a, k) is the size
# of the slope, and both are one formula, l = s (a - min(a, w) / 2), in which nothing cancels:
#
#     dl/de = (k / w) e clipped to [-k, k]        dl/dw = -s^2 / (2 k)        dl/dk = l / k
#
# on both branches. Minima fuse into a sum, which a selection of branches would not; and the slope
# is computed apart from the value, as what the two shared XLA's CPU backend would write to memory.
# What rounding takes off e is not put back: in the fused sum that is a third of the time, and the
# formula is within 1.9 ULP at widths of a power of two, within 3.1 at any.


def _smooth_l1_fwd(
    predictions: Array, targets: Array, width: Array, steepness: Array
) -> tuple[Array, tuple[Array, ...]]:
    sizes = jnp.abs(predictions - targets)
    slope = jnp.minimum(steepness / width * sizes, steepness)
    value = slope * (sizes - jnp.minimum(sizes, width) / 2)
    return value, (predictions, targets, width, steepness)


def _smooth_l1_bwd(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
    predictions, targets, width, steepness = residuals
    steep, least, most = apart(steepness / width, -steepness, steepness, dtype=targets.dtype)
    missing = targets - predictions
    # A clip that is fused into a sum drops NaN; a sign does not.
    slope = jnp.clip(steep * missing, least, most) + 0 * jnp.sign(missing)
    value, _ = _smooth_l1_fwd(predictions, targets, width, steepness)
    return (
        -slope * cotangent,
        slope * cotangent,
        jnp.sum(-jnp.square(slope) / (2 * steepness) * cotangent),
        jnp.sum(value / steepness * cotangent),
    )


_smooth_l1.defvjp(_smooth_l1_fwd, _smooth_l1_bwd)


@_check.known_keywords
def log_cosh(
    predictions: Real[ArrayLike, "*shape"], targets: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Logarithm of the hyperbolic cosine of the error: a smooth absolute error.

    $$\ell = \log\cosh e, \qquad e = \text{prediction} - \text{target}$$

    About $e^2/2$ near 0 and $|e| - \log 2$ far away, accurate in both. Gradient: $\tanh e$.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape.

    Returns:
        One loss per element; float32, or float64 for float64 input. The loss has a scale of its
        own, 1: divide by the targets' unit first.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.log_cosh(jnp.array([1e-4, 100.0]), jnp.array([0.0, 0.0]))
        Array([5.000e-09, 9.931e+01], dtype=float32)

    Source: Green, "Bayesian reconstructions from emission tomography data using a modified EM
    algorithm" (1990); Optax `log_cosh`.
    """
    predictions, targets = _check.matched("log_cosh", predictions=predictions, targets=targets)
    return _log_cosh(predictions, targets)


@custom_vjp
def _log_cosh(predictions: Array, targets: Array) -> Array:
    return _log_cosh_fwd(predictions, targets)[0]


# The slope is computed from t - p, as that of `smooth_l1`.


def _log_cosh_fwd(predictions: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    return primitives.log_cosh(predictions - targets), (predictions, targets)


def _log_cosh_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    predictions, targets = residuals
    slope = tanh(targets - predictions) * cotangent
    return -slope, slope


_log_cosh.defvjp(_log_cosh_fwd, _log_cosh_bwd)
