"""Losses in, losses out: weights, masks and reductions as one small algebra.

A loss gives one value per example and never reduces. A combinator takes a loss and gives a loss
with one more keyword; a reduction ends the chain:

    mean(masked(weighted(cross_entropy)))(logits, labels, weights=..., where=...)

A combinator only rewrites inputs and says what each example weighs; the losses are touched once, at
the end. So the order of combinators does not matter, and a mean divides once.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxloss import _check

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

    def total(self, *, axis: Axis = None, axis_name: AxisName = None) -> Weighted:
        """The pair of sums over array axes (all by default) and over named mesh or `vmap` axes."""
        pair = Weighted(jnp.sum(self.losses, axis), jnp.sum(self.weights, axis))
        if axis_name is None:
            return pair
        # One by one: JAX 0.7 cannot transpose a psum of two of which only one is differentiated.
        return jax.tree.map(lambda sums: jax.lax.psum(sums, axis_name), pair)

    def mean(self, *, axis: Axis = None, axis_name: AxisName = None) -> Float[Array, "..."]:
        """Sum of losses over sum of weights; 0, with gradient 0, when nothing was weighed."""
        pair = self.total(axis=axis, axis_name=axis_name)
        nothing = pair.weights == 0
        return jnp.where(nothing, 0, pair.losses / jnp.where(nothing, 1, pair.weights))


Loss = Callable[..., Any]  # an array of losses, or a Weighted


class _Call(NamedTuple):
    """A call on its way to the loss: its inputs, and what its examples weigh so far."""

    arrays: tuple[Any, ...]
    options: dict[str, Any]
    weights: Array | None = None
    where: Array | None = None


class _Combined:
    """A loss with one more keyword, whose value rewrites the call."""

    def __init__(
        self, name: str, loss: Loss, keyword: str, rewrite: Callable[[str, _Call, Any], _Call]
    ) -> None:
        if not callable(loss):
            raise TypeError(
                f"{name}: takes a loss, a function of predictions and targets, got "
                f"{_check.describe(loss)}; write {name}(loss)(predictions, targets, {keyword}=...)."
            )
        if keyword in _keywords(loss):
            raise TypeError(f"{name}: {_name(loss)} takes {keyword}= already.")
        self.__name__ = f"{name}({_name(loss)})"
        self.__doc__ = f"`{_name(loss)}` with the keyword `{keyword}`; gives a `Weighted`."
        self.loss, self.keyword, self.rewrite = loss, keyword, rewrite

    def __call__(self, *arrays: Any, **options: Any) -> Weighted:
        return _evaluate(self, arrays, options)

    def __repr__(self) -> str:
        return self.__name__

    def unwrap(self, call: _Call) -> tuple[Loss, _Call]:
        if self.keyword not in call.options:
            raise TypeError(
                f"{self.__name__}: the keyword {self.keyword}= is missing, got "
                f"{', '.join(call.options) or 'no keyword'}."
            )
        options = dict(call.options)
        value = options.pop(self.keyword)
        return self.loss, self.rewrite(self.__name__, call._replace(options=options), value)


def _name(loss: Any) -> str:
    loss = loss.func if isinstance(loss, functools.partial) else loss
    return getattr(loss, "__name__", type(loss).__name__)


def _keywords(loss: Loss) -> list[str]:
    """What the combinators around a loss have added."""
    return [loss.keyword, *_keywords(loss.loss)] if isinstance(loss, _Combined) else []


def _parameters(loss: Loss) -> Mapping[str, inspect.Parameter]:
    """The parameters of the loss inside its combinators, if it tells."""
    while isinstance(loss, _Combined):
        loss = loss.loss
    try:
        return inspect.signature(loss).parameters
    except ValueError:
        return {}


def _reduced_axes(loss: Loss, options: dict[str, Any]) -> tuple[int, ...]:
    """The loss's `axis` or `axes`, from the call or its signature, functools.partial's included."""
    parameters = _parameters(loss)
    for name in ("axis", "axes"):
        parameter = parameters.get(name)
        value: Any = options.get(name, parameter.default if parameter else None)
        if hasattr(value, "__index__"):
            return (operator.index(value),)
        if isinstance(value, Sequence):
            return tuple(operator.index(axis) for axis in value)
    return ()


def _evaluate(loss: Loss, arrays: tuple[Any, ...], options: dict[str, Any]) -> Weighted:
    """Unwrap the combinators from the outside in, then call the loss once."""
    name, call = _name(loss), _Call(arrays, options)
    while isinstance(loss, _Combined):
        loss, call = loss.unwrap(call)
    [losses] = _check.real_arrays(name, losses=loss(*call.arrays, **call.options))
    losses = losses.astype(_check.wide(losses))
    for keyword, array in (("weights", call.weights), ("where", call.where)):
        if array is not None and array.shape != losses.shape:
            raise ValueError(
                f"{name}: {keyword} must have the shape of the losses, {losses.shape}, got "
                f"{array.shape}; nothing is broadcast: use jnp.broadcast_to."
            )
    weights = jnp.ones_like(losses) if call.weights is None else call.weights.astype(losses.dtype)
    losses = losses if call.weights is None else weights * losses
    if call.where is not None:
        # The other half of the mask, see masked.
        losses, weights = jnp.where(call.where, losses, 0), jnp.where(call.where, weights, 0)
    return Weighted(losses, weights)


def weighted(loss: Loss) -> Loss:
    r"""A loss that takes `weights=`, one for each of its values.

    $$w_n \ell_n \quad\text{beside}\quad w_n$$

    `mean(weighted(loss))` divides by the sum of the weights, whatever PyTorch's loss divides by.
    Gradient: with respect to the weights too, so that they can be learned.

    Args:
        loss: a loss, combined or not.

    Returns:
        A loss that gives a `Weighted`; `weights` are real, of the shape of the losses.

    Raises:
        TypeError: `weights` are missing or not real. Raised by the call.
        ValueError: their shape is not that of the losses. Raised by the call.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.mean(jaxloss.weighted(jaxloss.squared_error))
        >>> loss(jnp.array([1.0, 3.0]), jnp.zeros(2), weights=jnp.array([3.0, 1.0]))
        Array(3., dtype=float32)
    """

    def rewrite(function: str, call: _Call, weights: ArrayLike) -> _Call:
        [factors] = _check.real_arrays(function, weights=weights)
        return call._replace(weights=factors)

    return _Combined("weighted", loss, "weights", rewrite)


def masked(loss: Loss) -> Loss:
    r"""A loss that takes `where=`, and is as if the examples where it is False were not there.

    What is masked reaches neither value, gradient nor tangent, NaN and infinities included: inputs
    are replaced by 0 before the loss sees them, and its losses by 0 after. Gradient with respect to
    a masked input: 0.

    Args:
        loss: a loss, combined or not. Its positional arguments are arrays, or pytrees of arrays,
            with the axes of the losses first, or with more where the loss's parameter `axis` or
            `axes` says. A loss with a parameter `axis_name` compares the examples of a batch with
            each other and cannot be masked.

    Returns:
        A loss that gives a `Weighted`; `where` is boolean, of the shape of the losses.

    Raises:
        TypeError: the loss compares examples. `where` is missing or not boolean; raised by the
            call.
        ValueError: its shape is not that of the losses. Raised by the call.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.mean(jaxloss.masked(jaxloss.squared_error))
        >>> loss(jnp.array([1.0, jnp.nan]), jnp.zeros(2), where=jnp.array([True, False]))
        Array(1., dtype=float32)
    """
    if "axis_name" in _parameters(loss):
        raise TypeError(
            f"masked: {_name(loss)} compares the examples of a batch with each other, and a masked "
            f"one would still be compared with; leave it out of the batch."
        )

    def rewrite(function: str, call: _Call, where: ArrayLike) -> _Call:
        mask = _check.mask(function, where=where)
        axes = _reduced_axes(loss, call.options)
        for name, parameter in _parameters(loss).items():
            positional = parameter.kind is not parameter.KEYWORD_ONLY
            if name in call.options and parameter.default is parameter.empty and positional:
                raise TypeError(
                    f"{function}: {name} must be passed by position, got it as a keyword, where a "
                    f"mask would not reach it."
                )

        def without_masked(array: ArrayLike) -> Array:
            # The selection cuts both ways: a masked input's cotangent, NaN perhaps, is dropped, and
            # its tangent is 0; the selection of the losses in _evaluate does the same behind the
            # loss.
            array = _check.exact_array(function, array)
            aligned = _check.aligned(function, mask, array, axes)
            return jnp.where(aligned, array, jnp.zeros((), array.dtype))

        arrays = jax.tree.map(without_masked, call.arrays)
        return call._replace(arrays=arrays, where=mask)

    return _Combined("masked", loss, "where", rewrite)


def pooled(loss: Loss, *, axis: Axis = None, axis_name: AxisName = None) -> Callable[..., Weighted]:
    """The sums of a batch's losses and weights, a `Weighted`, for who finishes the mean later.

    Args:
        loss: a loss, combined or not.
        axis: the axes of the losses to sum; all by default.
        axis_name: mesh or `vmap` axes to sum over too, inside `shard_map`, `pmap` or `vmap`.

    Returns:
        A function of the loss's arguments. Its results pool by `+`, and `.mean()` finishes them.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.pooled(jaxloss.squared_error)(jnp.array([1.0, 3.0]), jnp.zeros(2))
        Weighted(losses=Array(10., dtype=float32), weights=Array(2., dtype=float32))
    """
    return _reduction("pooled", loss, lambda pair: pair.total(axis=axis, axis_name=axis_name))


def mean(loss: Loss, *, axis: Axis = None, axis_name: AxisName = None) -> Callable[..., Array]:
    r"""The mean of a batch's losses: the sum of the weighed losses over the sum of the weights.

    $$\sum_n w_n \ell_n \Big/ \sum_n w_n$$

    Weights are 1 unless the loss is `weighted` or `masked`. Of an empty batch, or when nothing was
    weighed, the mean is 0 with gradient 0.

    Args:
        loss: a loss, combined or not.
        axis: the axes of the losses to average; all by default.
        axis_name: mesh or `vmap` axes to average over too, inside `shard_map`, `pmap` or `vmap`:
            shards may be of unequal weight, their mean is that of the whole.

    Returns:
        A function of the loss's arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.mean(jaxloss.squared_error)(jnp.array([1.0, 3.0]), jnp.zeros(2))
        Array(5., dtype=float32)
    """
    return _reduction("mean", loss, lambda pair: pair.mean(axis=axis, axis_name=axis_name))


def sum(loss: Loss, *, axis: Axis = None, axis_name: AxisName = None) -> Callable[..., Array]:
    """The sum of a batch's losses, each times its weight.

    Args:
        loss: a loss, combined or not.
        axis: the axes of the losses to sum; all by default.
        axis_name: mesh or `vmap` axes to sum over too, inside `shard_map`, `pmap` or `vmap`.

    Returns:
        A function of the loss's arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.sum(jaxloss.squared_error)(jnp.array([1.0, 3.0]), jnp.zeros(2))
        Array(10., dtype=float32)
    """
    return _reduction("sum", loss, lambda pair: pair.total(axis=axis, axis_name=axis_name).losses)


def _reduction(name: str, loss: Loss, finish: Callable[[Weighted], Any]) -> Callable[..., Any]:
    if not callable(loss):
        raise TypeError(
            f"{name}: takes a loss, a function of predictions and targets, got "
            f"{_check.describe(loss)}; write jaxloss.{name}(loss)(predictions, targets)."
        )

    def reduced(*arrays: Any, **options: Any) -> Any:
        return finish(_evaluate(loss, arrays, options))

    reduced.__name__ = reduced.__qualname__ = f"{name}({_name(loss)})"
    reduced.__doc__ = f"The {name} of `{_name(loss)}` over a batch."
    return reduced
