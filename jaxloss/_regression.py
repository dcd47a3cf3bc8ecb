"""Losses of real predictions: f(prediction - target), one value per element."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check
from jaxloss._autodiff import custom_vjp


def _errors(function: str, predictions: ArrayLike, targets: ArrayLike) -> Array:
    predictions, targets = _check.real_arrays(function, predictions=predictions, targets=targets)
    _check.same_shape(function, predictions=predictions, targets=targets)
    dtype = _check.wide(predictions, targets)
    return predictions.astype(dtype) - targets.astype(dtype)


@_check.known_keywords
def squared_error(
    predictions: Real[ArrayLike, "*shape"], targets: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Squared error, whose minimiser is the conditional mean.

    $$\ell = e^2, \qquad e = \text{prediction} - \text{target}$$

    Gradient: $2e$. The mean squared error is `mean(squared_error)`; there is no factor of one half.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape.

    Returns:
        One loss per element, in the square of the targets' unit; float32, or float64 for float64
        input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))
        Array([0., 4.], dtype=float32)

    Source: Gauss, "Theoria combinationis observationum" (1823); PyTorch `mse_loss`.
    """
    return jnp.square(_errors("squared_error", predictions, targets))


@_check.known_keywords
def absolute_error(
    predictions: Real[ArrayLike, "*shape"], targets: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Absolute error, whose minimiser is the conditional median.

    $$\ell = |e|, \qquad e = \text{prediction} - \text{target}$$

    Gradient: sign(e), and 0 at e = 0, so that a perfect fit does not move.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape.

    Returns:
        One loss per element, in the targets' unit; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.absolute_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))
        Array([0., 2.], dtype=float32)

    Source: Laplace, "Théorie analytique des probabilités" (1812); PyTorch `l1_loss`.
    """
    return _absolute(_errors("absolute_error", predictions, targets))


@custom_vjp
def _absolute(errors: Array) -> Array:
    return jnp.abs(errors)


# The subgradient of least norm; the derivative of jnp.abs at 0 is 1.
_absolute.defvjp(
    lambda errors: (jnp.abs(errors), errors),
    lambda errors, cotangent: (jnp.sign(errors) * cotangent,),
)


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
    errors = _errors("smooth_l1", predictions, targets)
    width = _width("smooth_l1", "beta", beta, errors.dtype)
    return _smooth_l1(errors, width, jnp.ones_like(width))


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
    errors = _errors("huber", predictions, targets)
    width = _width("huber", "delta", delta, errors.dtype)
    return _smooth_l1(errors, width, width)


def _width(function: str, name: str, value: ArrayLike, dtype: jnp.dtype) -> Array:
    width = _check.number(function, name, value, minimum=0.0).astype(dtype)
    # The smallest normal number stands for 0, which would give 0 / 0: the loss differs by less than
    # that number, times the error in huber.
    return jnp.maximum(width, float(jnp.finfo(dtype).tiny))


@custom_vjp
def _smooth_l1(errors: Array, width: Array, steepness: Array) -> Array:
    return _smooth_l1_fwd(errors, width, steepness)[0]


# A parabola up to |e| = w, then lines of slope k. With a = |e| and q = min(a, w) both are one
# formula, l = (k / w) q (a - q / 2), and nothing in it cancels. With its slope s, which is
# (k / w) e clipped to [-k, k],
#
#     dl/de = s        dl/dw = -s^2 / (2 k)        dl/dk = l / k
#
# on both branches. Plain autodiff of the two branches selects between them and stores both; this
# rule stores the errors.


def _smooth_l1_fwd(
    errors: Array, width: Array, steepness: Array
) -> tuple[Array, tuple[Array, ...]]:
    sizes = jnp.abs(errors)
    quadratic = jnp.minimum(sizes, width)
    value = steepness / width * quadratic * (sizes - quadratic / 2)
    return value, (errors, width, steepness)


def _smooth_l1_bwd(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    errors, width, steepness = residuals
    slope = jnp.clip(steepness / width * errors, -steepness, steepness)
    value, _ = _smooth_l1_fwd(errors, width, steepness)
    return (
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
    return _log_cosh(_errors("log_cosh", predictions, targets))


@custom_vjp
def _log_cosh(errors: Array) -> Array:
    return _log_cosh_fwd(errors)[0]


# Below 1, log1p(cosh a - 1) with cosh a - 1 = a^2/2 (1 + a^2/12 (1 + a^2/30 (...))), a sum of
# positive terms that keeps every digit of a small a; nine terms are enough for float64. From 1 on,
# log cosh a = a - log 2 + log1p(exp(-2a)). Each branch sees only arguments that it can hold.
_COSH_TERMS = 9


def _log_cosh_fwd(errors: Array) -> tuple[Array, Array]:
    sizes = jnp.abs(errors)
    squares = jnp.square(sizes)
    series = jnp.ones_like(squares)
    for n in range(_COSH_TERMS, 1, -1):
        series = 1 + squares * (series / (2 * n * (2 * n - 1)))
    near = jnp.log1p(squares / 2 * series)
    far = (sizes - math.log(2)) + jnp.log1p(jnp.exp(-2 * sizes))
    return jnp.where(sizes < 1, near, far), errors


def _log_cosh_bwd(errors: Array, cotangent: Array) -> tuple[Array]:
    return (jnp.tanh(errors) * cotangent,)


_log_cosh.defvjp(_log_cosh_fwd, _log_cosh_bwd)
