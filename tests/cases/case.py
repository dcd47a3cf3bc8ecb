"""What a row of the table holds, and the samplers that rows share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import quick_jit

Sampler = Callable[[np.random.Generator], tuple[np.ndarray, ...]]


@dataclass(frozen=True, eq=False)
class Case:
    """A loss with options, and what is known of it."""

    id: str
    loss: Callable[..., jax.Array]
    sample: Sampler
    formula: Callable[..., jax.Array]
    # With respect to the first argument, by hand from a textbook; else autodiff of the formula.
    gradient: Callable[..., np.ndarray] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    # (arguments, loss, gradient of its first argument) where the derivative jumps or the loss is 0.
    kinks: tuple[tuple[tuple[Any, ...], Any, Any], ...] = ()
    # Whether the loss is linear in its first argument, so that a NaN there is not in the gradient.
    linear: bool = False
    # How many classes there are, where the first argument does not have an entry for each.
    classes: int | None = None

    @property
    def name(self) -> str:
        return self.loss.__name__

    @property
    def bound(self) -> Callable[..., jax.Array]:
        """The loss with its options, as a user would fix them."""
        return partial(self.loss, **self.options)

    @property
    def elementwise(self) -> bool:
        """Whether there is a loss for each element of the first input."""
        arrays = self.sample(np.random.default_rng(0))
        losses = jax.eval_shape(self, *(a.astype(a.dtype.kind + "4") for a in arrays))
        return losses.shape == arrays[0].shape

    @property
    def compares(self) -> bool:
        """Whether the loss compares the examples of a batch with each other."""
        return "axis_name" in inspect.signature(self.loss).parameters

    def gathering(self, axis_name: str) -> Callable[..., jax.Array]:
        """The loss, which compares examples over a mesh axis if it compares any."""
        return partial(self.loss, axis_name=axis_name) if self.compares else self.loss

    def __call__(self, *arrays: Any) -> jax.Array:
        return self.loss(*arrays, **self.options)

    def plain(self, *arrays: Any) -> jax.Array:
        """The formula, which may promote where the library may not."""
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self.formula(*arrays, **self.options)

    def textbook(self, samples: Sequence[Sequence[Any]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The formula's losses and the gradient of their sum, of each sample, in one program."""

        def of_sample(first: Any, *others: Any) -> tuple[jax.Array, jax.Array]:
            losses = self.plain(first, *others)
            if self.gradient is not None:
                return losses, first
            return losses, jax.grad(lambda x: jnp.sum(self.plain(x, *others)))(first)

        @quick_jit
        def of_all(firsts: list[Any]) -> list[tuple[jax.Array, jax.Array]]:
            return [of_sample(x, *s[1:]) for x, s in zip(firsts, samples, strict=True)]

        results = of_all([sample[0] for sample in samples])
        return [
            (losses, slope if self.gradient is None else self.gradient(*sample, **self.options))
            for sample, (losses, slope) in zip(samples, results, strict=True)
        ]

    def arrays(self, rng: np.random.Generator, dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
        """A sample whose floating arrays have the given dtype."""
        return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in self.sample(rng))


def real(rng):
    """Errors clear of every kink of the table: 0, 0.1, 0.3, 1 and 1.7."""
    targets = rng.normal(size=(8, 4))
    return targets + clear(rng), targets


def clear(rng, shape=(8, 4)):
    """Numbers of both signs, away from the kinks."""
    sizes = rng.choice([0.15, 0.6, 1.3, 2.2], shape) * rng.uniform(0.95, 1.05, shape)
    return sizes * rng.choice([-1, 1], shape)


def signs(rng, shape=(8, 4)):
    return rng.choice([-1, 1], shape).astype(np.int32)


def logits_and_labels(shape=(8, 5), axis=-1, dtype=np.int32):
    def sample(rng):
        rows = np.delete(shape, axis)
        return rng.normal(size=shape) * 2, rng.integers(0, shape[axis], rows).astype(dtype)

    return sample


def logits_and_probabilities(shape=(8, 5), axis=-1):
    def sample(rng):
        return rng.normal(size=shape) * 2, normalized(rng.normal(size=shape), axis)

    return sample


def probabilities_and_targets(rng):
    return rng.uniform(0.05, 0.95, (8, 4)), rng.uniform(0.05, 0.95, (8, 4))


def logits_and_targets(rng):
    return rng.normal(size=(8, 4)) * 3, rng.uniform(0.05, 0.95, (8, 4))


def normalized(scores, axis):
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis, keepdims=True)


def one_hot(labels, size, axis):
    return np.moveaxis(np.eye(size)[np.asarray(labels)], -1, axis)
