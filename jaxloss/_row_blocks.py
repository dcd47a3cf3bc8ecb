"""Sums over rows, of some rows at a time where that is the faster."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._autodiff import vary_alike
from jaxloss._bits import sliced
from jaxloss._check import widened
from jaxloss._lanes import IN_LANES, ONE_BY_ONE, Rows

# A CPU reads the same rows several times, and what one reading has brought into the cache of large
# arrays is lost before the next begins. Of a few rows at a time the cache holds all, and what XLA
# writes in between is as small.

_BLOCK = 2**18  # Elements of all arrays.

Sums = Callable[..., tuple[Array, ...]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def by_rows(sums: Sums, elsewhere: Sums, axis: int, *arrays: Array) -> tuple[Any, ...]:
    """`sums(rows, axis, *arrays)`, each 1 along the axis, which a CPU takes of some at a time.

    `sums` is a function of a module, so that it is compiled once for all calls with arrays of a
    shape; it reduces by the `Rows` that it is given. `elsewhere(axis, *arrays)` gives the same on
    anything but a CPU; derivatives are those of `sums`.
    """
    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(some_rows_at_a_time, sums, axis),
        default=functools.partial(elsewhere, axis),
    )


@by_rows.defjvp
def _by_rows_jvp(sums: Any, elsewhere: Any, axis: int, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(sums, ONE_BY_ONE, axis), primals, tangents)


def row_sum(
    terms: Callable[..., Array], axis: int, static: Any, *arrays: Array, long: bool = False
) -> Array:
    """The sum over the axis of `terms(static, *arrays)`, a function of a module.

    Arrays come as they were given: narrow ones are widened for the terms, of some rows at a time.
    `long` says whether a term takes many operations: then a CPU writes some rows of them.
    """
    sums_by, elsewhere = _sums_of(terms, static, long)
    [total] = by_rows(sums_by, elsewhere, axis, *arrays)
    return jnp.squeeze(total, axis)


# The same functions for all calls, so that each is compiled once.
@functools.cache
def _sums_of(terms: Callable[..., Array], static: Any, long: bool) -> tuple[Sums, Sums]:
    def sums_by(rows: Rows, axis: int, *arrays: Array) -> tuple[Array, ...]:
        return tuple((ONE_BY_ONE if long else rows).sums(axis, terms(static, *widened(*arrays))))

    return sums_by, functools.partial(sums_by, ONE_BY_ONE)


def where_known(statistic: Array, total: Array) -> Array:
    """A sum over rows, NaN where a statistic of the row is.

    XLA's CPU backend would fuse what comes of a row and its sum into the sum, from copies of the
    size of all rows of what it broadcasts, and even a matrix product before it. A selection it does
    not take in.
    """
    return jnp.where(jnp.isnan(statistic), jnp.nan, total)


def some_rows_at_a_time(sums: Sums, axis: int, *arrays: Array) -> tuple[Any, ...]:
    """`sums(rows, axis, *arrays)` on a CPU, of some rows at a time if they lie together."""
    if may_be_spread(arrays):
        return sums(ONE_BY_ONE, axis, *arrays)

    # A mapped axis only makes more rows.
    @jax.custom_batching.custom_vmap
    def of_all(*arrays: Array) -> tuple[Any, ...]:
        return _some_rows_at_a_time(sums, axis, *arrays)

    @of_all.def_vmap
    def _(size: int, mapped: Sequence[bool], *arrays: Array) -> tuple[Any, Any]:
        if all(mapped):
            found = some_rows_at_a_time(sums, axis + 1, *arrays)
        else:
            # What is shared, as of every pair of rows, is not to be stored for each.
            of_each = functools.partial(_some_rows_at_a_time, sums, axis, few=ONE_BY_ONE)
            found = jax.vmap(of_each, [0 if has_axis else None for has_axis in mapped])(*arrays)
        return found, tuple(True for _ in found)

    return tuple(of_all(*arrays))


def _some_rows_at_a_time(
    sums: Sums, axis: int, *arrays: Array, few: Rows = IN_LANES
) -> tuple[Any, ...]:
    """`few` says how rows are reduced that are too few for a loop."""
    *before, width = arrays[0].shape
    # Along another axis what is read together does not lie together. A size of an exported program
    # may be a symbol.
    if axis != len(before) or not all(isinstance(size, int) for size in (*before, width)):
        return sums(ONE_BY_ONE, axis, *arrays)
    count, widths = math.prod(before), sum(array.shape[-1] for array in arrays)
    size = max(_BLOCK // widths, 1)
    if 2 * size <= count < 2**31:
        found = _loop(sums, size, *(array.reshape(count, array.shape[-1]) for array in arrays))
        return tuple(array.reshape(*before, 1) for array in found)
    # Lanes store a part of the terms: not of a row that is longer than many others.
    return sums(few if count * widths < 4 * _BLOCK else ONE_BY_ONE, axis, *arrays)


def may_be_spread(arrays: Sequence[Array]) -> bool:
    """Whether arrays may lie on several devices, onto each of which a loop would gather them."""
    specs = [jax.typeof(array).sharding.spec for array in arrays]
    return jax.device_count() > 1 or any(axis is not None for spec in specs for axis in spec)


# Compiled by itself, lest each call outside jit compile the loop anew.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _loop(sums: Sums, size: int, *arrays: Array) -> tuple[Any, ...]:
    count = len(arrays[0])
    found = jax.eval_shape(functools.partial(sums, ONE_BY_ONE, 1), *arrays)
    first = vary_alike([jnp.zeros(array.shape, array.dtype) for array in found], arrays)

    def step(block: Array, found: list[Array]) -> list[Array]:
        # A slice that would go past the end ends there: the last block takes some rows again.
        start = block * size
        rows = [sliced(array, start, size) for array in arrays]
        return [
            jax.lax.dynamic_update_slice_in_dim(array, new, start, 0)
            for array, new in zip(found, sums(IN_LANES, 1, *rows), strict=True)
        ]

    return tuple(jax.lax.fori_loop(0, -(-count // size), step, first))
