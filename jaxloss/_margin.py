"""Losses of a score and a sign: f(sign * score), one value per element.

Signs are 1 and -1, of any real dtype but bool. Anything else (0, a smoothed label) gives NaN in
loss and gradient; no gradient comes back to them.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _options
from jaxloss._autodiff import apart, custom_vjp
from jaxloss._elementary import is_positive
from jaxloss._exact import exp, log_one_plus_tail
from jaxloss._parts import summed_in_parts
from jaxloss.primitives import positive_part


def _signed(function: str, signs: ArrayLike, **scores: ArrayLike) -> tuple[Array, ...]:
    """The scores and the signs, of one shape and in the dtype that the scores are computed in."""
    arrays = _check.matched(function, **scores)
    numbers = _check.signs_as_given(function, signs, arrays[0].dtype)
    _check.same_shape(function, **dict(zip(scores, arrays, strict=True)), signs=numbers)
    return *arrays, numbers


# What is no sign becomes NaN: in a value by arithmetic, which XLA's CPU backend fuses into a sum,
# where it would write to memory what a selection gives; in a slope by a selection, as it would what
# the two shared. So the rules here keep their inputs and compute both from them.


def _nothing(signs: Array) -> Array:
    """-0 for 1 and -1, so that less it a loss of -0 is 0; NaN for anything else."""
    return jnp.sqrt(-jnp.square(jnp.square(signs) - 1))


def _valid(signs: Array, one: Array | int) -> Array:
    """1 and -1, NaN for anything else."""
    return jnp.where(jnp.abs(signs) == one, signs, jnp.nan)


@custom_vjp
def _hinge(scores: Array, signs: Array, margin: Array) -> Array:
    """[m - y z]_+."""
    return _hinge_fwd(scores, signs, margin)[0]


def _hinge_fwd(
    scores: Array, signs: Array, margin: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    value = positive_part(margin - signs * scores) - _nothing(signs)
    return value, (scores, signs, margin)


def _hinge_bwd(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    scores, signs, margin = residuals
    margin, zero, one = apart(margin, 0, 1, dtype=scores.dtype)
    signs = _valid(signs, one)
    within = is_positive(margin - signs * scores, zero) * cotangent
    return -signs * within, jnp.zeros_like(signs), jnp.sum(within)


_hinge.defvjp(_hinge_fwd, _hinge_bwd)


@_check.known_keywords
def hinge(
    scores: Real[ArrayLike, "*shape"], signs: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Hinge loss of a score against a sign: 0 from a margin of 1 on.

    $$\ell = [1 - y z]_+$$

    for score $z$ and sign $y$. Gradient: $-y$ within the margin, 0 on its edge and beyond.

    Args:
        scores: real numbers; their sign is the decision.
        signs: 1 or -1, of the same shape.

    Returns:
        One loss per element; float32, or float64 for float64 scores.

    Raises:
        TypeError: `scores` are not real numbers, or `signs` are booleans or no numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.hinge(jnp.array([0.2, 0.2, 3.0]), jnp.array([1, -1, 1]))
        Array([0.8, 1.2, 0. ], dtype=float32)

    Source: Cortes and Vapnik, "Support-vector networks" (1995); Optax `hinge_loss`.
    """
    scores, signs = _signed("hinge", signs, scores=scores)
    return _hinge(scores, signs, jnp.ones((), scores.dtype))


@_check.known_keywords
def squared_hinge(
    scores: Real[ArrayLike, "*shape"], signs: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Squared hinge loss of a score against a sign: a hinge without a kink.

    $$\ell = [1 - y z]_+^2$$

    for score $z$ and sign $y$. Gradient: $-2 y [1 - y z]_+$.

    Args:
        scores: real numbers; their sign is the decision.
        signs: 1 or -1, of the same shape.

    Returns:
        One loss per element; float32, or float64 for float64 scores.

    Raises:
        TypeError: `scores` are not real numbers, or `signs` are booleans or no numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.squared_hinge(jnp.array([0.5, 3.0]), jnp.array([1, 1]))
        Array([0.25, 0.  ], dtype=float32)

    Source: Chang, Hsieh and Lin, "Coordinate descent method for large-scale L2-loss linear support
    vector machines" (2008), equation 2.
    """
    scores, signs = _signed("squared_hinge", signs, scores=scores)
    return _squared_hinge(scores, signs)


@custom_vjp
def _squared_hinge(scores: Array, signs: Array) -> Array:
    return _squared_hinge_fwd(scores, signs)[0]


def _squared_hinge_fwd(scores: Array, signs: Array) -> tuple[Array, tuple[Array, Array]]:
    value = jnp.square(positive_part(1 - signs * scores)) - _nothing(signs)
    return value, (scores, signs)


def _squared_hinge_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    scores, signs = residuals
    zero, one = apart(0, 1, dtype=scores.dtype)
    signs = _valid(signs, one)
    rest = one - signs * scores
    return -2 * signs * jnp.where(rest <= zero, zero, rest) * cotangent, jnp.zeros_like(signs)


_squared_hinge.defvjp(_squared_hinge_fwd, _squared_hinge_bwd)


@_check.known_keywords
def perceptron(
    scores: Real[ArrayLike, "*shape"], signs: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Perceptron loss of a score against a sign: how far it is on the wrong side.

    $$\ell = [-y z]_+$$

    for score $z$ and sign $y$. Gradient: $-y$ on the wrong side, 0 on the right one and at 0.

    Args:
        scores: real numbers; their sign is the decision.
        signs: 1 or -1, of the same shape.

    Returns:
        One loss per element, in the scores' unit; float32, or float64 for float64 scores.

    Raises:
        TypeError: `scores` are not real numbers, or `signs` are booleans or no numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.perceptron(jnp.array([2.0, 2.0]), jnp.array([1, -1]))
        Array([0., 2.], dtype=float32)

    Source: Rosenblatt, "The perceptron" (1958); Optax `perceptron_loss`.
    """
    scores, signs = _signed("perceptron", signs, scores=scores)
    return _hinge(scores, signs, jnp.zeros((), scores.dtype))


@_check.known_keywords
def soft_margin(
    scores: Real[ArrayLike, "*shape"], signs: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Logistic loss of a score against a sign.

    $$\ell = \log(1 + e^{-y z})$$

    for score $z$ and sign $y$; it never overflows. Gradient: $-y\,\sigma(-y z)$: a score is pushed
    up where the sign is 1 and down where it is -1.

    Args:
        scores: real numbers; their sign is the decision.
        signs: 1 or -1, of the same shape. For targets of 0 and 1, or between, see
            `binary_cross_entropy_with_logits`.

    Returns:
        One loss per element, in nats; float32, or float64 for float64 scores.

    Raises:
        TypeError: `scores` are not real numbers, or `signs` are booleans or no numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.soft_margin(jnp.array([20.0, -100.0]), jnp.array([1, 1]))
        Array([2.061e-09, 1.000e+02], dtype=float32)

    Source: PyTorch `soft_margin_loss`.
    """
    return _soft_margin(*_signed("soft_margin", signs, scores=scores))


@custom_vjp
def _soft_margin(scores: Array, signs: Array) -> Array:
    return _soft_margin_fwd(scores, signs)[0]


# log(1 + e^m) of m = -y z, and its slope, as in softplus.


def _soft_margin_fwd(scores: Array, signs: Array) -> tuple[Array, tuple[Array, Array]]:
    agreement = signs * scores
    value = log_one_plus_tail(agreement) - jnp.minimum(agreement, 0) - _nothing(signs)
    return value, (scores, signs)


def _soft_margin_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    scores, signs = residuals
    [one] = apart(1, dtype=scores.dtype)
    signs = _valid(signs, one)
    agreement = signs * scores
    wrong = agreement < one - one
    tail = exp(jnp.where(wrong, agreement, -agreement))
    slope = jnp.where(wrong, one, tail) / (one + tail)
    return -signs * slope * cotangent, jnp.zeros_like(signs)


_soft_margin.defvjp(_soft_margin_fwd, _soft_margin_bwd)


@_check.known_keywords
def hinge_embedding(
    distances: Real[ArrayLike, "*shape"],
    signs: Real[ArrayLike, "*shape"],
    *,
    margin: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "*shape"]:
    r"""Loss of the distance of a pair: itself for similar pairs, a hinge for dissimilar ones.

    $$\ell = \begin{cases} d & y = 1 \\ [m - d]_+ & y = -1 \end{cases}$$

    for distance $d$ and margin $m$. Gradient: 1 for similar pairs; for others -1 within the margin,
    0 on its edge and beyond.

    Args:
        distances: real numbers, as a rule at least 0.
        signs: 1 for similar, -1 for dissimilar pairs, of the same shape.
        margin: the distance from which dissimilar pairs are right, in the distances' unit.

    Returns:
        One loss per element, in the distances' unit; float32, or float64 for float64 distances.

    Raises:
        TypeError: `distances` are not real numbers, or `signs` are booleans or no numbers.
        ValueError: the shapes differ, or `margin` is not a finite scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.hinge_embedding(jnp.array([0.3, 0.3, 2.0]), jnp.array([1, -1, -1]))
        Array([0.3, 0.7, 0. ], dtype=float32)

    Source: Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping"
    (2006), without the squares; PyTorch `hinge_embedding_loss`.
    """
    function = "hinge_embedding"
    distances, signs = _signed(function, signs, distances=distances)
    margin = _options.number(function, "margin", margin).astype(distances.dtype)
    return _hinge_embedding(distances, signs, margin)


@custom_vjp
def _hinge_embedding(distances: Array, signs: Array, margin: Array) -> Array:
    return _hinge_embedding_fwd(distances, signs, margin)[0]


# For both signs the loss is that of a part, d or m - d, and a bound from below, -inf or 0.


def _hinge_embedding_fwd(
    distances: Array, signs: Array, margin: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    part = margin * ((1 - signs) / 2) + signs * distances
    bound = (1 + signs) * float(jnp.finfo(signs.dtype).min)
    value = jnp.maximum(part, bound) + 0 * jnp.sign(part) - _nothing(signs)
    return value, (distances, signs, margin)


def _hinge_embedding_bwd(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    distances, signs, margin = residuals
    margin, zero, one = apart(margin, 0, 1, dtype=signs.dtype)
    within = is_positive(margin - distances, zero)
    cotangent = jnp.abs(_valid(signs, one)) * cotangent
    similar = signs == one
    return (
        jnp.where(similar, one + zero * within, -within) * cotangent,
        jnp.zeros_like(signs),
        jnp.sum(jnp.where(similar, zero * within, within) * cotangent),
    )


_hinge_embedding.defvjp(_hinge_embedding_fwd, _hinge_embedding_bwd)


@_check.known_keywords
def margin_ranking(
    first_scores: Real[ArrayLike, "*shape"],
    second_scores: Real[ArrayLike, "*shape"],
    signs: Real[ArrayLike, "*shape"],
    *,
    margin: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, "*shape"]:
    r"""Loss of two scores of which the sign says which should be the higher, by a margin.

    $$\ell = [m - y (z_1 - z_2)]_+$$

    with $y = 1$ where the first should be higher. Gradient: $-y$ and $y$ where the margin is
    missed, 0 on its edge and beyond.

    Args:
        first_scores: real numbers.
        second_scores: real numbers of the same shape.
        signs: 1 where the first score should be higher, -1 where the second, of the same shape.
        margin: by how much, in the scores' unit.

    Returns:
        One loss per element, in the scores' unit; float32, or float64 for float64 scores.

    Raises:
        TypeError: scores are not real numbers, or `signs` are booleans or no numbers.
        ValueError: the shapes differ, or `margin` is not a finite scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.margin_ranking(jnp.array([1.0, 1.0]), jnp.array([3.0, 3.0]), jnp.array([1, -1]))
        Array([2., 0.], dtype=float32)

    Source: Joachims, "Optimizing search engines using clickthrough data" (2002); PyTorch
    `margin_ranking_loss`.
    """
    function = "margin_ranking"
    first, second, signs = _signed(
        function, signs, first_scores=first_scores, second_scores=second_scores
    )
    margin = _options.number(function, "margin", margin).astype(first.dtype)
    return _hinge(first - second, signs, margin)


summed_in_parts(soft_margin)
