"""Powers of two and leading digits, from the bits of floating-point numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

# A TPU has no float64 with bits to look at: it computes in pairs of float32, of their range, and
# XLA refuses what asks for more, or takes the bits of the pair. There it is the first of the pair.


def power_of_two(exponents: Array) -> Array:
    """2^k of integers in floats, up to the largest finite power; 0 below the smallest normal."""
    return _of_first_on_tpu(_power_of_two, exponents)


def _power_of_two(exponents: Array) -> Array:
    limits = jnp.finfo(exponents.dtype)
    largest = limits.maxexp - 1
    bits = jnp.clip(exponents, -largest, largest) + largest
    return jax.lax.bitcast_convert_type(
        bits.astype(f"int{limits.bits}") << limits.nmant, exponents.dtype
    )


def exponents_of(values: Array) -> Array:
    """The k of numbers from 2^k to 2^(k + 1), in floats; of positive normal numbers."""
    return _of_first_on_tpu(_exponents_of, values)


def _exponents_of(values: Array) -> Array:
    limits = jnp.finfo(values.dtype)
    bits = jax.lax.bitcast_convert_type(values, f"int{limits.bits}")
    return ((bits >> limits.nmant) - (limits.maxexp - 1)).astype(values.dtype)


def leading_digits(values: Array, count: int) -> Array:
    """The nearest numbers of so many binary digits."""
    return _of_first_on_tpu(functools.partial(_leading_digits, count=count), values)


def _leading_digits(values: Array, count: int) -> Array:
    limits = jnp.finfo(values.dtype)
    return jax.lax.reduce_precision(values, limits.nexp, min(count - 1, limits.nmant))


def times_power_of_two(values: Array, exponents: Array) -> Array:
    """x 2^k of integers in floats, x and the result being normal numbers; not on a TPU."""
    limits = jnp.finfo(values.dtype)
    integer = f"int{limits.bits}"
    bits = jax.lax.bitcast_convert_type(values, integer)
    bits = bits + (exponents.astype(integer) << limits.nmant)
    return jax.lax.bitcast_convert_type(bits, values.dtype)


def _of_first_on_tpu(function: Callable[[Array], Array], values: Array) -> Array:
    if values.dtype != jnp.float64:
        return function(values)
    first = functools.partial(of_float32, function)
    return jax.lax.platform_dependent(values, tpu=first, default=function)


def of_float32(function: Callable[[Array], Array], values: Array) -> Array:
    """A function of float32, of float64."""
    return function(values.astype(jnp.float32)).astype(jnp.float64)
