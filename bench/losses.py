"""Every loss with its peers and its inputs, to be timed and compiled at any size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxloss
from bench.inputs import (
    BATCHES,
    BIT,
    BITS,
    CLASSES,
    DISTRIBUTION,
    ELEMENTS,
    FEW_CLASSES,
    FRAMES_OF_LOGITS,
    HIDDEN,
    KERNEL,
    LABEL,
    LABELS_IN_FRONT,
    LARGE,
    LOG_DISTRIBUTION,
    LOGITS,
    PARTNER,
    POSITIVE,
    PROBABILITIES,
    PROBABILITY,
    REAL,
    SEQUENCES,
    SIGN,
    SIGN_OF_A_ROW,
    SYMBOLS,
    TARGETS,
    VECTORS,
    Input,
    Sizes,
)

Function = Callable[..., Any]


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

        @functools.partial(jax.jit, static_argnums=0)
        def draw(entry: Input, key: Any) -> jax.Array:
            array = entry.draw(key, entry.shape(rows, classes), classes)
            return array if entry.integer else array.astype(dtype)

        return jax.tree.unflatten(structure, map(draw, entries, keys))


def _torch(function: str, **options: Any) -> Function:
    """A mean of torch.nn.functional."""

    def loss(*arrays: Any) -> Any:
        from torch.nn import functional

        return getattr(functional, function)(*arrays, **options)

    return loss


def _torch_of_labels(function: str, **options: Any) -> Function:
    """The same of integer labels, which it has as int64."""
    loss = _torch(function, **options)
    return lambda scores, labels: loss(scores, labels.long())


def _torch_cosine(first: Any, second: Any) -> Any:
    from torch.nn import functional

    return functional.cosine_similarity(first, second, -1).mean()


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


def _optax_poly(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.losses.poly_loss_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]))


def _optax_ntxent(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.losses.ntxent(embeddings, labels, temperature=0.25)


def _pair(
    name: str, *inputs: Input, ours: Function | None = None, **peers: Function | None
) -> Loss:
    """A loss with a value for each element."""
    return Loss(name, ours or getattr(jaxloss, name), inputs, ELEMENTS, "elements", **peers)


def _rows(
    name: str,
    *inputs: Input,
    ours: Function | None = None,
    sizes: Sizes = CLASSES,
    floor: str = "softmax",
    **peers: Function | None,
) -> Loss:
    """A loss with a value for each row."""
    return Loss(name, ours or getattr(jaxloss, name), inputs, sizes, floor, **peers)


ELEMENTWISE = (
    _pair("squared_error", REAL, REAL, optax=optax.losses.squared_error, torch=_torch("mse_loss")),
    _pair("absolute_error", REAL, REAL, torch=_torch("l1_loss")),
    _pair("smooth_l1", REAL, REAL, torch=_torch("smooth_l1_loss")),
    _pair("huber", REAL, REAL, optax=optax.losses.huber_loss, torch=_torch("huber_loss")),
    _pair("log_cosh", REAL, REAL, optax=optax.losses.log_cosh),
    _pair("quantile", REAL, REAL, ours=functools.partial(jaxloss.quantile, q=0.25)),
    _pair(
        "epsilon_insensitive",
        REAL,
        REAL,
        ours=functools.partial(jaxloss.epsilon_insensitive, epsilon=0.1),
    ),
    _pair("squared_log_error", POSITIVE, POSITIVE),
    _pair("absolute_percentage_error", POSITIVE, POSITIVE),
    _pair("poisson_nll", REAL, POSITIVE, torch=_torch("poisson_nll_loss")),
    _pair("gaussian_nll", REAL, REAL, POSITIVE, torch=_torch("gaussian_nll_loss")),
    _pair("binary_cross_entropy", PROBABILITY, BIT, torch=_torch("binary_cross_entropy")),
    _pair(
        "binary_cross_entropy_with_logits",
        REAL,
        BIT,
        optax=optax.losses.sigmoid_binary_cross_entropy,
        torch=_torch("binary_cross_entropy_with_logits"),
    ),
    _pair("sigmoid_focal", REAL, BIT, optax=optax.losses.sigmoid_focal_loss),
    _pair("hinge", REAL, SIGN, optax=optax.losses.hinge_loss),
    _pair("squared_hinge", REAL, SIGN),
    _pair("perceptron", REAL, SIGN, optax=optax.losses.perceptron_loss),
    _pair("soft_margin", REAL, SIGN, torch=_torch("soft_margin_loss")),
    _pair("hinge_embedding", POSITIVE, SIGN, torch=_torch("hinge_embedding_loss")),
    _pair("margin_ranking", REAL, REAL, SIGN, torch=_torch("margin_ranking_loss")),
)

CLASSIFICATION = (
    _rows("nll", LOG_DISTRIBUTION, LABEL, floor="write", torch=_torch_of_labels("nll_loss")),
    _rows(
        "cross_entropy",
        LOGITS,
        LABEL,
        optax=optax.losses.softmax_cross_entropy_with_integer_labels,
        torch=_torch_of_labels("cross_entropy"),
    ),
    _rows(
        "cross_entropy, probabilities",
        LOGITS,
        DISTRIBUTION,
        ours=jaxloss.cross_entropy,
        sizes=TARGETS,
        optax=optax.losses.softmax_cross_entropy,
        torch=_torch("cross_entropy"),
    ),
    _rows("softmax_focal", LOGITS, LABEL),
    _rows("poly_cross_entropy", LOGITS, LABEL, optax=_optax_poly),
    _rows(
        "sparsemax",
        LOGITS,
        LABEL,
        sizes=FEW_CLASSES,
        optax=optax.losses.multiclass_sparsemax_loss,
    ),
    _rows(
        "multi_margin",
        LOGITS,
        LABEL,
        floor="elements",
        torch=_torch_of_labels("multi_margin_loss"),
    ),
    _rows(
        "multiclass_hinge",
        LOGITS,
        LABEL,
        floor="elements",
        optax=optax.losses.multiclass_hinge_loss,
    ),
    _rows(
        "multiclass_perceptron",
        LOGITS,
        LABEL,
        floor="elements",
        optax=optax.losses.multiclass_perceptron_loss,
    ),
    _rows(
        "multilabel_margin",
        LOGITS,
        LABELS_IN_FRONT,
        sizes=FEW_CLASSES,
        floor="elements",
        torch=_torch_of_labels("multilabel_margin_loss"),
    ),
    _rows(
        "multilabel_soft_margin",
        LOGITS,
        BITS,
        sizes=TARGETS,
        floor="elements",
        torch=_torch("multilabel_soft_margin_loss"),
    ),
)

VECTOR = (
    _rows(
        "kl_divergence",
        LOG_DISTRIBUTION,
        DISTRIBUTION,
        sizes=TARGETS,
        floor="elements",
        optax=optax.losses.kl_divergence,
        torch=_torch("kl_div", reduction="batchmean"),
    ),
    _rows(
        "kl_divergence, log targets",
        LOG_DISTRIBUTION,
        LOG_DISTRIBUTION,
        ours=functools.partial(jaxloss.kl_divergence, log_targets=True),
        sizes=TARGETS,
        floor="elements",
        optax=optax.losses.kl_divergence_with_log_targets,
        torch=_torch("kl_div", reduction="batchmean", log_target=True),
    ),
    _rows(
        "generalized_kl_divergence",
        LOG_DISTRIBUTION,
        DISTRIBUTION,
        sizes=TARGETS,
        floor="elements",
        optax=optax.losses.generalized_kl_divergence,
    ),
    _rows("js_divergence", LOG_DISTRIBUTION, DISTRIBUTION, sizes=TARGETS, floor="elements"),
    _rows(
        "cosine_similarity",
        LOGITS,
        LOGITS,
        sizes=VECTORS,
        floor="elements",
        optax=optax.losses.cosine_similarity,
        torch=_torch_cosine,
    ),
    _rows(
        "cosine_distance",
        LOGITS,
        LOGITS,
        sizes=VECTORS,
        floor="elements",
        optax=optax.losses.cosine_distance,
        torch=lambda first, second: 1 - _torch_cosine(first, second),
    ),
    _rows(
        "cosine_embedding",
        LOGITS,
        LOGITS,
        SIGN_OF_A_ROW,
        sizes=VECTORS,
        floor="elements",
        torch=_torch("cosine_embedding_loss"),
    ),
    _rows(
        "triplet_margin",
        LOGITS,
        LOGITS,
        LOGITS,
        sizes=VECTORS,
        floor="elements",
        optax=optax.losses.triplet_margin_loss,
        torch=_torch("triplet_margin_loss"),
    ),
    _rows(
        "dice",
        PROBABILITIES,
        BITS,
        ours=functools.partial(jaxloss.dice, axes=(-1,)),
        sizes=VECTORS,
        floor="elements",
    ),
    _rows(
        "tversky",
        PROBABILITIES,
        BITS,
        ours=functools.partial(jaxloss.tversky, axes=(-1,)),
        sizes=VECTORS,
        floor="elements",
    ),
)

BATCH = (
    _rows("info_nce", LOGITS, LOGITS, sizes=BATCHES, floor="products"),
    _rows("sigmoid_contrastive", LOGITS, LOGITS, sizes=BATCHES, floor="products"),
    _rows("supervised_contrastive", LOGITS, LABEL, sizes=BATCHES, floor="products"),
    _rows(
        "nt_xent",
        LOGITS,
        PARTNER,
        ours=functools.partial(jaxloss.nt_xent, temperature=0.25),
        sizes=BATCHES,
        floor="products",
        optax=_optax_ntxent,
    ),
    _rows(
        "ctc",
        FRAMES_OF_LOGITS,
        SYMBOLS,
        sizes=SEQUENCES,
        optax=_optax_ctc,
        torch=_torch_ctc,
    ),
    Loss(
        "linear_cross_entropy",
        lambda layer, labels: jaxloss.linear_cross_entropy(*layer, labels),
        ((HIDDEN, KERNEL), LABEL),
        LARGE,
        "linear",
        _optax_linear,
        _torch_linear,
    ),
)

LOSSES = ELEMENTWISE + CLASSIFICATION + VECTOR + BATCH
