"""Losses of an algorithm, or of a whole batch, with their peers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxloss
from bench.inputs import (
    BATCHES,
    FEATURES,
    FRAMES_OF_LOGITS,
    FREQUENT_LABEL,
    HIDDEN,
    KERNEL,
    LABEL,
    LARGE,
    LOGITS,
    PARTNER,
    SEQUENCES,
    SYMBOLS,
    TRIPLES,
    Input,
    Loss,
)


def _torch_ctc(logits: Any, labels: Any) -> Any:
    from torch.nn import functional

    batch, frames, _ = logits.shape
    lengths = (frames,) * batch, (labels.shape[1],) * batch
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    return functional.ctc_loss(log_probs, labels.long(), *lengths, reduction="sum") / batch


def _torch_linear(layer: Any, labels: Any) -> Any:
    from torch.nn import functional

    hidden, kernel = layer
    return functional.cross_entropy(hidden @ kernel, labels.long())


def _optax_ctc(logits: jax.Array, labels: jax.Array) -> jax.Array:
    none = jnp.zeros(logits.shape[:2], logits.dtype)
    return optax.losses.ctc_loss(logits, none, labels, jnp.zeros(labels.shape, logits.dtype))


def _optax_linear(layer: Any, labels: jax.Array) -> jax.Array:
    hidden, kernel = layer
    return optax.losses.softmax_cross_entropy_with_integer_labels(hidden @ kernel, labels)


def _optax_ntxent(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.losses.ntxent(embeddings, labels, temperature=0.25)


def _linear(layer: Any, labels: jax.Array) -> jax.Array:
    return jaxloss.linear_cross_entropy(*layer, labels)


def _mean_linear(layer: Any, labels: jax.Array) -> jax.Array:
    return jaxloss.mean(jaxloss.linear_cross_entropy)(*layer, labels)


def _adaptive(layer: Any, labels: jax.Array) -> jax.Array:
    return jaxloss.adaptive_softmax(*layer, labels)


def _mean_adaptive(layer: Any, labels: jax.Array) -> jax.Array:
    return jaxloss.mean(jaxloss.adaptive_softmax)(*layer, labels)


def _kernel(inputs: Any, outputs: Any) -> Input:
    return dataclasses.replace(
        KERNEL, shape=lambda rows, classes: (inputs(classes), outputs(classes))
    )


# A sixteenth of the classes in the head, three sixteenths in the first cluster, the rest after.
PARAMETERS = jaxloss.AdaptiveSoftmax(
    _kernel(lambda classes: FEATURES, lambda classes: classes // 16 + 2),
    (
        (
            _kernel(lambda classes: FEATURES, lambda classes: FEATURES // 4),
            _kernel(lambda classes: FEATURES // 4, lambda classes: classes // 4 - classes // 16),
        ),
        (
            _kernel(lambda classes: FEATURES, lambda classes: FEATURES // 16),
            _kernel(lambda classes: FEATURES // 16, lambda classes: classes - classes // 4),
        ),
    ),
)


BATCHED = (
    Loss("info_nce", jaxloss.info_nce, (LOGITS, LOGITS), BATCHES, "products"),
    Loss("sigmoid_contrastive", jaxloss.sigmoid_contrastive, (LOGITS, LOGITS), BATCHES, "products"),
    Loss(
        "supervised_contrastive",
        jaxloss.supervised_contrastive,
        (LOGITS, LABEL),
        BATCHES,
        "products",
    ),
    Loss(
        "nt_xent",
        functools.partial(jaxloss.nt_xent, temperature=0.25),
        (LOGITS, PARTNER),
        TRIPLES,
        "products",
        _optax_ntxent,
    ),
    Loss(
        "ctc",
        jaxloss.ctc,
        (FRAMES_OF_LOGITS, SYMBOLS),
        SEQUENCES,
        "softmax",
        _optax_ctc,
        _torch_ctc,
    ),
    Loss(
        "linear_cross_entropy",
        _linear,
        ((HIDDEN, KERNEL), LABEL),
        LARGE,
        "linear",
        _optax_linear,
        _torch_linear,
        _mean_linear,
    ),
    Loss(
        "adaptive_softmax",
        _adaptive,
        ((HIDDEN, PARAMETERS), FREQUENT_LABEL),
        LARGE,
        "head",
        reduced=_mean_adaptive,
    ),
)
