"""Checks of values, made by the running program when it is `checked` and absent when it is not."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.xla_metadata import set_xla_metadata

F = TypeVar("F", bound=Callable[..., Any])


# What stands for a masked value: in [0, 1], where few functions of one argument are singular.
FILL = 0.618


class _Tracing(threading.local):
    """What the losses that this thread traces are to do."""

    # The number of the checked function that they belong to.
    owner: int | None = None
    # The outermost loss alone reports: what it is made of would say the same in other words.
    loss: str | None = None


_tracing = _Tracing()
_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_count = itertools.count()
# By number, the complaints of the call that is under way; callbacks run on threads of XLA's.
_complaints: dict[int, list[str]] = {}


def checked(function: F) -> F:
    """A function that raises where a loss inside it is given a value that it should not be given.

    That is: a label that is no class, a probability outside [0, 1] or a distribution that does not
    sum to 1 (to the square root of its precision), a sign other than 1 and -1, any NaN. What is
    masked, or weighs 0, is not looked at. The message says which loss, which argument, the first
    value of the kind and its index: under `vmap` that within a mapped example, any of those that
    have one, and in a loop that within a step.

    `function` is a loss, combined or reduced, or a whole training step; what it does inside may be
    under `jit`, `vmap`, `grad`, `scan` and `shard_map`. Losses that it has other threads call are
    not looked at. A program that is not checked has no trace of the checks.

    Args:
        function: any function that calls losses, not yet compiled.

    Returns:
        A function of the same arguments and results, which waits for its results.

    Raises:
        TypeError: there is no function, or only its compiled program.
        ValueError: there is such a value. Raised by the call; around it `jit` makes that a
            `jax.errors.JaxRuntimeError`, which ends with the same message.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.checked(jaxloss.mean(jaxloss.cross_entropy))
        >>> loss(jnp.zeros((2, 3)), jnp.array([0, 3]))  # doctest: +NORMALIZE_WHITESPACE
        Traceback (most recent call last):
        ValueError: cross_entropy: labels must be classes from 0 to 2, got 3 at index (1,); leave
        such examples out, with jaxloss.masked or jaxloss.ignoring.
    """
    if not callable(function) or isinstance(function, jax.stages.Compiled):
        raise TypeError(
            f"checked: takes a function that calls losses, not its result or its compiled program, "
            f"got {type(function).__name__}; write jaxloss.checked(function)(...)."
        )
    return Checked(function)  # type: ignore[return-value]


class Checked:
    """What `checked` returns."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Number the function, the same each time that it is given."""
        functools.update_wrapper(self, function)
        self.function = function
        try:
            self.number = _numbers.setdefault(function, next(_count))
        except TypeError:  # Not to be had by a weak reference, or not hashable.
            self.number = next(_count)
        self.lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _tracing.owner is not None:
            return self.function(*args, **kwargs)  # What is around it reports.
        # One call of a function at a time, lest complaints be another call's.
        with self.lock, _collecting(self.number) as complaints:
            # The tag is part of what jit caches by, so that a function traced before without
            # checks is traced again, once; XLA ignores it.
            with _set(owner=self.number), set_xla_metadata(jaxloss=f"checked {self.number}"):
                output = self.function(*args, **kwargs)
            jax.effects_barrier()
        if complaints:
            raise ValueError(complaints[0])
        return output

    def __repr__(self) -> str:
        return f"checked({getattr(self.function, '__name__', self.function)})"


@contextlib.contextmanager
def _collecting(number: int) -> Iterator[list[str]]:
    complaints = _complaints[number] = []
    try:
        yield complaints
    finally:
        del _complaints[number]


@contextlib.contextmanager
def _set(**state: Any) -> Iterator[None]:
    before = {name: getattr(_tracing, name) for name in state}
    vars(_tracing).update(state)
    try:
        yield
    finally:
        vars(_tracing).update(before)


@contextlib.contextmanager
def within(loss: str) -> Iterator[None]:
    """Report for this loss, and not for what it calls."""
    if _tracing.owner is None or _tracing.loss is not None:
        yield
    else:
        with _set(loss=loss):
            yield


def harmless(array: Array, *, first: bool, rows: bool) -> Array:
    """A value to stand where an input is masked, that any loss takes without complaint.

    The losses there do not count, but what they are functions of may be shared by all examples, as
    a model's parameters are: an infinite derivative would reach those. So no 0, whose logarithm and
    norm are singular; the first input unlike the others, lest a distance be 0; and 1 for what may
    be a label, a sign or a binary target.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.ones((), array.dtype)
    return jnp.asarray(FILL if first else FILL / 2 if rows else 1.0, array.dtype)


def active() -> bool:
    """Whether a checked function is being traced or run by this thread."""
    return _tracing.owner is not None


def report(
    function: str,
    argument: str,
    values: Array,
    offending: Callable[[Array], Array],
    expected: str,
    advice: str,
) -> None:
    """Have a checked program say which of the values is the first to be offending, if any is."""
    if not active() or _tracing.loss not in (None, function) or not values.size:
        return
    bad = offending(values)
    index = jnp.argmax(bad)
    receive = functools.partial(
        _receive, _tracing.owner, function, argument, expected, advice, values.shape
    )
    jax.debug.callback(receive, bad.reshape(-1)[index], index, values.reshape(-1)[index])


def not_nan(function: str, name: str, array: Array, among: Array | bool = True) -> None:
    """Have a checked program look for NaN where `among` is True."""
    advice = "mask it out with jaxloss.masked, or look for where it comes from"
    report(function, name, array, lambda values: jnp.isnan(values) & among, "numbers", advice)


def probabilities(function: str, **arrays: Array) -> None:
    """Have a checked program look whether each number is a probability."""
    for name, array in arrays.items():
        report(
            function,
            name,
            array,
            lambda values: (values < 0) | (values > 1),
            "probabilities, in [0, 1]",
            "of scores take jax.nn.sigmoid or softmax",
        )


def distributions(function: str, axis: int, *, logs: bool = False, **arrays: Array) -> None:
    """Have a checked program look whether probabilities, or their logarithms, sum to 1."""
    if not active():
        return
    [(name, array)] = arrays.items()
    if not logs:
        probabilities(function, **arrays)
    kind = "log-probabilities whose exponentials" if logs else "probabilities that"
    # Summed in the precision that the losses compute in, judged by the one they were given in.
    summands = array.astype(jnp.float32) if array.dtype.itemsize < 4 else array
    sums = jnp.sum(jnp.exp(summands) if logs else summands, axis)
    # Rows that are masked, see harmless, in any precision.
    masked = jnp.zeros(sums.shape, bool)
    for fill in (FILL, FILL / 2):
        masked |= jnp.all(jnp.abs(summands - fill) < 0.004, axis)
    tolerance = math.sqrt(jnp.finfo(array.dtype).eps)
    report(
        function,
        name,
        sums,
        lambda sums: (jnp.abs(sums - 1) > tolerance) & ~masked,
        f"{kind} sum to 1 over axis {axis}",
        f"of scores take jax.nn.{'log_softmax' if logs else 'softmax'}",
    )


def classes(
    function: str,
    labels: Array,
    size: int,
    among: Array | bool = True,
    *,
    but: int | None = None,
    advice: str = "leave such examples out, with jaxloss.masked or jaxloss.ignoring",
) -> None:
    """Have a checked program look whether labels are classes, those where `among` is True."""

    def no_class(labels: Array) -> Array:
        outside = (labels < 0) | (labels >= size)
        return among & (outside if but is None else outside | (labels == but))

    report(
        function,
        "labels",
        labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels,  # So that size fits.
        no_class,
        f"classes from 0 to {size - 1}" + ("" if but is None else f" other than {but}"),
        advice,
    )


def lengths(function: str, longest: int, **arrays: Array) -> None:
    """Have a checked program look whether lengths are within that of what they are lengths of."""
    for name, array in arrays.items():
        report(
            function,
            name,
            array,
            lambda lengths: (lengths < 0) | (lengths > longest),
            f"lengths from 0 to {longest}",
            "count the entries of each example that are not padding",
        )


def _receive(
    owner: int | None,
    function: str,
    argument: str,
    expected: str,
    advice: str,
    shape: tuple[int, ...],
    bad: Any,
    index: Any,
    value: Any,
) -> None:
    if not bad:
        return
    position = tuple(map(int, np.unravel_index(int(index), shape)))
    place = f" at index {position}" if shape else ""
    message = f"{function}: {argument} must be {expected}, got {value}{place}; {advice}."
    if owner is None or owner not in _complaints:
        raise ValueError(message)
    _complaints[owner].append(message)
