"""The least that a program with a loss's inputs and outputs could do, to measure a loss against."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Program = Callable[..., Any]


def _added(first: jax.Array, *others: jax.Array) -> jax.Array:
    """Every number read once, and as many written as the first array has."""
    alike = [first, *(a for a in others if a.shape == first.shape and a.dtype == first.dtype)]
    return functools.reduce(operator.add, alike) if len(alike) > 1 else first * 2


def _sum_of_added(*arrays: jax.Array) -> jax.Array:
    return jnp.sum(_added(*arrays), dtype=jnp.float32)


def _logsumexp(logits: jax.Array, *others: jax.Array) -> jax.Array:
    return jnp.sum(jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1))


def _logsumexp_and_write(logits: jax.Array, *others: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = _logsumexp(logits)
    return total, jnp.full(logits.shape, total.astype(logits.dtype))


def _column(scores: jax.Array, *others: jax.Array) -> jax.Array:
    return jnp.sum(scores[:, 0], dtype=jnp.float32)


def _column_and_write(scores: jax.Array, *others: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = _column(scores)
    return total, jnp.full(scores.shape, total.astype(scores.dtype))


def _scores(first: jax.Array, *others: jax.Array) -> jax.Array:
    """Every vector with every other, of the first array or of the second."""
    return first @ (others[0] if others[0].shape == first.shape else first).T


def _sum_of_scores(*arrays: jax.Array) -> jax.Array:
    return jnp.sum(_scores(*arrays), dtype=jnp.float32)


def _scores_and_back(first: jax.Array, *others: jax.Array) -> jax.Array:
    return _scores(first, *others) @ first


def _logits(layer: tuple[jax.Array, jax.Array], labels: jax.Array) -> jax.Array:
    hidden, kernel = layer
    return jnp.sum(hidden @ kernel, dtype=jnp.float32)


def _three_products(
    layer: tuple[jax.Array, jax.Array], labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    hidden, kernel = layer
    logits = hidden @ kernel
    return logits @ kernel.T, hidden.T @ logits


# Of a value, and of a value with its gradient.
FLOORS: dict[str, tuple[Program, Program]] = {
    "elements": (_sum_of_added, _added),
    "softmax": (_logsumexp, _logsumexp_and_write),
    "write": (_column, _column_and_write),
    "products": (_sum_of_scores, _scores_and_back),
    "linear": (_logits, _three_products),
}
