"""Hinges of several scores: the target's against the others', one class axis reduced."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from jaxloss import _check, _options
from jaxloss._autodiff import custom_vjp, vary_alike
from jaxloss._row_sums import highest_and_ties
from jaxloss.primitives import positive_part


class _Rows(NamedTuple):
    """Scores with the classes last, the label's own score, which are others, and 1 or NaN."""

    scores: Array
    own: Array
    others: Array
    validity: Array


def _rows(function: str, labels: ArrayLike, axis: int, **scores: ArrayLike) -> _Rows:
    [name], [array] = scores, _check.matched(function, **scores)
    axis = _check.reduced_axis(function, axis, option="axis", **{name: array})
    labels = _check.class_labels(function, labels, axis, ranged=True, **{name: array})
    array = jnp.moveaxis(array, axis, -1)
    index, valid = _check.valid_index(labels[..., None], array.shape[-1])
    others = jax.lax.broadcasted_iota(jnp.int32, array.shape, array.ndim - 1) != index
    validity = _validity(array, valid)
    # Not only the loss: a maximum has no derivative at a NaN, and would give it 0.
    array = array * validity
    return _Rows(array, jnp.take_along_axis(array, index, -1), others, validity[..., 0])


def _validity(scores: Array, valid: Array) -> Array:
    """1 for a row of numbers and of valid labels, else NaN."""
    numbers = ~jnp.any(jnp.isnan(scores), -1, keepdims=True)
    whole = numbers & jnp.all(valid, -1, keepdims=True)
    return jnp.where(whole, 1, jnp.nan).astype(scores.dtype)


@_check.known_keywords
def multi_margin(
    scores: Real[ArrayLike, "..."],
    labels: Integer[ArrayLike, "*rows"],
    *,
    p: int = 1,
    margin: Real[ArrayLike, ""] = 1.0,
    axis: int = -1,
) -> Float[Array, "*rows"]:
    r"""Mean over the classes of the hinges of the label's score against every other's.

    $$\ell = \frac1C \sum_{i \ne y} [m - z_y + z_i]_+^p$$

    Gradient: for $p = 1$, $1/C$ at each class that comes within the margin, and less their sum at
    the label; 0 for a class on the margin's edge. The sum runs over the other classes and is
    divided by the number of all. A label out of range, negative ones included, gives NaN in loss
    and gradient.

    Args:
        scores: real scores, at least one class along `axis`.
        labels: class indices from 0 to C - 1, shaped as `scores` without `axis`; any integer dtype.
        p: the hinge's power, 1 or 2.
        margin: by how much the label's score should be higher, in the scores' unit.
        axis: the axis of the classes.

    Returns:
        One loss per label; float32, or float64 for float64 scores.

    Raises:
        TypeError: `scores` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, the shapes do not agree, `p` is neither 1
            nor 2, or `margin` is not a finite scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.multi_margin(jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([3]))
        Array([0.325], dtype=float32)

    Source: Weston and Watkins, "Multi-class support vector machines" (1998); PyTorch
    `multi_margin_loss`.
    """
    if p not in (1, 2) or isinstance(p, bool):
        raise ValueError(f"multi_margin: p must be 1 or 2, got {_check.describe(p)}.")
    rows = _rows("multi_margin", labels, axis, scores=scores)
    margin = _options.number("multi_margin", "margin", margin).astype(rows.scores.dtype)
    # Scores are compared with each other first: a common offset cancels exactly.
    hinges = positive_part(jnp.where(rows.others, margin + (rows.scores - rows.own), 0))
    powers = hinges if p == 1 else jnp.square(hinges)
    return jnp.sum(powers, -1) / rows.scores.shape[-1] * rows.validity


@_check.known_keywords
def multiclass_hinge(
    scores: Real[ArrayLike, "..."],
    labels: Integer[ArrayLike, "*rows"],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
    axis: int = -1,
) -> Float[Array, "*rows"]:
    r"""Hinge of the label's score against the highest other one.

    $$\ell = \big[m - z_y + \max_{i \ne y} z_i\big]_+$$

    Gradient: 1 at the highest other class and -1 at the label within the margin, 0 on its edge and
    beyond; equal highest scores share it evenly. A label out of range, negative ones included,
    gives NaN in loss and gradient.

    Args:
        scores: real scores, at least one class along `axis`.
        labels: class indices from 0 to C - 1, shaped as `scores` without `axis`; any integer dtype.
        margin: by how much the label's score should be higher, in the scores' unit.
        axis: the axis of the classes.

    Returns:
        One loss per label, in the scores' unit, 0 for a single class; float32, or float64 for
        float64 scores.

    Raises:
        TypeError: `scores` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, the shapes do not agree, or `margin` is not
            a finite scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.multiclass_hinge(jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([3]))
        Array([0.6], dtype=float32)

    Source: Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based vector
    machines" (2001), section 3; Optax `multiclass_hinge_loss`.
    """
    margin = _options.number("multiclass_hinge", "margin", margin)
    return _behind("multiclass_hinge", scores, labels, margin, axis)


@_check.known_keywords
def multiclass_perceptron(
    scores: Real[ArrayLike, "..."], labels: Integer[ArrayLike, "*rows"], *, axis: int = -1
) -> Float[Array, "*rows"]:
    r"""How far the label's score is behind the highest one.

    $$\ell = \max_i z_i - z_y$$

    Gradient: 1 at the highest class and -1 at the label, 0 where the label is the highest or ties
    for it; equal highest scores share it evenly. A label out of range, negative ones included,
    gives NaN in loss and gradient.

    Args:
        scores: real scores, at least one class along `axis`.
        labels: class indices from 0 to C - 1, shaped as `scores` without `axis`; any integer dtype.
        axis: the axis of the classes.

    Returns:
        One loss per label, in the scores' unit; float32, or float64 for float64 scores.

    Raises:
        TypeError: `scores` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, or the shapes do not agree.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.multiclass_perceptron(jnp.array([[0.1, 0.8], [0.1, 0.8]]), jnp.array([0, 1]))
        Array([0.7, 0. ], dtype=float32)

    Source: Collins, "Discriminative training methods for hidden Markov models" (2002); Optax
    `multiclass_perceptron_loss`.
    """
    return _behind("multiclass_perceptron", scores, labels, jnp.zeros(()), axis)


def _behind(function: str, scores: ArrayLike, labels: ArrayLike, margin: Array, axis: int) -> Array:
    [scores] = _check.matched(function, scores=scores)
    axis = _check.reduced_axis(function, axis, scores=scores)
    labels = _check.class_labels(function, labels, axis, scores=scores)
    lead = _lead(jnp.moveaxis(scores, axis, -1), labels)
    return positive_part(margin.astype(lead.dtype) + lead)


@custom_vjp
def _lead(scores: Array, labels: Array) -> Array:
    """Of the highest other score over the label's, NaN for a bad label."""
    return _lead_fwd(scores, labels)[0]


# 1 / r at each of the r other classes that attain the highest score, -1 at the label.


def _lead_fwd(scores: Array, labels: Array) -> tuple[Array, tuple[Array, ...]]:
    index, valid = _check.valid_index(labels[..., None], scores.shape[-1])
    own = jnp.where(valid, jnp.take_along_axis(scores, index, -1), jnp.nan)
    highest, ties = highest_and_ties(scores, index)
    return (highest - own)[..., 0], (scores, index, own, highest, ties)


def _lead_bwd(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, None]:
    scores, index, own, highest, ties = residuals
    share = jnp.where(jnp.isnan(highest - own), jnp.nan, 1 / ties)
    positions = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    attained = jnp.where(scores == highest, share, 0 * share)
    slope = jnp.where(positions == index, -ties * share, attained)
    return slope * cotangent[..., None], None


_lead.defvjp(_lead_fwd, _lead_bwd)


@_check.known_keywords
def true_and_hardest(
    logits: Real[ArrayLike, "..."], labels: Integer[ArrayLike, "*rows"], *, axis: int = -1
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    r"""The true class's logit and the highest other one, two scores for `margin_ranking`.

    $$\big(z_y,\; \max_{i \ne y} z_i\big)$$

    Ranked with signs of 1 they train a classifier, `margin_ranking(true, hardest, ones, margin=m)`,
    which is `multiclass_hinge`; an example is classified rightly where the first is the higher.
    Gradient: 1 at the label, and 1 at the highest other class; equal highest ones share it evenly.
    A label out of range, negative ones included, and a row with NaN give NaN in both and in their
    gradients.

    Args:
        logits: real scores, at least one class along `axis`.
        labels: class indices from 0 to C - 1, shaped as `logits` without `axis`; any integer dtype.
        axis: the axis of the classes.

    Returns:
        Two arrays of one score per label, the second $-\infty$ for a single class; float32, or
        float64 for float64 logits.

    Raises:
        TypeError: `logits` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, or the shapes do not agree.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> logits = jnp.array([[0.1, 0.2, 0.4, 0.8], [0.1, 0.2, 0.4, 0.8]])
        >>> labels = jnp.array([3, 0])
        >>> true, hardest = jaxloss.true_and_hardest(logits, labels)
        >>> true - hardest
        Array([ 0.4, -0.7], dtype=float32)
        >>> jaxloss.margin_ranking(true, hardest, jnp.ones(2), margin=1.0)
        Array([0.6, 1.7], dtype=float32)

    Source: Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based vector
    machines" (2001), section 3.
    """
    rows = _rows("true_and_hardest", labels, axis, logits=logits)
    # jnp.max divides its derivative among ties.
    highest = jnp.max(jnp.where(rows.others, rows.scores, -jnp.inf), -1)
    return rows.own[..., 0] * rows.validity, highest * rows.validity


@_check.known_keywords
def multilabel_margin(
    scores: Real[ArrayLike, "..."], labels: Integer[ArrayLike, "..."], *, axis: int = -1
) -> Float[Array, "..."]:
    r"""Hinges of every target's score against every score that is no target's.

    $$\ell = \frac1C \sum_{j \in Y} \sum_{i \notin Y} [1 - (z_j - z_i)]_+$$

    for the set of targets $Y$. Gradient: $1/C$ at $i$ and $-1/C$ at $j$ for each pair within the
    margin, 0 on its edge. The targets are listed along `axis` and end at the first -1, or with the
    list; one listed twice counts twice. One out of range gives NaN in loss and gradient. The time
    grows with the longest list.

    Args:
        scores: real scores, at least one class along `axis`.
        labels: lists of class indices; the shape of `scores`, of any length along `axis`.
        axis: the axis of the classes, and of the lists.

    Returns:
        One loss per row; float32, or float64 for float64 scores.

    Raises:
        TypeError: `scores` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, or the shapes do not agree.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> scores = jnp.array([[0.1, 0.2, 0.4, 0.8]])
        >>> jaxloss.multilabel_margin(scores, jnp.array([[3, 0, -1, 1]]))
        Array([0.85], dtype=float32)

    Source: PyTorch `multilabel_margin_loss`.
    """
    [scores] = _check.matched("multilabel_margin", scores=scores)
    axis = _check.reduced_axis("multilabel_margin", axis, scores=scores)
    lists = _check.label_lists("multilabel_margin", labels, axis, scores=scores)
    if not lists.shape[axis]:
        lists = jnp.full(scores.shape, -1, jnp.int32)
    return _loss_and_slope(jnp.moveaxis(scores, axis, -1), jnp.moveaxis(lists, axis, -1))[0]


# The loss is linear between its kinks, with the slope as its gradient. Both come from one loop over
# the places of the lists, as far as the longest one goes, so that no more is in memory than a few
# arrays of the scores' size. The slope is an output for the rule to have it, differentiable to any
# order, where the loop itself would only be so in forward mode.


@jax.custom_jvp
def _loss_and_slope(scores: Array, lists: Array) -> tuple[Array, Array]:
    classes, places = scores.shape[-1], lists.shape[-1]
    positions = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    numbers = jax.lax.broadcasted_iota(jnp.int32, lists.shape, lists.ndim - 1)
    lengths = jnp.min(jnp.where(lists == -1, numbers, places), -1, keepdims=True)
    longest = jnp.max(lengths, initial=0)

    def target(place: Array) -> tuple[Array, Array, Array]:
        """The class at a place of each list, whether there is one, and whether it is valid."""
        entry = jax.lax.dynamic_index_in_dim(lists, place, -1)
        return place < lengths, *_check.valid_index(entry, classes)

    def without_target(place: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        others, whole = found
        listed, label, valid = target(place)
        return others & ~((positions == label) & listed), whole & (valid | ~listed)

    def compared(place: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        losses, slope = sums
        listed, label, _ = target(place)
        behind = 1 + (scores - jnp.take_along_axis(scores, label, -1))
        hinges = jnp.where(others & listed, jnp.maximum(behind, 0), 0)
        active = jnp.sign(hinges)
        at_label = jnp.where(positions == label, jnp.sum(active, -1, keepdims=True), 0)
        return losses + jnp.sum(hinges, -1, keepdims=True), slope + (active - at_label)

    none = jnp.zeros_like(lengths, scores.dtype)
    start = jnp.ones(scores.shape, jnp.bool_), lengths >= 0, none, jnp.zeros_like(scores)
    *found, losses, slope = vary_alike(start, (scores, lists))
    others, valid = jax.lax.fori_loop(0, longest, without_target, tuple(found))
    losses, slope = jax.lax.fori_loop(0, longest, compared, (losses, slope))
    factor = _validity(scores, valid) / classes
    return (losses * factor)[..., 0], slope * factor


@_loss_and_slope.defjvp
def _loss_and_slope_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    losses, slope = _loss_and_slope(*primals)
    return (losses, slope), (jnp.sum(slope * tangents[0], -1), jnp.zeros_like(slope))
