"""The loss of an adaptive softmax, in steps that visit a cluster's own tokens alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import _check
from jaxloss._autodiff import custom_vjp
from jaxloss._softmax import (
    log_softmax_at_bwd,
    log_softmax_at_fwd,
)

Tail = tuple[Array, Array]


def bounds(head: Any, tails: Sequence[Any]) -> tuple[int, ...]:
    """The class at which each cluster begins, and the number of classes."""
    sizes = [kernel.shape[1] for _, kernel in tails]
    return tuple(itertools.accumulate(sizes, initial=head.shape[1] - len(sizes)))


def product(left: Array, right: Array, of_left: int = -1, of_right: int = 0) -> Array:
    """Product over one axis of each, summed in float32 at least."""
    return jax.lax.dot_general(
        left,
        right,
        (((of_left % left.ndim,), (of_right,)), ((), ())),
        preferred_element_type=_check.wide(left),
    )


def scores_of_head(hidden: Array, head: Array, bias: Array | None) -> Array:
    """Of the shortlist and the clusters."""
    scores = product(hidden, head)
    if bias is None:
        return scores
    return scores + jnp.expand_dims(bias.astype(scores.dtype), range(hidden.ndim - 1))


@functools.partial(custom_vjp, static=1, loops=True)
def losses(
    hidden: Array,
    head: Array,
    tails: tuple[Tail, ...],
    bias: Array | None,
    labels: Array,
    size: int,
) -> Array:
    """One per token, NaN for labels of -1, with tails in steps of `size` tokens."""
    return _losses_fwd(hidden, head, tails, bias, labels, size)[0]


# Of a token with hidden vector h, whose label is class j of the head (a cluster's, perhaps), and
# class k of a tail with inner vector u = P^T h, the loss is -log p_j - log q_k with p = softmax(z),
# z = W_0^T h + b, and q = softmax(v), v = W^T u. With the cotangent g and the gradients of
# `log_softmax_at`,
#
#     dz = g (p - [j])     dW_0 = h dz^T     db = dz
#     dv = g (q - [k])     dW   = u dv^T     du = W dv     dP = h du^T     dh = W_0 dz + P du.
#
# Sorted by cluster, the tokens of a tail are neighbours. A tail's step takes the next `size` of
# them, some of the next cluster too if they are the last; what it writes of those the next tail
# writes again. The steps are those of a loop over as many blocks as could be, and a conditional in
# it skips those without tokens; JAX cannot transpose a loop that ends earlier. Both keep scores out
# of what is stored: forward a step saves the row statistics of `log_softmax_at`, backward it
# computes the scores again.


class _Layout(NamedTuple):
    order: Array  # tokens + size: the tokens, sorted by cluster
    rank: Array  # tokens: where each of them is in that order
    labels: Array  # tokens
    starts: Array  # clusters + 1: where the tokens of each tail start in the order, and the end


class _Tokens(NamedTuple):
    start: Array  # where the block starts in the order
    places: Array  # size: where they are among all tokens
    labels: Array  # size: within their cluster
    real: Array  # size: whether they are of the cluster


_Residuals = tuple[Any, ...]


def _losses_fwd(
    hidden: Array,
    head: Array,
    tails: tuple[Tail, ...],
    bias: Array | None,
    labels: Array,
    size: int,
) -> tuple[Array, _Residuals]:
    *cutoffs, _ = bounds(head, tails)
    cluster = functools.reduce(
        jnp.add, [(labels >= cutoff).astype(jnp.int32) for cutoff in cutoffs]
    )
    order = jnp.argsort(cluster, stable=True).astype(jnp.int32)
    starts = jnp.stack([jnp.sum(cluster <= n, dtype=jnp.int32) for n in range(len(cutoffs) + 1)])
    layout = _Layout(
        jnp.pad(order, (0, size)), jnp.argsort(order).astype(jnp.int32), labels, starts
    )
    # A bad label, -1, is no class of the head either.
    index = jnp.where(cluster == 0, labels, cutoffs[0] + cluster - 1)
    scores = scores_of_head(hidden, head, bias)
    log_probs, of_head = log_softmax_at_fwd(scores, index, 1)
    rows = (jnp.zeros_like(jnp.pad(log_probs, (0, size))),) * 4
    for n, tail in enumerate(tails):
        rows = _tail_fwd(rows, hidden, tail, layout, n, cutoffs[n])
    of_tails, *statistics = rows
    log_probs += of_tails[layout.rank]
    return -log_probs, (hidden, head, tails, bias, layout, of_head, statistics)


def _tail_fwd(
    rows: Any, hidden: Array, tail: Tail, layout: _Layout, cluster: int, cutoff: int
) -> Any:
    """Log-probabilities and row statistics, in order, with those of one tail's tokens."""

    def step(rows: Any, block: Array) -> Any:
        tokens = _tokens(layout, cluster, block, cutoff)
        _, _, scores = _inner(hidden, tail, tokens)
        log_probs, statistics = log_softmax_at_fwd(scores, tokens.labels, 1)
        return tuple(
            jax.lax.dynamic_update_slice(row, new.reshape(-1), (tokens.start,))
            for row, new in zip(rows, (log_probs, *statistics[2:]), strict=True)
        )

    return _over_blocks(step, rows, layout, cluster)


def _losses_bwd(size: int, residuals: _Residuals, cotangent: Array) -> tuple[Any, ...]:
    hidden, head, tails, bias, layout, of_head, statistics = residuals
    *cutoffs, _ = bounds(head, tails)
    to_scores, _ = log_softmax_at_bwd(1, of_head, -cotangent)
    to_bias = None if bias is None else jnp.sum(to_scores, 0)
    to_scores = to_scores.astype(hidden.dtype)
    to_head = product(hidden, to_scores, 0, 0)
    to_hidden = product(to_scores, head, 1, 1)
    in_order = jnp.zeros_like(jnp.pad(to_hidden, ((0, size), (0, 0))))
    to_tails = []
    for n, tail in enumerate(tails):
        in_order, *to_tail = _tail_bwd(
            in_order, hidden, tail, layout, n, cutoffs[n], statistics, cotangent
        )
        to_tails.append(tuple(to_tail))
    to_hidden += in_order[layout.rank]
    gradients = to_hidden, to_head, tuple(to_tails), to_bias
    arrays = hidden, head, tails, bias
    return *jax.tree.map(lambda new, array: new.astype(array.dtype), gradients, arrays), None


def _tail_bwd(
    to_hidden: Array,
    hidden: Array,
    tail: Tail,
    layout: _Layout,
    cluster: int,
    cutoff: int,
    statistics: Sequence[Array],
    cotangent: Array,
) -> Any:
    """Gradients of hidden vectors, in order, with those of one tail's tokens; and of the tail."""
    projection, kernel = tail

    def step(carry: Any, block: Array) -> Any:
        to_hidden, to_projection, to_kernel = carry
        tokens = _tokens(layout, cluster, block, cutoff)
        vectors, inner, scores = _inner(hidden, tail, tokens)
        rows = [
            jax.lax.dynamic_slice(row, (tokens.start,), (tokens.real.size,)) for row in statistics
        ]
        # Those of a token of another tail, beside the scores of this one, could overflow.
        rows = [jnp.where(tokens.real, row, 1) for row in rows]
        columns = [column[:, None] for column in (tokens.labels, *rows)]
        along = jnp.where(tokens.real, -cotangent[tokens.places], 0)
        to_scores, _ = log_softmax_at_bwd(1, (scores, *columns), along)
        to_scores = to_scores.astype(hidden.dtype)
        to_inner = product(to_scores, kernel, 1, 1).astype(hidden.dtype)
        to_vectors = product(to_inner, projection, 1, 1)
        return (
            jax.lax.dynamic_update_slice_in_dim(to_hidden, to_vectors, tokens.start, 0),
            to_projection + product(vectors, to_inner, 0, 0),
            to_kernel + product(inner, to_scores, 0, 0),
        )

    sums = [jnp.zeros_like(array, cotangent.dtype) for array in tail]
    return _over_blocks(step, (to_hidden, *sums), layout, cluster)


losses.defvjp(_losses_fwd, _losses_bwd)


def _over_blocks(
    step: Callable[[Any, Array], Any], carry: Any, layout: _Layout, cluster: int
) -> Any:
    """The carry after a step for each block that has tokens of the cluster."""
    size = layout.order.size - layout.rank.size
    count = layout.starts[cluster + 1] - layout.starts[cluster]

    # Without the checkpoint, derivatives of the second order would store the scores of all blocks.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def visit(carry: Any, block: Array) -> Any:
        return jax.lax.cond(block * size < count, step, lambda carry, _: carry, carry, block)

    blocks = jnp.arange(-(-layout.rank.size // size), dtype=jnp.int32)
    return jax.lax.scan(lambda carry, block: (visit(carry, block), None), carry, blocks)[0]


def _tokens(layout: _Layout, cluster: int, block: Array, cutoff: int) -> _Tokens:
    size = layout.order.size - layout.rank.size
    start = layout.starts[cluster] + block * size
    places = jax.lax.dynamic_slice(layout.order, (start,), (size,))
    real = start + jnp.arange(size, dtype=jnp.int32) < layout.starts[cluster + 1]
    return _Tokens(start, places, jnp.where(real, layout.labels[places] - cutoff, 0), real)


def _inner(hidden: Array, tail: Tail, tokens: _Tokens) -> tuple[Array, Array, Array]:
    """Hidden vectors, 0 for tokens that are not real; inner vectors, and scores."""
    projection, kernel = tail
    vectors = jnp.where(tokens.real[:, None], hidden[tokens.places], 0)
    inner = product(vectors, projection).astype(hidden.dtype)
    return vectors, inner, product(inner, kernel)
