"""The cosine of the angle between vectors, at any scale, also where they are nearly parallel."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._autodiff import afresh, custom_vjp
from jaxloss._check import widened
from jaxloss._exact import product as product_of
from jaxloss._lanes import Rows, packed
from jaxloss._row_blocks import by_rows
from jaxloss._vectors import divided, power_of_each

# With f = a.b / a.a and r = b - f a, the part of b that is orthogonal to a,
#
#     1 - |cos| = |r|^2 / (|b|^2 + |b| sqrt(f a.b)),   as |b|^2 = |r|^2 + f a.b
#     d cos / da = r / (|a| |b|)
#
# so the distance of nearly parallel vectors is a square of their small difference, and not the
# difference of 1 and a number near it. All is computed from vectors that were scaled by powers of
# two, whose squares neither overflow nor underflow.


@functools.partial(custom_vjp, static=1)
def distance(first: Array, second: Array, axis: int) -> Array:
    """1 - cos, 1 for zero vectors."""
    return _distance_fwd(first, second, axis)[0]


def _distance_fwd(first: Array, second: Array, axis: int) -> tuple[Array, _Residuals]:
    sums = _sums(first, second, axis)
    angle = _angle(sums)
    near = jnp.where(angle.cosine > 0, angle.deficit, 2 - angle.deficit)
    value = jnp.where(angle.steep, 1 - angle.cosine, near)
    return jnp.squeeze(value, axis), (first, second, sums)


def _distance_bwd(axis: int, residuals: _Residuals, cotangent: Array) -> tuple[Array, Array]:
    to_first, to_second = _similarity_bwd(axis, residuals, cotangent)
    return -to_first, -to_second


@functools.partial(custom_vjp, static=1)
def similarity(first: Array, second: Array, axis: int) -> Array:
    """The cosine, 0 for zero vectors, never beyond 1 in size."""
    return _similarity_fwd(first, second, axis)[0]


def _similarity_fwd(first: Array, second: Array, axis: int) -> tuple[Array, _Residuals]:
    sums = _sums(first, second, axis)
    angle = _angle(sums)
    near = (1 - angle.deficit) * jnp.sign(angle.cosine)
    value = jnp.where(angle.steep, angle.cosine, near)
    return jnp.squeeze(value, axis), (first, second, sums)


def _similarity_bwd(axis: int, residuals: _Residuals, cotangent: Array) -> tuple[Array, Array]:
    cotangent = jnp.expand_dims(cotangent, axis)
    *vectors, sums = residuals
    first, second = afresh(*widened(*vectors))
    of_first, of_second = sums.first, sums.second
    to_first = _slope(first, second, of_first, of_second, sums.product) * cotangent
    to_second = _slope(second, first, of_second, of_first, sums.product) * cotangent
    return to_first.astype(vectors[0].dtype), to_second.astype(vectors[1].dtype)


distance.defvjp(_distance_fwd, _distance_bwd)
similarity.defvjp(_similarity_fwd, _similarity_bwd)


class _Vector(NamedTuple):
    power: Array  # What it is scaled by.
    square: Array
    rest: Array  # What rounding left of the other vector along this one, in lengths of this one.


class _Sums(NamedTuple):
    first: _Vector
    second: _Vector
    product: Array
    orthogonal: Array  # |r|^2


_Residuals = tuple[Array, Array, _Sums]


def _sums(first: Array, second: Array, axis: int) -> _Sums:
    *found, product, orthogonal = by_rows(sums_by, sums_together, axis, first, second)
    return _Sums(_Vector(*found[:3]), _Vector(*found[3:]), product, orthogonal)


def sums_by(rows: Rows, axis: int, first: Array, second: Array) -> tuple[Array, ...]:
    """Of each vector power, square and rest; the product, and |r|^2. Four readings."""
    first, second = widened(first, second)
    powers = [power_of_each(m) for m in rows.maxima(axis, *map(_sizes, (first, second)))]

    def scaled(*statistics: Array) -> tuple[Array, ...]:
        # What several fusions share XLA writes to memory; so each has the scaled vectors anew, from
        # powers behind a barrier.
        power, other, *found = packed(axis, *powers, *statistics)
        return divided(first, power), divided(second, other), *found

    to, vector = scaled()
    *squares, product = rows.sums(axis, to * to, vector * vector, to * vector)
    squares = [_finite(square) for square in squares]
    factors = [product / _nonzero(square) for square in squares]
    to, vector, *again = scaled(*factors)
    rests = rows.sums(axis, _left(to, vector, again[0]) * to, _left(vector, to, again[1]) * vector)
    rests = [rest / _nonzero(square) for rest, square in zip(rests, squares, strict=True)]
    to, vector, factor, rest = scaled(factors[0], rests[0])
    [orthogonal] = rows.sums(axis, jnp.square(_left(to, vector, factor) - rest * to))
    return (
        *(powers[0], squares[0], rests[0]),
        *(powers[1], squares[1], rests[1]),
        *(product, orthogonal),
    )


def _sizes(vectors: Array) -> Array:
    return jnp.abs(jax.lax.stop_gradient(vectors))


# Where memory is what takes the time, powers, squares and product are of one reading, as in
# `power_and_square_once`. Their sums are of two numbers, the second what the first was rounded by:
# of those a rest is known without another sum, f a.b being exact in two numbers as well.


def sums_together(axis: int, first: Array, second: Array) -> tuple[Array, ...]:
    """The same; all but |r|^2 in one reading."""
    axis %= first.ndim
    first, second = widened(first, second)
    of_each = power_of_each(first), power_of_each(second)
    x, y = divided(first, of_each[0]), divided(second, of_each[1])
    terms = *of_each, *product_of(x, x), *product_of(y, y), *product_of(x, y)
    zero = jnp.zeros((), x.dtype)
    start = power_of_each(zero), power_of_each(zero), *6 * (zero,)
    found = jax.lax.reduce(terms, start, _merged, (axis,))
    *powers, a, a_lost, b, b_lost, c, c_lost = (jnp.expand_dims(array, axis) for array in found)
    squares, product = [_finite(a + a_lost), _finite(b + b_lost)], c + c_lost
    c_lost = c_lost - (product - c)
    rests = []
    for square, total, lost in zip(squares, (a, b), (a_lost, b_lost), strict=True):
        lost = lost - (square - total)
        factor = product / _nonzero(square)
        along, lost_of_along = product_of(factor, square)
        left = ((product - along) - lost_of_along) + (c_lost - factor * lost)
        rests.append(left / _nonzero(square))
    to, vector = divided(first, powers[0]), divided(second, powers[1])
    orthogonal = _left(to, vector, product / _nonzero(squares[0])) - rests[0] * to
    return (
        *(powers[0], squares[0], rests[0]),
        *(powers[1], squares[1], rests[1]),
        *(product, jnp.sum(jnp.square(orthogonal), axis, keepdims=True)),
    )


def _merged(one: Any, other: Any) -> tuple[Array, ...]:
    """Sums of two parts, each scaled by powers of its own."""
    powers = [jnp.maximum(p, q) for p, q in zip(one[:2], other[:2], strict=True)]
    parts = []
    for part in (one, other):
        p, q = part[0] / powers[0], part[1] / powers[1]
        factors = p * p, p * p, q * q, q * q, p * q, p * q
        parts.append([number * factor for number, factor in zip(part[2:], factors, strict=True)])
    sums = []
    for place in range(0, 6, 2):
        a, b = parts[0][place], parts[1][place]
        total = a + b
        of_b = total - a
        lost = (a - (total - of_b)) + (b - of_b)
        sums += [total, parts[0][place + 1] + parts[1][place + 1] + lost]
    return *powers, *sums


def _left(to: Array, vector: Array, factor: Array) -> Array:
    """What is left of a vector when its part along another is taken out, but for rounding.

    Dekker's product gives the rounding error of factor * to, which near parallel vectors is as
    large as what is left; to derivatives it is a constant 0. The factor was rounded, so a little
    along `to` is left.
    """
    along, lost = product_of(factor, to)
    return (vector - along) - lost


class _Angle(NamedTuple):
    cosine: Array
    deficit: Array  # 1 - |cos|
    steep: Array  # Whether 1 - cos and cos lose nothing by being computed from each other.


def _angle(sums: _Sums) -> _Angle:
    first, second = sums.first.square, sums.second.square
    cosine = sums.product / _root(first * second)
    common = jnp.square(sums.product) / _nonzero(first) * second
    deficit = sums.orthogonal / _nonzero(second + _root(common))
    # Here either of the two is as far from exact. A NaN is not steep, and shows in the deficit.
    return _Angle(cosine, deficit, jnp.abs(cosine) < 0.58)


def _slope(
    vector: Array, other: Array, of_vector: _Vector, of_other: _Vector, product: Array
) -> Array:
    """d cos / d vector."""
    # Constants to derivatives: that of a quotient by one would square it, and overflow.
    power, power_of_other = jax.lax.stop_gradient((of_vector.power, of_other.power))
    to, scaled = divided(vector, power), divided(other, power_of_other)
    orthogonal = _left(to, scaled, product / _nonzero(of_vector.square)) - of_vector.rest * to
    slope = orthogonal / _root(of_vector.square * of_other.square) / power
    return jnp.where((of_vector.square == 0) | (of_other.square == 0), 0, slope)


def _finite(square: Array) -> Array:
    """NaN where it is infinite, which of scaled vectors only infinity makes it."""
    return jnp.where(jnp.isinf(square), jnp.nan, square)


def _nonzero(square: Array) -> Array:
    return jnp.where(square == 0, 1, square)


def _root(square: Array) -> Array:
    """The square root, and 1 of 0, where its derivative would be infinite."""
    return jnp.sqrt(_nonzero(square))
