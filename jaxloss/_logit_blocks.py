r"""One block of a linear layer's logits: softmax statistics of its tokens, and their gradient."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import _check
from jaxloss._products import product, product_over_rows
from jaxloss._row_sums import row_maximum

AxisName = Hashable | None

# With z the logits of a token, y its label, m = max_j z_j and e_j = exp(z_j - m), everything comes
# from sums over the other classes, which do not cancel,
#
#     T = sum_{j != y} e_j        S = T + e_y        lse = m + log(1 + (T + e_y - 1))
#
# as in log_softmax_at. Under `axis_name` each device has its own columns of the kernel: m is a
# pmax, z_y and T are two psums, and all else is local.
#
# A label's column is set to -inf before the reductions and to its own gradient after, by a few
# writes in place; a mask over all columns would be an array as large as the block.

# Columns of the kernel's gradient that are added to at a time. A CPU holds the product beside the
# sum, and a slice of it stays in its cache.
_COLUMNS = 4096


class Layout(NamedTuple):
    """What is known of the blocks while tracing."""

    block_size: int
    class_axis: int  # of the kernel: 1 for (features, classes), 0 for (classes, features)
    axis_name: AxisName
    mixed: bool = False
    entropy: bool = False
    argmax: bool = False


class Layer(NamedTuple):
    """What makes logits of hidden states, and the mixture of classes, all or a device's own."""

    kernel: Array
    bias: Array | None = None
    cap: Array | None = None
    mixture: Array | None = None  # None is the uniform one


class Statistics(NamedTuple):
    """What is known of each token; None where the layout does not ask for it."""

    log_probs: Array
    logsumexp: Array
    mixed: Array | None = None  # the sum of log-probabilities times the mixture
    entropy: Array | None = None
    argmax: Array | None = None


class Rows(NamedTuple):
    """Numbers of a block's tokens, in columns, from which its gradient is made again."""

    maximum: Array
    score: Array
    exponential: Array
    rest: Array
    entropy: Array | None


class Block(NamedTuple):
    """A block's logits, how they came about, and what is made of them."""

    scores: Array
    logits: Array  # the scores under the cap
    others: Array  # the logits, -inf at the labels
    rows: Rows
    found: Statistics


def _capped(scores: Array, cap: Array | None) -> Array:
    if cap is None:
        return scores
    return jnp.where(jnp.isneginf(scores), scores, cap * jnp.tanh(scores / cap))


def _slope(scores: Array, cap: Array) -> Array:
    """d logit / d score = 1 - tanh(score / cap)^2, which does not cancel so; 0 at -inf."""
    exponential = jnp.exp(-2 * jnp.abs(scores / cap))
    return 4 * exponential / jnp.square(1 + exponential)


def _summed(sums: Array, layout: Layout) -> Array:
    return sums if layout.axis_name is None else jax.lax.psum(sums, layout.axis_name)


def _width(layer: Layer, layout: Layout) -> int:
    return layer.kernel.shape[layout.class_axis]


def count_classes(layer: Layer, layout: Layout) -> int:
    """How many there are, over all devices."""
    width = _width(layer, layout)
    return width if layout.axis_name is None else width * jax.lax.psum(1, layout.axis_name)


def _first_class(layer: Layer, layout: Layout) -> Array | int:
    if layout.axis_name is None:
        return 0
    return jax.lax.axis_index(layout.axis_name) * _width(layer, layout)


def _columns(labels: Array, layer: Layer, layout: Layout) -> tuple[Array, Array]:
    """The labels' columns here, out of range where they are not; and whether they are classes."""
    index, valid = _check.valid_index(labels, count_classes(layer, layout))
    column = index - _first_class(layer, layout)
    own = valid & (column >= 0) & (column < _width(layer, layout))
    return jnp.where(own, column, _width(layer, layout)), valid


def of_label(vector: Array, labels: Array, layer: Layer, layout: Layout) -> Array:
    """The entry of each label's class, 0 where it is none."""
    columns, _ = _columns(labels, layer, layout)
    return _summed(jnp.take(vector, columns, mode="fill", fill_value=0), layout)


def _put(block: Array, columns: Array, values: Array) -> Array:
    tokens = jnp.arange(len(columns), dtype=columns.dtype)
    return block.at[tokens, columns].set(jnp.squeeze(values, 1), mode="drop", unique_indices=True)


def block(
    hidden: Array,
    labels: Array,
    layer: Layer,
    layout: Layout,
    known: tuple[Rows, Statistics] | None = None,
) -> Block:
    """A block's logits, and what is not `known` of them."""
    scores = product(hidden, layer.kernel, 1, 1 - layout.class_axis)
    if layer.bias is not None:
        scores = scores + layer.bias[None]
    logits = _capped(scores, layer.cap)
    columns, valid = _columns(labels, layer, layout)
    if known is not None:
        others = _put(logits, columns, jnp.full_like(known[0].score, -jnp.inf))
        return Block(scores, logits, others, *known)

    width, valid = _width(layer, layout), valid[:, None]
    own = columns[:, None] < width
    score = jnp.take_along_axis(logits, jnp.minimum(columns, width - 1)[:, None], 1)
    if layout.axis_name is not None:
        score = jax.lax.psum(jnp.where(own, score, 0), layout.axis_name)
    # JAX has no derivative of pmax; none depends on it.
    maximum = row_maximum(logits, 1)
    if layout.axis_name is not None:
        maximum = jax.lax.pmax(jax.lax.stop_gradient(maximum), layout.axis_name)

    spoilt, mixed = jnp.isnan(score) | jnp.isnan(maximum), None
    if layout.mixed:
        mixed = _mixed_distance(maximum - logits, layer, layout)
        spoilt = spoilt | jnp.isnan(mixed)
    # What is put depends on all that reads the logits, so that XLA puts it in place, after them.
    others = _put(logits, columns, jnp.where(spoilt, jnp.nan, -jnp.inf).astype(logits.dtype))

    exponentials = jnp.exp(others - maximum)
    rest = _summed(jnp.sum(exponentials, 1, keepdims=True), layout)
    rest = jnp.where(valid, rest, jnp.nan)
    exponential = jnp.exp(score - maximum)
    log_normaliser = jnp.log1p(rest + (exponential - 1))
    if mixed is not None:
        mixed = -mixed - _mass(layer, layout) * log_normaliser

    entropy = argmax = None
    if layout.entropy:
        entropy = _entropy(exponentials, others - maximum, exponential, score - maximum, layout)
    if layout.argmax:
        first = jnp.argmax(others, 1, keepdims=True)
        attained = jnp.take_along_axis(others, first, 1) == maximum
        nowhere = jnp.iinfo(jnp.int32).max
        first = jnp.where(attained, first.astype(jnp.int32) + _first_class(layer, layout), nowhere)
        if layout.axis_name is not None:
            first = jax.lax.pmin(first, layout.axis_name)
        label = _check.valid_index(labels, count_classes(layer, layout))[0][:, None]
        first = jnp.where((score == maximum) & valid, jnp.minimum(first, label), first)
        # Derivatives take floating outputs; -1 is of a row with a NaN.
        argmax = jnp.where(first == nowhere, -1, first).astype(logits.dtype)

    log_probs = -((maximum - score) + log_normaliser)
    found = Statistics(log_probs, maximum + log_normaliser, mixed, entropy, argmax)
    found = jax.tree.map(lambda column: jnp.squeeze(column, 1), found)
    rows = Rows(maximum, score, exponential, rest, entropy)
    return Block(scores, logits, others, rows, found)


def _mixed_distance(distance: Array, layer: Layer, layout: Layout) -> Array:
    """Mean of m - z under the mixture: no term is negative, so that none cancels another."""
    if layer.mixture is None:
        sums = jnp.sum(distance, 1, keepdims=True) / count_classes(layer, layout)
    else:
        mixture = layer.mixture[None]
        terms = mixture * jnp.where(mixture == 0, 0, distance)  # 0 times infinity is 0
        sums = jnp.sum(terms, 1, keepdims=True)
    return _summed(sums, layout)


def _mass(layer: Layer, layout: Layout) -> Array | float:
    return 1.0 if layer.mixture is None else _summed(jnp.sum(layer.mixture), layout)


# H = log S + (1 / S) sum_j e_j (m - z_j). For the tail of a token that is all but certain, S - 1 is
# summed without the maximum: `below` is 1 where z_j < m, and entries that attain m, e_j = 1, are
# counted by e_j itself, so that they carry their derivative.


def _entropy(
    exponentials: Array, shifted: Array, exponential: Array, shifted_score: Array, layout: Layout
) -> Array:
    def sums(exponentials: Array, shifted: Array) -> tuple[Array, Array, Array]:
        below = (shifted < 0).astype(shifted.dtype)
        distance = jnp.where(exponentials == 0, 0, -shifted)
        return exponentials * below, exponentials * (1 - below), exponentials * distance

    rest, ties, spread = (
        _summed(jnp.sum(terms, 1, keepdims=True), layout) + term
        for terms, term in zip(
            sums(exponentials, shifted), sums(exponential, shifted_score), strict=True
        )
    )
    above_one = rest + (ties - 1)
    return jnp.log1p(above_one) + spread / (1 + above_one)


# With g the cotangents and p_j = e_j / S,
#
#     d log p_y / dz_j = [j = y] - p_j         at the label T / S, which does not cancel
#     d lse / dz_j     = p_j
#     d mixed / dz_j   = c_j - p_j sum_i c_i   for the mixture c
#     d H / dz_j       = -p_j (log p_j + H)


def _to_logits(
    labels: Array, known: Block, cotangents: Statistics, layer: Layer, layout: Layout
) -> tuple[Array, Array]:
    """The gradient at the other classes, and in a column that at the labels."""
    rows = known.rows
    exponentials = jnp.exp(known.others - rows.maximum)
    to_label, to_normaliser = cotangents.log_probs[:, None], cotangents.logsumexp[:, None]
    if cotangents.mixed is not None:
        to_normaliser = to_normaliser - _mass(layer, layout) * cotangents.mixed[:, None]
    normaliser = rows.rest + rows.exponential
    gradient = exponentials * ((to_normaliser - to_label) / normaliser)
    at_label = (to_label * rows.rest + to_normaliser * rows.exponential) / normaliser
    if cotangents.entropy is not None and rows.entropy is not None:
        to_entropy = cotangents.entropy[:, None] / normaliser
        offset = rows.entropy - jnp.log1p(rows.rest + (rows.exponential - 1))

        def of_entropy(exponentials: Array, logits: Array) -> Array:
            shifted = jnp.where(exponentials == 0, 0, logits - rows.maximum)
            return exponentials * to_entropy * (shifted + offset)

        gradient = gradient - of_entropy(exponentials, known.others)
        at_label = at_label - of_entropy(rows.exponential, rows.score)
    if cotangents.mixed is not None:
        to_mixed = cotangents.mixed[:, None]
        if layer.mixture is None:
            share = to_mixed / count_classes(layer, layout)
            gradient, at_label = gradient + share, at_label + share
        else:
            columns, _ = _columns(labels, layer, layout)
            own = jnp.take(layer.mixture, columns, mode="fill", fill_value=0)[:, None]
            gradient = gradient + to_mixed * layer.mixture[None]
            at_label = at_label + to_mixed * own
    return gradient, at_label


def to_inputs(
    sums: Layer,
    hidden: Array,
    labels: Array,
    known: Block,
    cotangents: Statistics,
    layer: Layer,
    layout: Layout,
) -> tuple[Layer, Array]:
    """The layer's gradient with a block's added to it, and that of the block's hidden states."""
    columns, _ = _columns(labels, layer, layout)
    to_logits, at_label = _to_logits(labels, known, cotangents, layer, layout)
    to_logits = _put(to_logits, columns, at_label)
    slope = None if layer.cap is None else _slope(known.scores, layer.cap)
    to_scores = to_logits if slope is None else to_logits * slope
    to_products = to_scores.astype(hidden.dtype)
    to_hidden = product(to_products, layer.kernel, 1, layout.class_axis)
    to_bias = to_cap = to_mixture = None
    if layer.bias is not None:
        to_bias = jnp.sum(to_scores, 0)
    if layer.cap is not None and slope is not None:
        # d logit / d cap = t - (score / cap) (1 - t^2)
        to_cap = to_logits * (known.logits - known.scores * slope) / layer.cap
        to_cap = jnp.sum(jnp.where(jnp.isneginf(known.scores), 0, to_cap))
    if layer.mixture is not None and cotangents.mixed is not None:
        log_probs = known.logits - known.found.logsumexp[:, None]
        # What is 0 times -inf in the value has no slope.
        dropped = (layer.mixture[None] == 0) & jnp.isneginf(log_probs)
        log_probs = jnp.where(dropped, 0, log_probs)
        to_mixture = product(cotangents.mixed, log_probs, 0)
    others = jax.tree.map(jnp.add, sums[1:], (to_bias, to_cap, to_mixture))
    to_kernel = _accumulated(sums.kernel, hidden, to_products, layout.class_axis)
    return Layer(to_kernel, *others), to_hidden.astype(hidden.dtype)


def _accumulated(sums: Array, hidden: Array, to_products: Array, class_axis: int) -> Array:
    def of_columns(columns: Array) -> Array:
        if class_axis == 1:
            return product_over_rows(hidden, columns)
        return product(columns, hidden, 0)

    classes = sums.shape[class_axis]
    if classes < 2 * _COLUMNS:
        return sums + of_columns(to_products)

    def add(sums: Array, start: Array | int, width: int) -> Array:
        columns = jax.lax.dynamic_slice_in_dim(to_products, start, width, 1)
        before = jax.lax.dynamic_slice_in_dim(sums, start, width, class_axis)
        after = before + of_columns(columns)
        return jax.lax.dynamic_update_slice_in_dim(sums, after, start, class_axis)

    whole = classes // _COLUMNS
    sums = jax.lax.fori_loop(0, whole, lambda n, sums: add(sums, n * _COLUMNS, _COLUMNS), sums)
    rest = classes - whole * _COLUMNS
    return add(sums, whole * _COLUMNS, rest) if rest else sums
