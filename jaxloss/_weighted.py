"""Sums of weighed losses beside the sums of their weights: what a mean is made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Axis = int | Sequence[int] | None
AxisName = Hashable | None


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["losses", "weights"], meta_fields=[]
)
@dataclass(frozen=True)
class Weighted:
    r"""Weighed losses beside their weights: all that a mean needs, before it is finished.

    `losses` holds $w_n \ell_n$ and `weights` holds $w_n$, for each example or summed over many. The
    sums of two batches, microbatches or shards pool by `+`; the mean of the whole is their
    quotient, finished once. A mean of means is not that mean.

    A pytree, so it passes through `jit`, `grad`, `scan` and `psum`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> losses = jaxloss.pooled(jaxloss.squared_error)
        >>> first = losses(jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3))
        >>> rest = losses(jnp.array([4.0]), jnp.zeros(1))
        >>> (first + rest).mean()
        Array(7.5, dtype=float32)
    """

    # Arrays of one shape; but transformations also build pytrees of what is no array.
    losses: Any
    weights: Any

    def __add__(self, other: Weighted) -> Weighted:
        """Pool two batches, element by element where they are not summed yet."""
        if not isinstance(other, Weighted):
            return NotImplemented
        if self.losses.shape != other.losses.shape:
            raise ValueError(
                f"Weighted: both sides of + must have the same shape, got {self.losses.shape} and "
                f"{other.losses.shape}; sum each first, with .total() or jaxloss.pooled."
            )
        return Weighted(self.losses + other.losses, self.weights + other.weights)

    def __radd__(self, other: object) -> Weighted:
        """The pair itself, of 0: where Python's `sum` of a list begins."""
        return self if other == 0 else NotImplemented

    def total(self, *, axis: Axis = None, axis_name: AxisName = None) -> Weighted:
        """The pair of sums over array axes (all by default) and over named mesh or `vmap` axes."""
        pair = Weighted(jnp.sum(self.losses, axis), jnp.sum(self.weights, axis))
        if axis_name is None:
            return pair
        # One by one: JAX 0.7 cannot transpose a psum of two of which only one is differentiated.
        return jax.tree.map(lambda sums: jax.lax.psum(sums, axis_name), pair)

    def sum(self, *, axis: Axis = None, axis_name: AxisName = None) -> Array:
        """Sum of the weighed losses."""
        return self.total(axis=axis, axis_name=axis_name).losses

    def mean(self, *, axis: Axis = None, axis_name: AxisName = None) -> Array:
        """Sum of losses over sum of weights; 0, with gradient 0, when nothing was weighed."""
        pair = self.total(axis=axis, axis_name=axis_name)
        return quotient(pair.losses, pair.weights)

    def over_steps(self) -> Weighted:
        """The sums of pairs that a loop has stacked."""
        return self.total(axis=0)

    def weighed(self, weigh: Callable[[Weighted], Weighted]) -> Weighted:
        """What a further weighing makes of it."""
        return weigh(self)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["parts", "factors"], meta_fields=[]
)
@dataclass(frozen=True)
class Components:
    """The pairs of several losses, and the factors of their sum: what a `weighted_sum` gives.

    It pools by `+` and is reduced as a `Weighted` is. Its sum and its mean are pairs: the total,
    and a dictionary of the components before their factors.
    """

    parts: dict[str, Any]  # a Weighted, or Components of its own, by name
    factors: dict[str, Any]

    def __add__(self, other: Components) -> Components:
        """Pool two batches, component by component."""
        if not isinstance(other, Components):
            return NotImplemented
        if self.parts.keys() != other.parts.keys():
            raise ValueError(
                f"Components: both sides of + must have the same names, got "
                f"{', '.join(self.parts)} and {', '.join(other.parts)}."
            )
        return self._each(lambda name, part: part + other.parts[name])

    def __radd__(self, other: object) -> Components:
        """The components themselves, of 0: where Python's `sum` of a list begins."""
        return self if other == 0 else NotImplemented

    def total(self, *, axis: Axis = None, axis_name: AxisName = None) -> Components:
        """The pairs of sums, as of `Weighted.total`."""
        return self._each(lambda _, part: part.total(axis=axis, axis_name=axis_name))

    def sum(self, *, axis: Axis = None, axis_name: AxisName = None) -> tuple[Array, dict[str, Any]]:
        """The factors times the sums, added up; and the sums."""
        return self._combined(lambda part: part.sum(axis=axis, axis_name=axis_name))

    def mean(
        self, *, axis: Axis = None, axis_name: AxisName = None
    ) -> tuple[Array, dict[str, Any]]:
        """The factors times the means, added up; and the means."""
        return self._combined(lambda part: part.mean(axis=axis, axis_name=axis_name))

    def over_steps(self) -> Components:
        """The sums of pairs that a loop has stacked, with the factors that every step had."""
        factors = {name: factor[0] for name, factor in self.factors.items()}
        return Components({name: part.over_steps() for name, part in self.parts.items()}, factors)

    def weighed(self, weigh: Callable[[Weighted], Weighted]) -> Components:
        """What a further weighing makes of every component."""
        return self._each(lambda _, part: part.weighed(weigh))

    def _each(self, change: Callable[[str, Any], Any]) -> Components:
        return Components({n: change(n, part) for n, part in self.parts.items()}, self.factors)

    def _combined(self, reduce: Callable[[Any], Any]) -> tuple[Array, dict[str, Any]]:
        values = {name: reduce(part) for name, part in self.parts.items()}
        terms = []
        for name, value in values.items():
            # Components of their own give a total beside theirs.
            total = value[0] if isinstance(value, tuple) else value
            terms.append(self.factors[name].astype(total.dtype) * total)
        return functools.reduce(jnp.add, terms), values


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])
@dataclass(frozen=True)
class Averaged:
    """A device's part of a mean over all axes that a loss has finished by itself."""

    value: Array

    def mean(self, *, axis: Axis = None, axis_name: AxisName = None) -> Array:
        """The mean of all, no other being finished so; every device named has a part of it."""
        return self.value if axis_name is None else jax.lax.psum(self.value, axis_name)


Pair = Weighted | Components | Averaged


def quotient(losses: Array, weights: Array) -> Array:
    """The mean that two sums make, 0 with gradient 0 where nothing was weighed."""
    nothing = weights == 0
    return jnp.where(nothing, 0, losses / jnp.where(nothing, 1, weights))
