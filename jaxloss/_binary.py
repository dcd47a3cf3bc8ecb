"""Losses of two classes: a probability or a logit against a target in [0, 1]."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from jaxloss import _check, _checked, _options
from jaxloss._autodiff import afresh, apart, custom_vjp
from jaxloss._elementary import quotient, softplus_of_both_signs
from jaxloss._exact import exp, exponential, log_one_plus, product
from jaxloss._parts import summed_in_parts
from jaxloss.primitives import safe_power, safe_product, softplus


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
    predictions, targets = _check.of_one_shape(function, predictions=predictions, targets=targets)
    _checked.probabilities(function, predictions=predictions, targets=targets)
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
        1 - targets, -log_one_plus(-probabilities)
    )
    return value, (predictions, targets)


def _bernoulli_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    predictions, targets = residuals
    probabilities = predictions.astype(targets.dtype)
    slope = _ratio(1 - targets, 1 - probabilities) - _ratio(targets, probabilities)
    log_odds = jnp.log(probabilities) - log_one_plus(-probabilities)
    return (slope * cotangent).astype(predictions.dtype), -log_odds * cotangent


_bernoulli.defvjp(_bernoulli_fwd, _bernoulli_bwd)


def _ratio(part: Array, whole: Array) -> Array:
    """Quotient with 0 / 0 = 0, and NaN for a negative denominator."""
    whole = jnp.where((part == 0) & (whole == 0), 1, whole)
    return quotient(part, jnp.where(whole < 0, jnp.nan, whole))


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
    pos_weight = _options.bounded(function, "pos_weight", pos_weight, minimum=0.0)
    logits, targets = _check.of_one_shape(function, logits=logits, targets=targets)
    _checked.probabilities(function, targets=targets)
    pos_weight = _options.broadcasts_to(function, logits.shape, pos_weight=pos_weight)
    dtype = _check.wide(logits, targets)
    targets = _smoothed(function, targets.astype(dtype), label_smoothing)
    return _logistic(logits, targets, pos_weight.astype(dtype))


@custom_vjp
def _logistic(logits: Array, targets: Array, pos_weight: Array) -> Array:
    return _logistic_fwd(logits, targets, pos_weight)[0]


# With s(z) = log(1 + e^z) the loss is w y s(-z) + (1 - y) s(z), and s' = sigma. Both s are the one
# tail t = log1p(e^-|z|), and one of them is |z| more, so that
#
#     l = (w y + (1 - y)) t + c |z|,   c = 1 - y for z > 0, else w y
#
# in which nothing cancels. Both sigmoids come from u = e^-|z|: the larger is 1 / (1 + u), the
# smaller u / (1 + u), so neither is 1 minus the other. In the derivative |z| is selected on z > 0,
# so that at 0 too it is one smooth branch to the derivatives of higher order; that the value's
# exponential is written otherwise spares XLA to store what the two would share.


def _logistic_fwd(
    logits: Array, targets: Array, pos_weight: Array
) -> tuple[Array, tuple[Array, ...]]:
    value = softplus_of_both_signs(logits.astype(targets.dtype), pos_weight * targets, 1 - targets)
    return value, (logits, targets, pos_weight)


def _logistic_bwd(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    logits, targets, pos_weight = residuals
    pos_weight, zero, one = apart(pos_weight, 0, 1, dtype=targets.dtype)
    scores = logits.astype(targets.dtype)
    positive = scores > zero
    tail = exp(-jnp.where(positive, scores, -scores))
    of_one, of_zero = pos_weight * targets, one - targets
    slope = jnp.where(positive, of_zero - of_one * tail, of_zero * tail - of_one) / (one + tail)
    negative = softplus(-scores)
    single = [axis for axis, length in enumerate(pos_weight.shape) if length == 1]
    return (
        (slope * cotangent).astype(logits.dtype),
        (pos_weight * negative - softplus(scores)) * cotangent,
        jnp.sum(safe_product(targets, negative) * cotangent, single, keepdims=True),
    )


_logistic.defvjp(_logistic_fwd, _logistic_bwd)


def _smoothed(function: str, targets: Array, label_smoothing: ArrayLike) -> Array:
    smoothing = _options.number(
        function, "label_smoothing", label_smoothing, minimum=0.0, maximum=1.0
    )
    if _options.is_zero(label_smoothing):
        return targets
    smoothing = smoothing.astype(targets.dtype)
    return (1 - smoothing) * targets + smoothing / 2


@_check.known_keywords
def multilabel_soft_margin(
    logits: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."] | Bool[ArrayLike, "..."],
    *,
    class_weights: Real[ArrayLike, " classes"] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Mean over the classes of the binary cross-entropy of each.

    $$\ell = \frac1C \sum_c w_c \big(y_c \log(1 + e^{-z_c}) + (1 - y_c) \log(1 + e^{z_c})\big)$$

    Gradient: $w_c (\sigma(z_c) - y_c) / C$, as accurate as that of
    `binary_cross_entropy_with_logits`. The sum is divided by the number of classes, not by the
    weights.

    Args:
        logits: real scores, at least one class along `axis`.
        targets: of the same shape, in [0, 1]; integers and booleans too.
        class_weights: a factor for each class's term, at least 0; 1 by default.
        axis: the axis of the classes.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or `axis` is not an integer.
        ValueError: the shapes differ, there is no such axis, it is empty, or `class_weights` do not
            fit or are negative.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.multilabel_soft_margin(jnp.array([[0.0, 20.0]]), jnp.array([[1, 1]]))
        Array([0.3466], dtype=float32)

    Source: PyTorch `multilabel_soft_margin_loss`.
    """
    function = "multilabel_soft_margin"
    logits, targets = _check.of_one_shape(function, logits=logits, targets=targets)
    _checked.probabilities(function, targets=targets)
    axis = _check.reduced_axis(function, axis, logits=logits)
    targets = targets.astype(_check.wide(logits, targets))
    losses = _logistic(logits, targets, jnp.ones((1,) * logits.ndim, targets.dtype))
    if class_weights is not None:
        weights = _options.class_weights(function, class_weights, axis, logits=losses)
        losses = losses * jnp.broadcast_to(weights, losses.shape)
    return jnp.mean(losses, axis)


@_check.known_keywords
def sigmoid_focal(
    logits: Real[ArrayLike, "*shape"],
    targets: Real[ArrayLike, "*shape"] | Bool[ArrayLike, "*shape"],
    *,
    gamma: Real[ArrayLike, ""] = 2.0,
    alpha: Real[ArrayLike, ""] | None = None,
) -> Float[Array, "*shape"]:
    r"""Focal loss: binary cross-entropy that fades for examples that are right already.

    $$\ell = a\, q^\gamma\, b, \qquad q = y\,\sigma(-z) + (1 - y)\,\sigma(z), \quad
      a = \alpha y + (1 - \alpha)(1 - y)$$

    with $b$ the binary cross-entropy of the logit $z$ against the target $y$; $q$ is the
    probability of being wrong. Gradient, for $y = 1$: $-a\, q^\gamma (\gamma (1 - q)\, b + q)$, for
    any $\gamma$, and mirrored for $y = 0$. Infinite logits give the limits.

    Args:
        logits: real scores of the positive class.
        targets: of the same shape, in [0, 1]; integers and booleans too.
        gamma: the focusing exponent, at least 0.
        alpha: the weight of the positive class, from 0 to 1, the negative's being 1 less it; by
            default both weigh 1.

    Returns:
        One loss per element, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, `gamma` is negative, `alpha` outside [0, 1], or one of them
            is not a scalar. (A traced option out of bounds gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.sigmoid_focal(jnp.array([0.0, 20.0]), jnp.array([1, 1]))
        Array([1.733e-01, 8.757e-27], dtype=float32)

    Source: Lin et al., "Focal loss for dense object detection" (2017), equation 5; Optax
    `sigmoid_focal_loss`.
    """
    function = "sigmoid_focal"
    gamma = _options.number(function, "gamma", gamma, minimum=0.0)
    logits, targets = _check.matched(function, logits=logits, targets=targets)
    _checked.probabilities(function, targets=targets)
    losses = _focal(logits, targets, jnp.broadcast_to(gamma.astype(logits.dtype), logits.shape))
    if alpha is None:
        return losses
    share = _options.number(function, "alpha", alpha, minimum=0.0, maximum=1.0)
    share = share.astype(losses.dtype)
    return (share * targets + (1 - share) * (1 - targets)) * losses


@custom_vjp
def _focal(logits: Array, targets: Array, gamma: Array) -> Array:
    return _focal_fwd(logits, targets, gamma)[0]


# With s = sigma(z) and n = sigma(-z), q = y n + (1 - y) s and b the binary cross-entropy,
#
#     dq/dz = (1 - 2y) s n      db/dz = (1 - y) s - y n      dl/dz = q^gamma (gamma b q'/q + b')
#
# and with respect to the target q' = n - s and b' = -z. For targets of 0 and 1 the two terms of
# dl/dz have one sign. All are quotients of u = e^-|z|, over 1 + u: q is m / (1 + u), and q'/q is
# (1 - 2y) (u / m) / (1 + u), which stays finite where q underflows.


def _focal_fwd(
    logits: Array, targets: Array, gamma: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    loss = softplus_of_both_signs(logits, targets, 1 - targets)
    value = safe_product(_wrong(logits, targets, gamma).power, loss)
    return value, (logits, targets, gamma)


def _focal_bwd(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    *inputs, gamma = residuals
    logits, targets = afresh(*inputs)
    positive = logits > 0
    wrong = _wrong(logits, targets, gamma)
    tail, whole = wrong.tail, 1 + wrong.tail
    loss = _logistic(logits, targets, jnp.ones((1,) * logits.ndim, logits.dtype))
    never = wrong.numerator == 0
    divisor = jnp.where(never, 1, wrong.numerator)
    relative = (1 - 2 * targets) * jnp.where(never, 0, quotient(tail, divisor)) / whole
    others = 1 - targets
    slope = jnp.where(positive, others - targets * tail, others * tail - targets) / whole
    to_logits = wrong.power * (gamma * safe_product(relative, loss) + slope)
    swing = jnp.where(never, 0, quotient(jnp.where(positive, tail - 1, 1 - tail), divisor))
    to_targets = safe_product(wrong.power, gamma * safe_product(swing, loss) - logits)
    to_gamma = safe_product(wrong.power * jnp.log(divisor / whole), loss)
    return to_logits * cotangent, to_targets * cotangent, to_gamma * cotangent


_focal.defvjp(_focal_fwd, _focal_bwd)


class _Wrong(NamedTuple):
    tail: Array  # e^-|z|
    numerator: Array  # q (1 + e^-|z|)
    power: Array  # q^gamma


def _wrong(logits: Array, targets: Array, gamma: Array) -> _Wrong:
    """The probability of being wrong, and its power.

    A power multiplies the relative error of its base; so the error that the exponential, the sum
    and the quotient leave in it is taken along.
    """
    positive = logits > 0
    tail, relative = exponential(-jnp.where(positive, logits, -logits))
    others = 1 - targets
    small = jnp.where(positive, targets, others) * tail
    numerator = jnp.where(positive, others, targets) + small
    whole = 1 + tail
    lost = ((1 - whole) + tail) + tail * relative
    ratio = numerator / whole
    # Scaled, so that errors of small numbers are not flushed to 0.
    scale = 2.0**40
    multiple, lost_of_multiple = product(ratio * scale, whole)
    missing = (numerator * scale - multiple) - lost_of_multiple
    missing = (missing - ratio * scale * lost) + small * scale * relative
    never = numerator == 0
    correction = jnp.where(never, 0, missing / jnp.where(never, 1, numerator * scale))
    power = safe_power(ratio, gamma)
    return _Wrong(tail, numerator, power + power * (gamma * jax.lax.stop_gradient(correction)))


summed_in_parts(binary_cross_entropy, binary_cross_entropy_with_logits)
summed_in_parts(sigmoid_focal, long=True)
