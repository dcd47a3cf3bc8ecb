"""Checks of values, made by the running program when it is `checked` and absent when it is not."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.xla_metadata import set_xla_metadata

F = TypeVar("F", bound=Callable[..., Any])


class _Tracing(threading.local):
    """What the losses that this thread traces are to do."""

    active = False
    # The outermost loss alone reports: what it is made of would say the same in other words.
    loss: str | None = None
    relevant: Callable[[Array], Array] | None = None


_tracing = _Tracing()

# The complaints of the checked calls that are under way, the innermost last. Callbacks run on
# threads of XLA's, so the lists are those of the process and one thread at a time fills them.
_found: list[list[str]] = []
_one_at_a_time = threading.RLock()


def checked(function: F) -> F:
    """A function that raises where a loss inside it is given a value that it should not be given.

    That is: a label that is no class, a probability outside [0, 1] or a distribution that does not
    sum to 1 (to the square root of its precision), a sign other than 1 and -1, any NaN. What is
    masked, or weighs 0, is not looked at. The message says which loss, which argument, the first
    value of the kind and its index: under `vmap` that within the mapped example.

    `function` is a loss, combined or reduced, or a whole training step; what it does inside may be
    under `jit`, `vmap`, `grad`, `scan` and `shard_map`. A program that is not checked has no trace
    of the checks.

    Args:
        function: any function that calls losses.

    Returns:
        A function of the same arguments and results, which waits for its results.

    Raises:
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

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        complaints: list[str] = []
        with _one_at_a_time, _checking(), _collecting(complaints):
            output = function(*args, **kwargs)
            jax.effects_barrier()
        if complaints:
            raise ValueError(complaints[0])
        return output

    return run  # type: ignore[return-value]


@contextlib.contextmanager
def _checking() -> Iterator[None]:
    # The tag is part of what jit caches by, so that a function traced before without checks is
    # traced again; XLA ignores it.
    with _set(active=True), set_xla_metadata(jaxloss="checked"):
        yield


@contextlib.contextmanager
def _collecting(complaints: list[str]) -> Iterator[None]:
    _found.append(complaints)
    try:
        yield
    finally:
        _found.pop()


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
    if not _tracing.active or _tracing.loss is not None:
        yield
    else:
        with _set(loss=loss):
            yield


@contextlib.contextmanager
def only(relevant: Callable[[Array], Array]) -> Iterator[None]:
    """Report only what is left of the offending entries, a boolean array, by `relevant`."""
    with _set(relevant=relevant):
        yield


def active() -> bool:
    """Whether a checked function is being traced or run by this thread."""
    return _tracing.active


def report(
    function: str,
    argument: str,
    values: Array,
    offending: Callable[[Array], Array],
    expected: str,
    advice: str,
) -> None:
    """Have a checked program say which of the values is the first to be offending, if any is."""
    if not _tracing.active or _tracing.loss not in (None, function) or not values.size:
        return
    bad = offending(values)
    if _tracing.relevant is not None:
        bad = _tracing.relevant(bad)
    index = jnp.argmax(bad)
    where = (function, argument, expected, advice, values.shape)
    jax.debug.callback(
        functools.partial(_receive, *where),
        bad.reshape(-1)[index],
        index,
        values.reshape(-1)[index],
    )


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
    summands = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    sums = jnp.sum(jnp.exp(summands) if logs else summands, axis)
    tolerance = math.sqrt(jnp.finfo(array.dtype).eps)
    report(
        function,
        name,
        sums,
        lambda sums: jnp.abs(sums - 1) > tolerance,
        f"{kind} sum to 1 over axis {axis}",
        f"of scores take jax.nn.{'log_softmax' if logs else 'softmax'}",
    )


def classes(
    function: str, labels: Array, size: int, among: Array | bool = True, *, but: int | None = None
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
        "leave such examples out, with jaxloss.masked or jaxloss.ignoring",
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
    if not _found:
        raise ValueError(message)
    _found[-1].append(message)
