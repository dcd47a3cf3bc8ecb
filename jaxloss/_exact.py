"""Products, exponentials and logarithms, with what rounding took off them.

Where a loss raises its rounding errors to a power, or is a small difference, what XLA gives is not
enough. What is lost is a constant 0 to derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._autodiff import custom_vjp
from jaxloss._bits import power_of_two, times_power_of_two, upper_half


def product(first: Array, second: Array) -> tuple[Array, Array]:
    """a b, and what rounding took off it, by Dekker: halves of the digits multiply exactly."""
    # The bounds change nothing, but keep XLA from computing what is added to the product, in a sum
    # over an axis, from the unrounded product.
    largest = float(jnp.finfo(first.dtype).max)
    rounded = jnp.clip(first * second, -largest, largest)
    first_high, second_high = upper_half(first), upper_half(second)
    first_low, second_low = first - first_high, second - second_high
    lost = first_high * second_high - rounded
    lost = ((lost + first_high * second_low) + first_low * second_high) + first_low * second_low
    return rounded, jax.lax.stop_gradient(lost)


@custom_vjp
def exponential(values: Array) -> tuple[Array, Array]:
    """e^x, and the relative error of that: e^x = first (1 + second), with a few more digits."""
    return _exponential_fwd(values)[0]


# With k the integer nearest to x / log 2 and r = x - k log 2, e^x = 2^k (1 + r + r^2 q(r)). The
# upper part of log 2 has few digits, so that its product with k is exact. For |r| <= log 2 / 2 the
# relative error that q leaves in the exponential is 2^-28 of float32, whose coefficients are nearly
# minimax, and 2^-60 of float64, where they are those of the series.


class _Exponential(NamedTuple):
    lower: float  # Beyond these the result is 0 or infinite.
    upper: float
    log_2_high: float
    log_2_low: float
    coefficients: tuple[float, ...]


_EXPONENTIALS = {
    "float32": _Exponential(
        -110,
        89,
        0.693359375,
        -2.12194440e-4,
        (0.5, 0.166666672, 0.0416664556, 0.00833329745, 0.00139345345, 0.000199004309),
    ),
    "float64": _Exponential(
        -750,
        710,
        6.93147180369123816490e-01,
        1.90821492927058770002e-10,
        tuple(1 / math.factorial(n) for n in range(2, 16)),
    ),
}


def _exponential_fwd(values: Array) -> tuple[tuple[Array, Array], Array]:
    form = _EXPONENTIALS[values.dtype.name]
    bounded = jnp.clip(values, form.lower, form.upper)
    exponent = jnp.round(bounded * (1 / math.log(2)))
    upper, lower = bounded - exponent * form.log_2_high, exponent * form.log_2_low
    rest = upper - lower
    lost = (upper - rest) - lower
    series = _polynomial(rest, form.coefficients)
    # In this order XLA does not cancel the ones.
    whole = 1 + rest
    small = (((1 - whole) + rest) + lost) + jnp.square(rest) * series
    mantissa = whole + small
    lost = (whole - mantissa) + small
    # In two factors, which are normal numbers also where the result is not.
    half = jnp.floor(exponent / 2)
    result = mantissa * power_of_two(half) * power_of_two(exponent - half)
    # 2 - m is near enough to 1 / m for m from 0.7 to 1.42.
    return (result, lost * (2 - mantissa)), values


# Autodiff would go through the polynomial: second derivatives in float64 would take up to 1.3 times
# as long.


def _exponential_bwd(values: Array, cotangents: tuple[Array, Array]) -> tuple[Array]:
    return (exponential(values)[0] * cotangents[0],)


exponential.defvjp(_exponential_fwd, _exponential_bwd)


def exp(values: Array) -> Array:
    """e^x, of which XLA's in float64 is up to 1.5 ULP off."""
    return jnp.exp(values) if values.dtype == jnp.float32 else exponential(values)[0]


def exponential_and_change(values: Array, lost: Array) -> Array:
    """e^(x + d), to first order of a little d."""
    rounded = exp(values)
    # Not rounded * (1 + d), where the sum would round most of d away.
    return rounded + rounded * lost


def exponential_below(values: Array, lost: Array) -> Array:
    """The same of x up to 0, and 0 where that would not be a normal number, even if d is NaN.

    Within 1.15 ULP, and 0.27 in the mean. It has no rule, and is not for a TPU.
    """
    form = _EXPONENTIALS[values.dtype.name]
    # What is hardly a normal number, or none, is 0.
    lowest = math.log(jnp.finfo(values.dtype).tiny) * (1 - 1e-6)
    exponent = jnp.round(values * (1 / math.log(2)))
    rest = (values - exponent * form.log_2_high) - exponent * form.log_2_low + lost
    series = _polynomial(rest, form.coefficients)
    mantissa = 1 + (rest + jnp.square(rest) * series)
    return jnp.where(values < lowest, 0, times_power_of_two(mantissa, exponent))


def _polynomial(values: Array, coefficients: Sequence[float]) -> Array:
    """By Horner, from the constant coefficient on."""
    total = jnp.full_like(values, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * values + coefficient
    return total


def exponential_excess(change: Array) -> Array:
    """e^d - 1 - d, of |d| up to 1."""
    series = jnp.zeros_like(change)
    for n in range(12 if change.dtype == jnp.float32 else 21, 2, -1):
        series = series * change + 1 / math.factorial(n)
    squares = jnp.square(change)
    # Half the square is not rounded again, and the rest is small.
    return squares * 0.5 + squares * (change * series)


def tanh(values: Array) -> Array:
    """The hyperbolic tangent, of which XLA's in float64 loses up to three bits."""
    if values.dtype == jnp.float32:
        return jnp.tanh(values)
    # With t = e^-2|x| it is (1 - t) / (1 + t), and for |x| < 1/2 that with 1 - t by its series.
    size = jnp.where(values < 0, -values, values)
    near = size < 0.5
    small = -2 * jnp.where(near, size, 0)
    missing = -small - exponential_excess(small)
    tail, _ = exponential(-2 * jnp.where(near, 1, size))
    result = jnp.where(near, missing / (2 - missing), (1 - tail) / (1 + tail))
    return jnp.where(values < 0, -result, result)


@jax.custom_jvp
def inverse(first: Array, second: Array) -> tuple[Array, Array]:
    """1 / (a + b), and what rounding took off it; of a sum from about 1 to a count."""
    total = first + second
    of_second = total - first
    lost = (first - (total - of_second)) + (second - of_second)
    rounded = 1 / total
    whole, lost_of_whole = product(rounded, total)
    missing = ((1 - whole) - lost_of_whole) - rounded * lost
    return rounded, missing * rounded


@inverse.defjvp
def _inverse_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    rounded, lost = inverse(*primals)
    change = -rounded * (tangents[0] + tangents[1])
    # -(c + d)^2, of which d^2 is nothing.
    return (rounded, lost), (rounded * change, 2 * lost * change)


def log_one_plus(values: Array) -> Array:
    """log(1 + x), where XLA's log1p loses up to seven bits of float64."""
    whole = 1 + values
    # What the sum lost, which is less than an ulp of it, times 1 / (1 + x) to second order. In this
    # order XLA does not cancel the ones.
    lost = jnp.where(values < 1, (1 - whole) + values, 0)
    return jnp.log(whole) + jax.lax.stop_gradient(lost * (1 - values + jnp.square(values) / 2))


# log(1 + u) = u - u^2 q(u) for u from 0 to 1: q's coefficients, from the first, nearly minimax,
# with a relative error of 2^-27 in the logarithm. XLA's log1p is within 2.5 ULP, this within 1.2.
_LOG_COEFFICIENTS = (
    0.4999993145465851,
    -0.33330512046813965,
    0.24958588182926178,
    -0.19695401191711426,
    0.15355397760868073,
    -0.10680557042360306,
    0.05766445770859718,
    -0.020204592496156693,
    0.003318473929539323,
)


def log_one_plus_tail(values: Array) -> Array:
    """log(1 + e^-|x|), which has no rule of its own but a kink at 0: for values under a rule."""
    tail = exp(-jnp.abs(values))
    if tail.dtype != jnp.float32:
        return log_one_plus(tail)
    series = _polynomial(tail, _LOG_COEFFICIENTS)
    # A difference, as XLA folds 0 + x to x, which may be -0.
    return tail - tail * (tail * series)
