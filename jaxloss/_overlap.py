"""Losses of how two masks overlap, the axes of the image reduced."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from jaxloss import _check, _checked, _options


@_check.known_keywords
def dice(
    predictions: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."] | Bool[ArrayLike, "..."],
    *,
    axes: Sequence[int],
    smooth: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "..."]:
    r"""Dice loss: one less the overlap of a predicted and a true mask over their mean size.

    $$\ell = 1 - \frac{2 \sum p t + 2 s}{\sum p + \sum t + 2 s}$$

    Gradient: with $D$ the denominator, $-2 t / D + (2 \sum p t + 2 s) / D^2$; an empty target gets
    one through `smooth`. It is `tversky` with both weights one half. Without `smooth` and any mass
    the loss is 0 with gradient 0.

    Args:
        predictions: probabilities, in [0, 1]: a softmax or sigmoid of the scores.
        targets: masks of the same shape, in [0, 1]; integers and booleans too.
        axes: the axes of the image, which are summed over: (1, 2) for (batch, height, width) and
            for (batch, height, width, classes).
        smooth: $s$, added to the overlap and to the size, at least 0, in pixels.

    Returns:
        One loss for each entry of the axes that are left, such as (batch, classes), in [0, 1];
        float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or `axes` is not a tuple of integers.
        ValueError: the shapes differ, an axis does not exist, is empty or given twice, or `smooth`
            is negative or not a scalar. (A traced `smooth` that turns out negative gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> predictions = jnp.array([[[0.5, 0.5], [1.0, 0.0]]])
        >>> targets = jnp.array([[[True, False], [True, False]]])
        >>> jaxloss.dice(predictions, targets, axes=(1, 2), smooth=0.0)
        Array([0.25], dtype=float32)

    Source: Milletari, Navab and Ahmadi, "V-Net" (2016), section 3, with plain sums in the
    denominator; Optax `dice_loss`.
    """
    half = jnp.full((), 0.5)
    return _overlap("dice", predictions, targets, axes, half, half, smooth)


@_check.known_keywords
def tversky(
    predictions: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."] | Bool[ArrayLike, "..."],
    *,
    axes: Sequence[int],
    alpha: Real[ArrayLike, ""] = 0.3,
    beta: Real[ArrayLike, ""] = 0.7,
    smooth: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "..."]:
    r"""Tversky loss: an overlap that weighs false positives and false negatives apart.

    $$\ell = 1 - \frac{\sum p t + s}{\sum p t + \alpha \sum p (1 - t) + \beta \sum (1 - p) t + s}$$

    computed as $(\alpha\,\mathrm{FP} + \beta\,\mathrm{FN})$ over the same denominator $D$, which
    does not cancel. Gradient: $(\alpha (1 - t) - \beta t - \ell\,\partial D / \partial p) / D$.
    Weights of one half give `dice`. Without `smooth` and any mass the loss is 0 with gradient 0.

    Args:
        predictions: probabilities, in [0, 1]: a softmax or sigmoid of the scores.
        targets: masks of the same shape, in [0, 1]; integers and booleans too.
        axes: the axes of the image, which are summed over: (1, 2) for (batch, height, width) and
            for (batch, height, width, classes).
        alpha: the weight of false positives, at least 0.
        beta: the weight of false negatives, at least 0; above `alpha` it favours recall.
        smooth: $s$, added to the overlap, at least 0, in pixels.

    Returns:
        One loss for each entry of the axes that are left, such as (batch, classes), in [0, 1];
        float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or `axes` is not a tuple of integers.
        ValueError: the shapes differ, an axis does not exist, is empty or given twice, or an option
            is negative or not a scalar. (A traced option that turns out negative gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> predictions = jnp.array([[[0.5, 0.5], [1.0, 0.0]]])
        >>> targets = jnp.array([[[True, False], [True, False]]])
        >>> jaxloss.tversky(predictions, targets, axes=(1, 2), alpha=1, beta=1, smooth=0)
        Array([0.4], dtype=float32)

    Source: Salehi, Erdogmus and Gholipour, "Tversky loss function for image segmentation using 3D
    fully convolutional deep networks" (2017), equation 3.
    """
    alpha = _options.number("tversky", "alpha", alpha, minimum=0.0)
    beta = _options.number("tversky", "beta", beta, minimum=0.0)
    return _overlap("tversky", predictions, targets, axes, alpha, beta, smooth)


def _overlap(
    function: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    axes: Sequence[int],
    alpha: Array,
    beta: Array,
    smooth: ArrayLike,
) -> Array:
    predictions, targets = _check.matched(function, predictions=predictions, targets=targets)
    axes = _check.reduced_axes(function, axes, predictions=predictions)
    _checked.probabilities(function, predictions=predictions, targets=targets)
    smooth = _options.number(function, "smooth", smooth, minimum=0.0)
    dtype = predictions.dtype
    overlap = jnp.sum(predictions * targets, axes)
    false_positives = jnp.sum(predictions * (1 - targets), axes)
    false_negatives = jnp.sum((1 - predictions) * targets, axes)
    missed = alpha.astype(dtype) * false_positives + beta.astype(dtype) * false_negatives
    whole = missed + (overlap + smooth.astype(dtype))
    nothing = whole == 0
    return jnp.where(nothing, 0, missed / jnp.where(nothing, 1, whole))
