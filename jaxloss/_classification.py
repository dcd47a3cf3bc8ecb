"""Losses of classes: softmax and sigmoid."""

from __future__ import annotations

import numbers

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Real

from jaxloss import _check
from jaxloss._autodiff import custom_vjp
from jaxloss.primitives import expected_log_softmax, log_softmax, log_softmax_at, safe_product


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
    axis = _check.class_axis("nll", axis, log_probs=log_probs)
    labels = _check.class_labels("nll", labels, axis, log_probs=log_probs)
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
) -> Float[Array, "..."]:
    r"""Softmax cross-entropy of scores against class indices or class probabilities.

    $$\ell = -\log p_y \quad\text{or}\quad \ell = -\sum_j q_j \log p_j, \qquad
      p_j = e^{z_j} \big/ \sum_i e^{z_i}$$

    The targets' dtype decides: integers are class indices, floats are probabilities over `axis`.
    Gradient: $p$ less the target's distribution (times $\sum_j q_j$), with relative accuracy kept
    when the label is far ahead. `label_smoothing` mixes the target with the uniform distribution,
    $(1-\epsilon) q + \epsilon / C$. A logit of -inf takes its class out of the softmax; its target
    must be 0, and smoothing makes no target 0. Then $0 \cdot \log 0 = 0$; a positive target there
    gives inf, all logits of -inf or any of +inf give NaN. A label out of range, negative ones
    included, gives NaN in loss and gradient.

    Args:
        logits: real scores, at least one class along `axis`.
        targets: class indices from 0 to C - 1, any integer dtype, shaped as `logits` without
            `axis`; or probabilities, floating, shaped as `logits`.
        axis: the axis of the classes; PyTorch's images and sequences have 1.
        label_smoothing: the weight of the uniform distribution, from 0 to 1.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: `logits` are not real, `targets` neither integers nor floats, or `axis` is not an
            integer.
        ValueError: there is no such axis, it is empty, the shapes do not agree, or
            `label_smoothing` is outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> logits = jnp.array([[2.0, 0.0, 0.0], [20.0, 0.0, -jnp.inf]])
        >>> jaxloss.cross_entropy(logits, jnp.array([0, 0]))
        Array([2.395e-01, 2.061e-09], dtype=float32)
        >>> jaxloss.cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]))
        Array([ 1.2395, 10.  ], dtype=float32)

    Source: Szegedy et al., "Rethinking the Inception architecture" (2016), section 7, for the
    smoothing; PyTorch `cross_entropy`.
    """
    [logits] = _check.real_arrays("cross_entropy", logits=logits)
    axis = _check.class_axis("cross_entropy", axis, logits=logits)
    smoothing = _check.number(
        "cross_entropy", "label_smoothing", label_smoothing, minimum=0.0, maximum=1.0
    )
    if _check.are_indices("cross_entropy", targets):
        labels = _check.class_labels("cross_entropy", targets, axis, logits=logits)
        if _is_zero(label_smoothing):
            return -log_softmax_at(logits, labels, axis=axis)
        # Widened here, so that the two gradients are added before they are rounded.
        logits = logits.astype(_check.wide(logits))
        smoothing = smoothing.astype(logits.dtype)
        of_label = -log_softmax_at(logits, labels, axis=axis)
        of_average = -jnp.mean(log_softmax(logits, axis=axis), axis)
        return _mixed(smoothing, of_label, of_average)
    [targets] = _check.real_arrays("cross_entropy", targets=targets)
    if targets.shape != logits.shape:
        raise ValueError(
            "cross_entropy: floating targets are probabilities and must have the shape of logits "
            f"{logits.shape}, got {targets.shape}; for class indices pass integers."
        )
    if not _is_zero(label_smoothing):
        targets = targets.astype(_check.wide(logits, targets))
        smoothing = smoothing.astype(targets.dtype)
        targets = (1 - smoothing) * targets + smoothing / logits.shape[axis]
    return 0 - expected_log_softmax(logits, targets, axis=axis)


def _is_zero(option: ArrayLike) -> bool:
    """Whether an option is a plain 0, known while tracing."""
    return isinstance(option, numbers.Real) and option == 0


def _mixed(smoothing: Array, of_label: Array, of_average: Array) -> Array:
    """(1 - s) of one loss and s of another, either of which may be infinite if it has no share."""
    share = jnp.broadcast_to(smoothing, of_label.shape)
    return safe_product(1 - share, of_label) + safe_product(share, of_average)


@_check.known_keywords
def binary_cross_entropy(
    predictions: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"] | Bool[ArrayLike, "*shape"],
    *,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, "*shape"]:
    r"""Cross-entropy of a predicted probability against a binary target.

    $$\ell = -y \log p - (1 - y) \log(1 - p)$$

    Gradient: $(1 - y)/(1 - p) - y/p$, a term being 0 where its numerator is. Logarithms are not
    clamped: $p = 0$ against $y = 1$ gives inf, and a prediction outside [0, 1] gives NaN in loss
    and gradient. When the probability comes from a sigmoid, `binary_cross_entropy_with_logits` is
    accurate where $p$ has rounded to 1.

    Args:
        predictions: probabilities of the positive class, in [0, 1].
        targets: of the same shape, in [0, 1]; integers and booleans too.
        label_smoothing: mixes the target with one half, $(1-\epsilon) y + \epsilon/2$; from 0 to 1.

    Returns:
        One loss per element, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, or `label_smoothing` is outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.binary_cross_entropy(jnp.array([1.0, 0.5]), jnp.array([1, 0]))
        Array([0. , 0.6931], dtype=float32)

    Source: PyTorch `binary_cross_entropy`, which clamps the logarithms at -100.
    """
    function = "binary_cross_entropy"
    predictions, targets = _check.real_arrays(function, predictions=predictions, targets=targets)
    _check.same_shape(function, predictions=predictions, targets=targets)
    dtype = _check.wide(predictions, targets)
    targets = _smoothed(function, targets.astype(dtype), label_smoothing)
    if _check.wide(predictions) != dtype:
        predictions = predictions.astype(dtype)
    return _bernoulli(predictions, targets)


@custom_vjp
def _bernoulli(predictions: Array, targets: Array) -> Array:
    return _bernoulli_fwd(predictions, targets)[0]


# d/dp = (1 - y) / (1 - p) - y / p, each quotient 0 along a numerator of 0, also where p is an end
# of [0, 1]; d/dy = log(1 - p) - log p.


def _bernoulli_fwd(predictions: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    probabilities = predictions.astype(targets.dtype)
    value = safe_product(targets, -jnp.log(probabilities)) + safe_product(
        1 - targets, -jnp.log1p(-probabilities)
    )
    return value, (predictions, targets)


def _bernoulli_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    predictions, targets = residuals
    probabilities = predictions.astype(targets.dtype)
    slope = _ratio(1 - targets, 1 - probabilities) - _ratio(targets, probabilities)
    log_odds = jnp.log(probabilities) - jnp.log1p(-probabilities)
    return (slope * cotangent).astype(predictions.dtype), -log_odds * cotangent


_bernoulli.defvjp(_bernoulli_fwd, _bernoulli_bwd)


def _ratio(part: Array, whole: Array) -> Array:
    """Quotient with 0 / 0 = 0, and NaN for a negative denominator."""
    whole = jnp.where((part == 0) & (whole == 0), 1, whole)
    return part / jnp.where(whole < 0, jnp.nan, whole)


@_check.known_keywords
def binary_cross_entropy_with_logits(
    logits: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"] | Bool[ArrayLike, "*shape"],
    *,
    pos_weight: Real[ArrayLike, "..."] = 1.0,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, "*shape"]:
    r"""Cross-entropy of the sigmoid of a score against a binary target.

    $$\ell = w\, y \log(1 + e^{-z}) + (1 - y) \log(1 + e^z)$$

    with $w$ the `pos_weight`. Gradient: $(1 - y)\,\sigma(z) - w\,y\,\sigma(-z)$, both from one
    exponential, so that confident predictions keep their tail. Infinite logits give the limit: 0
    against their own target, inf against the other.

    Args:
        logits: real scores of the positive class.
        targets: of the same shape, in [0, 1]; integers and booleans too.
        pos_weight: weight of the positive term, a scalar or any shape that broadcasts to that of
            `logits`, such as one weight per class along the last axis.
        label_smoothing: mixes the target with one half, $(1-\epsilon) y + \epsilon/2$; from 0 to 1.

    Returns:
        One loss per element, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, `pos_weight` does not fit or is negative, or
            `label_smoothing` is outside [0, 1]. (A traced option out of range gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> logits = jnp.array([-20.0, 0.0])
        >>> jaxloss.binary_cross_entropy_with_logits(logits, jnp.array([0, 1]))
        Array([2.061e-09, 6.931e-01], dtype=float32)

    Source: PyTorch `binary_cross_entropy_with_logits`.
    """
    function = "binary_cross_entropy_with_logits"
    pos_weight = _check.bounded(function, "pos_weight", pos_weight, minimum=0.0)
    logits, targets = _check.real_arrays(function, logits=logits, targets=targets)
    _check.same_shape(function, logits=logits, targets=targets)
    pos_weight = _check.broadcasts_to(function, logits.shape, pos_weight=pos_weight)
    dtype = _check.wide(logits, targets)
    targets = _smoothed(function, targets.astype(dtype), label_smoothing)
    return _logistic(logits, targets, pos_weight.astype(dtype))


@custom_vjp
def _logistic(logits: Array, targets: Array, pos_weight: Array) -> Array:
    return _logistic_fwd(logits, targets, pos_weight)[0]


# With s(z) = log(1 + e^z) = max(z, 0) + log1p(e^-|z|) the loss is w y s(-z) + (1 - y) s(z), and
# s' = sigma. Both sigmoids come from u = e^-|z|: the larger is 1 / (1 + u), the smaller
# u / (1 + u), so neither is 1 minus the other. |z| and max are both selected on z > 0, so that at 0
# too they are one smooth branch to the derivatives of higher order.


def _logistic_fwd(
    logits: Array, targets: Array, pos_weight: Array
) -> tuple[Array, tuple[Array, ...]]:
    negative, positive = _softplus_of_both_signs(logits.astype(targets.dtype))
    value = safe_product(pos_weight * targets, negative) + safe_product(1 - targets, positive)
    return value, (logits, targets, pos_weight)


def _logistic_bwd(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    logits, targets, pos_weight = residuals
    scores = logits.astype(targets.dtype)
    tail = jnp.exp(-jnp.where(scores > 0, scores, -scores))
    larger, smaller = 1 / (1 + tail), tail / (1 + tail)
    sigmoid = jnp.where(scores > 0, larger, smaller)
    complement = jnp.where(scores > 0, smaller, larger)
    slope = (1 - targets) * sigmoid - pos_weight * targets * complement
    negative, positive = _softplus_of_both_signs(scores)
    single = [axis for axis, length in enumerate(pos_weight.shape) if length == 1]
    return (
        (slope * cotangent).astype(logits.dtype),
        (pos_weight * negative - positive) * cotangent,
        jnp.sum(safe_product(targets, negative) * cotangent, single, keepdims=True),
    )


_logistic.defvjp(_logistic_fwd, _logistic_bwd)


def _softplus_of_both_signs(scores: Array) -> tuple[Array, Array]:
    """s(-z) and s(z)."""
    positive = scores > 0
    tail = jnp.log1p(jnp.exp(-jnp.where(positive, scores, -scores)))
    return jnp.where(positive, 0, -scores) + tail, jnp.where(positive, scores, 0) + tail


def _smoothed(function: str, targets: Array, label_smoothing: ArrayLike) -> Array:
    smoothing = _check.number(
        function, "label_smoothing", label_smoothing, minimum=0.0, maximum=1.0
    )
    if _is_zero(label_smoothing):
        return targets
    smoothing = smoothing.astype(targets.dtype)
    return (1 - smoothing) * targets + smoothing / 2
