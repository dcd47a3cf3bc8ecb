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
from jaxloss._elementary import safe_product
from jaxloss._products import product, product_over_rows
from jaxloss._softmax import log_softmax_at_bwd, log_softmax_at_fwd

Tail = tuple[Array, Array]


def bounds(head: Any, tails: Sequence[Any]) -> tuple[int, ...]:
    """The class at which each cluster begins, and the number of classes."""
    sizes = [kernel.shape[1] for _, kernel in tails]
    return tuple(itertools.accumulate(sizes, initial=head.shape[1] - len(sizes)))


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


_Arrays = tuple[Any, ...]


def _losses_fwd(
    hidden: Array,
    head: Array,
    tails: tuple[Tail, ...],
    bias: Array | None,
    labels: Array,
    size: int,
) -> tuple[Array, _Arrays]:
    cutoffs = bounds(head, tails)
    index, layout = _sorted(labels, cutoffs, size)
    log_probs, of_head = log_softmax_at_fwd(scores_of_head(hidden, head, bias), index, 1)
    rows = (_in_order(log_probs, size),) * 4
    for n, tail in enumerate(tails):

        def step(rows: Any, tokens: _Tokens, tail: Tail = tail) -> Any:
            _, _, scores = _inner(hidden, tail, tokens)
            log_probs, statistics = log_softmax_at_fwd(scores, tokens.labels, 1)
            return [
                _written(row, new.reshape(-1), tokens)
                for row, new in zip(rows, (log_probs, *statistics[2:]), strict=True)
            ]

        rows = _over_blocks(step, rows, layout, n, cutoffs[n])
    of_tails, *statistics = rows
    log_probs += of_tails[layout.rank]
    return -log_probs, (hidden, head, tails, bias, layout, of_head, statistics)


def _losses_bwd(size: int, residuals: _Arrays, cotangent: Array) -> _Arrays:
    hidden, head, tails, bias, layout, of_head, statistics = residuals
    cutoffs = bounds(head, tails)
    to_hidden, to_head, to_bias = _head_bwd(hidden, head, bias, of_head, cotangent)
    in_order, to_tails = _in_order(to_hidden, size), []
    for n, tail in enumerate(tails):

        def step(sums: Any, tokens: _Tokens, tail: Tail = tail) -> Any:
            vectors, inner, scores = _inner(hidden, tail, tokens)
            rows = [jax.lax.dynamic_slice(row, (tokens.start,), (size,)) for row in statistics]
            # Those of a token of another tail, beside the scores of this one, could overflow.
            rows = [jnp.where(tokens.real, row, 1) for row in rows]
            found = scores, *(column[:, None] for column in (tokens.labels, *rows))
            return _tail_bwd(sums, tail, tokens, vectors, inner, found, cotangent)

        sums = in_order, *_zeros(tail)
        in_order, *to_tail = _over_blocks(step, sums, layout, n, cutoffs[n])
        to_tails.append(tuple(to_tail))
    to_hidden += in_order[layout.rank]
    gradients = to_hidden, to_head, tuple(to_tails), to_bias
    return *_in_dtype_of((hidden, head, tails, bias), gradients), None


losses.defvjp(_losses_fwd, _losses_bwd)


@functools.partial(custom_vjp, static=1)
def total(
    hidden: Array,
    head: Array,
    tails: tuple[Tail, ...],
    bias: Array | None,
    labels: Array,
    weights: Array,
    size: int,
) -> Array:
    """Sum of the losses times weights, whose gradient is computed on the way."""
    of_tokens, _ = _losses_fwd(hidden, head, tails, bias, labels, size)
    return jnp.sum(safe_product(weights, of_tokens))


# The cotangent of each loss is then its weight, known in the forward pass: a step goes there and
# back, and computes its scores once. What remains is to multiply by the cotangent of the sum.


def _total_fwd(
    hidden: Array,
    head: Array,
    tails: tuple[Tail, ...],
    bias: Array | None,
    labels: Array,
    weights: Array,
    size: int,
) -> tuple[Array, _Arrays]:
    cutoffs = bounds(head, tails)
    index, layout = _sorted(labels, cutoffs, size)
    log_probs, of_head = log_softmax_at_fwd(scores_of_head(hidden, head, bias), index, 1)
    to_hidden, to_head, to_bias = _head_bwd(hidden, head, bias, of_head, weights)
    row, in_order, to_tails = _in_order(log_probs, size), _in_order(to_hidden, size), []
    for n, tail in enumerate(tails):

        def step(carry: Any, tokens: _Tokens, tail: Tail = tail) -> Any:
            row, *sums = carry
            vectors, inner, scores = _inner(hidden, tail, tokens)
            log_probs, found = log_softmax_at_fwd(scores, tokens.labels, 1)
            row = _written(row, log_probs, tokens)
            return row, *_tail_bwd(sums, tail, tokens, vectors, inner, found, weights)

        carry = row, in_order, *_zeros(tail)
        row, in_order, *to_tail = _over_blocks(step, carry, layout, n, cutoffs[n])
        to_tails.append(tuple(to_tail))
    of_tokens = -(log_probs + row[layout.rank])
    arrays = hidden, head, tails, bias
    gradients = to_hidden + in_order[layout.rank], to_head, tuple(to_tails), to_bias
    return jnp.sum(safe_product(weights, of_tokens)), (arrays, gradients, of_tokens, weights)


def _total_bwd(size: int, residuals: _Arrays, cotangent: Array) -> _Arrays:
    arrays, gradients, of_tokens, weights = residuals
    _, pullback = jax.vjp(lambda weights: jnp.sum(safe_product(weights, of_tokens)), weights)
    scaled = jax.tree.map(lambda gradient: gradient * cotangent, gradients)
    return *_in_dtype_of(arrays, scaled), None, *pullback(cotangent)


total.defvjp(_total_fwd, _total_bwd)


def _head_bwd(
    hidden: Array, head: Array, bias: Array | None, found: _Arrays, cotangent: Array
) -> tuple[Array, Array, Array | None]:
    to_scores, _ = log_softmax_at_bwd(1, found, -cotangent)
    to_bias = None if bias is None else jnp.sum(to_scores, 0)
    to_scores = to_scores.astype(hidden.dtype)
    return product(to_scores, head, 1, 1), product_over_rows(hidden, to_scores), to_bias


def _tail_bwd(
    sums: Sequence[Array],
    tail: Tail,
    tokens: _Tokens,
    vectors: Array,
    inner: Array,
    found: _Arrays,
    cotangent: Array,
) -> tuple[Array, Array, Array]:
    """The gradients of hidden vectors, in order, with a block's; those of the tail, and a block's.

    `found` are the residuals of `log_softmax_at`, `cotangent` is that of all losses.
    """
    to_hidden, to_projection, to_kernel = sums
    projection, kernel = tail
    along = jnp.where(tokens.real, -cotangent[tokens.places], 0)
    to_scores, _ = log_softmax_at_bwd(1, found, along)
    to_scores = to_scores.astype(vectors.dtype)
    to_inner = product(to_scores, kernel, 1, 1).astype(vectors.dtype)
    return (
        _written(to_hidden, product(to_inner, projection, 1, 1), tokens),
        to_projection + product_over_rows(vectors, to_inner),
        to_kernel + product_over_rows(inner, to_scores),
    )


def _sorted(labels: Array, cutoffs: Sequence[int], size: int) -> tuple[Array, _Layout]:
    """The labels' classes in the head, and where the tokens of each tail are."""
    *starts, _ = cutoffs
    cluster = functools.reduce(jnp.add, [(labels >= start).astype(jnp.int32) for start in starts])
    # A bad label, -1, is no class of the head either.
    index = jnp.where(cluster == 0, labels, starts[0] + cluster - 1)
    order = jnp.argsort(cluster, stable=True).astype(jnp.int32)
    ends = jnp.stack([jnp.sum(cluster <= n, dtype=jnp.int32) for n in range(len(starts) + 1)])
    rank = jnp.argsort(order).astype(jnp.int32)
    return index, _Layout(jnp.pad(order, (0, size)), rank, labels, ends)


def _over_blocks(
    step: Callable[[Any, _Tokens], Any], carry: Any, layout: _Layout, cluster: int, cutoff: int
) -> Any:
    """The carry after a step for each block that has tokens of the cluster."""
    size = layout.order.size - layout.rank.size
    count = layout.starts[cluster + 1] - layout.starts[cluster]

    def visited(carry: Any, block: Array) -> Any:
        return tuple(step(carry, _tokens(layout, cluster, block, cutoff)))

    # Without the checkpoint, derivatives of the second order would store the scores of all blocks.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def visit(carry: Any, block: Array) -> Any:
        return jax.lax.cond(block * size < count, visited, lambda carry, _: carry, carry, block)

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


def _in_order(array: Array, size: int) -> Array:
    """Zeros for what is of each token, in order, with room for a block that goes past the end."""
    return jnp.zeros_like(jnp.pad(array, [(0, size)] + [(0, 0)] * (array.ndim - 1)))


def _written(array: Array, block: Array, tokens: _Tokens) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, block, tokens.start, 0)


def _zeros(tail: Tail) -> list[Array]:
    return [jnp.zeros_like(array, _check.wide(array)) for array in tail]


def _in_dtype_of(arrays: Any, gradients: Any) -> Any:
    return jax.tree.map(lambda array, gradient: gradient.astype(array.dtype), arrays, gradients)
