"""A loss in all modes of differentiation, in one program that all tests of the loss share."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from tests.helpers import quick_jit, x64_enabled


class Modes(NamedTuple):
    """Losses, their gradient for a cotangent, and the derivatives of both in a direction."""

    value: np.ndarray
    reverse: np.ndarray
    forward: np.ndarray
    second: np.ndarray


def in_modes(function, first, cotangent, direction):
    """Of a function of one array; the second derivative is forward over reverse.

    Beside them the tangent of losses that were computed together with their gradient and its
    derivative: there the forward pass of a rule is what is differentiated, twice.
    """

    def with_gradient(first):
        losses, pullback = jax.vjp(function, first)
        return losses, pullback(cotangent)[0]

    def with_both(first):
        (losses, gradient), (_, second) = jax.jvp(with_gradient, (first,), (direction,))
        return losses, (gradient, second)

    _, forward = jax.jvp(function, (first,), (direction,))
    _, beside, (gradient, second) = jax.jvp(with_both, (first,), (direction,), has_aux=True)
    return Modes(function(first), gradient, forward, second), beside


def single(arrays):
    return tuple(a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays)


def double(arrays):
    return tuple(a.astype(np.float64) if a.dtype.kind == "f" else a for a in single(arrays))


def vectors(case, arrays, scale=1.0):
    """A cotangent of the losses and a direction of the first array: seeded, none of it near 0."""
    shape = jax.eval_shape(case, *map(jnp.asarray, single(arrays))).shape
    rng = np.random.default_rng(arrays[0].size)
    cotangent, direction = rng.uniform(0.5, 2, shape), rng.uniform(0.5, 2, arrays[0].shape)
    direction *= scale * rng.choice([-1, 1], direction.shape)
    return single((cotangent, direction))


@functools.cache
def program(case):
    def run(arrays, cotangent, direction):
        first, *others = arrays
        return in_modes(lambda first: case(first, *others), first, cotangent, direction)

    return quick_jit(run)


def ours(case, arrays, given=None):
    """The library's results in float32, of which the tangent is the same beside the gradient."""
    results, beside = program(case)(single(arrays), *(given or vectors(case, arrays)))
    np.testing.assert_allclose(beside, results.forward, rtol=1e-4, atol=1e-30)
    return Modes(*map(np.asarray, results))


def textbook(case, arrays, given=None):
    """The formula's results, by autodiff in float64 at the same float32 numbers."""
    first, *others = double(arrays)
    given = double(given or vectors(case, arrays))
    with x64_enabled():
        run = quick_jit(functools.partial(in_modes, lambda first: case.plain(first, *others)))
        results, _ = run(first, *given)
        return Modes(*map(np.asarray, results))


def exactly(function, firsts, others, cotangents, directions):
    """The results of a function of numbers by mpmath, row by row.

    A row of the first array is given as the list of its numbers; the function returns a list too.
    """
    columns = [[], [], [], []]
    with mpmath.workdps(100):
        for first, other, weights, slopes in zip(
            firsts, others, cotangents, directions, strict=True
        ):
            point = [mpmath.mpf(float(z)) for z in np.ravel(first)]
            along = [mpmath.mpf(float(d)) for d in np.ravel(slopes)]
            weights = [mpmath.mpf(float(w)) for w in np.ravel(weights)]

            def moved(t, s=0, j=0, point=point, along=along, other=other):
                numbers = [z + t * d for z, d in zip(point, along, strict=True)]
                numbers[j] += s
                return function(numbers, other)

            def total(t, s, j, moved=moved, weights=weights):
                return mpmath.fdot(weights, moved(t, s, j))

            places = range(len(point))
            columns[0].append(moved(0))
            columns[1].append([mpmath.diff(lambda s, j=j: total(0, s, j), 0) for j in places])
            columns[2].append(
                [mpmath.diff(lambda t, k=k: moved(t)[k], 0) for k in range(len(weights))]
            )
            columns[3].append(
                [mpmath.diff(lambda t, s, j=j: total(t, s, j), (0, 0), (1, 1)) for j in places]
            )
    shapes = np.shape(cotangents), np.shape(firsts), np.shape(cotangents), np.shape(firsts)
    return Modes(
        *(
            np.array([[float(x) for x in row] for row in column]).reshape(shape)
            for column, shape in zip(columns, shapes, strict=True)
        )
    )
