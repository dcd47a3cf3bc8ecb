"""The adaptive softmax: frequent classes in a head, rare ones in tails that few tokens visit."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Integer, Real

from jaxloss import _check, _checked
from jaxloss._clusters import bounds, losses, scores_of_head, total
from jaxloss._combined import shares
from jaxloss._cutoffs import increasing, inner_sizes
from jaxloss._products import product
from jaxloss._softmax import log_softmax

Initializer = Callable[..., Array]

_BLOCKS = 32  # What a tail takes at most, by default.
_SMALLEST_BLOCK = 96


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["head", "tails", "bias"], meta_fields=[]
)
@dataclass(frozen=True)
class AdaptiveSoftmax:
    r"""The parameters of an adaptive softmax, a pytree of arrays.

    Classes are sorted by frequency, the most frequent first. The head scores the first few, the
    shortlist, and each of the clusters that the others are divided into; a class of cluster $i$ has
    the probability of the cluster times that within it,

    $$p_k = \operatorname{softmax}(W_0^\top h + b)_{s + i}\;
            \operatorname{softmax}(W_i^\top P_i^\top h)_{k - c_i},$$

    with $s$ classes in the shortlist and $c_i$ before the cluster. The projections $P_i$ are to
    fewer features the rarer the classes are.

    Attributes:
        head: the kernel $W_0$, of shape (features, shortlist + clusters).
        tails: for each cluster the pair of a projection $P_i$ (features, inner) and a kernel $W_i$
            (inner, size).
        bias: of the head, of shape (shortlist + clusters,), or None.

    Example:
        >>> import jax
        >>> import jaxloss
        >>> key = jax.random.key(0)
        >>> parameters = jaxloss.AdaptiveSoftmax.init(key, 16, 1000, cutoffs=(100, 400))
        >>> parameters.cutoffs, parameters.classes, parameters.head.shape
        ((100, 400), 1000, (16, 102))
        >>> jax.tree.map(jax.numpy.shape, parameters.tails)
        (((16, 4), (4, 300)), ((16, 1), (1, 600)))

    Source: Grave, Joulin, Cissé, Grangier and Jégou, "Efficient softmax approximation for GPUs"
    (2017), section 4; PyTorch `AdaptiveLogSoftmaxWithLoss`, whose weights are these transposed.
    """

    # Arrays; but transformations also build pytrees of what is no array.
    head: Any
    tails: Any
    bias: Any = None

    @classmethod
    def init(
        cls,
        key: Array,
        features: int,
        classes: int,
        cutoffs: Sequence[int],
        *,
        div_value: float | int = 4.0,
        head_bias: bool = False,
        initializer: Initializer = jax.nn.initializers.lecun_normal(),  # noqa: B008
        dtype: DTypeLike = jnp.float32,
    ) -> AdaptiveSoftmax:
        r"""Random parameters.

        Args:
            key: a JAX random key.
            features: the length of a hidden vector.
            classes: how many there are, the most frequent first.
            cutoffs: the class at which each cluster begins, increasing, from 1 to `classes` - 1;
                the first is the length of the shortlist. See `optimal_cutoffs`.
            div_value: $d$ in the inner features of cluster $i$, $\lfloor features / d^i \rfloor$.
            head_bias: whether the head has a bias, 0 at first.
            initializer: of the kernels and projections, as those of `jax.nn.initializers`.
            dtype: of all parameters.

        Returns:
            The parameters.

        Raises:
            TypeError: a size or a cutoff is not an integer.
            ValueError: cutoffs do not increase, there is none, or one is not between 1 and
                `classes` - 1; `div_value` is not positive, or leaves a cluster without features.
        """
        function = "AdaptiveSoftmax.init"
        features = _check.integer(function, "features", features)
        classes = _check.integer(function, "classes", classes)
        starts = increasing(function, cutoffs, classes)
        inner = inner_sizes(function, features, len(starts), div_value)
        keys = iter(jax.random.split(key, 1 + 2 * len(starts)))
        width = starts[0] + len(starts)
        head = initializer(next(keys), (features, width), dtype)
        tails = tuple(
            (
                initializer(next(keys), (features, size), dtype),
                initializer(next(keys), (size, end - start), dtype),
            )
            for size, (start, end) in zip(
                inner, itertools.pairwise((*starts, classes)), strict=True
            )
        )
        return cls(head, tails, jnp.zeros(width, dtype) if head_bias else None)

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """The class at which each cluster begins."""
        return bounds(self.head, self.tails)[:-1]

    @property
    def classes(self) -> int:
        """How many there are in all."""
        return bounds(self.head, self.tails)[-1]

    def log_probs(self, hidden: Real[ArrayLike, "*tokens features"]) -> Float[Array, "..."]:
        """Log-probabilities of all classes, all tails computed for all tokens.

        Args:
            hidden: vectors.

        Returns:
            Of shape (*tokens, classes); float32, or float64 for float64 input.

        Raises:
            TypeError: `hidden` is not real.
            ValueError: it has another number of features than the parameters, or these do not fit
                together.
        """
        hidden, parameters = _agreeing("AdaptiveSoftmax.log_probs", hidden, self)
        head, *tails = parameters._log_softmaxes(hidden)
        shortlist = head[..., : parameters.cutoffs[0]]
        return jnp.concatenate([shortlist, *(of_cluster + tail for of_cluster, tail in tails)], -1)

    def predict(self, hidden: Real[ArrayLike, "*tokens features"]) -> Integer[Array, "*tokens"]:
        """The most probable class of each token.

        Args:
            hidden: vectors.

        Returns:
            Class indices, int32.

        Raises:
            TypeError: `hidden` is not real.
            ValueError: it has another number of features than the parameters, or these do not fit
                together.
        """
        hidden, parameters = _agreeing("AdaptiveSoftmax.predict", hidden, self)
        head, *tails = parameters._log_softmaxes(hidden)
        shortlist = head[..., : parameters.cutoffs[0]]
        best, label = jnp.max(shortlist, -1), jnp.argmax(shortlist, -1).astype(jnp.int32)
        for start, (of_cluster, tail) in zip(parameters.cutoffs, tails, strict=True):
            score = jnp.max(tail, -1) + of_cluster[..., 0]
            index = start + jnp.argmax(tail, -1).astype(jnp.int32)
            label = jnp.where(score > best, index, label)
            best = jnp.maximum(score, best)
        return label

    def _log_softmaxes(self, hidden: Array) -> list[Any]:
        """Of the head; and of each tail, beside that of its cluster."""
        head = log_softmax(scores_of_head(hidden, self.head, self.bias))
        return [
            head,
            *(
                (
                    head[..., cluster : cluster + 1],
                    log_softmax(product(product(hidden, projection), kernel)),
                )
                for cluster, (projection, kernel) in enumerate(self.tails, self.cutoffs[0])
            ),
        ]


@_check.known_keywords
def adaptive_softmax(
    hidden: Real[ArrayLike, "*tokens features"],
    parameters: AdaptiveSoftmax,
    labels: Integer[ArrayLike, "*tokens"],
    *,
    block_size: int | None = None,
) -> Float[Array, "*tokens"]:
    r"""Cross-entropy of an adaptive softmax, whose cost is that of the labels' own clusters.

    $$\ell = -\log p_y = \begin{cases}
      -\log \operatorname{softmax}(W_0^\top h + b)_y & y < s, \\
      -\log \operatorname{softmax}(W_0^\top h + b)_{s + i}
      -\log \operatorname{softmax}(W_i^\top P_i^\top h)_{y - c_i} & y \text{ in cluster } i
    \end{cases}$$

    with the symbols of `AdaptiveSoftmax`. Gradient with respect to the scores of the head and of
    the label's tail: softmax less 1 at the label, with relative accuracy kept when the label is far
    ahead; none to other tails. A label out of range, negative ones included, gives NaN in loss and
    gradient.

    Tokens are sorted by cluster. A tail goes through its own in blocks and computes nothing for the
    rest, in any order of labels, forward and backward; it holds the scores of one block. Those of
    the head are held for all tokens, as short as the shortlist is. So leave the batch whole: under
    `vmap`, whose examples all take the same steps, no block is left out. To shard tokens over
    devices use `shard_map`, in which each device sorts its own.

    Reduced over the whole batch, `mean(adaptive_softmax)`, `sum` or `pooled`, the gradient is
    computed with the value; the losses of each token need the scores of the tails twice.

    Args:
        hidden: vectors, one for each token.
        parameters: see `AdaptiveSoftmax.init`.
        labels: class indices from 0 to the number of classes less 1; any integer dtype.
        block_size: how many tokens a tail computes at once, by default 1/32 of them, fewer if the
            scores of a block would be more than those of the head, but at least 96. Smaller blocks
            waste less on a tail's last one, larger ones read and write its kernel less often.

    Returns:
        One loss per token, in nats; float32, or float64 if any input is. Products of bfloat16 are
        summed in float32, and those of float16 taken in it.

    Raises:
        TypeError: `hidden` or a parameter is not real, `parameters` are not an `AdaptiveSoftmax`,
            `labels` or `block_size` not integers.
        ValueError: the shapes do not agree, or `block_size` is less than 1.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> parameters = jaxloss.AdaptiveSoftmax.init(jax.random.key(0), 16, 1000, (100, 400))
        >>> labels = jnp.array([3, 120, 999])
        >>> jaxloss.adaptive_softmax(jnp.zeros((3, 16)), parameters, labels)
        Array([ 4.625, 10.329, 11.022], dtype=float32)

    Source: Grave, Joulin, Cissé, Grangier and Jégou, "Efficient softmax approximation for GPUs"
    (2017), section 4; PyTorch `AdaptiveLogSoftmaxWithLoss`.
    """
    given = _inputs(hidden, parameters, labels, block_size)
    if given.size == 0:
        return jnp.zeros(jnp.shape(labels), _check.wide(given.hidden))
    return losses(*given).reshape(jnp.shape(labels))


class _Inputs(NamedTuple):
    """Checked: tokens along one axis, a label of -1 for a bad one, tokens of a block."""

    hidden: Array
    head: Array
    tails: tuple[Any, ...]
    bias: Array | None
    labels: Array
    size: int


def _inputs(
    hidden: ArrayLike, parameters: Any, labels: ArrayLike, block_size: int | None
) -> _Inputs:
    function = "adaptive_softmax"
    hidden, parameters = _agreeing(function, hidden, parameters)
    labels = _check.class_indices(function, labels)
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{function}: labels must have the shape of hidden {hidden.shape} without its last "
            f"axis, {hidden.shape[:-1]}, got {labels.shape}; squeeze or reshape them."
        )
    _checked.classes(function, labels, parameters.classes)
    tokens = labels.size
    size = _block_size(parameters, tokens)
    if block_size is not None:
        size = _check.integer(function, "block_size", block_size)
        if size < 1:
            raise ValueError(f"{function}: block_size must be at least 1, got {block_size}.")
    index, valid = _check.valid_index(labels.reshape(-1), parameters.classes)
    return _Inputs(
        hidden.reshape(tokens, hidden.shape[-1]),
        parameters.head,
        parameters.tails,
        parameters.bias,
        jnp.where(valid, index, -1),
        min(size, tokens),
    )


def _total(
    token_weights: Array,
    hidden: ArrayLike,
    parameters: Any,
    labels: ArrayLike,
    *,
    block_size: int | None = None,
) -> Array:
    """Sum of the losses times their weights, with its gradient computed on the way."""
    given = _inputs(hidden, parameters, labels, block_size)
    weights = token_weights.reshape(-1).astype(_check.wide(given.hidden))
    if given.size == 0:
        return jnp.sum(weights)
    return total(*given[:-1], weights, given.size)


def _classes(*arrays: Any, **options: Any) -> int:
    parameters: AdaptiveSoftmax = options["parameters"] if "parameters" in options else arrays[1]
    return parameters.classes


shares(adaptive_softmax, {"parameters"}, classes=_classes, total=_total)


def _block_size(parameters: AdaptiveSoftmax, tokens: int) -> int:
    largest = max(kernel.shape[1] for _, kernel in parameters.tails)
    as_the_head = tokens * parameters.head.shape[1] // largest
    return max(min(tokens // _BLOCKS, as_the_head), _SMALLEST_BLOCK)


def _agreeing(function: str, hidden: ArrayLike, parameters: Any) -> tuple[Array, AdaptiveSoftmax]:
    """Vectors and parameters of one dtype, whose shapes fit."""
    if not isinstance(parameters, AdaptiveSoftmax):
        raise TypeError(
            f"{function}: parameters must be an AdaptiveSoftmax, got "
            f"{_check.describe(parameters)}; make them with AdaptiveSoftmax.init."
        )
    named = {"hidden": hidden, "parameters.head": parameters.head}
    for n, (projection, kernel) in enumerate(parameters.tails):
        named |= {f"parameters.tails[{n}][0]": projection, f"parameters.tails[{n}][1]": kernel}
    if parameters.bias is not None:
        named["parameters.bias"] = parameters.bias
    arrays = dict(zip(named, _check.real_arrays(function, **named), strict=True))
    shapes = {name: array.shape for name, array in arrays.items()}
    head, clusters = shapes["parameters.head"], len(parameters.tails)
    if len(head) != 2 or 0 in head or head[1] <= clusters or clusters == 0:
        raise ValueError(
            f"{function}: parameters.head must have the shape (features, shortlist + clusters), "
            f"with at least one class in the shortlist and one cluster, got {head} with "
            f"{clusters} tails; make them with AdaptiveSoftmax.init."
        )
    expected: dict[str, tuple[int, ...]] = {"parameters.bias": head[1:]}
    for n in range(clusters):
        projection, kernel = f"parameters.tails[{n}][0]", f"parameters.tails[{n}][1]"
        inner = shapes[projection][1:2]
        expected |= {projection: head[:1] + inner, kernel: inner + shapes[kernel][1:2]}
    for name, shape in expected.items():
        rank = 1 if name == "parameters.bias" else 2
        if name in shapes and (shapes[name] != shape or len(shape) != rank or 0 in shape):
            raise ValueError(
                f"{function}: {name} must have the shape {shape}, of {rank} axes, none empty, "
                f"beside parameters.head {head}, got {shapes[name]}; a tail is a pair of a "
                f"projection (features, inner) and a kernel (inner, size)."
            )
    if shapes["hidden"][-1:] != head[:1]:
        raise ValueError(
            f"{function}: hidden must have the shape (*tokens, features) with the {head[0]} "
            f"features of parameters.head {head}, got {shapes['hidden']}."
        )
    # Entries of a gradient are smaller than float16 can hold.
    narrow = all(array.dtype == jnp.bfloat16 for array in arrays.values())
    dtype = jnp.bfloat16 if narrow else _check.wide(*arrays.values())
    vectors, kernel_of_head, *others = (array.astype(dtype) for array in arrays.values())
    tails = tuple((others[2 * n], others[2 * n + 1]) for n in range(clusters))
    bias = others[-1] if parameters.bias is not None else None
    return vectors, AdaptiveSoftmax(kernel_of_head, tails, bias)
