"""The one place where weights and masks meet a loss."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss import _check, _checked, _options
from jaxloss._combined import (
    Call,
    Combined,
    Loss,
    binds_arrays,
    compares,
    crosses_checked,
    inside,
    labels_of,
    option,
    parameters_of,
    reduced_axes,
    shared_positions,
    takes,
    traits_of,
)
from jaxloss._parts import sum_in_parts
from jaxloss._weighted import Averaged, Components, Weighted, quotient


def evaluate(loss: Loss, call: Call) -> Any:
    """Follow the combinators from the outside in, and weigh what the loss at the end gives.

    That is a pair, or, where the call's reduction is a mean, what a loss has `Averaged` by itself.
    """
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

    call = call._replace(arrays=arrays)
    finished = _finished(loss, call, weigh)
    if finished is None and where is None and not weights and divisor is None:
        finished = _summed(loss, call, weigh)
    if finished is not None:
        return finished
    return _pair(call, loss(*arrays, **call.options)).weighed(weigh)


def _finished(
    loss: Loss, call: Call, weigh: Callable[[Weighted], Weighted]
) -> Weighted | Averaged | None:
    """What a loss gives that reduces as it goes, where all of its losses are to be reduced."""
    traits, reduction = traits_of(loss), call.reduction
    if traits is None or traits.total is None or reduction is None or reduction.axis is not None:
        return None
    if crosses_checked(loss):  # What it does is for its own call to do.
        return None
    losses = jax.eval_shape(functools.partial(loss, **call.options), *call.arrays)
    ones = jnp.ones(losses.shape, losses.dtype)
    pair = weigh(Weighted(ones, ones))
    _, bound = inside(loss)
    total = functools.partial(traits.total, **{**bound, **call.options})
    if reduction.method != "mean":
        return Weighted(total(pair.losses, *call.arrays), jnp.sum(pair.weights))
    # Divided beforehand: a factor in front of the gradients would be another copy of each.
    mass = pair.total(axis_name=reduction.axis_name).weights
    return Averaged(total(quotient(pair.losses, mass), *call.arrays))


def _summed(loss: Loss, call: Call, weigh: Callable[[Weighted], Weighted]) -> Weighted | None:
    """The sum of an elementwise loss whose values all weigh the same, where parts are faster."""
    inner, bound = inside(loss)
    reduction = call.reduction
    if reduction is None or reduction.axis is not None or call.examples is not None:
        return None
    if crosses_checked(loss) or binds_arrays(loss):
        return None
    total = sum_in_parts(inner, {**bound, **call.options}, call.arrays)
    if total is None:
        return None
    return weigh(Weighted(total, jnp.full_like(total, call.arrays[0].size)))


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
    if option(loss, call.options, "class_weights") is not None:
        raise TypeError(f"{call.function}: class_weights are given twice, also to the loss itself.")
    targets, own = labels_of(loss, call), None
    mixed = takes(loss, "class_weights") and not _check.are_indices(call.function, targets)
    if not mixed:
        labels = _check.class_indices(call.function, targets)
        _refuse_other_classes(loss, call, labels)
        index, valid = _check.valid_index(labels, len(call.class_weights))
        own = jnp.where(valid, call.class_weights[index], jnp.nan)
        smoothing = option(loss, call.options, "label_smoothing")
        if smoothing is None or _options.is_zero(smoothing):
            return call._replace(weights=(*call.weights, ("class_weights", own))), None
    return call._replace(options={**call.options, "class_weights": call.class_weights}), own


def _refuse_other_classes(loss: Loss, call: Call, labels: Array) -> None:
    """Raise where there is another number of classes than there are weights."""
    scores, weights, traits = call.arrays[0], call.class_weights, traits_of(loss)
    axes, place = reduced_axes(loss, call.options), ""
    if traits is not None:
        _, bound = inside(loss)
        classes = traits.classes(*call.arrays, **{**bound, **call.options})
    elif len(axes) == 1 and jnp.ndim(scores) == labels.ndim + 1:
        classes, place = jnp.shape(scores)[axes[0]], f" of an input of shape {jnp.shape(scores)}"
    else:
        classes = None
    if weights is not None and classes is not None and len(weights) != classes:
        raise ValueError(
            f"{call.function}: class_weights must have one weight for each of the {classes} "
            f"classes{place}, got {weights.shape}."
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
    traits = traits_of(loss)
    shared_names = frozenset() if traits is None else traits.shared
    for name, parameter in parameters_of(loss).items():
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        needed = parameter.default is parameter.empty and positional
        if name in call.options and needed and name not in shared_names:
            raise TypeError(
                f"{call.function}: {name} must be passed by position, got it as a keyword, where a "
                f"mask would not reach it; pass what stands before it by position too."
            )
    axes, shared = reduced_axes(loss, call.options), shared_positions(loss)
    places = itertools.count()

    def without_masked(argument: ArrayLike) -> Array:
        array = _check.exact_array(call.function, argument)
        aligned = _aligned(where, array, axes)
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

    return tuple(
        argument if place in shared else jax.tree.map(without_masked, argument)
        for place, argument in enumerate(call.arrays)
    )


def _pair(call: Call, result: Any) -> Weighted | Components:
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


def _aligned(where: Array, array: Array, axes: tuple[int, ...]) -> Array | None:
    """The mask, broadcastable to an input with the losses' axes first, or around `axes`."""
    if array.ndim == where.ndim + len(axes) and all(
        -array.ndim <= axis < array.ndim for axis in axes
    ):
        reduced = {axis % array.ndim for axis in axes}
        if where.shape == tuple(n for axis, n in enumerate(array.shape) if axis not in reduced):
            return jnp.expand_dims(where, sorted(reduced))
    if array.shape[: where.ndim] != where.shape:
        return None
    return where.reshape(where.shape + (1,) * (array.ndim - where.ndim))
