"""Losses of real predictions: f(prediction - target), one value per element."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _options
from jaxloss._autodiff import afresh, apart, custom_vjp
from jaxloss._elementary import is_positive
from jaxloss._exact import log_one_plus
from jaxloss._parts import summed_in_parts
from jaxloss.primitives import absolute, positive_part


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
    predictions, targets = _check.matched("squared_error", predictions=predictions, targets=targets)
    return jnp.square(predictions - targets)


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
    predictions, targets = _check.matched(
        "absolute_error", predictions=predictions, targets=targets
    )
    return absolute(predictions - targets)


@_check.known_keywords
def quantile(
    predictions: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"],
    *,
    q: Real[ArrayLike, "..."] = 0.5,
) -> Float[Array, "*shape"]:
    r"""Quantile loss (pinball loss), whose minimiser is the conditional q-quantile.

    $$\ell = q\,[t - p]_+ + (1 - q)\,[p - t]_+$$

    for prediction $p$ and target $t$. Gradient: $-q$ below the target, $1 - q$ above it, and 0 on
    it. At $q = 1/2$ it is half the absolute error.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape.
        q: the quantile, in [0, 1]: a scalar, or any shape that broadcasts to that of the
            predictions, such as one for each of several outputs along the last axis.

    Returns:
        One loss per element, in the targets' unit; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, or `q` does not fit or is outside [0, 1]. (A traced `q` that
            turns out so gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.quantile(jnp.array([0.0, 2.0]), jnp.array([1.0, 1.0]), q=0.75)
        Array([0.75, 0.25], dtype=float32)

    Source: Koenker and Bassett, "Regression quantiles" (1978), equation 3.1.
    """
    predictions, targets = _check.matched("quantile", predictions=predictions, targets=targets)
    q = _options.bounded("quantile", "q", q, minimum=0.0, maximum=1.0).astype(predictions.dtype)
    q = _options.broadcasts_to("quantile", predictions.shape, q=q)
    return _quantile(predictions, targets, q)


@custom_vjp
def _quantile(predictions: Array, targets: Array, q: Array) -> Array:
    return _quantile_fwd(predictions, targets, q)[0]


# Its derivative with respect to q is t - p. The slope is computed from t - p too: what value and
# slope shared, XLA's CPU backend would write to memory and not fuse into a sum.


def _quantile_fwd(
    predictions: Array, targets: Array, q: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    errors = predictions - targets
    value = q * jnp.maximum(-errors, 0) + (1 - q) * positive_part(errors)
    return value, (predictions, targets, q)


def _quantile_bwd(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    predictions, targets, q = residuals
    q, zero, one = apart(q, 0, 1, dtype=targets.dtype)
    missing = targets - predictions
    below, above = is_positive(missing, zero), is_positive(-missing, zero)
    slope = ((one - q) * above - q * below) * cotangent
    single = [axis for axis, length in enumerate(q.shape) if length == 1]
    return slope, -slope, jnp.sum(missing * cotangent, single, keepdims=True)


_quantile.defvjp(_quantile_fwd, _quantile_bwd)


@_check.known_keywords
def epsilon_insensitive(
    predictions: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"],
    *,
    epsilon: Real[ArrayLike, ""] = 0.1,
) -> Float[Array, "*shape"]:
    r"""Absolute error beyond a tube of half-width `epsilon` in which errors are free.

    $$\ell = \big[|e| - \epsilon\big]_+, \qquad e = \text{prediction} - \text{target}$$

    Gradient: sign(e) outside the tube, 0 inside it and on its edge.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape.
        epsilon: half the width of the tube, at least 0, in the targets' unit.

    Returns:
        One loss per element, in the targets' unit; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, or `epsilon` is negative or not a scalar. (A traced `epsilon`
            that turns out negative gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.epsilon_insensitive(jnp.array([0.05, 1.0]), jnp.array([0.0, 0.0]))
        Array([0. , 0.9], dtype=float32)

    Source: Vapnik, "The nature of statistical learning theory" (1995).
    """
    function = "epsilon_insensitive"
    predictions, targets = _check.matched(function, predictions=predictions, targets=targets)
    epsilon = _options.number(function, "epsilon", epsilon, minimum=0.0).astype(predictions.dtype)
    return _epsilon_insensitive(predictions, targets, epsilon)


@custom_vjp
def _epsilon_insensitive(predictions: Array, targets: Array, epsilon: Array) -> Array:
    return _epsilon_insensitive_fwd(predictions, targets, epsilon)[0]


def _epsilon_insensitive_fwd(
    predictions: Array, targets: Array, epsilon: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    value = positive_part(jnp.abs(predictions - targets) - epsilon)
    return value, (predictions, targets, epsilon)


def _epsilon_insensitive_bwd(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    predictions, targets, epsilon = residuals
    epsilon, zero = apart(epsilon, 0, dtype=targets.dtype)
    missing = targets - predictions
    outside = is_positive(jnp.abs(missing) - epsilon, zero) * cotangent
    slope = jnp.sign(missing) * outside
    return -slope, slope, -jnp.sum(outside)


_epsilon_insensitive.defvjp(_epsilon_insensitive_fwd, _epsilon_insensitive_bwd)


@_check.known_keywords
def squared_log_error(
    predictions: Real[ArrayLike, "*shape"], targets: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Squared difference of the logarithms of one plus the values.

    $$\ell = \big(\log(1 + p) - \log(1 + t)\big)^2$$

    for prediction $p$ and target $t$, accurate also where the two are nearly equal. Gradient:
    $2 (\log(1 + p) - \log(1 + t)) / (1 + p)$. NaN where a value is below -1.

    Args:
        predictions: real numbers, at least -1; counts and prices are at least 0.
        targets: real numbers of the same shape, at least -1.

    Returns:
        One loss per element; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.squared_log_error(jnp.array([0.0, 1.0]), jnp.array([0.0, 3.0]))
        Array([0. , 0.4805], dtype=float32)

    Source: scikit-learn `mean_squared_log_error`.
    """
    predictions, targets = _check.matched(
        "squared_log_error", predictions=predictions, targets=targets
    )
    return _squared_log_ratio(predictions, targets)


@custom_vjp
def _squared_log_ratio(predictions: Array, targets: Array) -> Array:
    return _squared_log_ratio_fwd(predictions, targets)[0]


def _squared_log_ratio_fwd(predictions: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.square(_log_ratio(predictions, targets)), (predictions, targets)


def _squared_log_ratio_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    predictions, targets = afresh(*residuals)
    slope = 2 * _log_ratio(predictions, targets) * cotangent
    return slope / (1 + predictions), -slope / (1 + targets)


_squared_log_ratio.defvjp(_squared_log_ratio_fwd, _squared_log_ratio_bwd)


@custom_vjp
def _log_ratio(predictions: Array, targets: Array) -> Array:
    return _log_ratio_fwd(predictions, targets)[0]


# log((1 + p) / (1 + t)): as log1p of (p - t) / (1 + t) where p is near t, for there the quotient's
# last digit is all of the logarithm; elsewhere as it stands, for the difference of two logarithms
# would cancel, but where the ratio overflows. Its derivatives are 1 / (1 + p) and -1 / (1 + t).


def _log_ratio_fwd(predictions: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    change = (predictions - targets) / (1 + targets)
    above, below = 1 + predictions, 1 + targets
    ratio = above / below
    held = (ratio > float(jnp.finfo(ratio.dtype).tiny)) & jnp.isfinite(ratio)
    far = jnp.where(held, jnp.log(ratio), jnp.log(above) - jnp.log(below))
    near = jnp.abs(change) < 0.5
    # The selection also keeps XLA from adding 1 to an unrounded quotient.
    value = jnp.where(near, log_one_plus(jnp.where(near, change, 0)), far)
    return value * _validity(predictions, targets), (predictions, targets)


def _log_ratio_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    predictions, targets = residuals
    cotangent = cotangent * _validity(predictions, targets)
    return cotangent / (1 + predictions), -cotangent / (1 + targets)


_log_ratio.defvjp(_log_ratio_fwd, _log_ratio_bwd)


def _validity(predictions: Array, targets: Array) -> Array:
    valid = (predictions >= -1) & (targets >= -1)
    return jnp.where(valid, 1, jnp.nan).astype(predictions.dtype)


@_check.known_keywords
def absolute_percentage_error(
    predictions: Real[ArrayLike, "*shape"], targets: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Absolute error relative to the target, as a fraction: 0.1 is ten percent.

    $$\ell = |p - t| \,/\, |t|$$

    for prediction $p$ and target $t$. Gradient: $\operatorname{sign}(p - t) / |t|$, and 0 at
    $p = t$. A target of 0 gives inf, or 0 where the prediction is 0 too: no small number is added.

    Args:
        predictions: real numbers.
        targets: real numbers of the same shape, not 0.

    Returns:
        One loss per element, without unit; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.absolute_percentage_error(jnp.array([90.0, 0.0]), jnp.array([100.0, 0.0]))
        Array([0.1, 0. ], dtype=float32)

    Source: de Myttenaere et al., "Mean absolute percentage error for regression models" (2016),
    section 2.
    """
    predictions, targets = _check.matched(
        "absolute_percentage_error", predictions=predictions, targets=targets
    )
    nothing = (predictions == 0) & (targets == 0)
    return absolute(predictions - targets) / absolute(jnp.where(nothing, 1, targets))


summed_in_parts(absolute_percentage_error)
