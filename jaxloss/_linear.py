r"""Softmax statistics of logits that are never all there: a linear layer, block by block of tokens.

A block of logits is computed, reduced to a few numbers for each token and forgotten; the backward
pass computes it again. Two rules stand on the same blocks: `statistics` takes any cotangent, with
four products of hidden states and kernel; `total` knows beforehand what each token weighs and
computes its gradient with the value, with three.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int32, Integer, Real

from jaxloss import _check, _checked, _options
from jaxloss._autodiff import custom_vjp, vary_alike
from jaxloss._elementary import safe_product
from jaxloss._logit_blocks import (
    AxisName,
    Layer,
    Layout,
    Rows,
    Statistics,
    block,
    count_classes,
    to_inputs,
)

T = TypeVar("T")


class Terms(NamedTuple):
    """What each token's statistics weigh in a total; None where there is no such term."""

    nll: Array
    mixed: Array | None = None
    z_loss: Array | None = None


class Inputs(NamedTuple):
    """Checked inputs: tokens along one axis, products in one dtype."""

    hidden: Array
    labels: Array
    layer: Layer
    layout: Layout


def inputs(
    function: str,
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None,
    logit_cap: ArrayLike | None,
    class_axis: int,
    block_size: int | None,
    axis_name: AxisName,
) -> Inputs:
    """What was given, checked."""
    hidden, kernel = _check.real_arrays(function, hidden=hidden, kernel=kernel)
    if kernel.ndim != 2 or 0 in kernel.shape or hidden.ndim == 0:
        raise ValueError(
            f"{function}: hidden must have the shape (*tokens, features) and kernel (features, "
            f"classes), none of them 0, got {hidden.shape} and {kernel.shape}."
        )
    class_axis = _check.reduced_axis(function, class_axis, option="class_axis", kernel=kernel)
    features = kernel.shape[1 - class_axis]
    if hidden.shape[-1] != features:
        advice = "transpose neither: pass class_axis=0, for a kernel of (classes, features)"
        if class_axis == 0 or hidden.shape[-1] != kernel.shape[1]:
            advice = "the last axis of hidden is the features"
        raise ValueError(
            f"{function}: hidden {hidden.shape} and kernel {kernel.shape} with classes along axis "
            f"{class_axis} must have as many features, got {hidden.shape[-1]} and {features}; "
            f"{advice}."
        )
    indices = _check.class_indices(function, labels)
    if indices.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{function}: labels must have the shape of hidden {hidden.shape} without its last "
            f"axis, {hidden.shape[:-1]}, got {indices.shape}; squeeze or reshape them."
        )
    # Entries of a gradient are smaller than float16 can hold.
    both_bfloat16 = hidden.dtype == kernel.dtype == jnp.bfloat16
    wide = _check.wide(hidden, kernel)
    dtype = jnp.bfloat16 if both_bfloat16 else wide
    layer = Layer(kernel.astype(dtype))
    classes = kernel.shape[class_axis]
    if bias is not None:
        [bias] = _check.real_arrays(function, bias=bias)
        if bias.shape != (classes,):
            raise ValueError(
                f"{function}: bias must have one entry for each of the {classes} classes of "
                f"kernel {kernel.shape}, got {bias.shape}."
            )
        layer = layer._replace(bias=bias.astype(wide))
    if logit_cap is not None:
        cap = _options.number(function, "logit_cap", logit_cap, above=0.0)
        layer = layer._replace(cap=cap.astype(wide))
    tokens = indices.size
    if block_size is None:
        size = default_block_size(tokens, features, classes)
    else:
        size = _check.integer(function, "block_size", block_size)
        if size < 1:
            raise ValueError(f"{function}: block_size must be at least 1 token, got {size}.")
    layout = Layout(max(min(size, tokens), 1), class_axis, axis_name)
    _checked.classes(function, indices, count_classes(layer, layout))
    flat = hidden.astype(dtype).reshape(tokens, features)
    return Inputs(flat, indices.reshape(tokens), layer, layout)


def default_block_size(tokens: int, features: int, classes: int) -> int:
    """Tokens in a block: its logits and their gradient take 96 MiB, if that is not too few.

    Each block reads and writes the kernel's gradient once, so that with many features more tokens
    are due: as many as make a block a quarter of that gradient, and never less than 64. Blocks
    differ by less than 8 tokens, so that little is padded.
    """
    largest = max(96 * 2**20 // (2 * 4 * classes), features // 8, 64)
    blocks = max(-(-tokens // largest), 1)
    size = max(-(-tokens // blocks), 1)
    return size if blocks == 1 else -(-size // 8) * 8


def _blocks(arrays: T, size: int) -> T:
    """Arrays of tokens as blocks of so many, the last one filled up with zeros."""

    def split(array: Array) -> Array:
        count = -(-array.shape[0] // size)
        padding = [(0, count * size - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(count, size, *array.shape[1:])

    return jax.tree.map(split, arrays)


def _tokens(blocks: T, count: int) -> T:
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:count], blocks)


def _zeros(hidden: Array, layer: Layer) -> Layer:
    """Where the sums of a layer's gradient begin: as wide as it is computed in."""
    zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, _check.wide(array)), layer)
    return vary_alike(zeros, (hidden, layer))


def _in_dtype_of(layer: Layer, gradient: Layer) -> Layer:
    return jax.tree.map(lambda array, slope: slope.astype(array.dtype), layer, gradient)


# JAX takes a loop apart to differentiate it. What does not vary from step to step, such as a number
# broadcast, would be stored in the size of a block, and what the transpose is linear with, such as
# exponentials, in that of all blocks. A checkpoint keeps each step whole.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


def _names(layout: Layout) -> tuple[Hashable, ...]:
    name = layout.axis_name
    return name if isinstance(name, tuple) else () if name is None else (name,)


def statistics(hidden: Array, labels: Array, layer: Layer, layout: Layout) -> Statistics:
    """Those of each token; differentiable with respect to the hidden states and the layer."""
    hidden, layer = vary_alike((hidden, layer), labels, over=_names(layout))
    return _statistics(hidden, labels, layer, layout)


@functools.partial(custom_vjp, static=1, loops=True, alike=False)
def _statistics(hidden: Array, labels: Array, layer: Layer, layout: Layout) -> Statistics:
    return _statistics_fwd(hidden, labels, layer, layout)[0]


# What is kept of a block is a few numbers for each token; its logits are computed again.


def _statistics_fwd(
    hidden: Array, labels: Array, layer: Layer, layout: Layout
) -> tuple[Statistics, tuple[Any, ...]]:
    @_recomputed
    def step(tokens: tuple[Array, Array]) -> tuple[Statistics, Rows]:
        reduced = block(*tokens, layer, layout)
        return reduced.found, reduced.rows

    blocks, rows = jax.lax.map(step, _blocks((hidden, labels), layout.block_size))
    found = _tokens(blocks, len(labels))
    return found, (hidden, labels, layer, found, rows)


def _statistics_bwd(
    layout: Layout, residuals: tuple[Any, ...], cotangents: Statistics
) -> tuple[Array, None, Layer]:
    hidden, labels, layer, found, rows = residuals

    @_recomputed
    def step(sums: Layer, tokens: tuple[Any, ...]) -> tuple[Layer, Array]:
        hidden, labels, found, cotangents, rows = tokens
        known = block(hidden, labels, layer, layout, (rows, found))
        return to_inputs(sums, hidden, labels, known, cotangents, layer, layout)

    tokens = _blocks((hidden, labels, found, cotangents), layout.block_size)
    sums, to_hidden = jax.lax.scan(step, _zeros(hidden, layer), (*tokens, rows))
    return _tokens(to_hidden, len(labels)), None, _in_dtype_of(layer, sums)


_statistics.defvjp(_statistics_fwd, _statistics_bwd)


def total(hidden: Array, labels: Array, layer: Layer, terms: Terms, layout: Layout) -> Array:
    """Sum over the tokens of their terms, each times its statistic; see `of_statistics`."""
    varying = (labels, terms), (hidden, layer)
    hidden, layer = vary_alike((hidden, layer), varying, over=_names(layout))
    terms = vary_alike(terms, varying, within=_names(layout))
    return _total(hidden, labels, layer, terms, layout)


@functools.partial(custom_vjp, static=1, alike=False)
def _total(hidden: Array, labels: Array, layer: Layer, terms: Terms, layout: Layout) -> Array:
    found = _statistics_fwd(hidden, labels, layer, layout)[0]
    return jnp.sum(of_statistics(found, terms))


# The terms weigh what each token's loss is made of,
#
#     l_n = -a_n log p_n - b_n mixed_n + c_n lse_n^2,
#
# so that in the forward pass the cotangents of the statistics are known: -a_n, -b_n, 2 c_n lse_n.
# A block's logits need not be computed again; what remains is to multiply by the cotangent.


def of_statistics(found: Statistics, terms: Terms) -> Array:
    losses = safe_product(terms.nll, -found.log_probs)
    if terms.mixed is not None and found.mixed is not None:
        losses = losses + safe_product(terms.mixed, -found.mixed)
    if terms.z_loss is not None:
        losses = losses + terms.z_loss * jnp.square(found.logsumexp)
    return losses


def _total_fwd(
    hidden: Array, labels: Array, layer: Layer, terms: Terms, layout: Layout
) -> tuple[Array, tuple[Any, ...]]:
    @_recomputed
    def step(sums: Layer, tokens: tuple[Any, ...]) -> tuple[Layer, tuple[Statistics, Array]]:
        hidden, labels, terms = tokens
        known = block(hidden, labels, layer, layout)
        cotangents = _cotangents(known.found, terms)
        sums, to_hidden = to_inputs(sums, hidden, labels, known, cotangents, layer, layout)
        return sums, (known.found, to_hidden)

    tokens = _blocks((hidden, labels, terms), layout.block_size)
    sums, blocks = jax.lax.scan(step, _zeros(hidden, layer), tokens)
    found, to_hidden = _tokens(blocks, len(labels))
    value = jnp.sum(of_statistics(found, terms))
    return value, (to_hidden, layer, sums, found, terms)


def _cotangents(found: Statistics, terms: Terms) -> Statistics:
    to_normaliser = jnp.zeros_like(terms.nll)
    if terms.z_loss is not None:
        to_normaliser = 2 * terms.z_loss * found.logsumexp
    mixed = None if terms.mixed is None else -terms.mixed
    return Statistics(-terms.nll, to_normaliser, mixed)


def _total_bwd(
    layout: Layout, residuals: tuple[Any, ...], cotangent: Array
) -> tuple[Array, None, Layer, Terms]:
    to_hidden, layer, sums, found, terms = residuals
    _, pullback = jax.vjp(lambda terms: jnp.sum(of_statistics(found, terms)), terms)

    def times_cotangent(sums: Array, array: Array) -> Array:
        wide = _check.wide(sums)
        return (sums.astype(wide) * cotangent.astype(wide)).astype(array.dtype)

    to_layer = jax.tree.map(times_cotangent, sums, layer)
    return times_cotangent(to_hidden, to_hidden), None, to_layer, pullback(cotangent)[0]


_total.defvjp(_total_fwd, _total_bwd)


class TokenStatistics(NamedTuple):
    """What `linear_statistics` gives, each in the shape of the labels."""

    log_probs: Float[Array, "*tokens"]
    logsumexp: Float[Array, "*tokens"]
    entropy: Float[Array, "*tokens"]
    argmax: Int32[Array, "*tokens"]


def linear_statistics(
    hidden: Real[ArrayLike, "*tokens features"],
    kernel: Real[ArrayLike, "_ _"],
    labels: Integer[ArrayLike, "*tokens"],
    *,
    bias: Real[ArrayLike, " classes"] | None = None,
    logit_cap: Real[ArrayLike, ""] | None = None,
    class_axis: int = -1,
    block_size: int | None = None,
    axis_name: AxisName = None,
) -> TokenStatistics:
    r"""Log-probability of a class, log-sum-exp, entropy and likeliest class of a linear layer.

    $$\log p_y, \qquad \log \sum_j e^{z_j}, \qquad -\sum_j p_j \log p_j, \qquad \arg\max_j z_j,
      \qquad z = h K + b$$

    of every token, in one pass over blocks of tokens, as `linear_cross_entropy`: the logits are
    never all there. For the losses of preferences, policies and distillation. Gradients:
    $[j = y] - p_j$, $p_j$ and $-p_j(\log p_j + H)$ with respect to the logits, in one pass; none
    through the likeliest class, the first of several. A label out of range, negative ones included,
    gives NaN in all but the likeliest class, which is -1 in a row with a NaN.

    Args:
        hidden: real hidden states.
        kernel: (features, classes), or as `class_axis` says.
        labels: class indices from 0 to the number of classes less 1, any integer dtype.
        bias: added to the logits; -inf takes a class out of the softmax.
        logit_cap: $c$, more than 0, which replaces the logits by $c \tanh(z / c)$.
        class_axis: the axis of the classes in `kernel`; 0 for PyTorch's weights and tied
            embeddings.
        block_size: how many tokens at a time; by default as many as `linear_cross_entropy` takes.
        axis_name: the mesh axis over which the classes are sharded, in `shard_map`.

    Returns:
        A named tuple of `log_probs, logsumexp, entropy, argmax`, each in the shape of `labels`;
        float32 and int32, or float64 for float64 input.

    Raises:
        TypeError: `hidden`, `kernel` or `bias` are not real, `labels` not integers, `class_axis` or
            `block_size` is not an integer.
        ValueError: the shapes do not agree, `block_size` is less than 1, or `logit_cap` is not more
            than 0. (A traced one that is not gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> hidden, kernel = jnp.array([[1.0, 0.0]]), jnp.array([[20.0, 0.0], [0.0, 0.0]])
        >>> jaxloss.primitives.linear_statistics(hidden, kernel, jnp.array([0])).log_probs
        Array([-2.061e-09], dtype=float32)

    Source: Wijmans et al., "Cut your losses in large-vocabulary language models" (2024), section 4,
    for the blocks; Blanchard, Higham and Higham (2021) for the sums.
    """
    given = inputs(
        "linear_statistics",
        hidden,
        kernel,
        labels,
        bias=bias,
        logit_cap=logit_cap,
        class_axis=class_axis,
        block_size=block_size,
        axis_name=axis_name,
    )
    layout, dtype = given.layout._replace(entropy=True, argmax=True), _check.wide(given.hidden)
    most = 2 ** (jnp.finfo(dtype).nmant + 1)
    if (classes := count_classes(given.layer, layout)) > most:
        raise ValueError(
            f"linear_statistics: kernel must have at most {most} classes, whose numbers "
            f"{jnp.dtype(dtype)} holds, got {classes}."
        )
    found = statistics(given.hidden, given.labels, given.layer, layout)
    shown: Any = jax.tree.map(lambda values: values.reshape(jnp.shape(labels)), found)
    argmax = shown.argmax.astype(jnp.int32)
    return TokenStatistics(shown.log_probs, shown.logsumexp, shown.entropy, argmax)
