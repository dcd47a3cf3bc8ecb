r"""Losses of a batch of embeddings in which every example is compared with the others.

Similarities are cosines over a temperature. With `axis_name`, inside `shard_map`, `pmap` or `vmap`,
each device has its own rows and compares them with the rows of all, so that the negatives are those
of the global batch; gradients flow back to the devices that own them.
"""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from jaxloss import _check, _options
from jaxloss._vectors import unit
from jaxloss.primitives import expected_log_softmax, log_softmax_at, logsumexp, softplus

AxisName = Hashable | None


def _similarities(
    function: str, rows: Array, columns: Array, temperature: ArrayLike, axis_name: AxisName
) -> tuple[Array, Array]:
    """Cosines of local rows and all columns over the temperature, and each row's own column."""
    temperature = _options.number(function, "temperature", temperature, above=0.0)
    units, others = unit(rows, -1), _gathered(unit(columns, -1), axis_name)
    # In full precision: a temperature of 0.07 enlarges what an accelerator would round away.
    cosines = jnp.matmul(units, others.T, precision=jax.lax.Precision.HIGHEST)
    own = jnp.arange(rows.shape[0], dtype=jnp.int32)
    if axis_name is not None:
        own = own + jax.lax.axis_index(axis_name) * rows.shape[0]
    return cosines / temperature.astype(cosines.dtype), own


def _is_own(own: Array, scores: Array) -> Array:
    return own[:, None] == jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)


def _gathered(array: Array, axis_name: AxisName) -> Array:
    if axis_name is None:
        return array
    return jax.lax.all_gather(array, axis_name, axis=0, tiled=True)


def _groups(
    function: str,
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike,
    axis_name: AxisName,
) -> tuple[Array, Array, Array]:
    """Similarities, where the column is another example of the label, and where it is the row."""
    [embeddings] = _check.matched(function, embeddings=embeddings)
    _check.matrix(function, embeddings=embeddings)
    indices = _check.class_labels(function, labels, 1, ranged=False, embeddings=embeddings)
    # Not clipped, as an index would be: two wide labels must not become one.
    labels = indices if isinstance(labels, Array) else _check.exact_array(function, labels)
    scores, own = _similarities(function, embeddings, embeddings, temperature, axis_name)
    itself = _is_own(own, scores)
    same = labels[:, None] == _gathered(labels, axis_name)[None]
    return scores, same & ~itself, itself


def _count(chosen: Array, scores: Array) -> Array:
    """How many of each row, as numbers of the scores' dtype, which XLA sums faster than others."""
    return jnp.sum(chosen.astype(scores.dtype), 1, keepdims=True)


@_check.known_keywords
def info_nce(
    queries: Real[ArrayLike, "batch features"],
    keys: Real[ArrayLike, "batch features"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    axis_name: AxisName = None,
) -> Float[Array, " batch"]:
    r"""InfoNCE: cross-entropy of each query picking its own key among the keys of the batch.

    $$\ell_n = -\log \frac{e^{s_{nn}}}{\sum_k e^{s_{nk}}}, \qquad
      s_{nk} = \frac{\cos(q_n, k_k)}{\tau}$$

    Gradient: that of `cross_entropy` through the cosines, which do not depend on the embeddings'
    scale; 0 for a zero embedding. One direction: for CLIP's loss take the mean of `info_nce` with
    the arguments both ways.

    Args:
        queries: embeddings, one row each.
        keys: embeddings of the same shape; row n is the positive of query n, all others are its
            negatives.
        temperature: $\tau$, more than 0; an array may be learned.
        axis_name: mesh or `vmap` axes over which to gather the keys.

    Returns:
        One loss per query, in nats; float32, or float64 for float64 embeddings.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, are not (batch, features), or `temperature` is not a scalar
            above 0. (A traced one that turns out so gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> points = jnp.array([[2.0, 0.0], [0.0, 3.0]])
        >>> jaxloss.info_nce(points, points, temperature=1.0)
        Array([0.3133, 0.3133], dtype=float32)

    Source: van den Oord, Li and Vinyals, "Representation learning with contrastive predictive
    coding" (2018), equation 4; with cosines, Radford et al., "Learning transferable visual models
    from natural language supervision" (2021), figure 3.
    """
    queries, keys = _check.matched("info_nce", queries=queries, keys=keys)
    _check.matrix("info_nce", queries=queries)
    if not len(queries):
        return jnp.zeros(0, queries.dtype)
    scores, own = _similarities("info_nce", queries, keys, temperature, axis_name)
    return -log_softmax_at(scores, own)


@_check.known_keywords
def nt_xent(
    embeddings: Real[ArrayLike, "batch features"],
    labels: Integer[ArrayLike, " batch"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    axis_name: AxisName = None,
) -> Float[Array, " batch"]:
    r"""NT-Xent: cross-entropy of each example picking a positive among itself and the negatives.

    $$\ell_n = \frac{1}{|P_n|} \sum_{p \in P_n} \log\Big(1 +
      \sum_{k : y_k \ne y_n} e^{s_{nk} - s_{np}}\Big), \qquad s_{nk} = \frac{\cos(x_n, x_k)}{\tau}$$

    with $P_n$ the other examples of the label; the other positives are not among the negatives,
    which sets it apart from `supervised_contrastive`. In SimCLR's batches, pairs of views with a
    label each, the two agree. Gradient: of each pair like `soft_margin`'s, through cosines that do
    not depend on scale. An example without positives, or without negatives, has loss and gradient
    0. Optax's mean over pairs is the mean weighted by the number of positives.

    Args:
        embeddings: one row each.
        labels: equal for examples that belong together; any integers of 32 bits.
        temperature: $\tau$, more than 0; an array may be learned.
        axis_name: mesh or `vmap` axes over which to gather embeddings and labels.

    Returns:
        One loss per example, in nats; float32, or float64 for float64 embeddings.

    Raises:
        TypeError: `embeddings` are not real, or `labels` not integers.
        ValueError: `embeddings` are not (batch, features), `labels` not (batch,), or `temperature`
            is not a scalar above 0. (A traced one that turns out so gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> points = jnp.array([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
        >>> jaxloss.nt_xent(points, jnp.array([7, 7, 3]), temperature=1.0)
        Array([0.3133, 0.3133, 0. ], dtype=float32)

    Source: Chen et al., "A simple framework for contrastive learning of visual representations"
    (2020), equation 1; Optax `ntxent`.
    """
    scores, positive, itself = _groups("nt_xent", embeddings, labels, temperature, axis_name)
    if not len(scores):
        return jnp.zeros(0, scores.dtype)
    positives = _count(positive, scores)
    # Rows without negatives are computed from 0 and dropped: their logsumexp has no gradient.
    some = positives < scores.shape[1] - 1
    of_others = jnp.where(positive | itself, jnp.where(some, -jnp.inf, 0), scores)
    losses = softplus(logsumexp(of_others)[:, None] - scores)
    kept = jnp.where(positive & some, losses, 0)
    return jnp.sum(kept, 1) / jnp.maximum(positives[:, 0], 1)


@_check.known_keywords
def supervised_contrastive(
    embeddings: Real[ArrayLike, "batch features"],
    labels: Integer[ArrayLike, " batch"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    axis_name: AxisName = None,
) -> Float[Array, " batch"]:
    r"""Supervised contrastive loss: each example against all others, equal labels sharing it.

    $$\ell_n = -\frac{1}{|P_n|} \sum_{p \in P_n} \log \frac{e^{s_{np}}}{\sum_{k \ne n} e^{s_{nk}}},
      \qquad s_{nk} = \frac{\cos(x_n, x_k)}{\tau}$$

    with $P_n$ the other examples of the label. Gradient: that of `cross_entropy` with the uniform
    distribution over $P_n$, through cosines that do not depend on scale. An example without
    positives has loss and gradient 0.

    Args:
        embeddings: one row each.
        labels: equal for examples that belong together; any integers of 32 bits.
        temperature: $\tau$, more than 0; an array may be learned.
        axis_name: mesh or `vmap` axes over which to gather embeddings and labels.

    Returns:
        One loss per example, in nats; float32, or float64 for float64 embeddings.

    Raises:
        TypeError: `embeddings` are not real, or `labels` not integers.
        ValueError: `embeddings` are not (batch, features), `labels` not (batch,), or `temperature`
            is not a scalar above 0. (A traced one that turns out so gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> points = jnp.array([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
        >>> jaxloss.supervised_contrastive(points, jnp.array([7, 7, 3]), temperature=1.0)
        Array([0.3133, 0.3133, 0. ], dtype=float32)

    Source: Khosla et al., "Supervised contrastive learning" (2020), equation 2.
    """
    function = "supervised_contrastive"
    scores, positive, itself = _groups(function, embeddings, labels, temperature, axis_name)
    if not len(scores):
        return jnp.zeros(0, scores.dtype)
    # A single example, alone in the world, has no one to be compared with.
    if scores.shape[1] > 1:
        scores = jnp.where(itself, -jnp.inf, scores)
    shares = positive.astype(scores.dtype) / jnp.maximum(_count(positive, scores), 1)
    return 0 - expected_log_softmax(scores, shares)


@_check.known_keywords
def sigmoid_contrastive(
    queries: Real[ArrayLike, "batch features"],
    keys: Real[ArrayLike, "batch features"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    bias: Real[ArrayLike, ""] = -10.0,
    axis_name: AxisName = None,
) -> Float[Array, " batch"]:
    r"""Sigmoid loss of every pair of a query and a key: do they belong together?

    $$\ell_n = \sum_k \log\big(1 + e^{-y_{nk} (s_{nk} + b)}\big), \qquad
      s_{nk} = \frac{\cos(q_n, k_k)}{\tau}$$

    with $y_{nk} = 1$ for $k = n$ and -1 otherwise. Gradient: that of `soft_margin` for each pair,
    through cosines that do not depend on scale. The defaults are where SigLIP begins; both
    are meant to be learned, the temperature as the exponential of a parameter.

    Args:
        queries: embeddings, one row each.
        keys: embeddings of the same shape; row n is the positive of query n.
        temperature: $\tau$, more than 0; SigLIP's $t$ is its reciprocal.
        bias: $b$, which makes up for the many negatives.
        axis_name: mesh or `vmap` axes over which to gather the keys.

    Returns:
        One loss per query, in nats, summed over the keys; float32, or float64 for float64
        embeddings.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ, are not (batch, features), `temperature` is not a scalar
            above 0, or `bias` not a finite scalar. (A traced temperature that turns out so gives
            NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> points = jnp.array([[2.0, 0.0], [0.0, 3.0]])
        >>> jaxloss.sigmoid_contrastive(points, points)
        Array([0.6932, 0.6932], dtype=float32)

    Source: Zhai et al., "Sigmoid loss for language image pre-training" (2023), section 3.2.
    """
    function = "sigmoid_contrastive"
    queries, keys = _check.matched(function, queries=queries, keys=keys)
    _check.matrix(function, queries=queries)
    scores, own = _similarities(function, queries, keys, temperature, axis_name)
    logits = scores + _options.number(function, "bias", bias).astype(scores.dtype)
    together = _is_own(own, scores)
    return jnp.sum(softplus(jnp.where(together, -logits, logits)), 1)
