"""Sums and maxima of rows, one after another or several in one reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Rows(NamedTuple):
    """How to reduce terms along an axis, which stays with size 1."""

    sums: Callable[..., list[Array]]
    maxima: Callable[..., list[Array]]
    again: Callable[[Array], Array]  # A statistic of rows, for another term.
    stored: bool  # Whether terms need not be of arithmetic alone, as no sum takes them in.


def _sums(axis: int, *terms: Array) -> list[Array]:
    return [jnp.sum(term, axis, keepdims=True) for term in terms]


def _maxima(axis: int, *terms: Array) -> list[Array]:
    return [jnp.max(term, axis, keepdims=True) for term in terms]


# What several fusions share, be it the broadcast of a statistic, XLA writes to memory.
ONE_BY_ONE = Rows(_sums, _maxima, jax.lax.optimization_barrier, stored=False)
# Of terms that are in memory anyway.
STORED = ONE_BY_ONE._replace(stored=True)


# XLA's CPU backend takes the sums of a row one after another, and what it fuses into a sum, which
# is arithmetic alone, it computes operation by operation. Several reductions at once are one loop
# for each result, over whatever they are of. Folded in four, a row has a quarter as many results as
# numbers, which lie together: the loop over the four of each unrolls, and LLVM vectorises over the
# results. It does not where what it would unroll is too long, so of many terms a row is folded in
# two; nor where the loop reads many arrays, each of which it must tell apart from what it writes,
# so what belongs to rows is to be `packed`.

_NARROWEST = 64  # A quarter of it is a vector of the widest CPUs, in float32.


def _folded(
    whole: Callable[..., list[Array]], merged: Any, initial: float, axis: int, *terms: Array
) -> list[Array]:
    width = terms[0].shape[axis]
    if axis != terms[0].ndim - 1 or width < _NARROWEST:
        return whole(axis, *terms)
    folds = 4 if len(terms) < 4 else 2
    lanes = width // folds
    start = tuple(jnp.full((), initial, term.dtype) for term in terms)
    parts = tuple(
        term[..., : folds * lanes].reshape(*term.shape[:-1], folds, lanes) for term in terms
    )
    found = whole(axis, *jax.lax.reduce(parts, start, merged, (axis,)))
    if width == folds * lanes:
        return found
    others = whole(axis, *(term[..., folds * lanes :] for term in terms))
    return [merged((one,), (other,))[0] for one, other in zip(found, others, strict=True)]


def _sums_in_lanes(axis: int, *terms: Array) -> list[Array]:
    return _folded(_sums, _added, 0.0, axis, *terms)


def _maxima_in_lanes(axis: int, *terms: Array) -> list[Array]:
    if len(terms) == 1:
        return _maxima(axis, *terms)
    return _folded(_maxima, _higher, -jnp.inf, axis, *terms)


def _added(first: Any, second: Any) -> tuple[Array, ...]:
    # A sum that XLA does not know for one: of one alone, or when nobody uses the others, it would
    # make what we avoid.
    return tuple(-(-one - other) for one, other in zip(first, second, strict=True))


def _higher(first: Any, second: Any) -> tuple[Array, ...]:
    return tuple(jnp.maximum(one, other) for one, other in zip(first, second, strict=True))


IN_LANES = Rows(_sums_in_lanes, _maxima_in_lanes, lambda statistic: statistic, stored=True)


def packed(axis: int, *statistics: Array) -> tuple[Array, ...]:
    """Numbers of rows, 1 along the axis, in one array, which XLA takes for others."""
    together = jax.lax.optimization_barrier(jnp.concatenate(statistics, axis))
    return tuple(jnp.split(together, len(statistics), axis))
