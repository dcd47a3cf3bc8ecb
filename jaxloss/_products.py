"""Matrix products, summed in float32 at least."""

from __future__ import annotations

import jax
from jax import Array

from jaxloss import _check


def product(left: Array, right: Array, of_left: int = -1, of_right: int = 0) -> Array:
    """Over one axis of each, where it lies: a transpose would be hoisted from a loop, as a copy."""
    return jax.lax.dot_general(
        left,
        right,
        (((of_left % left.ndim,), (of_right,)), ((), ())),
        preferred_element_type=_check.wide(left, right),
    )


def product_over_rows(left: Array, right: Array) -> Array:
    """Of two matrices, over the first axis of each; the left one should be the smaller."""
    # XLA's CPU backend is slow along the first axis of a left operand, and makes that of a
    # transpose that it sees. Elsewhere this is a copy, small beside what the product reads.
    return product(jax.lax.optimization_barrier(left.T), right)
