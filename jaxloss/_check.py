"""Every input check, and its error message.

A message names the function and the argument, says what came and what was expected, and what to do.
Checks look at shapes, dtypes and Python values only, so they run while tracing and cost nothing
after. What they say of the numbers in an array, a program does only when it is `checked`.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxloss import _checked

F = TypeVar("F", bound=Callable[..., Any])

_losses: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()

_BATCH_KEYWORDS = {
    "axis": "mean",
    "axis_name": "mean",
    "ignore_index": "ignoring",
    "mask": "masked",
    "reduction": "mean",
    "size_average": "mean",
    "weight": "weighted",
    "weights": "weighted",
    "where": "masked",
}


def known_keywords(loss: F) -> F:
    """Make an unknown keyword's error list the known ones, or name the combinator that has it."""
    parameters = inspect.signature(loss).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    names = {p.name for p in parameters}
    name = loss.__name__

    @functools.wraps(loss)
    def known(*args: Any, **kwargs: Any) -> Any:
        for keyword in kwargs:
            if keyword not in names:
                combinator = _BATCH_KEYWORDS.get(keyword)
                raise TypeError(
                    f"{name}: unexpected keyword {keyword}, {describe(kwargs[keyword])}; "
                    f"{name} takes {', '.join(options) or 'no options'}."
                    + (
                        f" A loss never weighs or reduces the batch: see jaxloss.{combinator}."
                        if combinator
                        else ""
                    )
                )
        with _checked.within(name):
            return loss(*args, **kwargs)

    _losses.add(known)
    return known  # type: ignore[return-value]


def is_loss(function: Any) -> bool:
    """Whether it is one of the library's losses, whose signature is that of what it wraps."""
    return isinstance(function, types.FunctionType) and function in _losses


def wide(*arrays: Array) -> DTypeLike:
    """The dtype that the given arrays are computed in: float64 if any is, else float32."""
    return jnp.float64 if any(array.dtype == jnp.float64 for array in arrays) else jnp.float32


def real_arrays(function: str, **arguments: ArrayLike) -> tuple[Array, ...]:
    """Each argument as a real floating array.

    Floating arrays keep their dtype; integers, booleans and Python scalars become what those are
    computed in.
    """
    arrays: dict[str, Array] = {}
    for name, argument in arguments.items():
        array = _as_array(
            np.asarray(argument, np.float64) if _host_integers(argument) else argument
        )
        if array is None or not (_is_floating(array) or _is_integral(array)):
            raise TypeError(
                f"{function}: {name} must be an array of real numbers, got {describe(argument)}; "
                f"convert it with jnp.asarray(..., jnp.float32)."
            )
        arrays[name] = array
    kept = {
        name: array
        for name, array in arrays.items()
        if _is_floating(array) and not array.weak_type and not _host_integers(arguments[name])
    }
    dtype = wide(*kept.values()) if kept else jnp.asarray(0.0).dtype
    for name, array in arrays.items():
        if _is_floating(array):
            _checked.not_nan(function, name, array)
    return tuple(
        array if name in kept else jax.lax.convert_element_type(array, dtype)
        for name, array in arrays.items()
    )


def of_one_shape(function: str, **arguments: ArrayLike) -> tuple[Array, ...]:
    """Real arrays of one shape, floating ones in the dtypes in which they came."""
    arrays = real_arrays(function, **arguments)
    same_shape(function, **dict(zip(arguments, arrays, strict=True)))
    return arrays


def matched(function: str, **arguments: ArrayLike) -> tuple[Array, ...]:
    """Real arrays of one shape, each in the dtype that all of them are computed in."""
    return widened(*of_one_shape(function, **arguments))


def widened(*arrays: Array) -> tuple[Array, ...]:
    """Floating arrays, each in the dtype that all of them are computed in."""
    dtype = wide(*arrays)
    return tuple(array.astype(dtype) for array in arrays)


def same_shape(function: str, **arrays: Array) -> None:
    """Raise unless all shapes are equal."""
    if len({array.shape for array in arrays.values()}) > 1:
        names = " and ".join(arrays)
        shapes = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(
            f"{function}: {names} must have the same shape, got {shapes}; nothing is broadcast: "
            f"reshape, index or jnp.broadcast_to one of them."
        )


def matrix(function: str, **inputs: Array) -> None:
    """Raise unless an array is a batch of vectors."""
    [(name, array)] = inputs.items()
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{function}: {name} must have the shape (batch, features), one row for each example, "
            f"got {array.shape}."
        )


def reduced_axis(function: str, axis: int, *, option: str = "axis", **scores: Array) -> int:
    """The axis to reduce as a non-negative number; it must exist and not be empty."""
    [(name, array)] = scores.items()
    normalized = integer(function, option, axis)
    if not -array.ndim <= normalized < array.ndim:
        raise ValueError(
            f"{function}: {option} must be one of the {array.ndim} axes of {name} {array.shape}, "
            f"from {-array.ndim} to {array.ndim - 1}, got {axis}."
            if array.ndim
            else f"{function}: {name} must have an axis to reduce, got a scalar."
        )
    normalized %= array.ndim
    if array.shape[normalized] == 0:
        raise ValueError(
            f"{function}: {name} must have at least one entry along axis {axis}, "
            f"got shape {array.shape}."
        )
    return normalized


def reduced_axes(function: str, axes: Sequence[int], **inputs: Array) -> tuple[int, ...]:
    """Distinct axes to reduce, as non-negative numbers."""
    [name] = inputs
    if not isinstance(axes, Sequence) or isinstance(axes, str) or not axes:
        raise TypeError(
            f"{function}: axes must be a tuple of the axes to sum over, such as (1, 2) for images "
            f"(batch, height, width, classes), got {describe(axes)}."
        )
    normalized = tuple(reduced_axis(function, axis, option="axes", **inputs) for axis in axes)
    if len(set(normalized)) < len(normalized):
        raise ValueError(f"{function}: axes must be distinct axes of {name}, got {axes}.")
    return normalized


def class_labels(
    function: str, labels: ArrayLike, axis: int, *, ranged: bool = True, **scores: Array
) -> Array:
    """Integer class indices, one for each row of the scores, as an array that does not wrap.

    Those that are not `ranged` name groups, and may be any integers.
    """
    [(name, array)] = scores.items()
    indices = class_indices(function, labels)
    expected = _without_axis(array.shape, axis)
    if indices.shape != expected:
        fitting = [n for n in range(array.ndim) if _without_axis(array.shape, n) == indices.shape]
        advice = f"pass axis={fitting[0]}" if fitting else "squeeze or reshape them"
        if indices.shape == array.shape:
            advice = "one-hot targets are probabilities and must be floating"
        raise ValueError(
            f"{function}: labels must have the shape of {name} {array.shape} without its class "
            f"axis {axis}, {expected}, got {indices.shape}; {advice}."
        )
    if ranged:
        _checked.classes(function, indices, array.shape[axis])
    return indices


def label_lists(function: str, labels: ArrayLike, axis: int, **scores: Array) -> Array:
    """Integer class indices, a list of any length along `axis` for each row of the scores."""
    [(name, array)] = scores.items()
    indices = class_indices(function, labels)
    if indices.ndim != array.ndim or (
        _without_axis(indices.shape, axis) != _without_axis(array.shape, axis)
    ):
        raise ValueError(
            f"{function}: labels must have the shape of {name} {array.shape}, of any length along "
            f"axis {axis}, got {indices.shape}; pad shorter lists with -1."
        )
    if _checked.active():
        shown = jnp.cumprod((indices != -1).astype(jnp.int32), axis, dtype=jnp.int32) > 0
        _checked.classes(function, indices, array.shape[axis], shown)
    return indices


def class_indices(function: str, labels: ArrayLike) -> Array:
    """Integer class indices of any shape, as an array that does not wrap."""
    # Without x64 JAX would keep the low 32 bits of an integer; 2**32 + 1 must not become class 1.
    bounds = np.iinfo(np.int32)
    indices = _as_array(
        np.clip(labels, bounds.min, bounds.max) if _host_integers(labels) else labels
    )
    if indices is None or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(
            f"{function}: labels must be integers (class indices), got {describe(labels)}; "
            f"convert them with .astype(jnp.int32)."
        )
    return indices


def without_axis(
    function: str, axis: int, argument: Array, *, of: str = "signs", **vectors: Array
) -> None:
    """Raise unless an argument has the shape of the vectors without the axis of their features."""
    [(name, array)] = vectors.items()
    expected = _without_axis(array.shape, axis)
    if argument.shape != expected:
        raise ValueError(
            f"{function}: {of} must have the shape of {name} {array.shape} without axis {axis}, "
            f"{expected}, got {argument.shape}; squeeze or reshape."
        )


def _without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def signs(function: str, signs: ArrayLike, dtype: DTypeLike) -> Array:
    """Signs as numbers: 1, -1, and NaN for anything else. They are no variables to derivatives."""
    numbers = signs_as_given(function, signs, dtype)
    return jnp.where(jnp.abs(numbers) == 1, numbers, jnp.nan)


def signs_as_given(function: str, signs: ArrayLike, dtype: DTypeLike) -> Array:
    """The same, but whatever is no sign stays as it is."""
    # Clipped, so that no wide integer wraps to 1.
    array = _as_array(np.clip(signs, -2, 2) if _host_integers(signs) else signs)
    if array is None or not (_is_floating(array) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(
            f"{function}: signs must be an array of 1 and -1, got {describe(signs)}; "
            f"convert booleans with jnp.where(positive, 1, -1)."
        )
    numbers = jax.lax.stop_gradient(array.astype(dtype))
    _checked.report(
        function,
        "signs",
        numbers,
        lambda numbers: ~(jnp.abs(numbers) == 1),
        "1 or -1",
        "convert labels of 0 and 1 with jnp.where(labels == 1, 1, -1)",
    )
    return numbers


def valid_index(labels: Array, size: int) -> tuple[Array, Array]:
    """Labels that are safe to index with, 0 where out of range, and whether they were in range."""
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)  # So that size fits: 300 must not become 44.
    valid = (labels >= 0) & (labels < size)
    return jnp.where(valid, labels, 0).astype(jnp.int32), valid


def mask(function: str, **arguments: ArrayLike) -> Array:
    """A boolean array."""
    [(name, argument)] = arguments.items()
    array = _as_array(argument)
    if array is None or array.dtype != jnp.bool_:
        raise TypeError(
            f"{function}: {name} must be boolean, True for what counts, got {describe(argument)}; "
            f"numbers between are weights, see jaxloss.weighted."
        )
    return array


def exact_array(function: str, argument: ArrayLike) -> Array:
    """A JAX array of the argument; raises where JAX would keep only the low bits of an integer."""
    array = argument if isinstance(argument, Array) else jnp.asarray(argument)
    # Cast on the host: under jit the array is traced, and equal to nothing.
    if _host_integers(argument) and not np.array_equal(np.asarray(argument, array.dtype), argument):
        raise ValueError(
            f"{function}: inputs must be integers of 32 bits, got {describe(argument)} with wider "
            f"values; convert it, or enable x64."
        )
    return array


def are_indices(function: str, targets: ArrayLike) -> bool:
    """True for integers, which are class indices, and False for floats, which are probabilities."""
    if _host_integers(targets):
        return True
    array = _as_array(targets)
    if array is None or not (_is_floating(array) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(
            f"{function}: targets must be integers (class indices) or floats (probabilities), got "
            f"{describe(targets)}."
        )
    return not _is_floating(array)


def integer(function: str, name: str, value: Any) -> int:
    """A Python integer."""
    try:
        return operator.index(value)
    except TypeError:
        advice = "; under jit, bind it with functools.partial or mark it static"
        raise TypeError(
            f"{function}: {name} must be an integer, got {describe(value)}"
            f"{advice if isinstance(value, jax.core.Tracer) else ''}."
        ) from None


def same_names(function: str, **mappings: Mapping[str, Any]) -> None:
    """Raise unless the arguments are mappings of the same names, and of some."""
    for argument, mapping in mappings.items():
        if not isinstance(mapping, Mapping) or not mapping:
            raise TypeError(
                f"{function}: {argument} must be a dictionary with an entry for each loss, got "
                f"{describe(mapping)}."
            )
    (first, names), *others = ((argument, list(m)) for argument, m in mappings.items())
    for argument, other in others:
        if set(other) != set(names):
            raise ValueError(
                f"{function}: {first} and {argument} must have the same names, got "
                f"{', '.join(names)} and {', '.join(other)}."
            )


def describe(argument: Any) -> str:
    """What came, in a few words: dtype and shape of an array, type and value of anything else."""
    if hasattr(argument, "dtype") and hasattr(argument, "shape"):
        return f"{argument.dtype} of shape {tuple(argument.shape)}"
    return f"{type(argument).__name__} {argument!r:.60}"


def _host_integers(argument: Any) -> bool:
    """Whether an argument is integers of Python or NumPy, perhaps wider than JAX keeps them."""
    return (
        isinstance(argument, (int, np.integer, np.ndarray))
        and np.asarray(argument).dtype.kind in "iu"
        and not isinstance(argument, bool)
    )


def _as_array(argument: Any) -> Array | None:
    """The argument as a JAX array, or None if it cannot be one."""
    if isinstance(argument, Array):
        return argument  # jnp.asarray would copy a traced one, for a pullback to hold.
    try:
        return jnp.asarray(argument)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_floating(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _is_integral(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == jnp.bool_
