"""Losses of pairs and triplets of vectors, one axis of features reduced."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _cosine, _options, _vectors
from jaxloss.primitives import positive_part


def _pair(
    function: str, predictions: ArrayLike, targets: ArrayLike, axis: int
) -> tuple[Array, Array, int]:
    predictions, targets = _check.of_one_shape(function, predictions=predictions, targets=targets)
    return predictions, targets, _check.reduced_axis(function, axis, predictions=predictions)


@_check.known_keywords
def cosine_similarity(
    predictions: Real[ArrayLike, "..."], targets: Real[ArrayLike, "..."], *, axis: int = -1
) -> Float[Array, "..."]:
    r"""Cosine of the angle between two vectors. Not a loss: larger is more alike.

    $$s = \frac{a \cdot b}{|a| \, |b|}$$

    Gradient: $(b / |b| - s\, a / |a|) / |a|$ with respect to $a$. The scale of either vector does
    not matter, from 1e-25 to 1e25; with a zero vector the similarity is 0 with gradient 0.

    Args:
        predictions: real vectors along `axis`.
        targets: real vectors of the same shape.
        axis: the axis of the features.

    Returns:
        The shape of the inputs without `axis`, in [-1, 1]; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or `axis` is not an integer.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.cosine_similarity(jnp.array([[1e20, 0.0]]), jnp.array([[3e-20, 4e-20]]))
        Array([0.6], dtype=float32)

    Source: Salton and McGill, "Introduction to modern information retrieval" (1983); the sum of
    products with Dekker's error, "A floating-point technique for extending the available precision"
    (1971).
    """
    return _cosine.similarity(*_pair("cosine_similarity", predictions, targets, axis))


@_check.known_keywords
def cosine_distance(
    predictions: Real[ArrayLike, "..."], targets: Real[ArrayLike, "..."], *, axis: int = -1
) -> Float[Array, "..."]:
    r"""One less the cosine of the angle between two vectors.

    $$\ell = 1 - \frac{a \cdot b}{|a| \, |b|}$$

    accurate for nearly parallel vectors too, where 1 less the cosine is noise. Gradient:
    $(s\, a / |a| - b / |b|) / |a|$ with respect to $a$, for the similarity $s$. With a zero vector
    the distance is 1 with gradient 0.

    Args:
        predictions: real vectors along `axis`.
        targets: real vectors of the same shape.
        axis: the axis of the features.

    Returns:
        One loss per pair, in [0, 2]; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, or `axis` is not an integer.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.cosine_distance(jnp.array([[1.0, 2.0, 3.0001]]), jnp.array([[1.0, 2.0, 3.0]]))
        Array([1.27e-10], dtype=float32)

    Source: as for `cosine_similarity`.
    """
    return _cosine.distance(*_pair("cosine_distance", predictions, targets, axis))


@_check.known_keywords
def cosine_embedding(
    predictions: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    signs: Real[ArrayLike, "..."],
    *,
    margin: Real[ArrayLike, ""] = 0.0,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Cosine distance of similar pairs, hinge of the cosine of dissimilar ones.

    $$\ell = \begin{cases} 1 - \cos(a, b) & y = 1 \\ [\cos(a, b) - m]_+ & y = -1 \end{cases}$$

    Gradient: that of `cosine_distance` for similar pairs, and for others that of
    `cosine_similarity` beyond the margin, 0 on its edge and within. With a zero vector the cosine
    is 0, with gradient 0. Signs other than 1 and -1 give NaN in loss and gradient.

    Args:
        predictions: real vectors along `axis`.
        targets: real vectors of the same shape.
        signs: 1 for similar, -1 for dissimilar pairs, shaped as the vectors without `axis`.
        margin: the cosine up to which dissimilar pairs are right, from -1 to 1.
        axis: the axis of the features.

    Returns:
        One loss per pair; float32, or float64 for float64 vectors.

    Raises:
        TypeError: vectors are not real, `signs` are booleans or no numbers, or `axis` is not an
            integer.
        ValueError: the shapes do not agree, there is no such axis, it is empty, or `margin` is
            outside [-1, 1]. (A traced `margin` that turns out so gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> first, second = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[3.0, 4.0], [4.0, 3.0]])
        >>> jaxloss.cosine_embedding(first, second, jnp.array([1, -1]), margin=0.5)
        Array([0.4, 0.3], dtype=float32)

    Source: PyTorch `cosine_embedding_loss`.
    """
    function = "cosine_embedding"
    predictions, targets, axis = _pair(function, predictions, targets, axis)
    signs = _check.signs(function, signs, _check.wide(predictions, targets))
    _check.without_axis(function, axis, signs, predictions=predictions)
    margin = _options.number(function, "margin", margin, minimum=-1.0, maximum=1.0)
    cosine = _cosine.similarity(predictions, targets, axis)
    dissimilar = positive_part(cosine - margin.astype(cosine.dtype))
    losses = jnp.where(signs == 1, _cosine.distance(predictions, targets, axis), dissimilar)
    return losses * jnp.abs(signs)  # 1, or NaN.


@_check.known_keywords
def triplet_margin(
    anchors: Real[ArrayLike, "..."],
    positives: Real[ArrayLike, "..."],
    negatives: Real[ArrayLike, "..."],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
    p: float | int = 2,
    swap: bool = False,
    distance: Callable[[Array, Array], Array] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""By how much an anchor is not nearer to its positive than to its negative, by a margin.

    $$\ell = \big[d(a, p) - d(a, n) + m\big]_+$$

    with $d$ the `p`-norm of the difference, or `distance`. Gradient: for the Euclidean norm the
    unit vectors between the points, 0 between coinciding ones; 0 on the margin's edge. No small
    number is added to the differences. With `swap` the negative's distance is the smaller of those
    to the anchor and to the positive, which share the gradient where they are equal.

    Args:
        anchors: real vectors along `axis`.
        positives: real vectors of the same shape.
        negatives: real vectors of the same shape.
        margin: the margin, at least 0, in the distance's unit.
        p: the degree of the norm, a Python number from 1 to infinity; with `distance`, leave it.
        swap: whether to swap anchor and positive where that gives the harder negative.
        distance: a function of two arrays of vectors to an array without the axis of features.
        axis: the axis of the features.

    Returns:
        One loss per triplet, in the distance's unit; float32, or float64 for float64 vectors.

    Raises:
        TypeError: vectors are not real, `swap` is not True or False, or `p` or `axis` is no number.
        ValueError: the shapes differ, there is no such axis, it is empty, `p` is below 1 or given
            with `distance`, `margin` is negative, or `distance` gives another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> points = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 5.5]])
        >>> jaxloss.triplet_margin(*points)
        Array([0.5], dtype=float32)

    Source: Balntas et al., "Learning local feature descriptors with triplets and shallow
    convolutional neural networks" (2016), section 2; PyTorch `triplet_margin_loss`, which adds 1e-6
    to every difference, and `triplet_margin_with_distance_loss`.
    """
    function = "triplet_margin"
    anchors, positives, negatives = _check.matched(
        function, anchors=anchors, positives=positives, negatives=negatives
    )
    axis = _check.reduced_axis(function, axis, anchors=anchors)
    margin = _options.number(function, "margin", margin, minimum=0.0).astype(anchors.dtype)
    degree = _options.degree(function, p)
    if distance is not None and degree != 2:
        raise ValueError(
            f"{function}: p is the degree of the norm, which distance replaces: give one of them, "
            f"got p={p} and distance={distance!r:.60}."
        )

    def between(first: Array, second: Array) -> Array:
        if distance is None:
            return _vectors.distance(first, second, degree, axis)
        distances = distance(first, second)
        _check.without_axis(function, axis, distances, anchors=first, of="distance")
        return distances.astype(first.dtype)

    to_negative = between(anchors, negatives)
    if _options.flag(function, "swap", swap):
        to_negative = jnp.minimum(to_negative, between(positives, negatives))
    return positive_part(between(anchors, positives) - to_negative + margin)
