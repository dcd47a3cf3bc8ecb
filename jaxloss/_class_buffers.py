"""The newest examples of every class, to draw batches in which classes are equally frequent."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Integer

from jaxloss import _check, _checked


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["examples", "sizes", "ends"], meta_fields=[]
)
@dataclass(frozen=True)
class ClassBuffers:
    """A ring buffer of examples for each class, a pytree of arrays whose shapes never change.

    `push` stores a batch, in the place of each class's oldest examples where its buffer is full;
    `sample` draws a batch in which all classes that have examples are equally frequent. A model
    trained on such batches believes that classes are equally frequent, as long as it has not
    learned the examples of small classes by heart: `logit_adjustment` of the true counts, added to
    its logits, gives the probabilities at the true frequencies.

    Both are pure functions and work under `jit`, `scan` and `vmap`. To store in place, donate the
    buffers: `push = jax.jit(jaxloss.ClassBuffers.push, donate_argnums=0)`. In a checkpoint they are
    arrays like a model's.

    Attributes:
        examples: the pytree of an example, with two axes in front, (classes, capacity, ...).
        sizes: how many examples each class has, of shape (classes,), `capacity` at most.
        ends: where each class's next example goes, of shape (classes,).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> buffers = jaxloss.ClassBuffers.init(jnp.zeros(2), classes=3, capacity=100)
        >>> images, labels = jnp.ones((5, 2)), jnp.array([0, 0, 0, 0, 2])
        >>> buffers = buffers.push(images, labels)
        >>> buffers.sizes
        Array([4, 0, 1], dtype=int32)
        >>> drawn, labels = buffers.sample(jax.random.key(0), 6)
        >>> drawn.shape, jnp.bincount(labels, length=3)
        ((6, 2), Array([3, 0, 3], dtype=int32))
    """

    # Arrays; but transformations also build pytrees of what is no array.
    examples: Any
    sizes: Any
    ends: Any

    @classmethod
    def init(cls, example: Any, classes: int, capacity: int) -> ClassBuffers:
        """Empty buffers.

        Args:
            example: a pytree of one example, of arrays or of `jax.ShapeDtypeStruct`; only shapes
                and dtypes count.
            classes: how many there are.
            capacity: how many examples of each are kept.

        Returns:
            The buffers, without examples.

        Raises:
            TypeError: a number is not an integer.
            ValueError: it is less than 1, or an example has no array.
        """
        function = "ClassBuffers.init"
        numbers = {"classes": classes, "capacity": capacity}
        for name, number in numbers.items():
            if _check.integer(function, name, number) < 1:
                raise ValueError(f"{function}: {name} must be at least 1, got {number}.")
        if not jax.tree.leaves(example):
            raise ValueError(
                f"{function}: example must have an array at least, got {_check.describe(example)}."
            )

        def empty(leaf: Any) -> Array:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                leaf = jnp.asarray(leaf)
            return jnp.zeros((classes, capacity, *leaf.shape), leaf.dtype)

        # Two arrays: one in both places could not be donated.
        sizes, ends = (jnp.zeros(classes, jnp.int32) for _ in range(2))
        return cls(jax.tree.map(empty, example), sizes, ends)

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.sizes.shape[0])

    @property
    def capacity(self) -> int:
        """How many examples of each class are kept."""
        return int(jax.tree.leaves(self.examples)[0].shape[1])

    def push(self, examples: Any, labels: Integer[ArrayLike, " batch"]) -> ClassBuffers:
        """Store a batch, each example in the buffer of its class, in the order of the batch.

        A full buffer gives up its oldest examples; of more examples of one class than its buffer
        holds, the last are kept. An example whose label is no class is stored nowhere. To leave
        some out, give them the label -1.

        Args:
            examples: the pytree of an example, with the axis of the batch in front.
            labels: class indices; any integer dtype.

        Returns:
            The buffers with the batch.

        Raises:
            TypeError: `labels` are not integers, or an example's dtype is not the buffers' own.
            ValueError: structure or shapes do not agree, or there are 2^32 pairs of a row of the
                batch and a class. `checked` raises where a label is neither a class nor -1.
        """
        function = "ClassBuffers.push"
        indices = _check.class_indices(function, labels)
        if indices.ndim != 1:
            raise ValueError(
                f"{function}: labels must have the shape (batch,), got {indices.shape}; reshape "
                f"labels and examples."
            )
        batch = _matching(function, self.examples, examples, len(indices))
        if (self.classes + 1) * len(indices) >= 2**32:
            raise ValueError(
                f"{function}: a batch times the classes must be less than 2^32, got {len(indices)} "
                f"examples and {self.classes} classes; push fewer at a time."
            )
        signed = jnp.issubdtype(indices.dtype, jnp.signedinteger)
        advice = "to leave an example out, give it the label -1"
        _checked.classes(
            function, indices, self.classes, indices != -1 if signed else True, advice=advice
        )
        index, valid = _check.valid_index(indices, self.classes)
        ranks, counts = positions(jnp.where(valid, index, self.classes), self.classes + 1)
        counts = counts[:-1]
        kept = valid & (ranks >= counts[index] - self.capacity)
        # What is not kept goes beyond the last class, where a scatter drops it, to a place of its
        # own: a GPU need not order the writes if all indices are distinct.
        rows = jnp.arange(len(indices), dtype=jnp.int32)
        slots = jnp.where(kept, (self.ends[index] + ranks) % self.capacity, rows)
        places = jnp.where(kept, index, self.classes), slots

        def store(stored: Array, new: Array) -> Array:
            return stored.at[places].set(new, mode="drop", unique_indices=True)

        return ClassBuffers(
            jax.tree.map(store, self.examples, batch),
            jnp.minimum(self.sizes + counts, self.capacity),
            (self.ends + counts) % self.capacity,
        )

    def sample(self, key: Array, n: int) -> tuple[Any, Integer[Array, " n"]]:
        """Draw a batch in which the classes that have examples are equally frequent.

        Classes take turns, in a random order, so that no two differ by more than one, also within
        any run of consecutive rows; chance decides which have one more. Within its class an example
        is drawn at random, with replacement. A class without examples is never drawn. Where none
        has any, all labels are -1 and the examples zeros; `ignoring(loss, -1)` leaves them out.

        Args:
            key: a JAX random key.
            n: how many examples, a Python integer: under `jit` it is static.

        Returns:
            The examples, with the axis of the batch in front, and their labels, int32.

        Raises:
            TypeError: `n` is not a Python integer.
            ValueError: it is less than 1.
        """
        function = "ClassBuffers.sample"
        if _check.integer(function, "n", n) < 1:
            raise ValueError(f"{function}: n must be at least 1, got {n}.")
        key_of_classes, key_of_slots = jax.random.split(key)
        # Classes in a random order, those without examples behind: one sort, of random numbers.
        lots = jax.random.bits(key_of_classes, (self.classes,), jnp.uint32) >> 1
        present = self.sizes > 0
        order = jnp.argsort(jnp.where(present, lots, jnp.uint32(2**32 - 1))).astype(jnp.int32)
        number = jnp.sum(present, dtype=jnp.int32)
        labels = order[jnp.arange(n, dtype=jnp.int32) % jnp.maximum(number, 1)]
        # A buffer fills from its beginning.
        ends = jnp.maximum(self.sizes[labels], 1)
        slots = jax.random.randint(key_of_slots, (n,), 0, ends, jnp.int32)
        drawn = jax.tree.map(lambda stored: stored[labels, slots], self.examples)
        return drawn, jnp.where(number > 0, labels, -1)


def positions(groups: Array, number: int) -> tuple[Array, Array]:
    """For each row how many of its group are before it, and for each group how many rows it has."""
    size = len(groups)
    rows = jnp.arange(size, dtype=jnp.int32)
    counts = jnp.zeros(number, jnp.int32).at[groups].add(1)
    starts = jnp.cumsum(counts, dtype=jnp.int32) - counts
    # Group and row in one number: XLA sorts an array several times as fast as a pair of arrays.
    # A cumulative sum of one-hot rows would take memory and time in proportion to the groups.
    keys = jnp.sort(groups.astype(jnp.uint32) * jnp.uint32(size) + rows.astype(jnp.uint32))
    group, row = (part.astype(jnp.int32) for part in jnp.divmod(keys, jnp.uint32(size)))
    ranks = jnp.zeros(size, jnp.int32).at[row].set(rows - starts[group], unique_indices=True)
    return ranks, counts


def _matching(function: str, stored: Any, examples: Any, size: int) -> Any:
    """The examples as arrays, of the structure, shapes and dtypes of what is stored."""
    expected: Any = jax.tree.structure(stored)
    structure = jax.tree.structure(examples)
    if expected != structure:
        raise ValueError(
            f"{function}: examples must have the structure that init was given, {expected}, got "
            f"{structure}."
        )

    def match(path: Sequence[Any], buffer: Array, leaf: ArrayLike) -> Array:
        array = _check.exact_array(function, leaf)
        name = f"examples{jax.tree_util.keystr(tuple(path))}"
        shape = (size, *buffer.shape[2:])
        if array.shape != shape:
            raise ValueError(
                f"{function}: {name} must have the shape {shape}, one example for each of the "
                f"{size} labels, got {array.shape}."
            )
        if array.dtype != buffer.dtype:
            raise TypeError(
                f"{function}: {name} must be {buffer.dtype}, as it was to init, got {array.dtype}; "
                f"convert it with .astype."
            )
        return array

    return jax.tree_util.tree_map_with_path(match, stored, examples)
