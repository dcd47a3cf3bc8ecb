"""The loss of sparsemax, a softmax that gives classes far behind no probability at all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _checked
from jaxloss._autodiff import custom_vjp


@_check.known_keywords
def sparsemax(
    logits: Real[ArrayLike, "..."], targets: Real[ArrayLike, "..."], *, axis: int = -1
) -> Float[Array, "..."]:
    r"""Sparsemax loss of scores against class indices or class probabilities.

    $$\ell = \tfrac12 \|q - z\|^2 - \tfrac12 \|p - z\|^2, \qquad
      p_j = [z_j - \tau]_+, \quad \textstyle\sum_j p_j = 1$$

    for target distribution $q$; $p$ is the point of the simplex nearest to the scores. Gradient:
    $p - q$. The loss is 0 once the label is ahead of all others by 1. A logit of -inf takes its
    class out; with a positive target there the loss is inf. Logits of which all are -inf or any is
    +inf give NaN in loss and gradient, and so does a label out of range, negative ones included.

    Args:
        logits: real scores, at least one class along `axis`.
        targets: class indices from 0 to C - 1, any integer dtype, shaped as `logits` without
            `axis`; or probabilities, floating, shaped as `logits`, which sum to 1.
        axis: the axis of the classes.

    Returns:
        One loss per row; float32, or float64 for float64 input.

    Raises:
        TypeError: `logits` are not real, `targets` neither integers nor floats, or `axis` is not an
            integer.
        ValueError: there is no such axis, it is empty, or the shapes do not agree.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.sparsemax(jnp.array([[0.5, 0.0], [1.5, 0.0]]), jnp.array([0, 0]))
        Array([0.0625, 0.    ], dtype=float32)

    Source: Martins and Astudillo, "From softmax to sparsemax" (2016), sections 2.2 and 3.2; Optax
    `multiclass_sparsemax_loss`.
    """
    [logits] = _check.real_arrays("sparsemax", logits=logits)
    axis = _check.reduced_axis("sparsemax", axis, logits=logits)
    scores = jnp.moveaxis(logits, axis, -1)
    if _check.are_indices("sparsemax", targets):
        labels = _check.class_labels("sparsemax", targets, axis, logits=logits)
        return _sparsemax(scores.astype(_check.wide(scores)), labels)
    [targets] = _check.real_arrays("sparsemax", targets=targets)
    _check.same_shape("sparsemax", logits=logits, targets=targets)
    _checked.distributions("sparsemax", axis, targets=targets)
    dtype = _check.wide(logits, targets)
    return _sparsemax(scores.astype(dtype), jnp.moveaxis(targets, axis, -1).astype(dtype))


@custom_vjp
def _sparsemax(scores: Array, targets: Array) -> Array:
    """The loss over the last axis, against labels or distributions."""
    return _sparsemax_fwd(scores, targets)[0]


# With p the projection, l = 1/2 |q - z|^2 - 1/2 |p - z|^2 is 1/2 |q - p|^2 + (q - p).(p - z). Both
# distributions sum to 1, so tau may be added to each p_j - z_j: that is 0 where p_j > 0, and
# tau - z_j >= 0 elsewhere. Hence
#
#     l = 1/2 |q - p|^2 + sum_j q_j [tau - z_j]_+
#
# in which nothing is negative. dl/dz = p - q, by Danskin's theorem; dl/dq = p - z, up to a constant
# that changes no distribution: its part 1/2 |q|^2 - z.q gives q - z.


def _sparsemax_fwd(scores: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    shifted, threshold = _threshold(scores)
    distribution = _distribution(targets, scores)
    projection = jnp.maximum(shifted - threshold, 0)
    behind = jnp.maximum(threshold - shifted, 0)
    distance = jnp.sum(jnp.square(distribution - projection), -1) / 2
    beyond = jnp.sum(jnp.where(distribution == 0, 0, distribution * behind), -1)
    # XLA's CPU backend drops NaN from a row's maximum, but not from its sum.
    invalid = 0 * jnp.sum(jnp.sign(scores), -1)
    return distance + beyond + invalid, (scores, targets)


def _sparsemax_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array | None]:
    scores, targets = residuals
    shifted, threshold = _threshold(scores)
    distribution = _distribution(targets, scores)
    # A selection: through jnp.maximum half of a class on the threshold would take part.
    projection = jnp.where(shifted <= threshold, 0, shifted - threshold)
    to_scores = (projection - distribution) * cotangent[..., None]
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return to_scores, None
    return to_scores, (distribution - scores) * cotangent[..., None]


_sparsemax.defvjp(_sparsemax_fwd, _sparsemax_bwd)


def _distribution(targets: Array, scores: Array) -> Array:
    """1 at the label and 0 elsewhere, NaN for a bad label; or the targets as they are."""
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        return targets
    index, valid = _check.valid_index(targets[..., None], scores.shape[-1])
    at_label = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) == index
    return jnp.where(valid, at_label.astype(scores.dtype), jnp.nan)


def _threshold(scores: Array) -> tuple[Array, Array]:
    """Scores less their maximum, which is 0 then, and tau for them, between -1 and 0."""
    highest = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True))
    # No distribution is nearest to scores that are all -inf, or to one of inf.
    shifted = jnp.where(jnp.isinf(highest), jnp.nan, scores - highest)
    ordered = -jnp.sort(-jax.lax.stop_gradient(shifted))
    counts = 1 + jax.lax.broadcasted_iota(scores.dtype, scores.shape, scores.ndim - 1)
    # The k highest scores share the mass if the lowest of them is above what would be tau.
    taking_part = 1 + counts * ordered > jnp.cumsum(ordered, -1)
    size = jnp.sum(taking_part, -1, keepdims=True)
    lowest = jnp.take_along_axis(ordered, jnp.maximum(size - 1, 0), -1)
    # tau again from the scores themselves, so that it carries their derivative.
    support = (shifted >= lowest).astype(scores.dtype)
    total = jnp.sum(jnp.where(support > 0, shifted, 0), -1, keepdims=True)
    count = jnp.sum(support, -1, keepdims=True)
    return shifted, (total - 1) / count
