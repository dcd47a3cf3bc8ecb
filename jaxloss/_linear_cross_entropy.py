"""Cross-entropy of a linear layer over a large vocabulary, without its logits."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from jaxloss import _check, _linear, _options
from jaxloss._combined import shares
from jaxloss._logit_blocks import AxisName, count_classes, of_label


@_check.known_keywords
def linear_cross_entropy(
    hidden: Real[ArrayLike, "*tokens features"],
    kernel: Real[ArrayLike, "_ _"],
    labels: Integer[ArrayLike, "*tokens"],
    *,
    bias: Real[ArrayLike, " classes"] | None = None,
    label_smoothing: Real[ArrayLike, ""] = 0.0,
    class_weights: Real[ArrayLike, " classes"] | None = None,
    z_loss: Real[ArrayLike, ""] = 0.0,
    logit_cap: Real[ArrayLike, ""] | None = None,
    class_axis: int = -1,
    block_size: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "*tokens"]:
    r"""Softmax cross-entropy of a linear layer's scores, whose logits are never all there.

    $$\ell = -\sum_j w_j q_j \log p_j, \qquad p_j = e^{z_j} \big/ \sum_i e^{z_i}, \qquad
      z = c \tanh\big((h K + b) / c\big)$$

    with $q$ the label's distribution, smoothed as in `cross_entropy`, and $z = h K + b$ without a
    `logit_cap`. Equal to `cross_entropy(hidden @ kernel + bias, labels)`, block by block of tokens:
    the memory grows with the tokens' features and not with their logits. Products of bfloat16 have
    float32 results, and gradients are summed in float32. Gradient with respect to the logits: that
    of `cross_entropy`; a label out of range, negative ones included, gives NaN in loss and
    gradient.

    Reduced over the whole batch, `mean(linear_cross_entropy)`, `sum` or `pooled`, with weights and
    masks around it or not, the gradient is computed with the value: three products of the size of
    the logits, as many as the logits themselves would need. The losses of each token, for any
    cotangent, take a fourth, in which a block's logits are computed again. Of a batch that is one
    block nothing is saved: `cross_entropy` of its logits holds one array of their size, a block
    two. Call it under `jit`; without, every call compiles its loop again.

    By default a block's logits and their gradient take 96 MiB; or its tokens are an eighth of the
    features, if that is more: each block reads and writes the kernel's gradient once. That is for
    memory. On a GPU, where that memory is free and small products are slow, larger blocks pay: on
    an H100, of 8192 tokens, 4096 features and 131072 classes in bfloat16, 4096 tokens at a time
    took half the time of the default 512.

    With `axis_name`, in `shard_map`, each device has its own classes, all in order: `kernel`,
    `bias` and `class_weights` are its own (or the weights are those of all, as `class_weighted`
    gives them), `labels` those of all. For each block the devices
    exchange a maximum and two sums of a number for each token.

    Args:
        hidden: real hidden states.
        kernel: (features, classes), or as `class_axis` says; all examples share it, and no mask
            reaches it.
        labels: class indices from 0 to C - 1, any integer dtype.
        bias: added to the logits; -inf takes a class out of the softmax.
        label_smoothing: the weight of the uniform distribution, from 0 to 1.
        class_weights: a factor for each class's term, at least 0. The mean does not divide by them:
            for the mean that does, see `class_weighted`, which takes those of all classes.
        z_loss: the factor of the squared log-normaliser, at least 0; 1e-4 is usual.
        logit_cap: $c$, more than 0: the logits stay within $\pm c$.
        class_axis: the axis of the classes in `kernel`; 0 for PyTorch's weights and tied
            embeddings.
        block_size: how many tokens at a time.
        axis_name: the mesh axis over which the classes are sharded, in `shard_map`.

    Returns:
        One loss per token, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: `hidden`, `kernel` or `bias` are not real, `labels` not integers, `class_axis` or
            `block_size` is not an integer.
        ValueError: the shapes do not agree, or an option is out of bounds. (A traced option out of
            bounds gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> hidden, kernel = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.eye(2, 3)
        >>> jaxloss.mean(jaxloss.linear_cross_entropy)(hidden, kernel, jnp.array([0, 2]))
        Array(1.0514, dtype=float32)

    Source: Wijmans et al., "Cut your losses in large-vocabulary language models" (2024), section 4;
    Gemma Team, "Gemma 2" (2024), section 2, for the cap; PyTorch `linear_cross_entropy`.
    """
    given, terms = _inputs(
        hidden,
        kernel,
        labels,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        z_loss=z_loss,
        bias=bias,
        logit_cap=logit_cap,
        class_axis=class_axis,
        block_size=block_size,
        axis_name=axis_name,
    )
    found = _linear.statistics(given.hidden, given.labels, given.layer, given.layout)
    return _linear.of_statistics(found, terms).reshape(jnp.shape(labels))


def _inputs(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: ArrayLike,
    class_weights: ArrayLike | None,
    z_loss: ArrayLike,
    bias: ArrayLike | None,
    logit_cap: ArrayLike | None,
    class_axis: int,
    block_size: int | None,
    axis_name: AxisName,
) -> tuple[_linear.Inputs, _linear.Terms]:
    """What was given, checked, and what each token's statistics weigh in its loss."""
    function = "linear_cross_entropy"
    given = _linear.inputs(
        function,
        hidden,
        kernel,
        labels,
        bias=bias,
        logit_cap=logit_cap,
        class_axis=class_axis,
        block_size=block_size,
        axis_name=axis_name,
    )
    dtype = _check.wide(given.hidden)
    smoothing = _options.number(
        function, "label_smoothing", label_smoothing, minimum=0.0, maximum=1.0
    ).astype(dtype)
    smooth = not _options.is_zero(label_smoothing)
    terms = _linear.Terms(jnp.ones(given.labels.shape, dtype))
    if class_weights is not None:
        weights = _own_class_weights(function, class_weights, given)
        terms = terms._replace(nll=of_label(weights, given.labels, given.layer, given.layout))
        if smooth:
            mixture = weights / count_classes(given.layer, given.layout)
            given = given._replace(layer=given.layer._replace(mixture=mixture))
    if smooth:
        given = given._replace(layout=given.layout._replace(mixed=True))
        mixed = jnp.broadcast_to(smoothing, terms.nll.shape)
        terms = terms._replace(nll=(1 - smoothing) * terms.nll, mixed=mixed)
    if not _options.is_zero(z_loss):
        penalty = _options.number(function, "z_loss", z_loss, minimum=0.0).astype(dtype)
        terms = terms._replace(z_loss=jnp.broadcast_to(penalty, terms.nll.shape))
    return given, terms


def _own_class_weights(function: str, weights: ArrayLike, given: _linear.Inputs) -> Array:
    """One for each class here; a combinator gives those of all devices' classes."""
    array = _options.bounded(function, "class_weights", weights, minimum=0.0)
    kernel, axis, name = given.layer.kernel, given.layout.class_axis, given.layout.axis_name
    classes = kernel.shape[axis]
    if name is not None and array.shape == (count_classes(given.layer, given.layout),):
        array = jax.lax.dynamic_slice(array, (jax.lax.axis_index(name) * classes,), (classes,))
    if array.shape != (classes,):
        raise ValueError(
            f"{function}: class_weights must have one weight for each of the {classes} classes of "
            f"kernel {kernel.shape}, got {array.shape}."
        )
    return array.astype(_check.wide(given.hidden))


def _total(token_weights: Array, *arrays: ArrayLike, **options: Any) -> Array:
    """Sum of the losses times their weights, with its gradient computed on the way."""
    call = inspect.signature(linear_cross_entropy).bind(*arrays, **options)
    call.apply_defaults()
    given, terms = _inputs(*call.args, **call.kwargs)
    weights = token_weights.reshape(-1).astype(terms.nll.dtype)
    weighed = jax.tree.map(lambda term: weights * term, terms)
    return _linear.total(given.hidden, given.labels, given.layer, weighed, given.layout)


def _classes(*arrays: ArrayLike, **options: Any) -> int | None:
    kernel: Any = options["kernel"] if "kernel" in options else arrays[1]
    if options.get("axis_name") is not None or jnp.ndim(kernel) != 2:
        return None
    return jnp.shape(kernel)[options.get("class_axis", -1)]


shares(linear_cross_entropy, {"kernel"}, classes=_classes, total=_total)
