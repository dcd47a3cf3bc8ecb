"""A call on its way through combinators, and the one place where weights and masks meet a loss.

A combinator touches no losses. It writes into a `Call` what each example weighs, and passes it on;
the loss is evaluated once, at the end. So the order of combinators does not matter.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss import _check, _checked, _options
from jaxloss._weighted import Components, Pair, Weighted

Loss = Callable[..., Any]  # an array of losses, or a Weighted


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

    def masking(self, keyword: str, where: Array) -> Call:
        """The call with another mask."""
        return self._replace(masks=(*self.masks, (keyword, where)))

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
        evaluate: Callable[[Call], Pair],
        *losses: Loss,
        keyword: str | None = None,
    ) -> None:
        """`evaluate` takes a call to its end; `keyword` is what the combinator adds."""
        for loss in losses:
            refuse_no_loss(name, loss)
            if keyword in keywords(loss):
                raise TypeError(f"{name}: {name_of(loss)} takes {keyword}= already.")
        self.__name__ = f"{name}({', '.join(map(name_of, losses))})"
        self.__doc__ = f"`{self.__name__}`, a loss whose values are a `Weighted`."
        self.losses, self.keyword, self.evaluate = losses, keyword, evaluate

    def __call__(self, *arrays: Any, **options: Any) -> Pair:
        return self.evaluate(Call(self.__name__, arrays, options))

    def __repr__(self) -> str:
        return self.__name__


class Reduced:
    """A loss at the end of its chain, reduced over the batch."""

    def __init__(self, name: str, loss: Loss, reduce: Callable[[Pair], Any]) -> None:
        """`reduce` takes all that the loss gives."""
        refuse_no_loss(name, loss)
        self.__name__ = f"{name}({name_of(loss)})"
        self.__doc__ = f"The {name} of `{name_of(loss)}` over a batch."
        self.loss, self.reduce = loss, reduce

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        return self.reduce(evaluate(self.loss, Call(name_of(self.loss), arrays, options)))

    def __repr__(self) -> str:
        return self.__name__


def name_of(loss: Any) -> str:
    """What errors call a loss."""
    loss = loss.func if isinstance(loss, functools.partial) else loss
    return getattr(loss, "__name__", type(loss).__name__)


def _inside(loss: Any) -> tuple[Any, dict[str, Any]]:
    """What is inside jit, checked and functools.partial, with the options that partial has bound.

    These change neither arguments nor shapes. Other wrappers may (vmap does), and stay closed.
    """
    bound: dict[str, Any] = {}
    while True:
        if isinstance(loss, functools.partial):
            loss, bound = loss.func, {**loss.keywords, **bound}
        elif isinstance(loss, _checked.Checked):
            loss = loss.function
        elif isinstance(loss, jax.stages.Wrapped):
            loss = loss.__wrapped__  # type: ignore[attr-defined]
        else:
            return loss, bound


def refuse_no_loss(name: str, loss: Any) -> None:
    """Raise unless it is a loss, and one that has not reduced its batch."""
    if not callable(loss):
        raise TypeError(
            f"{name}: takes a loss, a function of predictions and targets, got "
            f"{_check.describe(loss)}; write jaxloss.{name}(loss)(predictions, targets)."
        )
    if isinstance(_inside(loss)[0], Reduced):
        raise TypeError(
            f"{name}: takes a loss that is not reduced, got {name_of(loss)}; a reduction comes "
            f"last, around everything else."
        )


def keywords(loss: Loss) -> set[str]:
    """What the combinators around a loss have added, and nothing has bound."""
    loss, bound = _inside(loss)
    if not isinstance(loss, Combined):
        return set()
    inside = {keyword for part in loss.losses for keyword in keywords(part)}
    return (inside | ({loss.keyword} if loss.keyword else set())) - bound.keys()


def _parameters(loss: Loss) -> Mapping[str, inspect.Parameter]:
    """The parameters of a loss that no combinator made, if it tells."""
    loss, _ = _inside(loss)
    try:
        # A wrapper may hide another axis than the function that it wraps; the library's does not.
        return inspect.signature(loss, follow_wrapped=_check.is_loss(loss)).parameters
    except (TypeError, ValueError):
        return {}


def takes(loss: Loss, keyword: str) -> bool:
    """Whether a loss, combined or not, can be given a keyword."""
    inner, _ = _inside(loss)
    if isinstance(inner, Combined):
        return keyword in keywords(loss) or any(takes(part, keyword) for part in inner.losses)
    found = _parameters(inner)
    return keyword in found or any(p.kind is p.VAR_KEYWORD for p in found.values())


def compares(loss: Loss) -> bool:
    """Whether a loss compares the examples of a batch with each other."""
    inner, _ = _inside(loss)
    if isinstance(inner, Combined):
        return any(map(compares, inner.losses))
    return "axis_name" in _parameters(inner)


def _option(loss: Loss, options: dict[str, Any], name: str) -> Any:
    """An option's value from the call, from functools.partial or from the loss's signature."""
    _, bound = _inside(loss)
    parameter = _parameters(loss).get(name)
    return {**bound, **options}.get(name, parameter.default if parameter else None)


def _reduced_axes(loss: Loss, options: dict[str, Any]) -> tuple[int, ...]:
    for name in ("axis", "axes"):
        value = _option(loss, options, name)
        if hasattr(value, "__index__"):
            return (operator.index(value),)
        if isinstance(value, Sequence) and all(hasattr(axis, "__index__") for axis in value):
            return tuple(operator.index(axis) for axis in value)
    return ()


def evaluate(loss: Loss, call: Call) -> Pair:
    """Follow the combinators from the outside in, and weigh what the loss at the end gives."""
    if isinstance(loss, Combined):
        return loss.evaluate(call)
    call, divisor = _with_class_weights(loss, call)
    weights = [(keyword, _real(call.function, keyword, array)) for keyword, array in call.weights]
    masks = [*call.masks, *((keyword, array != 0) for keyword, array in weights)]
    where = _intersection(call.function, masks)
    arrays = call.arrays if where is None else _masked(loss, call, masks[0][0], where)
    if where is not None:
        for keyword, array in weights:
            _checked.not_nan(call.function, keyword, array, where)

    def weigh(pair: Weighted) -> Weighted:
        losses, mass = pair.losses, pair.weights
        if where is not None and where.shape != losses.shape:
            raise ValueError(
                f"{call.function}: {masks[0][0]} must have the shape of the losses, "
                f"{losses.shape}, got {where.shape}; nothing is broadcast: use jnp.broadcast_to; "
                f"and a loss must not reduce its batch."
            )
        for _, array in weights:
            losses, mass = (array.astype(losses.dtype) * factor for factor in (losses, mass))
        if divisor is not None:
            mass = divisor.astype(mass.dtype) * mass
        if where is not None:
            # The other half of the mask, see _masked.
            losses, mass = jnp.where(where, losses, 0), jnp.where(where, mass, 0)
        if call.factor is not None:
            losses = call.factor.astype(losses.dtype) * losses
        return Weighted(losses, mass)

    return _pair(call, loss(*arrays, **call.options)).weighed(weigh)


def _real(function: str, keyword: str, argument: ArrayLike) -> Array:
    # A weight may be NaN where it is masked, so that it is looked at later, see not_nan.
    with _checked.within("weights"):
        [array] = _check.real_arrays(function, **{keyword: argument})
    return array


def _with_class_weights(loss: Loss, call: Call) -> tuple[Call, Array | None]:
    """The class weights as weights; or as the loss's own option, with what a mean divides by.

    The loss weighs by itself where its target is a mixture of classes, each with its own weight:
    probabilities, and smoothed labels. Of labels, the divisor is the weight of the label's class.
    """
    if call.class_weights is None:
        return call, None
    if _option(loss, call.options, "class_weights") is not None:
        raise TypeError(f"{call.function}: class_weights are given twice, also to the loss itself.")
    targets, own = call.targets(), None
    mixed = takes(loss, "class_weights") and not _check.are_indices(call.function, targets)
    if not mixed:
        labels = _check.class_indices(call.function, targets)
        _refuse_other_classes(loss, call, labels)
        index, valid = _check.valid_index(labels, len(call.class_weights))
        own = jnp.where(valid, call.class_weights[index], jnp.nan)
        smoothing = _option(loss, call.options, "label_smoothing")
        if smoothing is None or _options.is_zero(smoothing):
            return call._replace(weights=(*call.weights, ("class_weights", own))), None
    return call._replace(options={**call.options, "class_weights": call.class_weights}), own


def _refuse_other_classes(loss: Loss, call: Call, labels: Array) -> None:
    """Raise where the scores have another number of classes than there are weights."""
    scores, weights = call.arrays[0], call.class_weights
    axes = _reduced_axes(loss, call.options)
    if weights is None or len(axes) != 1 or jnp.ndim(scores) != labels.ndim + 1:
        return
    classes = jnp.shape(scores)[axes[0]]
    if len(weights) != classes:
        raise ValueError(
            f"{call.function}: class_weights must have one weight for each of the {classes} "
            f"classes of an input of shape {jnp.shape(scores)}, got {weights.shape}."
        )


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


def _masked(loss: Loss, call: Call, keyword: str, where: Array) -> tuple[Any, ...]:
    """The inputs, with something harmless where they are masked."""
    if compares(loss):  # Those that weigh nothing are still compared with.
        return call.arrays
    for name, parameter in _parameters(loss).items():
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        if name in call.options and parameter.default is parameter.empty and positional:
            raise TypeError(
                f"{call.function}: {name} must be passed by position, got it as a keyword, where a "
                f"mask would not reach it."
            )
    axes = _reduced_axes(loss, call.options)
    places = itertools.count()

    def without_masked(argument: ArrayLike) -> Array:
        array = _check.exact_array(call.function, argument)
        aligned = _check.aligned(where, array, axes)
        if aligned is None:
            raise ValueError(
                f"{call.function}: {keyword} must have the shape of the losses, which an input of "
                f"shape {array.shape} does not begin with, got {where.shape}; squeeze or reshape "
                f"it; if the loss reduces another axis than the last ones, let it have a parameter "
                f"axis, and let it close over what is not of the batch."
            )
        # The selection cuts both ways: a masked input's cotangent, NaN perhaps, is dropped, and its
        # tangent is 0; the selection of the losses in evaluate does the same behind the loss.
        first, rows = next(places) == 0, array.ndim > where.ndim
        return jnp.where(aligned, array, _checked.harmless(array, first=first, rows=rows))

    return jax.tree.map(without_masked, call.arrays)


def _pair(call: Call, result: Any) -> Pair:
    """What the loss gave, each value weighing 1 unless it is weighed already."""
    if isinstance(result, (Weighted, Components)):
        return result.weighed(functools.partial(_wide, call.function))
    with _checked.within("losses"):  # The loss speaks for itself, and what is masked may be NaN.
        [losses] = _check.real_arrays(call.function, losses=result)
    if call.examples is not None and losses.shape[:1] != (call.examples,):
        raise ValueError(
            f"{call.function}: the loss must give one value for each of the {call.examples} "
            f"examples of a step, got losses of shape {losses.shape}; a loss must not reduce its "
            f"batch."
        )
    losses = losses.astype(_check.wide(losses))
    return Weighted(losses, jnp.ones_like(losses))


def _wide(function: str, pair: Weighted) -> Weighted:
    with _checked.within("losses"):
        losses, weights = _check.matched(function, losses=pair.losses, weights=pair.weights)
    return Weighted(losses, weights)
