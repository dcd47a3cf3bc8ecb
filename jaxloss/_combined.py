"""Losses that combinators made, calls on their way to them, and what a loss tells of itself.

A combinator touches no losses. It writes into a `Call` what each example weighs, and passes it on;
the loss is evaluated once, at the end. So the order of combinators does not matter.
"""

from __future__ import annotations

import functools
import inspect
import operator
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.typing import ArrayLike

from jaxloss import _check, _checked
from jaxloss._weighted import Axis, AxisName

Loss = Callable[..., Any]  # an array of losses, or a Weighted


class Traits(NamedTuple):
    """What a loss says of itself whose arguments are not all of the batch."""

    shared: frozenset[str]
    classes: Callable[..., int | None]
    total: Callable[..., Array] | None


_traits: weakref.WeakKeyDictionary[Loss, Traits] = weakref.WeakKeyDictionary()


def shares(
    loss: Loss,
    arguments: set[str],
    *,
    classes: Callable[..., int | None],
    total: Callable[..., Array] | None = None,
) -> None:
    """Say which arguments all examples share: no mask reaches them, and no step splits them.

    `classes(*arguments, **options)` is how many classes there are, if that can be told, and
    `total(weights, *arguments, **options)` the sum of the weighed losses, for a loss that does
    better when it knows the weights beforehand.
    """
    _traits[loss] = Traits(frozenset(arguments), classes, total)


class Reduction(NamedTuple):
    """How a chain of combinators ends."""

    method: str  # of what the loss gives: mean, sum or total
    axis: Axis = None
    axis_name: AxisName = None


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
    # What will be made of the losses, where that is known.
    reduction: Reduction | None = None

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


class Combined:
    """A loss that a combinator made of others."""

    def __init__(
        self,
        name: str,
        evaluate: Callable[[Call], Any],
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

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        return self.evaluate(Call(self.__name__, arrays, options))

    def __repr__(self) -> str:
        return self.__name__


class Reduced:
    """A loss at the end of its chain, reduced over the batch."""

    def __init__(
        self, name: str, loss: Loss, evaluate: Callable[[Loss, Call], Any], reduction: Reduction
    ) -> None:
        """`evaluate` takes a call to its end, and `reduction` all that it gives."""
        refuse_no_loss(name, loss)
        self.__name__ = f"{name}({name_of(loss)})"
        self.__doc__ = f"The {name} of `{name_of(loss)}` over a batch."
        self.loss, self.evaluate, self.reduction = loss, evaluate, reduction

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        method, axis, axis_name = self.reduction
        call = Call(name_of(self.loss), arrays, options, reduction=self.reduction)
        return getattr(self.evaluate(self.loss, call), method)(axis=axis, axis_name=axis_name)

    def __repr__(self) -> str:
        return self.__name__


def name_of(loss: Any) -> str:
    """What errors call a loss."""
    loss = loss.func if isinstance(loss, functools.partial) else loss
    return getattr(loss, "__name__", type(loss).__name__)


def _layers(loss: Any) -> Iterator[Any]:
    """A loss, and what is inside it as long as that is wrapped in jit, checked or partial.

    These change neither arguments nor shapes. Other wrappers may (vmap does), and stay closed.
    """
    while True:
        yield loss
        if isinstance(loss, functools.partial):
            loss = loss.func
        elif isinstance(loss, _checked.Checked):
            loss = loss.function
        elif isinstance(loss, jax.stages.Wrapped):
            loss = loss.__wrapped__  # type: ignore[attr-defined]
        else:
            return


def inside(loss: Any) -> tuple[Any, dict[str, Any]]:
    """What is inside jit, checked and partial, with the options that partial has bound."""
    bound: dict[str, Any] = {}
    for layer in _layers(loss):
        if isinstance(layer, functools.partial):
            bound = {**layer.keywords, **bound}
    return layer, bound


def crosses_checked(loss: Loss) -> bool:
    """Whether something `checked` is around what `inside` finds."""
    return any(isinstance(layer, _checked.Checked) for layer in _layers(loss))


def binds_arrays(loss: Loss) -> bool:
    """Whether a partial has taken positional arguments away."""
    return any(isinstance(layer, functools.partial) and layer.args for layer in _layers(loss))


def refuse_no_loss(name: str, loss: Any) -> None:
    """Raise unless it is a loss, and one that has not reduced its batch."""
    if not callable(loss):
        raise TypeError(
            f"{name}: takes a loss, a function of predictions and targets, got "
            f"{_check.describe(loss)}; write jaxloss.{name}(loss)(predictions, targets)."
        )
    if isinstance(inside(loss)[0], Reduced):
        raise TypeError(
            f"{name}: takes a loss that is not reduced, got {name_of(loss)}; a reduction comes "
            f"last, around everything else."
        )


def keywords(loss: Loss) -> set[str]:
    """What the combinators around a loss have added, and nothing has bound."""
    loss, bound = inside(loss)
    if not isinstance(loss, Combined):
        return set()
    added = {keyword for part in loss.losses for keyword in keywords(part)}
    return (added | ({loss.keyword} if loss.keyword else set())) - bound.keys()


def parameters_of(loss: Loss) -> Mapping[str, inspect.Parameter]:
    """The parameters of a loss that no combinator made, if it tells."""
    loss, _ = inside(loss)
    try:
        # A wrapper may hide another axis than the function that it wraps; the library's does not.
        return inspect.signature(loss, follow_wrapped=_check.is_loss(loss)).parameters
    except (TypeError, ValueError):
        return {}


def takes(loss: Loss, keyword: str) -> bool:
    """Whether a loss, combined or not, can be given a keyword."""
    inner, _ = inside(loss)
    if isinstance(inner, Combined):
        return keyword in keywords(loss) or any(takes(part, keyword) for part in inner.losses)
    found = parameters_of(inner)
    return keyword in found or any(p.kind is p.VAR_KEYWORD for p in found.values())


def compares(loss: Loss) -> bool:
    """Whether a loss compares the examples of a batch with each other."""
    inner, _ = inside(loss)
    if isinstance(inner, Combined):
        return any(map(compares, inner.losses))
    # Over a mesh axis it gathers examples, or else what all examples share.
    return "axis_name" in parameters_of(inner) and traits_of(inner) is None


def traits_of(loss: Loss) -> Traits | None:
    inner, _ = inside(loss)
    return _traits.get(inner) if _check.is_loss(inner) else None


def _positions(loss: Loss, names: frozenset[str]) -> frozenset[int]:
    """Where arguments of these names stand among the positional ones."""
    inner, _ = inside(loss)
    if isinstance(inner, Combined):
        found = {_positions(part, names) for part in inner.losses}
        if len(found) > 1:
            raise TypeError(
                f"{name_of(loss)}: its losses must agree on the places of "
                f"{' and '.join(sorted(names))}; write one as a lambda of the other's arguments."
            )
        return found.pop()
    return frozenset(n for n, name in enumerate(parameters_of(inner)) if name in names)


def shared_positions(loss: Loss) -> frozenset[int]:
    """The positional arguments that all examples share."""
    inner, _ = inside(loss)
    if isinstance(inner, Combined):
        return frozenset[int]().union(*map(shared_positions, inner.losses))
    traits = traits_of(inner)
    if traits is None:
        return frozenset()
    for layer in _layers(loss):
        if isinstance(layer, functools.partial) and layer.args:
            raise TypeError(
                f"{name_of(layer)}: functools.partial must bind keywords only, got "
                f"{len(layer.args)} positional arguments, which move the others' places; write a "
                f"lambda."
            )
    return _positions(inner, traits.shared)


def labels_of(loss: Loss, call: Call) -> Any:
    """The labels or targets: what a loss calls so, or takes second."""
    place = 1
    if shared_positions(loss):
        [place] = _positions(loss, frozenset({"labels"}))
    if len(call.arrays) <= place:
        raise TypeError(
            f"{call.function}: the labels must be the {('second', 'third')[place - 1]} positional "
            f"argument, got {len(call.arrays)} positional arguments; pass them by position, and "
            f"what stands before them."
        )
    return call.arrays[place]


def option(loss: Loss, options: dict[str, Any], name: str) -> Any:
    """An option's value from the call, from functools.partial or from the loss's signature."""
    _, bound = inside(loss)
    parameter = parameters_of(loss).get(name)
    return {**bound, **options}.get(name, parameter.default if parameter else None)


def reduced_axes(loss: Loss, options: dict[str, Any]) -> tuple[int, ...]:
    for name in ("axis", "axes"):
        value = option(loss, options, name)
        if hasattr(value, "__index__"):
            return (operator.index(value),)
        if isinstance(value, Sequence) and all(hasattr(axis, "__index__") for axis in value):
            return tuple(operator.index(axis) for axis in value)
    return ()
