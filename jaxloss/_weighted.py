"""A pair of sums, and the one place where weights and masks meet a loss.

A combinator touches no losses. It writes into a `Call` what each example weighs, and passes it on;
the loss is evaluated once, at the end. So the order of combinators does not matter.
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

from jaxloss import _check, _checked, _options

Axis = int | Sequence[int] | None
AxisName = Hashable | None
Loss = Callable[..., Any]  # an array of losses, or a Weighted


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["losses", "weights"], meta_fields=[]
)
@dataclass(frozen=True)
class Weighted:
    r"""Weighed losses beside their weights: all that a mean needs, before it is finished.

    `losses` holds $w_n \ell_n$ and `weights` holds $w_n$, for each example or summed over many. The
    sums of two batches, microbatches or shards pool by `+`; the mean of the whole is their
    quotient, finished once. A mean of means is not that mean.

    A pytree, so it passes through `jit`, `grad`, `scan` and `psum`. Of a `weighted_sum` both are
    dictionaries, with an array for each component.

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
        mine, others = (jax.tree.map(jnp.shape, pair.losses) for pair in (self, other))
        if mine != others:
            raise ValueError(
                f"Weighted: both sides of + must have the same shape, got {mine} and {others}; sum "
                f"each first, with .total() or jaxloss.pooled."
            )
        return jax.tree.map(operator.add, self, other)

    def total(self, *, axis: Axis = None, axis_name: AxisName = None) -> Weighted:
        """The pair of sums over array axes (all by default) and over named mesh or `vmap` axes."""
        pair = jax.tree.map(lambda array: jnp.sum(array, axis), self)
        if axis_name is None:
            return pair
        # One by one: JAX 0.7 cannot transpose a psum of two of which only one is differentiated.
        return jax.tree.map(lambda sums: jax.lax.psum(sums, axis_name), pair)

    def mean(self, *, axis: Axis = None, axis_name: AxisName = None) -> Any:
        """Sum of losses over sum of weights; 0, with gradient 0, when nothing was weighed."""
        pair = self.total(axis=axis, axis_name=axis_name)
        return jax.tree.map(quotient, pair.losses, pair.weights)


def quotient(losses: Array, weights: Array) -> Array:
    """The mean that two sums make, 0 with gradient 0 where nothing was weighed."""
    nothing = weights == 0
    return jnp.where(nothing, 0, losses / jnp.where(nothing, 1, weights))


class Call(NamedTuple):
    """A call on its way to the loss: its inputs, and what its examples weigh so far."""

    function: str
    arrays: tuple[Any, ...]
    options: dict[str, Any]
    # Arrays of the losses' shape, each beside what an error calls it.
    masks: tuple[tuple[str, Array], ...] = ()
    weights: tuple[tuple[str, ArrayLike], ...] = ()
    class_weights: Array | None = None
    factor: Array | None = None
    # The length that the losses' first axis must have, where that matters.
    examples: int | None = None

    def taking(self, keyword: str) -> tuple[Any, Call]:
        """The value of a combinator's keyword, and the call without it."""
        if keyword not in self.options:
            raise TypeError(
                f"{self.function}: the keyword {keyword}= is missing, got "
                f"{', '.join(self.options) or 'no keyword'}."
            )
        options = dict(self.options)
        value = options.pop(keyword)
        return value, self._replace(options=options)

    def targets(self) -> Any:
        """What a loss takes second: its labels or targets."""
        if len(self.arrays) < 2:
            raise TypeError(
                f"{self.function}: the labels must be the second positional argument, got "
                f"{len(self.arrays)} positional arguments; pass them by position."
            )
        return self.arrays[1]


class Combined:
    """A loss that a combinator made of others."""

    def __init__(
        self,
        name: str,
        evaluate: Callable[[Call], Weighted],
        *losses: Loss,
        keyword: str | None = None,
        finish: Callable[[Any], Any] | None = None,
    ) -> None:
        """`evaluate` takes a call to the end; `finish` says what becomes of the reduced losses."""
        for loss in losses:
            refuse_no_loss(name, loss)
            if keyword in keywords(loss):
                raise TypeError(f"{name}: {name_of(loss)} takes {keyword}= already.")
        self.__name__ = f"{name}({', '.join(map(name_of, losses))})"
        self.__doc__ = f"`{self.__name__}`, a loss whose values are a `Weighted`."
        self.losses, self.keyword, self.evaluate = losses, keyword, evaluate
        self.finish = finish or functools.partial(finished, *losses)

    def __call__(self, *arrays: Any, **options: Any) -> Weighted:
        return self.evaluate(Call(self.__name__, arrays, options))

    def __repr__(self) -> str:
        return self.__name__


class Reduced:
    """A loss at the end of its chain, reduced over the batch."""

    def __init__(self, name: str, loss: Loss, reduce: Callable[[Weighted], Any]) -> None:
        """`reduce` takes all that the loss gives."""
        refuse_no_loss(name, loss)
        self.__name__ = f"{name}({name_of(loss)})"
        self.__doc__ = f"The {name} of `{name_of(loss)}` over a batch."
        self.loss, self.reduce = loss, reduce

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        call = Call(name_of(self.loss), arrays, options)
        reduced = self.reduce(evaluate(self.loss, call))
        return reduced if isinstance(reduced, Weighted) else finished(self.loss, reduced)

    def __repr__(self) -> str:
        return self.__name__


def name_of(loss: Any) -> str:
    """What errors call a loss."""
    loss = loss.func if isinstance(loss, functools.partial) else loss
    return getattr(loss, "__name__", type(loss).__name__)


def _made_here(loss: Loss) -> Loss:
    """What a combinator made, also inside `checked` or `jit`; any other loss as it is."""
    inner = inspect.unwrap(loss)
    return inner if isinstance(inner, (Combined, Reduced)) else loss


def refuse_no_loss(name: str, loss: Any) -> None:
    """Raise unless it is a loss, and one that has not reduced its batch."""
    if not callable(loss):
        raise TypeError(
            f"{name}: takes a loss, a function of predictions and targets, got "
            f"{_check.describe(loss)}; write jaxloss.{name}(loss)(predictions, targets)."
        )
    if isinstance(_made_here(loss), Reduced):
        raise TypeError(
            f"{name}: takes a loss that is not reduced, got {name_of(loss)}; a reduction comes "
            f"last, around everything else."
        )


def keywords(loss: Loss) -> list[str]:
    """What the combinators around a loss have added."""
    loss = _made_here(loss)
    if not isinstance(loss, Combined):
        return []
    inside = [keyword for part in loss.losses for keyword in keywords(part)]
    return inside if loss.keyword is None else [loss.keyword, *inside]


def parameters(loss: Loss) -> Mapping[str, inspect.Parameter]:
    """The parameters of what is inside the combinators, if it tells."""
    loss = _made_here(loss)
    if isinstance(loss, Combined):
        return {name: p for part in loss.losses for name, p in parameters(part).items()}
    try:
        return inspect.signature(loss).parameters
    except ValueError:
        return {}


def compares(loss: Loss) -> bool:
    """Whether a loss compares the examples of a batch with each other."""
    return "axis_name" in parameters(loss)


def _option(loss: Loss, options: dict[str, Any], name: str) -> Any:
    """An option's value from the call or the loss's signature, functools.partial's included."""
    parameter = parameters(loss).get(name)
    return options.get(name, parameter.default if parameter else None)


def _reduced_axes(loss: Loss, options: dict[str, Any]) -> tuple[int, ...]:
    for name in ("axis", "axes"):
        value = _option(loss, options, name)
        if hasattr(value, "__index__"):
            return (operator.index(value),)
        if isinstance(value, Sequence):
            return tuple(operator.index(axis) for axis in value)
    return ()


def finished(loss: Loss, reduced: Any) -> Any:
    """What becomes of the reduced losses: of a `weighted_sum`, a total and its components."""
    loss = _made_here(loss)
    return loss.finish(reduced) if isinstance(loss, Combined) else reduced


def evaluate(loss: Loss, call: Call) -> Weighted:
    """Follow the combinators from the outside in, and weigh what the loss at the end gives."""
    if isinstance(loss, Combined):
        return loss.evaluate(call)
    call, divisor = _with_class_weights(loss, call)
    weights = [(keyword, _real(call.function, keyword, array)) for keyword, array in call.weights]
    masks = [*call.masks, *((keyword, array != 0) for keyword, array in weights)]
    where = _intersection(call.function, masks)
    pair = _pair(loss, call) if where is None else _unmasked(loss, call, masks[0][0], where)

    def weigh(losses: Array, mass: Array) -> tuple[Array, Array]:
        if where is not None and where.shape != losses.shape:
            raise ValueError(
                f"{call.function}: {masks[0][0]} must have the shape of the losses, "
                f"{losses.shape}, got {where.shape}; nothing is broadcast: use jnp.broadcast_to."
            )
        for _, array in weights:
            losses, mass = (array.astype(losses.dtype) * factor for factor in (losses, mass))
        if divisor is not None:
            mass = divisor.astype(mass.dtype) * mass
        if where is not None:
            # The other half of the mask, see _unmasked.
            losses, mass = jnp.where(where, losses, 0), jnp.where(where, mass, 0)
        if call.factor is not None:
            losses = call.factor.astype(losses.dtype) * losses
        return losses, mass

    both = jax.tree.map(weigh, pair.losses, pair.weights)
    return Weighted(*jax.tree.transpose(jax.tree.structure(pair.losses), None, both))


def _real(function: str, keyword: str, argument: ArrayLike) -> Array:
    # Not looked at when checked: what is masked may be anything.
    with _checked.only(jnp.zeros_like):
        [array] = _check.real_arrays(function, **{keyword: argument})
    return array


def _with_class_weights(loss: Loss, call: Call) -> tuple[Call, Array | None]:
    """The class weights as weights; or as the loss's own option, with what a mean divides by.

    The loss weighs by itself where its target is a mixture of classes, each with its own weight:
    probabilities, and smoothed labels. Of labels, the divisor is the weight of the label's class.
    """
    if call.class_weights is None:
        return call, None
    targets, own = call.targets(), None
    mixed = "class_weights" in parameters(loss) and not _check.are_indices(call.function, targets)
    if not mixed:
        labels = _check.class_indices(call.function, targets)
        index, valid = _check.valid_index(labels, len(call.class_weights))
        own = jnp.where(valid, call.class_weights[index], jnp.nan)
        smoothing = _option(loss, call.options, "label_smoothing")
        if smoothing is None or _options.is_zero(smoothing):
            return call._replace(weights=(*call.weights, ("class_weights", own))), None
    if _option(loss, call.options, "class_weights") is not None:
        raise TypeError(f"{call.function}: class_weights are given twice, also to the loss itself.")
    return call._replace(options={**call.options, "class_weights": call.class_weights}), own


def _intersection(function: str, masks: Sequence[tuple[str, Array]]) -> Array | None:
    where = None
    for keyword, mask in masks:
        if where is not None and mask.shape != where.shape:
            raise ValueError(
                f"{function}: {masks[0][0]} and {keyword} must have the same shape, that of the "
                f"losses, got {where.shape} and {mask.shape}."
            )
        where = mask if where is None else where & mask
    return where


def _unmasked(loss: Loss, call: Call, keyword: str, where: Array) -> Weighted:
    """The losses of inputs that are 0 where masked."""
    if compares(loss):  # Those that weigh nothing are still compared with.
        return _pair(loss, call)
    for name, parameter in parameters(loss).items():
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        if name in call.options and parameter.default is parameter.empty and positional:
            raise TypeError(
                f"{call.function}: {name} must be passed by position, got it as a keyword, where a "
                f"mask would not reach it."
            )
    axes = _reduced_axes(loss, call.options)

    def without_masked(array: ArrayLike) -> Array:
        # The selection cuts both ways: a masked input's cotangent, NaN perhaps, is dropped, and its
        # tangent is 0; the selection of the losses in evaluate does the same behind the loss.
        array = _check.exact_array(call.function, array)
        aligned = _check.aligned(where, array, axes)
        if aligned is None:
            raise ValueError(
                f"{call.function}: {keyword} must have the shape of the losses, which an input of "
                f"shape {array.shape} does not begin with, got {where.shape}; if the loss reduces "
                f"another axis than the last ones, let it have a parameter axis, and let it close "
                f"over what is not of the batch."
            )
        return jnp.where(aligned, array, jnp.zeros((), array.dtype))

    def relevant(offending: Array) -> Array:
        aligned = _check.aligned(where, offending, axes)
        return offending if aligned is None else offending & aligned

    with _checked.only(relevant):
        return _pair(loss, call._replace(arrays=jax.tree.map(without_masked, call.arrays)))


def _pair(loss: Loss, call: Call) -> Weighted:
    """What the loss gives, each value weighing 1 unless it is a `Weighted` already."""
    result = loss(*call.arrays, **call.options)
    if isinstance(result, Weighted):
        return result
    [losses] = _check.real_arrays(call.function, losses=result)
    if call.examples is not None and losses.shape[:1] != (call.examples,):
        raise ValueError(
            f"{call.function}: the loss must give one value for each of the {call.examples} "
            f"examples of a step, got losses of shape {losses.shape}; a loss must not reduce its "
            f"batch."
        )
    losses = losses.astype(_check.wide(losses))
    return Weighted(losses, jnp.ones_like(losses))
