"""Maxima of rows, and sums of a softmax's that never cancel, in one reading or in two."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import _check
from jaxloss._exact import exponential_and_change, exponential_below
from jaxloss._lanes import ONE_BY_ONE, STORED, Rows
from jaxloss._row_blocks import by_rows, some_rows_at_a_time

# The softmax family stands on row statistics that never cancel. With m = max_j z_j,
#
#     e_j = exp(z_j - m)        T = sum of e_j over z_j < m        r = how many attain m
#
# the sum of all e_j is S = r + T, and the probability of class k is e_k / S. When k alone attains m
# its complement is T / S: both, and log(S), keep their relative accuracy, where 1 - p_k and a sum
# over all classes would round the tail away. With a label k the sum of the others,
#
#     T_k = sum_{j != k} e_j        S = T_k + e_k
#
# does the same in one reduction, and the complement of p_k is T_k / S wherever k stands.


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def row_maximum(logits: Array, axis: int) -> Array:
    """Along an axis that stays; it only shifts, and no derivative of a softmax depends on its own.

    But with one, a second derivative is of differences to the maximum's entry, so that terms of a
    class that is far ahead do not have to cancel. Ties share it.
    """
    return jnp.max(logits, axis, keepdims=True)


@row_maximum.defjvp
def _maximum_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    [logits], [direction] = primals, tangents
    highest = jnp.max(logits, axis, keepdims=True)
    attained = (logits == highest).astype(logits.dtype)
    # None attains it where XLA compares with products that are not rounded.
    count = jnp.maximum(jnp.sum(attained, axis, keepdims=True), 1)
    return highest, jnp.sum(direction * attained, axis, keepdims=True) / count


def less_maximum(logits: Array, maximum: Array) -> tuple[Array, Array]:
    """z - m, and its rounding error."""
    limits = jnp.finfo(logits.dtype)
    # exp is 0 far below the maximum; a finite bound there keeps -inf - -inf out of the TwoSum.
    reach = jnp.maximum(-2 * math.log(limits.tiny), jnp.abs(maximum))
    # In this order: of a maximum that XLA's CPU backend fuses into a sum, NaN stays if second.
    logits = jnp.maximum(jnp.maximum(maximum - reach, float(limits.min)), logits)
    shifted = logits - maximum
    return shifted, jax.lax.stop_gradient(_lost(logits, maximum, shifted))


def _lost(first: Array, second: Array, difference: Array) -> Array:
    """What rounding took off a difference, by Knuth's TwoSum."""
    part = difference - first
    return (first - (difference - part)) - (second + part)


def exponentials_of(logits: Array, maximum: Array) -> Array:
    """exp(z - m), with the rounding error of z - m put back to first order."""
    return exponential_and_change(*less_maximum(logits, maximum))


@jax.custom_jvp
def stored_exponentials_of(logits: Array, maximum: Array) -> Array:
    """The same, where they are written to memory and not summed at once.

    On a CPU they are nearer to the truth, by operations that XLA does not fuse into sums.
    """
    return _stored(logits, maximum)


# Compiled by itself, lest each call outside jit compile the choice anew.
@jax.jit
def _stored(logits: Array, maximum: Array) -> Array:
    return jax.lax.platform_dependent(
        logits, maximum, cpu=_exponentials_below, default=exponentials_of
    )


def _exponentials_below(logits: Array, maximum: Array) -> Array:
    shifted = logits - maximum
    return exponential_below(shifted, _lost(logits, maximum, shifted))


@stored_exponentials_of.defjvp
def _stored_exponentials_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    exponentials = stored_exponentials_of(*primals)
    # What is 0 stays 0, whatever its tangent is.
    change = jnp.where(exponentials == 0, 0, tangents[0] - tangents[1])
    return exponentials, exponentials * change


# In what follows, arithmetic and no comparison: XLA fuses arithmetic into a reduction on every
# backend, while a select there makes the CPU write the reduction's whole input to memory.


def all_but(logits: Array, index: Array, axis: int) -> Array:
    """1 at every class but `index`, 0 there."""
    exact = logits.shape[axis] <= 2 ** jnp.finfo(logits.dtype).nmant
    dtype = logits.dtype if exact else jnp.int32
    positions = jax.lax.broadcasted_iota(dtype, logits.shape, axis)
    return jnp.minimum(jnp.abs(positions - index.astype(dtype)), 1).astype(logits.dtype)


def exponentials_but(logits: Array, maximum: Array, index: Array, axis: int, stored: bool) -> Array:
    """exp(z - m), and 0 at `index`: by a selection, the faster, where it is stored anyway."""
    if not stored:
        return exponentials_of(logits, maximum) * all_but(logits, index, axis)
    exponentials = stored_exponentials_of(logits, maximum)
    classes = jax.lax.broadcasted_iota(index.dtype, logits.shape, axis)
    return jnp.where(classes == index, 0, exponentials)


def is_below(logits: Array, maximum: Array) -> Array:
    """1 where z < m, 0 where z attains m."""
    # Bounded, so that XLA does not fuse m - z with a product that z may be: not rounded, that is
    # not 0 where z attains m.
    reach = jnp.maximum(1, jnp.abs(maximum))
    return jnp.sign(maximum - jnp.maximum(maximum - reach, logits))


# For their maximum and their sums the logits are read twice. But the maxima m, m' and sums T, T' of
# two parts make those of both, with m' the higher m' and T' + e^(m - m') T, and XLA has reductions
# of several numbers at once: then the logits are read once. That is the faster where memory is what
# takes the time, but no CPU, which would not vectorise it. The derivatives are the same.


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def maximum_and_others(logits: Array, index: Array, axis: int, stored: bool) -> tuple[Array, Array]:
    """m, and T_k of the class at the index; `stored` where a gradient will have the same terms."""
    if stored:
        # In one piece, as the gradient takes them.
        twice = functools.partial(maximum_and_others_twice, STORED, axis)
    else:
        twice = functools.partial(some_rows_at_a_time, maximum_and_others_twice, axis)
    once = functools.partial(maximum_and_others_once, axis)
    return jax.lax.platform_dependent(logits, index, cpu=twice, default=once)


@maximum_and_others.defjvp
def _maximum_and_others_jvp(axis: int, stored: bool, primals: Any, tangents: Any) -> Any:
    logits, index = primals
    rows = STORED if stored else ONE_BY_ONE
    return jax.jvp(
        lambda z: maximum_and_others_twice(rows, axis, z, index), (logits,), tangents[:1]
    )


def maximum_and_others_twice(
    rows: Rows, axis: int, logits: Array, index: Array
) -> tuple[Array, Array]:
    """The same, read twice."""
    scores = logits.astype(_check.wide(logits))
    maximum = row_maximum(scores, axis)
    [rest] = rows.sums(axis, exponentials_but(scores, maximum, index, axis, rows.stored))
    return maximum, rest


def maximum_and_others_once(axis: int, logits: Array, index: Array) -> tuple[Array, Array]:
    """The same, read once."""
    scores = logits.astype(_check.wide(logits))
    score = jnp.take_along_axis(logits, index, axis).astype(scores.dtype)
    # No part's maximum is below the label's score: of a label far ahead the sum is a plain one.
    highest = jnp.maximum(scores, score)
    terms = exponentials_but(scores, highest, index, axis, stored=True)
    terms = jnp.where(scores == -jnp.inf, 0, terms)

    def merged(first: Any, second: Any) -> tuple[Array, Array]:
        (m, rest), (n, other_rest) = first, second
        highest, factor = _highest_and_factor(m, n)
        return highest, jnp.where(m >= n, rest + other_rest * factor, other_rest + rest * factor)

    return _merged(merged, axis, highest, terms)


def maximum_rest_and_ties(axis: int, logits: Array) -> tuple[Array, ...]:
    """m, T and r."""
    return by_rows(maximum_rest_and_ties_twice, maximum_rest_and_ties_once, axis, logits)


def maximum_rest_and_ties_twice(
    rows: Rows,
    axis: int,
    logits: Array,
    *weights: Array,
    more: Callable[[Array], tuple[Array, ...]] = lambda maximum: (),
) -> tuple[Array, ...]:
    """m, T and r, read twice; and of arrays of weights, the sum of each at z_j < m and at z_j = m.

    Then those of more terms, which are functions of the maximum.
    """
    scores = logits.astype(_check.wide(logits))
    maximum = row_maximum(scores, axis)
    of = stored_exponentials_of if rows.stored else exponentials_of
    exponentials = of(scores, maximum)
    # What shares a statistic XLA would write to memory, so that each sum has its own.
    again = rows.again(maximum)
    below = is_below(scores, again)
    # T carries the derivative of S, and r none.
    attained = jax.lax.stop_gradient(exponentials * (1 - below))
    apart = is_below(scores, rows.again(again))
    terms = [array * where for array in weights for where in (apart, 1 - apart)]
    terms += more(maximum)
    rest, lower, *sums = rows.sums(axis, exponentials - attained, apart, *terms)
    return maximum, rest, jax.lax.stop_gradient(scores.shape[axis] - lower), *sums


def maximum_rest_and_ties_once(axis: int, logits: Array, *weights: Array) -> tuple[Array, ...]:
    """m, T, r and the sums of weights, read once."""
    scores = logits.astype(_check.wide(logits))
    # Pairs of sums, below the maximum and at it.
    sums = [jnp.zeros_like(scores), jnp.ones_like(scores)]
    for array in weights:
        sums += [jnp.zeros_like(array), array]

    def merged(first: Any, second: Any) -> tuple[Array, ...]:
        (m, *of_first), (n, *of_second) = first, second
        highest, factor = _highest_and_factor(m, n)
        found = [highest]
        for place in range(0, len(of_first), 2):
            (below, at), (other_below, other_at) = (
                of_first[place : place + 2],
                of_second[place : place + 2],
            )
            lower = jnp.where(m > n, other_below + other_at, below + at)
            higher = jnp.where(m > n, below, other_below)
            tied = m == n
            found.append(jnp.where(tied, below + other_below, higher + lower * factor))
            found.append(jnp.where(tied, at + other_at, jnp.where(m > n, at, other_at)))
            factor = jnp.ones_like(factor)  # Weights do not depend on the maximum.
        return tuple(found)

    return _merged(merged, axis, scores, *sums)


@jax.custom_jvp
def highest_and_ties(scores: Array, index: Array) -> tuple[Array, Array]:
    """The highest score but that at the index, and how many others attain it, at least 1."""
    return jax.lax.platform_dependent(
        scores, index, cpu=highest_and_ties_twice, default=highest_and_ties_once
    )


@highest_and_ties.defjvp
def _highest_and_ties_jvp(primals: Any, tangents: Any) -> Any:
    scores, index = primals
    return jax.jvp(lambda scores: highest_and_ties_twice(scores, index), (scores,), tangents[:1])


def highest_and_ties_twice(scores: Array, index: Array) -> tuple[Array, Array]:
    """The same, read twice."""
    highest = jnp.max(_of_others(scores, index), -1, keepdims=True)
    largest = float(jnp.finfo(scores.dtype).max)
    # Behind a barrier: what two fusions share, be it a broadcast, XLA writes to memory.
    level = jax.lax.optimization_barrier(jnp.clip(highest, -largest, largest))
    below = jnp.sum(jnp.sign(level - jnp.minimum(scores, level)), -1, keepdims=True)
    own = jnp.take_along_axis(scores, index, -1)
    # None attains it where XLA compares with products that are not rounded.
    ties = jnp.maximum(scores.shape[-1] - below - (own >= level).astype(own.dtype), 1)
    # XLA's CPU backend drops NaN from a row's maximum, but not from its sum.
    highest = highest + 0 * jnp.sum(jnp.sign(scores), -1, keepdims=True)
    return highest, jax.lax.stop_gradient(ties)


def highest_and_ties_once(scores: Array, index: Array) -> tuple[Array, Array]:
    """The same, read once."""

    def merged(first: Any, second: Any) -> tuple[Array, Array]:
        (m, ties), (n, other_ties) = first, second
        higher = jnp.where(m > n, ties, other_ties)
        return jnp.maximum(m, n), jnp.where(m == n, ties + other_ties, higher)

    classes = jax.lax.broadcasted_iota(index.dtype, scores.shape, scores.ndim - 1)
    others = jnp.where(classes == index, -jnp.inf, scores)
    start = jnp.array(-jnp.inf, scores.dtype), jnp.zeros((), scores.dtype)
    found = jax.lax.reduce((others, jnp.ones_like(scores)), start, merged, (scores.ndim - 1,))
    highest, ties = (array[..., None] for array in found)
    return highest, ties


def _of_others(scores: Array, index: Array) -> Array:
    """The scores, and -inf at an index; by arithmetic, which XLA fuses into a reduction."""
    return jnp.minimum(scores, (all_but(scores, index, scores.ndim - 1) - 0.5) * jnp.inf)


def _highest_and_factor(first: Array, second: Array) -> tuple[Array, Array]:
    """The higher maximum, and what to multiply the other's sum with."""
    highest = jnp.maximum(first, second)
    finite = jnp.maximum(highest, float(jnp.finfo(highest.dtype).min))
    return highest, exponentials_of(jnp.minimum(first, second), finite)


def _merged(merged: Any, axis: int, maxima: Array, *sums: Array) -> Any:
    """Maximum and sums of all; NaN sums of a maximum that is infinite."""
    initial = [jnp.zeros((), maxima.dtype) for _ in sums]
    initial = [jnp.full((), -jnp.inf, maxima.dtype), *initial]
    found = jax.lax.reduce((maxima, *sums), tuple(initial), merged, (axis,))
    maximum, *totals = (jnp.expand_dims(array, axis) for array in found)
    return maximum, *(jnp.where(jnp.isinf(maximum), jnp.nan, total) for total in totals)
