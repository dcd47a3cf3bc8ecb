"""Elementary functions with the derivatives that losses need at zeros, kinks and infinities."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check
from jaxloss._autodiff import apart, custom_vjp
from jaxloss._exact import exp, log_one_plus_tail, tanh


def safe_product(
    factor: Real[ArrayLike, "*shape"], term: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Product of a factor and a term in which 0 times $\pm\infty$ is 0.

    Gradient: $(term, factor)$, the first 0 where the term was dropped; so nothing comes back from a
    dropped term in any mode. NaN stays NaN.

    Args:
        factor: real numbers.
        term: real numbers of the same shape, infinite perhaps.

    Returns:
        The shape of the inputs; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.safe_product(jnp.array([0.0, 2.0]), jnp.array([-jnp.inf, 3.0]))
        Array([0., 6.], dtype=float32)
    """
    factor, term = _check.matched("safe_product", factor=factor, term=term)
    return factor * jnp.where((factor == 0) & jnp.isinf(term), 0, term)


def safe_power(
    base: Real[ArrayLike, "*shape"], exponent: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Power of a base of at least 0, with derivative 0 at 0, where that may be infinite.

    $$x^a, \qquad 0^0 = 1$$

    Gradient: $(a x^{a - 1}, x^a \log x)$ for $x > 0$, and 0 for $x = 0$.

    Args:
        base: real numbers, at least 0.
        exponent: real numbers of the same shape, at least 0.

    Returns:
        The shape of the inputs; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax
        >>> import jaxloss
        >>> jax.grad(jaxloss.primitives.safe_power)(0.0, 0.5)
        Array(0., dtype=float32, weak_type=True)
    """
    base, exponent = _check.matched("safe_power", base=base, exponent=exponent)
    zero = base == 0
    of_zero = (exponent == 0).astype(base.dtype)
    return jnp.where(zero, of_zero, jnp.where(zero, 1, base) ** exponent)


@custom_vjp
def quotient(numerator: Array, denominator: Array) -> Array:
    """a / b, differentiated as a quotient of quotients: JAX divides by b^2, which underflows."""
    return numerator / denominator


def _quotient_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    numerator, denominator = residuals
    slope = cotangent / denominator
    return slope, -slope * (numerator / denominator)


quotient.defvjp(
    lambda numerator, denominator: (numerator / denominator, (numerator, denominator)),
    _quotient_bwd,
)


def xlogy(x: Real[ArrayLike, "*shape"], y: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Product of $x$ and $\log y$ in which $0 \log 0$ is 0.

    Gradient: $(\log y, x / y)$, both 0 where $x$ and $y$ are. NaN where $y < 0$.

    Args:
        x: real numbers.
        y: real numbers of the same shape, at least 0.

    Returns:
        The shape of the inputs; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.xlogy(jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0]))
        Array([0., 0.], dtype=float32)
    """
    x, y = _check.matched("xlogy", x=x, y=y)
    # Both guards are needed: the first keeps NaN out of the value, the second out of derivatives.
    nothing = (x == 0) & (y == 0)
    logarithm = jnp.where(nothing, 0, jnp.log(jnp.where(nothing, 1, y)))
    # A factor, so that the gradient is NaN too: that of the logarithm, 1 / y, is not.
    return x * logarithm * jnp.where(y < 0, jnp.nan, 1)


def absolute(values: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Absolute value, with derivative 0 at 0.

    Gradient: the sign, the subgradient of least norm at 0, where that of `jnp.abs` is 1.

    Args:
        values: real numbers.

    Returns:
        The shape of the input; float32, or float64 for float64 input.

    Raises:
        TypeError: the input is not made of real numbers.

    Example:
        >>> import jax
        >>> import jaxloss
        >>> jax.grad(jaxloss.primitives.absolute)(0.0)
        Array(0., dtype=float32, weak_type=True)
    """
    [values] = _check.matched("absolute", values=values)
    return _absolute(values)


@custom_vjp
def _absolute(values: Array) -> Array:
    return jnp.abs(values)


_absolute.defvjp(
    lambda values: (jnp.abs(values), values),
    lambda values, cotangent: (jnp.sign(values) * cotangent,),
)


def positive_part(values: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""The larger of a value and 0, with derivative 0 at 0.

    $$[x]_+ = \max(x, 0)$$

    Gradient: 1 above 0, 0 at 0 (the subgradient of least norm) and below, NaN at NaN.

    Args:
        values: real numbers.

    Returns:
        The shape of the input; float32, or float64 for float64 input.

    Raises:
        TypeError: the input is not made of real numbers.

    Example:
        >>> import jax
        >>> import jaxloss
        >>> jax.grad(jaxloss.primitives.positive_part)(0.0)
        Array(0., dtype=float32, weak_type=True)
    """
    [values] = _check.matched("positive_part", values=values)
    return _positive_part(values)


@custom_vjp
def _positive_part(values: Array) -> Array:
    return _positive_part_fwd(values)[0]


def _positive_part_fwd(values: Array) -> tuple[Array, Array]:
    # Where XLA's CPU backend fuses a maximum into a sum, that of NaN and 0 is 0; but a sign is NaN.
    return jnp.maximum(values, 0) + 0 * jnp.sign(values), values


def _positive_part_bwd(values: Array, cotangent: Array) -> tuple[Array]:
    [zero] = apart(0, dtype=values.dtype)
    return (is_positive(values, zero) * cotangent,)


def is_positive(values: Array, zero: Array) -> Array:
    """1 above 0, 0 at 0 and below, NaN at NaN: by arithmetic, and also where a sum takes it in."""
    sign = jnp.sign(values)
    return jnp.maximum(sign, zero) + zero * sign


_positive_part.defvjp(_positive_part_fwd, _positive_part_bwd)


def softplus(values: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Logarithm of one plus the exponential.

    $$\log(1 + e^x) = \max(x, 0) + \log(1 + e^{-|x|})$$

    Gradient: the sigmoid, which keeps its relative accuracy far below 0.

    Args:
        values: real numbers; infinities give the limits.

    Returns:
        The shape of the input; float32, or float64 for float64 input.

    Raises:
        TypeError: the input is not made of real numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.softplus(jnp.array([-20.0, 0.0, 200.0]))
        Array([2.061e-09, 6.931e-01, 2.000e+02], dtype=float32)
    """
    [values] = _check.matched("softplus", values=values)
    return _softplus(values)


@custom_vjp
def _softplus(values: Array) -> Array:
    return _softplus_fwd(values)[0]


# Of the sigmoid's two forms, 1 / (1 + u) and u / (1 + u) with u = e^-|x|, each is taken where it
# does not cancel. In the derivative |x| and max are both selected on x > 0, so that at 0 too they
# are one smooth branch to the derivatives of higher order. The value has |x| instead: so XLA finds
# no exponential that the two share, and computes one in each of two loops where it would otherwise
# store it between them.


def _softplus_fwd(values: Array) -> tuple[Array, Array]:
    return jnp.maximum(values, 0) + log_one_plus_tail(values), values


def _softplus_bwd(values: Array, cotangent: Array) -> tuple[Array]:
    positive = values > 0
    tail = exp(-jnp.where(positive, values, -values))
    return (jnp.where(positive, 1, tail) / (1 + tail) * cotangent,)


_softplus.defvjp(_softplus_fwd, _softplus_bwd)


def softplus_of_both_signs(values: Array, of_negative: Array, of_positive: Array) -> Array:
    """Softplus of -x and of x, weighted; a weight of 0 drops what is infinite.

    It has no rule of its own but kinks at 0, so it is for values under a rule.
    """
    # a s(-x) + b s(x) = (a + b) log(1 + e^-|x|) + b max(x, 0) - a min(x, 0), by arithmetic alone,
    # which a sum takes in without writing it to memory.
    within, beyond = _held(values)
    linear = of_positive * jnp.maximum(within, 0) - of_negative * jnp.minimum(within, 0)
    rest = (of_negative + of_positive) * log_one_plus_tail(values)
    return rest + linear * beyond


def _held(values: Array) -> tuple[Array, Array]:
    """Two finite factors of x, by arithmetic alone: 0 times both is 0, also of an infinite x.

    The first is x within a power of two, B; the second is |x| / B where that is above 1, and B of
    an infinite x, which both make infinite again, but of a factor below 4 / B. In a sum that they
    are fused into NaN may be lost.
    """
    smallest = float(jnp.finfo(values.dtype).tiny)
    # Barred from XLA, which would make a clip of the two bounds, that does not fuse.
    lower, upper = apart(-1 / smallest, 1 / smallest, dtype=values.dtype)
    within = jnp.maximum(jnp.minimum(values, upper), lower)
    return within, jnp.minimum(jnp.maximum(jnp.abs(values) * smallest, 1), upper)


def log_cosh(values: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Logarithm of the hyperbolic cosine.

    $$\log\cosh x$$

    Accurate near 0, where it is about $x^2/2$, and far away, where it is $|x| - \log 2$. Gradient:
    $\tanh x$.

    Args:
        values: real numbers.

    Returns:
        The shape of the input; float32, or float64 for float64 input.

    Raises:
        TypeError: the input is not made of real numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.log_cosh(jnp.array([1e-4, 100.0]))
        Array([5.000e-09, 9.931e+01], dtype=float32)
    """
    [values] = _check.matched("log_cosh", values=values)
    return _log_cosh(values)


@custom_vjp
def _log_cosh(values: Array) -> Array:
    return _log_cosh_fwd(values)[0]


# With b = min(a, 1), log cosh b = log1p(cosh b - 1), and cosh b - 1 = b^2/2 (1 + b^2/12 (1 + ...))
# is a sum of positive terms, which keeps every digit of a small b. What is beyond 1, r = a - b,
# adds
#
#     log(cosh a / cosh 1) = r + log1p(sigma(-2) expm1(-2 r))
#
# which is exactly 0 at r = 0. Minima and maxima fuse into a sum, which a selection would not; but
# there they drop NaN, and a sign does not.
_COSH_TERMS = {"float32": 5, "float64": 9}


def _log_cosh_fwd(values: Array) -> tuple[Array, Array]:
    sizes = jnp.abs(values)
    squares = jnp.square(jnp.minimum(sizes, 1))
    series = jnp.ones_like(squares)
    for n in range(_COSH_TERMS[values.dtype.name], 1, -1):
        series = 1 + squares * (series * (1 / (2 * n * (2 * n - 1))))
    near = jnp.log1p(squares * (series * 0.5))
    rest = jnp.maximum(sizes, 1) - 1
    far = rest + jnp.log1p(jnp.expm1(-2 * rest) * (1 / (1 + math.exp(2))))
    return near + far + 0 * jnp.sign(values), values


def _log_cosh_bwd(values: Array, cotangent: Array) -> tuple[Array]:
    return (tanh(values) * cotangent,)


_log_cosh.defvjp(_log_cosh_fwd, _log_cosh_bwd)
