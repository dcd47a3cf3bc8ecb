"""The cosine of the angle between vectors, at any scale, also where they are nearly parallel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._autodiff import custom_vjp
from jaxloss._exact import product as product_of
from jaxloss._vectors import divided, power_of

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


def _distance_fwd(first: Array, second: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    angle = _angle(first, second, axis)
    near = jnp.where(angle.cosine > 0, angle.deficit, 2 - angle.deficit)
    value = jnp.where(angle.steep, 1 - angle.cosine, near)
    return jnp.squeeze(value, axis), (first, second)


def _distance_bwd(
    axis: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    to_first, to_second = _similarity_bwd(axis, residuals, cotangent)
    return -to_first, -to_second


@functools.partial(custom_vjp, static=1)
def similarity(first: Array, second: Array, axis: int) -> Array:
    """The cosine, 0 for zero vectors, never beyond 1 in size."""
    return _similarity_fwd(first, second, axis)[0]


def _similarity_fwd(first: Array, second: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    angle = _angle(first, second, axis)
    near = (1 - angle.deficit) * jnp.sign(angle.cosine)
    return jnp.squeeze(jnp.where(angle.steep, angle.cosine, near), axis), (first, second)


def _similarity_bwd(
    axis: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    cotangent = jnp.expand_dims(cotangent, axis)
    first, second = residuals
    return (
        _slope(first, second, axis) * cotangent,
        _slope(second, first, axis) * cotangent,
    )


distance.defvjp(_distance_fwd, _distance_bwd)
similarity.defvjp(_similarity_fwd, _similarity_bwd)


class _Angle(NamedTuple):
    cosine: Array
    deficit: Array  # 1 - |cos|
    steep: Array  # Whether 1 - cos and cos lose nothing by being computed from each other.


def _angle(first: Array, second: Array, axis: int) -> _Angle:
    pair = _Pair(first, second, axis)
    cosine = pair.product / _root(pair.first_square * pair.second_square)
    orthogonal = pair.orthogonal()
    common = jnp.square(pair.product) / _nonzero(pair.first_square) * pair.second_square
    deficit = _dot(orthogonal, orthogonal, axis) / _nonzero(pair.second_square + _root(common))
    # Here either of the two is as far from exact. A NaN is not steep, and shows in the deficit.
    return _Angle(cosine, deficit, jnp.abs(cosine) < 0.58)


def _slope(first: Array, second: Array, axis: int) -> Array:
    """d cos / d first."""
    pair = _Pair(first, second, axis)
    # Behind a barrier: not what the deficit sums, which XLA would then write to memory.
    orthogonal = pair.orthogonal(jax.lax.optimization_barrier)
    slope = orthogonal / _root(pair.first_square * pair.second_square) / pair.powers[0]
    return jnp.where((pair.first_square == 0) | (pair.second_square == 0), 0, slope)


class _Pair:
    """Two vectors over powers of two, their squares and their product.

    What several fusions share XLA writes to memory; so each sum has the scaled vectors anew, from
    powers behind a barrier.
    """

    def __init__(self, first: Array, second: Array, axis: int) -> None:
        self.axis = axis
        powers = power_of(first, axis), power_of(second, axis)
        self.first_square = _square(divided(first, powers[0]), axis)
        self.second_square = _square(divided(second, powers[1]), axis)
        powers = _again(powers)
        self.product = _dot(divided(first, powers[0]), divided(second, powers[1]), axis)
        self.vectors, self.powers = (first, second), _again(powers)

    def orthogonal(self, rows: Callable[[Any], Any] = lambda rows: rows) -> Array:
        """What is left of the second vector when its part along the first one is taken out."""
        first, second = self.vectors
        to, vector = divided(first, self.powers[0]), divided(second, self.powers[1])
        square = _nonzero(self.first_square)
        # Dekker's product gives the rounding error of factor * to, which near parallel vectors is
        # as large as what is left; to derivatives it is a constant 0.
        along, lost = product_of(self.product / square, to)
        left = (vector - along) - lost
        # The factor was rounded, so a little along `to` is left: once more.
        power = _again(self.powers[0])
        factor = rows(_dot(left, divided(first, power), self.axis) / square)
        return left - factor * divided(first, rows(_again(power)))


def _again(powers: Any) -> Any:
    """The same to XLA's eyes another, and a constant to derivatives, as powers are."""
    return jax.lax.stop_gradient(jax.lax.optimization_barrier(powers))


def _dot(first: Array, second: Array, axis: int) -> Array:
    return jnp.sum(first * second, axis, keepdims=True)


def _square(vectors: Array, axis: int) -> Array:
    """Squared length; NaN where it is infinite, which of scaled vectors only infinity makes it."""
    square = _dot(vectors, vectors, axis)
    return jnp.where(jnp.isinf(square), jnp.nan, square)


def _nonzero(square: Array) -> Array:
    return jnp.where(square == 0, 1, square)


def _root(square: Array) -> Array:
    """The square root, and 1 of 0, where its derivative would be infinite."""
    return jnp.sqrt(_nonzero(square))
