"""Losses of a softmax over classes, and of log-probabilities."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Real

from jaxloss import _check, _checked, _options
from jaxloss._autodiff import custom_vjp
from jaxloss._elementary import quotient
from jaxloss._exact import exp
from jaxloss._softmax import complement_at, log_softmax_at_bwd, log_softmax_at_of
from jaxloss.primitives import (
    expected_log_softmax,
    log_softmax,
    log_softmax_at,
    logsumexp,
    safe_power,
    safe_product,
)


@_check.known_keywords
def nll(
    log_probs: Real[ArrayLike, "..."], labels: Integer[ArrayLike, "*rows"], *, axis: int = -1
) -> Float[Array, "*rows"]:
    r"""Negative log-likelihood of the labels, given log-probabilities.

    $$\ell = -\log p_y$$

    Gradient: -1 at the label, 0 elsewhere. Nothing is normalised: for scores use `cross_entropy`,
    which is `nll` of `log_softmax` without its memory. A label out of range, negative ones
    included, gives NaN in loss and gradient.

    Args:
        log_probs: log-probabilities, at least one class along `axis`; -inf is allowed.
        labels: class indices from 0 to the number of classes less 1, shaped as `log_probs` without
            `axis`; any integer dtype.
        axis: the axis of the classes; PyTorch's images and sequences have 1.

    Returns:
        One loss per label, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: `log_probs` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, or the shapes do not agree.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.nll(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([1]))
        Array([0.6931], dtype=float32)

    Source: PyTorch `nll_loss`.
    """
    [log_probs] = _check.real_arrays("nll", log_probs=log_probs)
    axis = _check.reduced_axis("nll", axis, log_probs=log_probs)
    labels = _check.class_labels("nll", labels, axis, log_probs=log_probs)
    _checked.distributions("nll", axis, logs=True, log_probs=log_probs)
    index, valid = _check.valid_index(jnp.expand_dims(labels, axis), log_probs.shape[axis])
    picked = jnp.take_along_axis(log_probs, index, axis).astype(_check.wide(log_probs))
    validity = jnp.where(valid, 1, jnp.nan).astype(picked.dtype)
    return jnp.squeeze(0 - picked * validity, axis)


@_check.known_keywords
def cross_entropy(
    logits: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    axis: int = -1,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    class_weights: Real[ArrayLike, " classes"] | None = None,
    class_mask: Bool[ArrayLike, "..."] | None = None,
    z_loss: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, "..."]:
    r"""Softmax cross-entropy of scores against class indices or class probabilities.

    $$\ell = -\sum_j w_j q_j \log p_j, \qquad p_j = e^{z_j} \big/ \sum_i e^{z_i}$$

    where $q$ is the target's distribution, 1 at the label for indices, and the class weights $w$
    are 1 by default. The targets' dtype decides: integers are class indices, floats are
    probabilities over `axis`. Gradient: $p \sum_j w_j q_j - w q$, with relative accuracy kept when
    the label is far ahead.

    `label_smoothing` mixes the target with the uniform distribution, $(1-\epsilon) q + \epsilon/C$.
    A logit of -inf takes its class out of the softmax; its target must be 0, and smoothing makes no
    target 0. Then $0 \cdot \log 0 = 0$; a positive target there gives inf, all logits of -inf or
    any of +inf give NaN. `class_mask` takes classes out of softmax and smoothing both, whatever
    their logits; a target that it leaves out gives NaN. `z_loss` adds the squared log-normaliser,
    $\zeta (\log \sum_j e^{z_j})^2$. A label out of range, negative ones included, gives NaN in loss
    and gradient.

    Args:
        logits: real scores, at least one class along `axis`.
        targets: class indices from 0 to C - 1, any integer dtype, shaped as `logits` without
            `axis`; or probabilities, floating, shaped as `logits`.
        axis: the axis of the classes; PyTorch's images and sequences have 1.
        label_smoothing: the weight of the uniform distribution, from 0 to 1.
        class_weights: a factor for each class's term, at least 0. The mean does not divide by them:
            for the mean that does, without smoothing, see `weighted`.
        class_mask: boolean, True for the classes that take part; broadcasts to `logits`.
        z_loss: the factor $\zeta$ of the squared log-normaliser, at least 0; 1e-4 is usual.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: `logits` are not real, `targets` neither integers nor floats, `axis` is not an
            integer, or `class_mask` is not boolean.
        ValueError: there is no such axis, it is empty, the shapes do not agree, or an option is out
            of bounds. (A traced option out of bounds gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> logits = jnp.array([[2.0, 0.0, 0.0], [20.0, 0.0, -jnp.inf]])
        >>> jaxloss.cross_entropy(logits, jnp.array([0, 0]))
        Array([2.395e-01, 2.061e-09], dtype=float32)
        >>> jaxloss.cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]))
        Array([ 1.2395, 10.  ], dtype=float32)

    Source: Szegedy et al., "Rethinking the Inception architecture" (2016), section 7, for the
    smoothing; Chowdhery et al., "PaLM" (2022), section 5, for the z-loss; PyTorch `cross_entropy`.
    """
    function = "cross_entropy"
    [logits] = _check.real_arrays(function, logits=logits)
    axis = _check.reduced_axis(function, axis, logits=logits)
    smoothing = _options.number(
        function, "label_smoothing", label_smoothing, minimum=0.0, maximum=1.0
    )
    penalty = _options.number(function, "z_loss", z_loss, minimum=0.0)
    smooth, penalised = not _options.is_zero(label_smoothing), not _options.is_zero(z_loss)
    if smooth or penalised:
        # Widened here, so that several gradients are added before they are rounded.
        logits = logits.astype(_check.wide(logits))
    weights = allowed = None
    if class_weights is not None:
        weights = _options.class_weights(function, class_weights, axis, logits=logits)
    if class_mask is not None:
        allowed = _options.class_mask(function, class_mask, logits=logits)
        logits = jnp.where(allowed, logits, -jnp.inf)

    if _check.are_indices(function, targets):
        labels = _check.class_labels(function, targets, axis, logits=logits)
        losses = -log_softmax_at(logits, labels, axis=axis)
        if weights is not None or allowed is not None:
            losses = safe_product(_factor_of_label(labels, weights, allowed, axis, losses), losses)
        if smooth:
            of_average = _of_uniform(logits, weights, allowed, axis)
            losses = _mixed(smoothing.astype(losses.dtype), losses, of_average)
    else:
        [targets] = _check.real_arrays(function, targets=targets)
        if targets.shape != logits.shape:
            raise ValueError(
                f"{function}: floating targets are probabilities and must have the shape of logits "
                f"{logits.shape}, got {targets.shape}; for class indices pass integers."
            )
        _checked.distributions(function, axis, targets=targets)
        if allowed is not None:
            targets = jnp.where(allowed | (targets == 0), targets, jnp.nan)
        if smooth:
            targets = targets.astype(_check.wide(logits, targets))
            smoothing = smoothing.astype(targets.dtype)
            targets = (1 - smoothing) * targets + smoothing * _uniform(targets, allowed, axis)
        losses = 0 - expected_log_softmax(logits, _weighted(targets, weights), axis=axis)
    if penalised:
        losses = losses + penalty.astype(losses.dtype) * jnp.square(logsumexp(logits, axis=axis))
    return losses


def _of_uniform(logits: Array, weights: Array | None, allowed: Array | None, axis: int) -> Array:
    """The cross-entropy against the uniform distribution over the classes that take part."""
    if weights is None and allowed is None:
        return -jnp.mean(log_softmax(logits, axis=axis), axis)
    return -expected_log_softmax(
        logits, _weighted(_uniform(logits, allowed, axis), weights), axis=axis
    )


def _uniform(scores: Array, allowed: Array | None, axis: int) -> Array:
    if allowed is None:
        return jnp.full_like(scores, 1 / scores.shape[axis])
    taking_part = allowed.astype(scores.dtype)
    return taking_part / jnp.sum(taking_part, axis, keepdims=True)


def _weighted(targets: Array, weights: Array | None) -> Array:
    if weights is None:
        return targets
    dtype = _check.wide(targets, weights)
    return targets.astype(dtype) * jnp.broadcast_to(weights, targets.shape).astype(dtype)


def _factor_of_label(
    labels: Array, weights: Array | None, allowed: Array | None, axis: int, losses: Array
) -> Array:
    """The weight of each label's class, NaN where it takes no part."""
    factor = jnp.ones_like(losses)
    index = jnp.expand_dims(labels, axis)
    if weights is not None:
        index, _ = _check.valid_index(index, weights.shape[axis])
        factor = jnp.take(weights.reshape(-1), jnp.squeeze(index, axis)).astype(losses.dtype)
    if allowed is not None:
        index, _ = _check.valid_index(index, allowed.shape[axis])
        taking_part = jnp.squeeze(jnp.take_along_axis(allowed, index, axis), axis)
        factor = jnp.where(taking_part, factor, jnp.nan)
    return factor


def _mixed(smoothing: Array, of_label: Array, of_average: Array) -> Array:
    """(1 - s) of one loss and s of another, either of which may be infinite if it has no share."""
    share = jnp.broadcast_to(smoothing, of_label.shape)
    return safe_product(1 - share, of_label) + safe_product(share, of_average)


@_check.known_keywords
def softmax_focal(
    logits: Real[ArrayLike, "..."],
    labels: Integer[ArrayLike, "*rows"],
    *,
    gamma: Real[ArrayLike, ""] = 2.0,
    axis: int = -1,
) -> Float[Array, "*rows"]:
    r"""Focal loss: softmax cross-entropy that fades for examples that are right already.

    $$\ell = -(1 - p_y)^\gamma \log p_y$$

    Gradient with respect to $\log p_y$: $-(1 - p_y)^\gamma + \gamma\, p_y (1 - p_y)^{\gamma - 1}
    \log p_y$, both terms of one sign, for any $\gamma$; 0 in the limit $p_y = 1$. A label out of
    range, negative ones included, gives NaN in loss and gradient.

    Args:
        logits: real scores, at least one class along `axis`.
        labels: class indices from 0 to C - 1, shaped as `logits` without `axis`; any integer dtype.
        gamma: the focusing exponent, at least 0; 0 is `cross_entropy`.
        axis: the axis of the classes.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 logits.

    Raises:
        TypeError: `logits` are not real, `labels` not integers, or `axis` is not an integer.
        ValueError: there is no such axis, it is empty, the shapes do not agree, or `gamma` is
            negative or not a scalar. (A traced `gamma` that turns out negative gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.softmax_focal(jnp.array([[0.0, 0.0], [20.0, 0.0]]), jnp.array([0, 0]))
        Array([1.733e-01, 8.757e-27], dtype=float32)

    Source: Lin et al., "Focal loss for dense object detection" (2017), equation 4, with a softmax.
    """
    function = "softmax_focal"
    [logits] = _check.real_arrays(function, logits=logits)
    axis = _check.reduced_axis(function, axis, logits=logits)
    labels = _check.class_labels(function, labels, axis, logits=logits)
    gamma = _options.number(function, "gamma", gamma, minimum=0.0)
    dtype = _check.wide(logits)
    return _focal(logits, labels, jnp.broadcast_to(gamma.astype(dtype), labels.shape), axis)


@functools.partial(custom_vjp, static=1)
def _focal(logits: Array, labels: Array, gamma: Array, axis: int) -> Array:
    return _focal_of(logits, labels, gamma, axis, stored=False)[0]


# With l = log p and q = 1 - p the loss is -q^gamma l, and
#
#     d/dl = q^gamma (gamma p l / q - 1)        d/dgamma = -q^gamma l log q
#
# where l / q is -1 in the limit of p = 1 and p l is 0 in that of p = 0. Nothing here is a
# difference of nearly equal numbers: both terms of d/dl are negative. And q is the quotient of the
# softmax's own sums: from l, which is rounded, the power would multiply its error by gamma.


_OfFocal = tuple[Array, Array, tuple[Array, ...]]


def _focal_fwd(logits: Array, labels: Array, gamma: Array, axis: int) -> tuple[Array, _OfFocal]:
    return _focal_of(logits, labels, gamma, axis, stored=True)


def _focal_of(
    logits: Array, labels: Array, gamma: Array, axis: int, stored: bool
) -> tuple[Array, _OfFocal]:
    log_prob, statistics = log_softmax_at_of(logits, labels, axis, stored)
    power = safe_power(_complement(log_prob, statistics, axis), gamma)
    return safe_product(power, -log_prob), (log_prob, gamma, statistics)


def _complement(log_prob: Array, statistics: tuple[Array, ...], axis: int) -> Array:
    return jnp.squeeze(complement_at(statistics, jnp.expand_dims(log_prob, axis)), axis)


def _focal_bwd(axis: int, residuals: _OfFocal, cotangent: Array) -> tuple[Array, None, Array]:
    log_prob, gamma, statistics = residuals
    complement = _complement(log_prob, statistics, axis)
    certain = complement == 0
    ratio = jnp.where(certain, -1, quotient(log_prob, jnp.where(certain, 1, complement)))
    power = safe_power(complement, gamma)
    slope = power * (gamma * safe_product(exp(log_prob), ratio) - 1)
    to_gamma = -safe_product(power * jnp.log(jnp.where(certain, 1, complement)), log_prob)
    to_logits, _ = log_softmax_at_bwd(axis, statistics, slope * cotangent)
    return to_logits, None, to_gamma * cotangent


_focal.defvjp(_focal_fwd, _focal_bwd)


@_check.known_keywords
def poly_cross_entropy(
    logits: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    epsilon: Real[ArrayLike, ""] = 2.0,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Poly-1: cross-entropy with another coefficient of the first power of 1 - p.

    $$\ell = -\log p_y + \epsilon (1 - p_y) \quad\text{or}\quad
      \ell = \sum_j q_j \big(-\log p_j + \epsilon (1 - p_j)\big)$$

    against class indices or probabilities, as in `cross_entropy`. Gradient with respect to
    $\log p_j$: $-q_j (1 + \epsilon p_j)$. A label out of range, negative ones included, gives NaN
    in loss and gradient.

    Args:
        logits: real scores, at least one class along `axis`.
        targets: class indices from 0 to C - 1, any integer dtype, shaped as `logits` without
            `axis`; or probabilities, floating, shaped as `logits`.
        epsilon: what is added to the coefficient; -1 takes the first power out, and with it the
            accuracy of small losses.
        axis: the axis of the classes.

    Returns:
        One loss per row; float32, or float64 for float64 input.

    Raises:
        TypeError: `logits` are not real, `targets` neither integers nor floats, or `axis` is not an
            integer.
        ValueError: there is no such axis, it is empty, the shapes do not agree, or `epsilon` is not
            a finite scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.poly_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([0]))
        Array([1.693], dtype=float32)

    Source: Leng et al., "PolyLoss" (2022), equation 6; Optax `poly_loss_cross_entropy`.
    """
    function = "poly_cross_entropy"
    [logits] = _check.real_arrays(function, logits=logits)
    axis = _check.reduced_axis(function, axis, logits=logits)
    epsilon = _options.number(function, "epsilon", epsilon)
    if _check.are_indices(function, targets):
        labels = _check.class_labels(function, targets, axis, logits=logits)
        log_prob = log_softmax_at(logits, labels, axis=axis)
        return epsilon.astype(log_prob.dtype) * -jnp.expm1(log_prob) - log_prob
    [targets] = _check.real_arrays(function, targets=targets)
    _check.same_shape(function, logits=logits, targets=targets)
    _checked.distributions(function, axis, targets=targets)
    # Widened here, so that the two gradients are added before they are rounded.
    logits = logits.astype(_check.wide(logits, targets))
    complements = -jnp.expm1(log_softmax(logits, axis=axis))
    missed = jnp.sum(targets.astype(logits.dtype) * complements, axis)
    losses = -expected_log_softmax(logits, targets, axis=axis)
    return losses + epsilon.astype(losses.dtype) * missed
