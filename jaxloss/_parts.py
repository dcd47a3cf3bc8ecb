"""Sums of elementwise losses, a part at a time where that is the faster."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss import _check, _checked
from jaxloss._bits import sliced
from jaxloss._lanes import IN_LANES, ONE_BY_ONE
from jaxloss._row_blocks import may_be_spread

# XLA's CPU backend takes a loss of much arithmetic into its sum operation by operation, and writes
# any other to memory. Of some numbers at a time, the sum is taken in lanes, or what is written
# stays in the cache. The gradient takes nothing from the value of these losses, so it is computed
# of all at once, as ever. A loop's inputs are in memory: a loss of little arithmetic, which would
# be fused with what computes its inputs, is none of these.

_PART = 2**17  # Numbers of each array in a part.
_WIDTH = 2**10  # Of a row, in which a part is summed.

Loss = Callable[..., Array]
# By loss, whether a value takes so many operations that those of a part are written.
_takes_many: weakref.WeakKeyDictionary[Loss, bool] = weakref.WeakKeyDictionary()


def summed_in_parts(*losses: Loss, long: bool = False) -> None:
    """Say that losses give one value for each number of arrays of a shape, and are faster in parts.

    `long` says whether a value takes many operations: then those of a part are written.
    """
    for loss in losses:
        _takes_many[loss] = long


def is_summed_in_parts(loss: Any) -> bool:
    """Whether large sums of this loss are taken in parts."""
    return _check.is_loss(loss) and loss in _takes_many


def sum_in_parts(loss: Loss, options: Mapping[str, Any], arrays: tuple[Any, ...]) -> Array | None:
    """The sum of a loss's values; None if the loss is not of this kind, or the arrays are few."""
    if not is_summed_in_parts(loss) or _checked.active():
        return None
    # An array by keyword is perhaps broadcast, and differentiated.
    if not all(isinstance(value, (bool, int, float, type(None))) for value in options.values()):
        return None
    shapes = {array.shape if isinstance(array, Array) else None for array in arrays}
    if len(shapes) != 1 or None in shapes:
        return None
    size = arrays[0].size
    if not (isinstance(size, int) and 2 * _PART <= size < 2**31) or may_be_spread(arrays):
        return None
    # The loss says what is wrong with a call, of the arrays that it was given.
    jax.eval_shape(functools.partial(loss, **options), *arrays)
    return _total(loss, tuple(sorted(options.items())), *arrays)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _total(loss: Loss, options: tuple[tuple[str, Any], ...], *arrays: Array) -> Array:
    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(_in_parts, loss, options),
        default=functools.partial(_at_once, loss, options),
    )


@functools.partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(loss: Loss, options: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    places = [n for n, tangent in enumerate(tangents) if type(tangent) is not SymbolicZero]

    def of_changing(*values: Array) -> Array:
        changed = dict(zip(places, values, strict=True))
        return _at_once(loss, options, *(changed.get(n, x) for n, x in enumerate(primals)))

    _, change = jax.jvp(of_changing, [primals[n] for n in places], [tangents[n] for n in places])
    return _total(loss, options, *primals), change


def _at_once(loss: Loss, options: Any, *arrays: Array) -> Array:
    return jnp.sum(loss(*arrays, **dict(options)))


# Compiled by itself, lest each call outside jit compile the loop anew.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _in_parts(loss: Loss, options: Any, *arrays: Array) -> Array:
    flat = [array.reshape(-1) for array in arrays]
    count = flat[0].size // _PART

    def step(_: None, start: Array) -> tuple[None, Array]:
        part = [sliced(array, start, _PART).reshape(-1, _WIDTH) for array in flat]
        rows = ONE_BY_ONE if _takes_many[loss] else IN_LANES
        [sums] = rows.sums(1, loss(*part, **dict(options)))
        return None, jnp.sum(sums)

    _, sums = jax.lax.scan(step, None, _PART * jnp.arange(count))
    total = jnp.sum(sums)
    if flat[0].size > count * _PART:
        total += _at_once(loss, options, *(array[count * _PART :] for array in flat))
    return total
