"""A loss to be timed: its peers, and what its inputs hold and how large they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jaxloss

Function = Callable[..., Any]
Shape = tuple[int, ...]
Sizes = tuple[tuple[int, int], ...]

FRAMES, SYMBOLS_OF_A_LABEL = 256, 64
FEATURES = 512


@dataclass(frozen=True)
class Input:
    """An array of a loss: its entries, of a key, shape and number of classes; and its shape."""

    draw: Callable[[Any, Shape, int], jax.Array]
    shape: Callable[[int, int], Shape]
    integer: bool = False


@dataclass(frozen=True)
class Loss:
    """A loss of ours and the peers' of the same arguments, of which the first is differentiated.

    Ours and Optax's are not reduced; PyTorch's is its own mean. What there is of elements, or of
    vectors, is in `rows` rows of `classes` each, of the largest size last. `floor` names the least
    that a program with the same inputs and outputs could do, in `bench.floors`.
    """

    name: str
    ours: Function
    inputs: tuple[Any, ...]
    sizes: Sizes
    floor: str
    optax: Function | None = None
    torch: Function | None = None
    reduced: Function | None = None

    @property
    def mean(self) -> Function:
        """Ours, reduced: by its own name, where a reduced form computes less."""
        return self.reduced or jaxloss.mean(self.ours)

    @property
    def elementwise(self) -> bool:
        return self.sizes is ELEMENTS

    def shapes(self, rows: int, classes: int, dtype: Any) -> tuple[Any, ...]:
        """Shapes and dtypes of the arguments; the first may be several arrays."""

        def shape(entry: Input) -> jax.ShapeDtypeStruct:
            chosen = jnp.int32 if entry.integer else dtype
            return jax.ShapeDtypeStruct(entry.shape(rows, classes), chosen)

        return jax.tree.map(shape, self.inputs)

    def arrays(self, rows: int, classes: int, dtype: Any) -> tuple[Any, ...]:
        """Seeded arguments on the default device."""
        entries, structure = jax.tree.flatten(self.inputs)
        keys = jax.random.split(jax.random.key(0), len(entries))
        arrays = [
            _drawn_array(entry, key, rows, classes, dtype)
            for entry, key in zip(entries, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, arrays)


# One program for all losses that have such an input.
@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _drawn_array(entry: Input, key: Any, rows: int, classes: int, dtype: Any) -> jax.Array:
    array = entry.draw(key, entry.shape(rows, classes), classes)
    return array if entry.integer else array.astype(dtype)


def _drawn(draw: Callable[[Any, Shape], jax.Array]) -> Callable[[Any, Shape, int], jax.Array]:
    return lambda key, shape, classes: draw(key, shape)


def _bits(key: Any, shape: Shape) -> jax.Array:
    return jax.random.bernoulli(key, 0.5, shape).astype(jnp.float32)


_normal = _drawn(jax.random.normal)
_positive = _drawn(functools.partial(jax.random.uniform, minval=0.5, maxval=5.0))
_probability = _drawn(functools.partial(jax.random.uniform, minval=0.05, maxval=0.95))
_bit = _drawn(_bits)
_sign = _drawn(lambda key, shape: 2 * _bits(key, shape) - 1)
_log_distribution = _drawn(lambda key, shape: jax.nn.log_softmax(jax.random.normal(key, shape)))
_distribution = _drawn(lambda key, shape: jax.nn.softmax(jax.random.normal(key, shape)))
_weight = _drawn(lambda key, shape: jax.random.normal(key, shape) / math.sqrt(shape[0]))


def _label(key: Any, shape: Shape, classes: int) -> jax.Array:
    return jax.random.randint(key, shape, 0, classes)


def _frequent(key: Any, shape: Shape, classes: int) -> jax.Array:
    """As frequent as words are, by Zipf's law."""
    logits = -jnp.log(jnp.arange(1.0, classes + 1))
    return jax.random.categorical(key, logits, shape=shape)


def _symbol(key: Any, shape: Shape, classes: int) -> jax.Array:
    return jax.random.randint(key, shape, 1, classes)


def _partner(key: Any, shape: Shape, classes: int) -> jax.Array:
    return jnp.arange(shape[0]) // 2


def _labels_in_front(key: Any, shape: Shape, classes: int) -> jax.Array:
    """As PyTorch's multi-label margin takes them: a few distinct labels, then -1."""
    count = min(4, classes // 2)
    first = jax.random.randint(key, (*shape[:-1], 1), 0, classes - count)
    places = jnp.arange(classes)[None]
    return jnp.where(places < count, first + places, -1)


def _elements(rows: int, classes: int) -> Shape:
    return (rows * classes,)


def _matrix(rows: int, classes: int) -> Shape:
    return rows, classes


def _row(rows: int, classes: int) -> Shape:
    return (rows,)


REAL = Input(_normal, _elements)
POSITIVE = Input(_positive, _elements)
PROBABILITY = Input(_probability, _elements)
BIT = Input(_bit, _elements)
SIGN = Input(_sign, _elements)

LOGITS = Input(_normal, _matrix)
LOG_DISTRIBUTION = Input(_log_distribution, _matrix)
DISTRIBUTION = Input(_distribution, _matrix)
BITS = Input(_bit, _matrix)
PROBABILITIES = Input(_probability, _matrix)
LABEL = Input(_label, _row, integer=True)
PARTNER = Input(_partner, _row, integer=True)
LABELS_IN_FRONT = Input(_labels_in_front, _matrix, integer=True)
SIGN_OF_A_ROW = Input(_sign, _row)

FRAMES_OF_LOGITS = Input(
    _normal, lambda rows, classes: (max(rows // FRAMES, 1), min(rows, FRAMES), classes)
)
SYMBOLS = Input(
    _symbol,
    lambda rows, classes: (max(rows // FRAMES, 1), min(rows // 2, SYMBOLS_OF_A_LABEL)),
    integer=True,
)
HIDDEN = Input(_normal, lambda rows, classes: (rows, FEATURES))
KERNEL = Input(_weight, lambda rows, classes: (FEATURES, classes))
FREQUENT_LABEL = Input(_frequent, _row, integer=True)

# Rows and classes, the largest last.
ELEMENTS: Sizes = tuple((2**power, 1) for power in range(10, 25, 2))
CLASSES: Sizes = (
    (16, 64),
    (1024, 64),
    (2**18, 64),
    (2**15, 512),
    (2**12, 4096),
    (128, 131072),
    (2048, 32000),
)
TARGETS: Sizes = (*CLASSES[:5], (32, 131072), (512, 32000))
# What sorts, or compares every pair of classes.
FEW_CLASSES: Sizes = ((16, 64), (1024, 64), (2**14, 64), (2**12, 1024))
VECTORS: Sizes = ((16, 64), (1024, 64), (2**12, 1024), (2**14, 1024))
BATCHES: Sizes = ((64, 128), (512, 128), (2048, 128))
# Optax compares triples of examples: 25 seconds of 2048.
TRIPLES: Sizes = BATCHES[:2]
SEQUENCES: Sizes = ((256, 64), (32 * 256, 64))
LARGE: Sizes = ((256, 1000), (1024, 8000))
