"""Where to divide the classes of an adaptive softmax."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Real

from jaxloss import _check
from jaxloss._products import product
from jaxloss._softmax import log_softmax_at

_MOST_CLUSTERS = 4
_CANDIDATES = 400  # Positions that cutoffs are chosen from, each 3% beyond the last of a million.


class Costs(NamedTuple):
    """What a softmax layer costs on a device, in seconds, forward and backward.

    A layer of `tokens` vectors with `features` and `classes` takes `fixed`, plus `per_operation`
    for each of `tokens * features * classes` multiplications, of which `least` are paid for at
    least, plus `per_score` for each of `tokens * classes` scores. See `measure_costs`.
    """

    fixed: float
    per_operation: float
    per_score: float
    least: float = 0.0


# Of two cores with AVX-512, in float32; only their proportions matter.
_TYPICAL = Costs(fixed=2e-4, per_operation=3e-11, per_score=2.5e-9)


def optimal_cutoffs(
    counts: Real[np.ndarray, " classes"] | Sequence[float],
    features: int,
    *,
    clusters: int | None = None,
    div_value: float | int = 4.0,
    tokens: int = 2048,
    costs: Costs | None = None,
) -> tuple[int, ...]:
    r"""Cutoffs of an adaptive softmax that make a training step cheapest, by a model of its cost.

    With $p_i$ the share of cluster $i$ in the counts, $k_i$ its classes and $d_i$ its features, the
    cost of $B$ tokens is

    $$C = g(B, d, s + J) + \sum_{i=1}^{J} \big[g'(p_i B, d, d_i) + g(p_i B, d_i, k_i)\big], \qquad
      g(B, d, k) = c + \lambda \max(B_0, B d k) + \mu B k,$$

    where $c$ is `fixed`, $\lambda$ `per_operation`, $B_0$ `least` and $\mu$ `per_score` of the
    costs, and $g'$, of the projection, has neither $c$ nor scores. A dynamic programme over a grid
    of positions finds the best, of up to 400 classes the very best. The scores' own cost is no part
    of the paper's model; but with few features they outweigh the products.

    Args:
        counts: how often each class occurs, the most frequent first; shares will do.
        features: the length of a hidden vector.
        clusters: how many tails; by default whichever of 1 to 4 is best.
        div_value: as in `AdaptiveSoftmax.init`.
        tokens: how many there are in a batch.
        costs: of the device, as `measure_costs` gives them; by default those of a CPU.

    Returns:
        The cutoffs that `AdaptiveSoftmax.init` takes.

    Raises:
        TypeError: `counts` are not real, or a size is not an integer.
        ValueError: `counts` do not decrease, are negative, not finite or all 0, or of fewer than
            two classes; `tokens` is less than 1, or `div_value` not positive; or there are no such
            clusters, for want of classes or features.

    Example:
        >>> import jaxloss
        >>> import numpy as np
        >>> shares = 1 / np.arange(1, 32001)
        >>> cutoffs = jaxloss.optimal_cutoffs(shares, 512, clusters=2)
        >>> len(cutoffs), 0 < cutoffs[0] < cutoffs[1] < 32000
        (2, True)

    Source: Grave, Joulin, Cissé, Grangier and Jégou, "Efficient softmax approximation for GPUs"
    (2017), sections 4.1 and 4.3.
    """
    function = "optimal_cutoffs"
    shares = _decreasing(function, counts)
    features = _check.integer(function, "features", features)
    tokens = _check.integer(function, "tokens", tokens)
    classes = len(shares)
    if tokens < 1:
        raise ValueError(f"{function}: tokens must be at least 1, got {tokens}.")
    if not div_value > 0:
        raise ValueError(f"{function}: div_value must be positive, got {div_value}.")
    if clusters is None:
        numbers = [
            n
            for n in range(1, min(_MOST_CLUSTERS, classes - 1) + 1)
            if features // div_value**n >= 1
        ]
    else:
        numbers = [_check.integer(function, "clusters", clusters)]
        inner_sizes(function, features, max(numbers[0], 1), div_value)
    if not numbers or not 1 <= numbers[0] < classes:
        raise ValueError(
            f"{function}: there must be at least one cluster, fewer than the {classes} classes, "
            f"with features // div_value features, got clusters {clusters}, features {features} "
            f"and div_value {div_value}."
        )
    model = _Model(shares, tokens, features, div_value, costs or _TYPICAL)
    return min((model.best(number) for number in numbers), key=lambda found: found[0])[1]


class _Model:
    """The cost of cutoffs, and the cheapest among those on a grid."""

    def __init__(
        self, shares: np.ndarray, tokens: int, features: int, div_value: float | int, costs: Costs
    ) -> None:
        self.tokens, self.features, self.div_value, self.costs = tokens, features, div_value, costs
        classes = len(shares)
        grid = np.unique(np.rint(np.geomspace(1, classes, _CANDIDATES)).astype(np.int64))
        self.positions = np.arange(1, classes + 1) if classes <= _CANDIDATES else grid
        self.before = np.concatenate([[0.0], np.cumsum(shares)])[self.positions]

    def head(self, clusters: int) -> np.ndarray:
        """The cost of the head, for each position of the first cutoff."""
        return self._layer(self.tokens, self.features, self.positions + clusters)

    def tail(self, number: int) -> np.ndarray:
        """The cost of a tail from each position to each, infinite where it would be empty."""
        inner = int(self.features // self.div_value**number)
        size = self.positions[None] - self.positions[:, None]
        tokens = self.tokens * (self.before[None] - self.before[:, None])
        projection = self.costs.per_operation * np.maximum(
            self.costs.least, tokens * self.features * inner
        )
        return np.where(size > 0, self._layer(tokens, inner, size) + projection, np.inf)

    def best(self, clusters: int) -> tuple[float, tuple[int, ...]]:
        """The least cost of so many clusters, and its cutoffs."""
        # The cost from each position on, of the clusters that begin there: the last goes to the
        # end, another to where the rest is cheapest.
        onward = self.tail(clusters)[:, -1]
        nexts: list[np.ndarray] = []
        for number in range(clusters - 1, 0, -1):
            costs = self.tail(number) + onward[None]
            nexts.insert(0, np.argmin(costs, 1))
            onward = np.min(costs, 1)
        total = self.head(clusters) + onward
        path = [int(np.argmin(total))]
        for following in nexts:
            path.append(int(following[path[-1]]))
        return float(np.min(total)), tuple(int(self.positions[n]) for n in path)

    def _layer(self, tokens: Any, features: int, classes: Any) -> Any:
        operations = np.maximum(self.costs.least, tokens * features * classes)
        return (
            self.costs.fixed
            + self.costs.per_operation * operations
            + self.costs.per_score * tokens * classes
        )


def measure_costs(*, tokens: int = 1024, dtype: Any = jnp.float32) -> Costs:
    """The `Costs` of softmax layers on the default device, measured in a few seconds.

    Args:
        tokens: in the layers that are measured.
        dtype: of their vectors and kernels.

    Returns:
        What `optimal_cutoffs` takes.

    Raises:
        TypeError: `tokens` is not an integer.
        ValueError: it is less than 1.

    Example:
        >>> import jaxloss
        >>> costs = jaxloss.measure_costs(tokens=64)
        >>> costs.fixed > 0 and costs.per_operation > 0
        True
    """
    tokens = _check.integer("measure_costs", "tokens", tokens)
    if tokens < 1:
        raise ValueError(f"measure_costs: tokens must be at least 1, got {tokens}.")
    narrow, wide, classes = 32, 512, 4096
    runs = {features: _layer(tokens, features, classes, dtype) for features in (narrow, wide)} | {
        1: _layer(1, 1, 1, dtype)
    }
    seconds: dict[int, list[float]] = {features: [] for features in runs}
    for _ in range(9):
        for features, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[features].append(time.perf_counter() - start)
    fixed, of_narrow, of_wide = (statistics.median(seconds[n]) for n in (1, narrow, wide))
    scores = tokens * classes
    # Noise could make either negative, which no cost is.
    per_operation = max(of_wide - of_narrow, 0.1 * of_wide) / (scores * (wide - narrow))
    per_score = max((of_narrow - fixed) / scores - narrow * per_operation, 0.0)
    return Costs(fixed, per_operation, per_score, fixed / per_operation)


def _layer(tokens: int, features: int, classes: int, dtype: Any) -> Callable[[], None]:
    """A step of a softmax layer, compiled."""
    vectors = jnp.ones((tokens, features), dtype)
    kernel = jnp.ones((features, classes), dtype)
    labels = jnp.zeros(tokens, jnp.int32)

    def loss(vectors: Array, kernel: Array) -> Array:
        return -jnp.mean(log_softmax_at(product(vectors, kernel), labels))

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))

    def run() -> None:
        jax.block_until_ready(step(vectors, kernel))

    run()
    return run


def inner_sizes(function: str, features: int, clusters: int, div_value: float | int) -> list[int]:
    """The features of each cluster; there must be some."""
    if not div_value > 0:
        raise ValueError(f"{function}: div_value must be positive, got {div_value}.")
    sizes = [int(features // div_value**n) for n in range(1, clusters + 1)]
    if min(sizes) < 1:
        raise ValueError(
            f"{function}: each cluster must have a feature at least, got features {features} and "
            f"div_value {div_value}, which leave {sizes}; take fewer cutoffs or a smaller "
            f"div_value."
        )
    return sizes


def increasing(function: str, cutoffs: Sequence[int], classes: int) -> tuple[int, ...]:
    """Cutoffs that divide the classes."""
    if not isinstance(cutoffs, (Sequence, np.ndarray)) or isinstance(cutoffs, str):
        raise TypeError(
            f"{function}: cutoffs must be a sequence of integers, such as (2000, 10000), got "
            f"{_check.describe(cutoffs)}."
        )
    bounds = [0, *(_check.integer(function, "cutoffs", cutoff) for cutoff in cutoffs), classes]
    if len(bounds) < 3 or any(a >= b for a, b in itertools.pairwise(bounds)):
        raise ValueError(
            f"{function}: cutoffs must increase, from 1 at least to {classes - 1} at most, one "
            f"less than the classes, got {tuple(cutoffs)}; there must be one, at which the only "
            f"cluster begins."
        )
    return tuple(bounds[1:-1])


def _decreasing(function: str, counts: Any) -> np.ndarray:
    """The share of each class."""
    [array] = _check.real_arrays(function, counts=counts)
    numbers = np.asarray(counts, np.float64)
    if array.ndim != 1 or array.size < 2:
        raise ValueError(
            f"{function}: counts must have the shape (classes,), of two classes at least, got "
            f"{array.shape}."
        )
    if not np.all(np.isfinite(numbers)) or np.any(numbers < 0) or not np.any(numbers):
        raise ValueError(
            f"{function}: counts must be finite, at least 0, and not all 0, got "
            f"{_check.describe(counts)} with others."
        )
    rises = np.flatnonzero(numbers[1:] > numbers[:-1])
    if rises.size:
        n = int(rises[0])
        raise ValueError(
            f"{function}: counts must decrease, the most frequent class first, got {numbers[n]:g} "
            f"and then {numbers[n + 1]:g} at index {n + 1}; sort them, order = "
            f"np.argsort(-counts), and number the classes so, labels = np.argsort(order)[labels]."
        )
    return numbers / numbers.sum()
