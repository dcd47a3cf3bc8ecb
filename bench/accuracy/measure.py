"""Results of a loss in some dtype, and how far they are from the truth."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bench.accuracy.rows import Row
from bench.accuracy.truths import Truth, direction

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
PARTS = ("value", "gradient", "second")


class Results(NamedTuple):
    value: np.ndarray
    gradient: np.ndarray
    second: np.ndarray | None


def of_jax(loss: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Results:
    """Under jit, all arrays as arguments, as in a training step."""
    # With float64 at hand some peers compute in it what they were given in float32.
    with (
        jax.enable_x64(arrays[0].dtype == np.float64),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        first, *others = map(jnp.asarray, arrays)
        along = jnp.broadcast_to(direction(first.shape[1:]), first.shape).astype(first.dtype)
        return Results(*map(np.asarray, _program(loss)(first, tuple(others), along)))


@functools.cache
def _program(loss: Callable[..., Any]) -> Callable[..., Any]:
    @jax.jit
    def run(first: Any, others: Any, along: Any) -> Any:
        gradient, second = jax.jvp(
            jax.grad(lambda first: jnp.sum(loss(first, *others))), (first,), (along,)
        )
        return loss(first, *others), gradient, second

    return run


def of_torch(loss: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Results:
    """Eager; without second derivatives, which several of its losses do not have."""
    import torch

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.tensor(array.astype(np.float32)).bfloat16()
        return torch.tensor(array).long() if array.dtype.kind in "iu" else torch.tensor(array)

    def numbers(values: Any) -> np.ndarray:
        if values.dtype == torch.bfloat16:
            return values.detach().float().numpy().astype(ml_dtypes.bfloat16)
        return values.detach().numpy()

    first, *others = map(tensor, arrays)
    first.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = loss(first, *others)
        [gradient] = torch.autograd.grad(value.sum(), first)
    return Results(numbers(value), numbers(gradient), None)


def errors(
    row: Row, results: Results, truth: Truth, others: tuple[np.ndarray, ...], dtype: np.dtype
) -> dict[str, np.ndarray]:
    """Of each entry that counts, by part, in units in the last place of the dtype.

    Second derivatives are held to the largest entry of their example, or where there is one entry,
    of all examples. Results wider than their input are held to the input's dtype.
    """
    found = {}
    for part in PARTS:
        ours, exact = getattr(results, part), getattr(truth, part)
        if ours is None or exact is None:
            continue
        size = np.nan_to_num(np.abs(exact[..., 0]))
        if part == "second" or (part == "gradient" and (row.normwise or row.soft)):
            if row.soft and part == "gradient":
                size = np.maximum(size, others[0])
            if size.ndim > 1 or not row.soft:
                largest = np.max(size, -1 if size.ndim > 1 else None, keepdims=True)
                size = np.broadcast_to(largest, size.shape)
        elif part == "value" and row.absolute:
            size = np.ones_like(size)
        found[part] = _ulps(np.asarray(ours), exact, size, dtype)
    return found


def _ulps(ours: np.ndarray, exact: np.ndarray, size: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Of what is counted, with the unit of a number of that size."""
    info: Any = ml_dtypes.finfo(dtype)
    high, low = exact[..., 0], exact[..., 1]
    with np.errstate(all="ignore"):
        unit = np.exp2(np.floor(np.log2(size)) - info.nmant)
        wide = ours.astype(np.float64)
        distances = np.abs((wide - high) - low) / unit
        # Infinite where the dtype overflows, as it should be; NaN where the truth is finite is not.
        largest = float(info.max)
        same = (wide == high) | ((np.abs(high) > largest) & (np.sign(high) * wide >= largest))
        distances = np.where(same, 0, np.where(np.isnan(distances), np.inf, distances))
        # Where the truth is 0, what is not is held to 1.
        distances = np.where((high == 0) & ~same, np.abs(wide) / float(info.eps), distances)
    # XLA flushes what is below the smallest normal number, and terms of a sum that are.
    classes = 4 * (exact.shape[-2] if exact.ndim > 2 else 1)
    counted = (high == 0) | (np.abs(high) > classes * float(info.smallest_normal))
    return distances[counted]
