"""Norms and directions of vectors, at any scale and at zero."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _options
from jaxloss._autodiff import custom_vjp
from jaxloss._bits import power_near
from jaxloss._row_blocks import where_known


def scaled(vectors: Array, axis: int) -> tuple[Array, Array]:
    """Vectors whose largest coordinate is about 1, and the power of two that they were divided by.

    So no square overflows or is flushed to zero, and nothing is rounded. The power is a constant to
    derivatives.
    """
    power = power_of(vectors, axis)
    return divided(vectors, power), power


def power_of(vectors: Array, axis: int) -> Array:
    """The power of two near the largest coordinate, a constant to derivatives."""
    return power_of_each(jnp.max(jnp.abs(jax.lax.stop_gradient(vectors)), axis, keepdims=True))


def divided(vectors: Array, power: Array) -> Array:
    """Vectors over a power of two, a constant to derivatives."""
    power = jax.lax.stop_gradient(power)
    # The minimum changes nothing but infinity, yet without it XLA would turn (c / s) (c / s) of a
    # constant c into (c c) / (s s), which overflows. The sign is 1; of a bare constant, which
    # several reductions share, XLA would write an array.
    # In this order: of one that XLA's CPU backend fuses into a sum, NaN stays if it is second.
    return jnp.minimum(jnp.sign(power) * float(jnp.finfo(power.dtype).max), vectors / power)


def power_of_each(numbers: Array) -> Array:
    """The power of two nearest to the size of each, both it and its reciprocal normal numbers."""
    return power_near(jnp.abs(numbers))


def norm(
    vectors: Real[ArrayLike, "..."], *, p: float | int = 2, axis: int = -1
) -> Float[Array, "..."]:
    r"""The p-norm of vectors, with gradient 0 at zero.

    $$\|x\|_p = \Big(\sum_i |x_i|^p\Big)^{1/p}, \qquad \|x\|_\infty = \max_i |x_i|$$

    Gradient: $\operatorname{sign}(x_i) \, (|x_i| / \|x\|_p)^{p - 1}$; for $p = \infty$ the largest
    coordinates share it evenly. At the zero vector it is 0, the subgradient of least norm. Neither
    value nor gradient overflows or is less accurate for lengths from 1e-37 to 1e37; the gradient
    takes the rounding of $|x_i| / \|x\|_p$ times $p - 1$.

    Args:
        vectors: real vectors along `axis`.
        p: the degree, a Python number from 1 to infinity.
        axis: the axis of the coordinates.

    Returns:
        The shape of `vectors` without `axis`; float32, or float64 for float64 input.

    Raises:
        TypeError: `vectors` are not real numbers, or `p` or `axis` is no number.
        ValueError: there is no such axis, it is empty, or `p` is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.norm(jnp.array([[3e25, 4e25], [0.0, 0.0]]))
        Array([5.e+25, 0.e+00], dtype=float32)

    Source: the scaling is that of LAPACK's `nrm2`.
    """
    [vectors] = _check.matched("norm", vectors=vectors)
    axis = _check.reduced_axis("norm", axis, vectors=vectors)
    return _norm(vectors, _options.degree("norm", p), axis)


@functools.partial(custom_vjp, static=2)
def _norm(vectors: Array, p: float, axis: int) -> Array:
    return _norm_fwd(vectors, p, axis)[0]


# d|x| / dx_i = sign(x_i) (|x_i| / |x|)^(p - 1), which needs no scaling: the quotient is at most 1.


def _norm_fwd(vectors: Array, p: float, axis: int) -> tuple[Array, tuple[Array, Array]]:
    length = _length(p, axis, vectors)
    return jnp.squeeze(length, axis), (vectors, length)


def _length(p: float, axis: int, *vectors: Array) -> Array:
    """Of a vector, or of the difference of two."""
    if p == 2:
        power, total = power_and_square(axis, *vectors)
        # The root's derivative at 0 is infinite.
        zero = total == 0
        return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, total))) * power
    power = power_of(_difference(*vectors), axis)
    # Behind a barrier: what several fusions share XLA writes to memory.
    difference = _difference(*jax.lax.optimization_barrier(vectors))
    sizes = jnp.abs(divided(difference, power))
    if p == 1:
        return jnp.sum(sizes, axis, keepdims=True) * power
    if p == math.inf:
        # XLA's CPU backend drops NaN from a row's maximum, but not from its sum.
        nothing = 0 * jnp.sum(jnp.sign(difference), axis, keepdims=True)
        return (jnp.max(sizes, axis, keepdims=True) + nothing) * power
    if p > 50:
        # Such a power of a largest coordinate that is not 1, but from 1/4 to 4, may overflow. A
        # lower one does not, and would raise what this quotient is rounded by.
        largest = jax.lax.stop_gradient(jnp.max(sizes, axis, keepdims=True))
        largest = jnp.where(largest == 0, 1, largest)
        sizes, power = sizes / largest, power * largest
    total = jnp.sum(sizes**p, axis, keepdims=True)
    zero = total == 0
    return jnp.where(zero, 0, jnp.where(zero, 1, total) ** (1 / p)) * power


def _difference(*vectors: Array) -> Array:
    return vectors[0] - vectors[1] if len(vectors) > 1 else vectors[0]


# Each coordinate begins with a power of two of its own. Of two parts the larger power is that of
# both: a part's square is multiplied by (its power / the larger)^2 before it is added. So an
# accelerator reads the vectors once, as in `_row_sums`.


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def power_and_square(axis: int, *vectors: Array) -> tuple[Array, Array]:
    """The power of two near the largest coordinate, and the squared length over its square."""
    return jax.lax.platform_dependent(
        *vectors,
        cpu=functools.partial(power_and_square_twice, axis),
        default=functools.partial(power_and_square_once, axis),
    )


@power_and_square.defjvp
def _power_and_square_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(power_and_square_twice, axis), primals, tangents)


def power_and_square_twice(axis: int, *vectors: Array) -> tuple[Array, Array]:
    """The same, read twice."""
    power = power_of(_difference(*vectors), axis)
    difference = _difference(*jax.lax.optimization_barrier(vectors))
    return power, jnp.sum(jnp.square(divided(difference, power)), axis, keepdims=True)


def power_and_square_once(axis: int, *vectors: Array) -> tuple[Array, Array]:
    """The same, read once."""
    difference = _difference(*vectors)
    power = power_of_each(difference)
    square = jnp.square(divided(difference, power))

    def merged(first: Any, second: Any) -> tuple[Array, Array]:
        (power, square), (other_power, other_square) = first, second
        larger = jnp.maximum(power, other_power)
        square = square * jnp.square(power / larger)
        return larger, square + other_square * jnp.square(other_power / larger)

    zero = jnp.zeros((), power.dtype)
    start = power_of_each(zero), zero
    found = jax.lax.reduce((power, square), start, merged, (axis % power.ndim,))
    power, square = (jnp.expand_dims(array, axis) for array in found)
    return power, square


def _norm_bwd(
    p: float, axis: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array]:
    vectors, length = residuals
    quotient = direction(vectors, length)
    if p == 1:
        slope = jnp.sign(vectors)
    elif p == math.inf:
        attained = (jnp.abs(vectors) == length).astype(vectors.dtype) * jnp.sign(vectors)
        slope = attained / jnp.maximum(jnp.sum(jnp.abs(attained), axis, keepdims=True), 1)
        # XLA makes a selection of the product, and a NaN is not selected.
        slope = jnp.where(jnp.isnan(length), length, slope)
    elif p == 2:
        slope = quotient
    else:
        # For p < 2 the power's derivative at 0 is infinite; there the second derivative is left 0.
        sizes = jnp.abs(quotient)
        slope = jnp.sign(quotient) * jnp.where(sizes == 0, 1, sizes) ** (p - 1)
    return (slope * jnp.expand_dims(cotangent, axis),)


_norm.defvjp(_norm_fwd, _norm_bwd)


@functools.partial(custom_vjp, static=2)
def distance(first: Array, second: Array, p: float, axis: int) -> Array:
    """The p-norm of a difference, which is computed again wherever it is needed, not stored."""
    return _distance_fwd(first, second, p, axis)[0]


def _distance_fwd(
    first: Array, second: Array, p: float, axis: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    length = _length(p, axis, first, second)
    # Behind a barrier, as in `_length`: XLA would write a difference that both share to memory.
    first, second = jax.lax.optimization_barrier((first, second))
    return jnp.squeeze(length, axis), (first, second, length)


def _distance_bwd(
    p: float, axis: int, residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    first, second, length = residuals
    first, second = jax.lax.optimization_barrier((first, second))
    [slope] = _norm_bwd(p, axis, (first - second, length), cotangent)
    return slope, -slope


distance.defvjp(_distance_fwd, _distance_bwd)


def direction(vectors: Array, length: Array) -> Array:
    """Vectors over their length, 0 with derivative 0 for the zero vector."""
    zero = length == 0
    length = jnp.where(zero, 1, length)
    # Both over a power of two first: the quotient's derivative squares the length. The maximum
    # changes nothing, yet without it XLA would turn (a / s) / (b / s) into (a s) / (s b).
    power = power_of_each(jax.lax.stop_gradient(length))
    length = jnp.maximum(length / power, float(jnp.finfo(length.dtype).tiny))
    return jnp.where(zero, 0, (vectors / power) / length)


@functools.partial(custom_vjp, static=1)
def unit(vectors: Array, axis: int) -> Array:
    """Vectors over their Euclidean norm, 0 with gradient 0 for the zero vector."""
    return _unit_fwd(vectors, axis)[0]


# u = x / |x|. The pullback of g is (g - u (u . g)) / |x|, where autodiff of the quotient would
# square |x| and overflow.


def _unit_fwd(vectors: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    _, (_, length) = _norm_fwd(vectors, 2.0, axis)
    return direction(vectors, length), (vectors, length)


def _unit_bwd(axis: int, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    vectors, length = residuals
    units = direction(vectors, length)
    along = where_known(length, jnp.sum(units * cotangent, axis, keepdims=True))
    tangential = cotangent - units * along
    return (direction(tangential, length),)


unit.defvjp(_unit_fwd, _unit_bwd)
