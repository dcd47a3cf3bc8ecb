"""A loss as a function of one number, and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax import Array


def nowhere(**variant: Any) -> Sequence[float]:
    """The kinks of a loss whose derivative does not jump."""
    return ()


# Each is itself only, so that its numbers can be kept.
@dataclass(frozen=True, eq=False)
class Curve:
    """A loss along one line through its inputs, for one or more choices of options and targets."""

    loss: Callable[..., Array]
    # What stands on the horizontal axis, and from where to where.
    abscissa: str
    limits: tuple[float, float]
    # Of the loss, the number on the horizontal axis and a variant's options.
    section: Callable[..., Array]
    variants: Sequence[Mapping[str, Any]] = field(default_factory=lambda: [{}])
    # Where the derivative jumps, given a variant's options.
    kinks: Callable[..., Sequence[float]] = nowhere

    @property
    def name(self) -> str:
        return self.loss.__name__


@dataclass(frozen=True)
class Line:
    """The numbers of one variant; derivatives are NaN at kinks, so that no line crosses them."""

    label: str
    abscissae: np.ndarray
    losses: np.ndarray
    derivatives: np.ndarray
    # (abscissa, loss, derivative) of each kink.
    kinks: np.ndarray


def grid(limits: tuple[float, float], kinks: np.ndarray, count: int) -> np.ndarray:
    """Evenly spaced numbers, with each kink and its neighbours on both sides instead of others."""
    lower, upper = limits
    gap = 1e-4 * (upper - lower)
    even = np.linspace(lower, upper, count)
    clear = even[np.all(np.abs(even[:, None] - kinks) > gap, axis=1)]
    return np.sort(np.concatenate([clear, kinks - gap, kinks, kinks + gap])).astype(np.float32)


@cache
def lines(curve: Curve, count: int = 400) -> list[Line]:
    """Losses and derivatives of every variant, by `jax.grad` of the library's own function."""
    kinks = [np.array(curve.kinks(**variant), np.float32) for variant in curve.variants]
    grids = [grid(curve.limits, places, count) for places in kinks]

    # One program for all variants, not optimised: most of the time goes into compiling.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def evaluated(grids: list[Array]) -> list[tuple[Array, Array]]:
        return [
            jax.vmap(jax.value_and_grad(partial(curve.section, curve.loss, **variant)))(x)
            for variant, x in zip(curve.variants, grids, strict=True)
        ]

    found = []
    for variant, x, places, result in zip(
        curve.variants, grids, kinks, evaluated(grids), strict=True
    ):
        losses, derivatives = map(np.asarray, result)
        at_kinks = np.isin(x, places)
        points = np.stack([x, losses, derivatives], axis=-1)[at_kinks]
        label = ", ".join(f"{name} = {value:g}" for name, value in variant.items())
        found.append(Line(label, x, losses, np.where(at_kinks, np.nan, derivatives), points))
    return found
