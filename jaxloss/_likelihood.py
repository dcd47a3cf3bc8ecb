"""Negative log-likelihoods of counts and of measurements."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _options
from jaxloss._autodiff import custom_vjp
from jaxloss._exact import exp
from jaxloss._parts import summed_in_parts
from jaxloss.primitives import safe_product, xlogy


@_check.known_keywords
def poisson_nll(
    predictions: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"],
    *,
    log_input: bool = True,
    full: bool = False,
) -> Float[Array, "*shape"]:
    r"""Negative log-likelihood of counts under a Poisson distribution.

    $$\ell = e^x - t x \quad\text{or}\quad \ell = \lambda - t \log \lambda$$

    of the predicted log-rate $x$ or, with `log_input=False`, of the rate $\lambda$. Gradient:
    $e^x - t$, or $1 - t / \lambda$. The term $\log t!$, which no prediction changes, is left out;
    `full=True` adds Stirling's $t \log t - t + \frac12 \log(2 \pi t)$ where $t > 1$. With
    $0 \log 0 = 0$: a rate of 0 (a log-rate of -inf) is right for a count of 0, and gives inf
    against any other. NaN for a negative rate.

    Args:
        predictions: log-rates, or rates, at least 0.
        targets: counts of the same shape, at least 0.
        log_input: whether predictions are logarithms of the rate.
        full: whether to add Stirling's term.

    Returns:
        One loss per element, in nats, negative perhaps; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or a flag is not True or False.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.poisson_nll(jnp.array([0.0, -jnp.inf]), jnp.array([3.0, 0.0]))
        Array([1., 0.], dtype=float32)

    Source: PyTorch `poisson_nll_loss`, which adds 1e-8 to a rate.
    """
    function = "poisson_nll"
    log_input = _options.flag(function, "log_input", log_input)
    predictions, targets = _check.matched(function, predictions=predictions, targets=targets)
    if log_input:
        losses = exp(predictions) - safe_product(targets, predictions)
    else:
        losses = predictions - xlogy(targets, predictions)
    if _options.flag(function, "full", full):
        large = targets > 1
        counts = jnp.where(large, targets, 2)
        stirling = counts * jnp.log(counts) - counts + jnp.log(2 * math.pi * counts) / 2
        losses = losses + jnp.where(large, stirling, 0)
    return losses


@_check.known_keywords
def gaussian_nll(
    predictions: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"],
    variances: Real[ArrayLike, "*shape"],
    *,
    full: bool = False,
    minimum_variance: Real[ArrayLike, ""] = 1e-6,
) -> Float[Array, "*shape"]:
    r"""Negative log-likelihood of measurements under a Gaussian of predicted mean and variance.

    $$\ell = \tfrac12 \Big(\log v + \frac{e^2}{v}\Big), \qquad e = \text{prediction} -
      \text{target}, \quad v = \max(\text{variance}, v_{\min})$$

    Gradient: $e / v$ with respect to the prediction and $(1 - e^2 / v) / (2 v)$ to the variance. A
    variance below the floor gets the gradient of the floor, and not 0, so that it can come back;
    a negative one gives NaN.

    Args:
        predictions: the predicted means.
        targets: the measurements, of the same shape.
        variances: the predicted variances, at least 0, of the same shape.
        full: whether to add the constant $\frac12 \log 2 \pi$.
        minimum_variance: the floor, more than 0, in the square of the targets' unit.

    Returns:
        One loss per element, in nats, negative perhaps; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or `full` is not True or False.
        ValueError: the shapes differ, or `minimum_variance` is not a scalar above 0. (A traced one
            that turns out so gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.gaussian_nll(jnp.array([1.0]), jnp.array([3.0]), jnp.array([4.0]))
        Array([1.193], dtype=float32)

    Source: Nix and Weigend, "Estimating the mean and variance of the target probability
    distribution" (1994), equation 4; PyTorch `gaussian_nll_loss`.
    """
    function = "gaussian_nll"
    predictions, targets, variances = _check.matched(
        function, predictions=predictions, targets=targets, variances=variances
    )
    floor = _options.number(function, "minimum_variance", minimum_variance, above=0.0)
    # Where XLA's CPU backend fuses the floor's maximum into a sum, it drops NaN: this is 0 or NaN.
    invalid = jax.lax.stop_gradient(jnp.where(variances >= 0, 0, jnp.nan))
    variances = _floored(variances, floor.astype(variances.dtype))
    errors = predictions - targets
    # Through the deviation, whose square autodiff divides by; that of the variance overflows.
    losses = (jnp.log(variances) + jnp.square(errors / jnp.sqrt(variances))) / 2 + invalid
    return losses + math.log(2 * math.pi) / 2 if _options.flag(function, "full", full) else losses


@custom_vjp
def _floored(values: Array, floor: Array) -> Array:
    return _floored_fwd(values, floor)[0]


# The maximum of a value and a floor with the gradient of the value itself, also under the floor.


def _floored_fwd(values: Array, floor: Array) -> tuple[Array, Array]:
    valid = jnp.where(values >= 0, values, jnp.nan)
    return jnp.maximum(valid, floor), floor


def _floored_bwd(floor: Array, cotangent: Array) -> tuple[Array, Array]:
    return cotangent, jnp.zeros_like(floor)


_floored.defvjp(_floored_fwd, _floored_bwd)


summed_in_parts(poisson_nll, gaussian_nll)
