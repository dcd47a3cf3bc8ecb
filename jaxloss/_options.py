"""Checks of options: numbers within bounds, flags, and shapes that broadcast."""

from __future__ import annotations

import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxloss import _check


def bounded(
    function: str,
    name: str,
    value: ArrayLike,
    *,
    minimum: float = -np.inf,
    maximum: float = np.inf,
    above: float = -np.inf,
) -> Array:
    """Finite real numbers within bounds; a traced value out of bounds becomes NaN."""
    [array] = _check.real_arrays(function, **{name: value})
    if isinstance(value, jax.core.Tracer):
        valid = (array >= minimum) & (array <= maximum) & (array > above)
        # A factor, so that the option's own gradient is NaN too, and not 0.
        return array * jnp.where(valid, 1, jnp.nan)
    concrete = np.asarray(value, np.float64)
    within = (concrete >= minimum) & (concrete <= maximum) & (concrete > above)
    if not np.all(within & np.isfinite(concrete)):
        bounds = f" and in [{minimum:g}, {maximum:g}]"
        if maximum == np.inf:
            bounds = f" and at least {minimum:g}" if minimum > -np.inf else ""
        if above > -np.inf:
            bounds = f" and more than {above:g}"
        raise ValueError(f"{function}: {name} must be finite{bounds}, got {value}.")
    return array


def is_zero(option: ArrayLike) -> bool:
    """Whether an option is a plain 0, known while tracing."""
    return isinstance(option, numbers.Real) and option == 0


def number(function: str, name: str, value: ArrayLike, **bounds: float) -> Array:
    """One real number, `bounded`."""
    array = bounded(function, name, value, **bounds)
    if array.ndim:
        raise ValueError(f"{function}: {name} must be a scalar, got {_check.describe(value)}.")
    return array


def degree(function: str, p: float | int) -> float:
    """The degree of a norm, a Python number from 1 to infinity."""
    if isinstance(p, bool) or not isinstance(p, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"{function}: p must be a Python number (it chooses the formula), got "
            f"{_check.describe(p)}."
        )
    if not p >= 1:
        raise ValueError(f"{function}: p must be at least 1 (infinity is allowed), got {p}.")
    return float(p)


def broadcasts_to(function: str, shape: tuple[int, ...], **option: Array) -> Array:
    """The option with as many axes as the shape, each of the shape's length or 1."""
    [(name, array)] = option.items()
    padded = (1,) * (len(shape) - array.ndim) + array.shape
    if len(padded) != len(shape) or any(
        n not in (1, m) for n, m in zip(padded, shape, strict=True)
    ):
        raise ValueError(
            f"{function}: {name} must be a scalar or broadcast to the shape {shape}, "
            f"got {array.shape}."
        )
    return array.reshape(padded)


def flag(function: str, name: str, value: bool) -> bool:
    """A Python truth value: it chooses the formula, so it cannot be traced."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"{function}: {name} must be True or False, got {_check.describe(value)}; under jit, "
            f"bind it with functools.partial or mark it static."
        )
    return bool(value)


def class_weights(function: str, weights: ArrayLike, axis: int, **scores: Array) -> Array:
    """One finite weight of at least 0 for each class, with as many axes as the scores."""
    [(name, array)] = scores.items()
    weights = bounded(function, "class_weights", weights, minimum=0.0).astype(_check.wide(array))
    if weights.shape != array.shape[axis : axis + 1]:
        raise ValueError(
            f"{function}: class_weights must have one weight for each class of {name} "
            f"{array.shape} along axis {axis}, ({array.shape[axis]},), got {weights.shape}."
        )
    return jnp.expand_dims(weights, [n for n in range(array.ndim) if n != axis])


def class_mask(function: str, mask: ArrayLike, **scores: Array) -> Array:
    """Which classes take part, in the shape of the scores."""
    [(_, array)] = scores.items()
    allowed = _check.mask(function, class_mask=mask)
    return jnp.broadcast_to(broadcasts_to(function, array.shape, class_mask=allowed), array.shape)
