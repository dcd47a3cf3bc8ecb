"""Powers of two and leading digits, from the bits of floating-point numbers; and slices of bits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

# A TPU has no float64 with bits to look at: it computes in pairs of float32, of their range, and
# XLA refuses to look, or shows the bits of the pair. There these functions look at the first of the
# pair, which may be the next power of two of a number just below it.


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


def upper_half(values: Array) -> Array:
    """The nearest numbers of half the binary digits: products of two such are exact."""
    return _of_first_on_tpu(_upper_half, values)


def _upper_half(values: Array) -> Array:
    limits = jnp.finfo(values.dtype)
    return jax.lax.reduce_precision(values, limits.nexp, (limits.nmant + 1) // 2 - 1)


def power_near(sizes: Array) -> Array:
    """The power of two nearest to each, both it and its reciprocal normal numbers."""
    return _of_first_on_tpu(_power_near, sizes)


def _power_near(sizes: Array) -> Array:
    limits = jnp.finfo(sizes.dtype)
    sizes = jnp.clip(sizes, 4 * float(limits.tiny), float(limits.max) / 4)
    # Rounding to a mantissa of no bits leaves the nearest power of two.
    return jax.lax.reduce_precision(sizes, limits.nexp, 0)


def times_power_of_two(values: Array, exponents: Array) -> Array:
    """x 2^k of integers in floats, x and the result being normal numbers; not on a TPU."""
    limits = jnp.finfo(values.dtype)
    integer = f"int{limits.bits}"
    bits = jax.lax.bitcast_convert_type(values, integer)
    bits = bits + (exponents.astype(integer) << limits.nmant)
    return jax.lax.bitcast_convert_type(bits, values.dtype)


def sliced(array: Array, start: Array, size: int) -> Array:
    """What begins at a place of the first axis.

    XLA's CPU backend widens all of a narrow floating array to slice it, but not of integers.
    """
    if not (array.dtype.itemsize == 2 and jnp.issubdtype(array.dtype, jnp.floating)):
        return jax.lax.dynamic_slice_in_dim(array, start, size)
    bits = jax.lax.bitcast_convert_type(array, jnp.uint16)
    part = jax.lax.dynamic_slice_in_dim(bits, start, size)
    return jax.lax.bitcast_convert_type(part, array.dtype)


def _of_first_on_tpu(function: Callable[[Array], Array], values: Array) -> Array:
    return function(values) if values.dtype != jnp.float64 else _of_float64(function, values)


# Compiled by itself, lest each call outside jit compile the choice anew.
@functools.partial(jax.jit, static_argnums=0)
def _of_float64(function: Callable[[Array], Array], values: Array) -> Array:
    first = functools.partial(_of_float32, function)
    return jax.lax.platform_dependent(values, tpu=first, default=function)


def _of_float32(function: Callable[[Array], Array], values: Array) -> Array:
    return function(values.astype(jnp.float32)).astype(jnp.float64)
