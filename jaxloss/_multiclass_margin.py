"""Hinges of several scores: the target's against the others', one class axis reduced."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from jaxloss import _check, _options
from jaxloss._autodiff import custom_vjp
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
    rows = _rows(function, labels, axis, scores=scores)
    own, highest = _own_and_highest(rows)
    return positive_part(margin.astype(own.dtype) + (highest - own)) * rows.validity


def _own_and_highest(rows: _Rows) -> tuple[Array, Array]:
    # jnp.max divides its derivative among ties.
    return rows.own[..., 0], jnp.max(jnp.where(rows.others, rows.scores, -jnp.inf), -1)


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
    own, highest = _own_and_highest(rows)
    return own * rows.validity, highest * rows.validity


@_check.known_keywords
def multilabel_margin(
    scores: Real[ArrayLike, "..."], labels: Integer[ArrayLike, "..."], *, axis: int = -1
) -> Float[Array, "..."]:
    r"""Hinges of every target's score against every score that is no target's.

    $$\ell = \frac1C \sum_{j \in Y} \sum_{i \notin Y} [1 - (z_j - z_i)]_+$$

    for the set of targets $Y$. Gradient: $1/C$ at $i$ and $-1/C$ at $j$ for each pair within the
    margin, 0 on its edge. The targets are listed along `axis` and end at the first -1, or with the
    list; one listed twice counts twice. One out of range gives NaN in loss and gradient. All pairs
    of a list's entry and a class are in memory at once: keep the lists short.

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
    return _multilabel_margin(jnp.moveaxis(scores, axis, -1), jnp.moveaxis(lists, axis, -1))


@custom_vjp
def _multilabel_margin(scores: Array, labels: Array) -> Array:
    return _multilabel_margin_fwd(scores, labels)[0]


# Pairs (j, i) of a list's entry and a class stand on the last two axes. A pullback keeps the scores
# and the lists, and makes the pairs again.


def _multilabel_margin_fwd(scores: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
    pairs = _pairs(scores, labels)
    hinges = jnp.maximum(1 + pairs.differences, 0) * pairs.counted
    value = jnp.sum(hinges, (-2, -1)) / scores.shape[-1] * pairs.validity
    return value, (scores, labels)


def _multilabel_margin_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, None]:
    pairs = _pairs(*residuals)
    slopes = jnp.maximum(jnp.sign(1 + pairs.differences), 0) * pairs.counted
    at_targets = jnp.sum(slopes, -1, keepdims=True) * pairs.at_target
    gradient = jnp.sum(slopes - at_targets, -2) / slopes.shape[-1]
    return gradient * (cotangent * pairs.validity)[..., None], None


_multilabel_margin.defvjp(_multilabel_margin_fwd, _multilabel_margin_bwd)


class _Pairs(NamedTuple):
    """z_i - z_j; 1 where j is listed and i is no target; 1 where i is j; and a row's 1 or NaN."""

    differences: Array
    counted: Array
    at_target: Array
    validity: Array


def _pairs(scores: Array, labels: Array) -> _Pairs:
    classes = scores.shape[-1]
    listed = jnp.cumsum(labels == -1, -1) == 0
    index, valid = _check.valid_index(labels, classes)
    own = jnp.take_along_axis(scores, index, -1)
    positions = jax.lax.broadcasted_iota(jnp.int32, (*index.shape, classes), index.ndim)
    at_target = (positions == index[..., None]) & listed[..., None]
    counted = listed[..., None] & ~jnp.any(at_target, -2, keepdims=True)
    return _Pairs(
        scores[..., None, :] - own[..., None],
        counted.astype(scores.dtype),
        at_target.astype(scores.dtype),
        _validity(scores, valid | ~listed)[..., 0],
    )
