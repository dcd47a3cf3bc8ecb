"""Every loss and primitive: ours, the peers', the formula, and where they are tried."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import xlogy

import jaxloss
from bench.accuracy import formulas, regimes, sums
from bench.accuracy.regimes import CLASSES, Regimes
from bench.accuracy.truths import Truth
from jaxloss import primitives

Function = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    """A loss of arrays whose first axis is of examples.

    The gradient of a `normwise` loss is of sums that cancel, and held to its largest entry; with
    `soft` labels it is the difference of two distributions, and held to the largest target if that
    is more. The value of an `absolute` one is held to 1. `limits` are those of value and gradient
    in float32 and float64, where any are set. Instead of a formula of an example, `exact` gives the
    truth of all.
    """

    name: str
    ours: Function
    formula: Function | None
    regimes: Regimes
    optax: Function | None = None
    torch: Function | None = None
    normwise: bool = False
    soft: bool = False
    absolute: bool = False
    limits: tuple[float, float] | None = None
    exact: Callable[..., Truth] | None = None

    @property
    def elementwise(self) -> bool:
        """Whether an example is a number."""
        draw = regimes.Draw(np.random.default_rng(0), 1, np.dtype(np.float32))
        return next(iter(self.regimes.values()))(draw)[0].ndim == 1


def of_torch(function: str, **options: Any) -> Function:
    """A loss of torch.nn.functional, of each example."""

    def loss(*arrays: Any) -> Any:
        from torch.nn import functional

        return getattr(functional, function)(*arrays, reduction="none", **options)

    return loss


# Of value and gradient. SOFT is normwise, as the terms of soft labels cancel for everybody.
BEST, FAIR, SOFT = (2.0, 3.0), (5.0, 5.0), (4.0, 4.0)

ERRORS = regimes.ERRORS

REGRESSION = (
    Row(
        "squared_error",
        jaxloss.squared_error,
        formulas.squared_error,
        ERRORS,
        optax.losses.squared_error,
        of_torch("mse_loss"),
        limits=BEST,
    ),
    Row(
        "absolute_error",
        jaxloss.absolute_error,
        formulas.absolute_error,
        ERRORS,
        torch=of_torch("l1_loss"),
        limits=BEST,
    ),
    Row(
        "huber",
        jaxloss.huber,
        formulas.huber,
        ERRORS,
        optax.losses.huber_loss,
        of_torch("huber_loss"),
        limits=BEST,
    ),
    Row(
        "smooth_l1",
        functools.partial(jaxloss.smooth_l1, beta=0.25),
        formulas.smooth_l1,
        ERRORS,
        torch=of_torch("smooth_l1_loss", beta=0.25),
        limits=BEST,
    ),
    Row(
        "log_cosh",
        jaxloss.log_cosh,
        formulas.log_cosh,
        ERRORS,
        optax.losses.log_cosh,
        limits=FAIR,
    ),
    Row("quantile", functools.partial(jaxloss.quantile, q=0.25), formulas.quantile, ERRORS),
    Row(
        "epsilon_insensitive",
        functools.partial(jaxloss.epsilon_insensitive, epsilon=0.125),
        formulas.epsilon_insensitive,
        regimes.some("offset 1e4", "tiny errors", "huge", of=ERRORS),
    ),
    Row(
        "squared_log_error",
        jaxloss.squared_log_error,
        formulas.squared_log_error,
        regimes.POSITIVE,
    ),
    Row(
        "absolute_percentage_error",
        jaxloss.absolute_percentage_error,
        formulas.absolute_percentage_error,
        regimes.POSITIVE,
    ),
    Row(
        "poisson_nll",
        jaxloss.poisson_nll,
        formulas.poisson_nll,
        regimes.COUNTS,
        torch=of_torch("poisson_nll_loss"),
        normwise=True,
    ),
    Row(
        "gaussian_nll",
        jaxloss.gaussian_nll,
        formulas.gaussian_nll,
        regimes.MEASUREMENTS,
        torch=of_torch("gaussian_nll_loss"),
    ),
)

BINARY = (
    Row(
        "binary_cross_entropy",
        jaxloss.binary_cross_entropy,
        formulas.binary_cross_entropy,
        regimes.PROBABILITIES,
        torch=of_torch("binary_cross_entropy"),
        limits=BEST,
    ),
    Row(
        "binary_cross_entropy, soft labels",
        jaxloss.binary_cross_entropy,
        formulas.binary_cross_entropy,
        regimes.SOFT_PROBABILITIES,
        torch=of_torch("binary_cross_entropy"),
        normwise=True,
    ),
    Row(
        "binary_cross_entropy_with_logits",
        jaxloss.binary_cross_entropy_with_logits,
        formulas.binary_cross_entropy_with_logits,
        regimes.HARD,
        optax.losses.sigmoid_binary_cross_entropy,
        of_torch("binary_cross_entropy_with_logits"),
        limits=BEST,
    ),
    Row(
        "binary_cross_entropy_with_logits, soft labels",
        jaxloss.binary_cross_entropy_with_logits,
        formulas.binary_cross_entropy_with_logits,
        regimes.SOFT,
        optax.losses.sigmoid_binary_cross_entropy,
        of_torch("binary_cross_entropy_with_logits"),
        soft=True,
        limits=SOFT,
    ),
    *(
        Row(
            f"sigmoid_focal, gamma {gamma}",
            functools.partial(jaxloss.sigmoid_focal, gamma=gamma),
            functools.partial(formulas.sigmoid_focal, gamma=gamma),
            regimes.HARD,
            functools.partial(optax.losses.sigmoid_focal_loss, gamma=gamma),
            limits=FAIR,
        )
        for gamma in (1.5, 2.0)
    ),
    Row(
        "multilabel_soft_margin",
        jaxloss.multilabel_soft_margin,
        formulas.multilabel_soft_margin,
        regimes.MULTILABEL,
        torch=of_torch("multilabel_soft_margin_loss"),
    ),
    Row("hinge", jaxloss.hinge, formulas.hinge, regimes.SIGNED, optax.losses.hinge_loss),
    Row("squared_hinge", jaxloss.squared_hinge, formulas.squared_hinge, regimes.SIGNED),
    Row(
        "perceptron",
        jaxloss.perceptron,
        formulas.perceptron,
        regimes.SIGNED,
        optax.losses.perceptron_loss,
    ),
    Row(
        "soft_margin",
        jaxloss.soft_margin,
        formulas.soft_margin,
        regimes.SIGNED,
        torch=of_torch("soft_margin_loss"),
        limits=BEST,
    ),
    Row(
        "hinge_embedding",
        jaxloss.hinge_embedding,
        formulas.hinge_embedding,
        regimes.DISTANCES,
        torch=of_torch("hinge_embedding_loss"),
    ),
    Row(
        "margin_ranking",
        functools.partial(jaxloss.margin_ranking, margin=0.5),
        formulas.margin_ranking,
        regimes.RANKED,
        torch=of_torch("margin_ranking_loss", margin=0.5),
    ),
)


CLASSIFICATION = (
    Row(
        "nll",
        jaxloss.nll,
        formulas.nll,
        regimes.LOGITS,
        torch=of_torch("nll_loss"),
    ),
    Row(
        "cross_entropy",
        jaxloss.cross_entropy,
        formulas.cross_entropy,
        regimes.LOGITS,
        optax.losses.softmax_cross_entropy_with_integer_labels,
        of_torch("cross_entropy"),
        limits=BEST,
    ),
    Row(
        "cross_entropy, soft labels",
        jaxloss.cross_entropy,
        formulas.soft_cross_entropy,
        regimes.SOFT_LABELS,
        optax.losses.softmax_cross_entropy,
        of_torch("cross_entropy"),
        soft=True,
        limits=SOFT,
    ),
    *(
        Row(
            f"softmax_focal, gamma {gamma}",
            functools.partial(jaxloss.softmax_focal, gamma=gamma),
            functools.partial(formulas.softmax_focal, gamma=gamma),
            regimes.LOGITS,
            limits=FAIR,
        )
        for gamma in (1.5, 2.0)
    ),
    Row(
        "poly_cross_entropy",
        jaxloss.poly_cross_entropy,
        formulas.poly_cross_entropy,
        regimes.LOGITS,
        lambda z, y: optax.losses.poly_loss_cross_entropy(z, jax.nn.one_hot(y, CLASSES)),
    ),
    Row(
        "sparsemax",
        jaxloss.sparsemax,
        formulas.sparsemax,
        regimes.some("benign", "spread", "tiny", of=regimes.LOGITS),
        optax.losses.multiclass_sparsemax_loss,
        normwise=True,
    ),
    Row(
        "multi_margin",
        jaxloss.multi_margin,
        formulas.multi_margin,
        regimes.some("benign", "spread", "confident", "wrong", of=regimes.LOGITS),
        torch=of_torch("multi_margin_loss"),
        normwise=True,
    ),
    Row(
        "multiclass_hinge",
        jaxloss.multiclass_hinge,
        formulas.multiclass_hinge,
        regimes.some("benign", "spread", "wrong", of=regimes.LOGITS),
        optax.losses.multiclass_hinge_loss,
        normwise=True,
    ),
    Row(
        "multiclass_perceptron",
        jaxloss.multiclass_perceptron,
        formulas.multiclass_perceptron,
        regimes.some("benign", "spread", "wrong", of=regimes.LOGITS),
        optax.losses.multiclass_perceptron_loss,
        normwise=True,
    ),
    Row(
        "multilabel_margin",
        jaxloss.multilabel_margin,
        formulas.multilabel_margin,
        regimes.SEVERAL_LABELS,
        torch=of_torch("multilabel_margin_loss"),
        normwise=True,
    ),
)


def _whole(loss: Function, **options: Any) -> Function:
    """The losses of a small batch summed; the batches, flat, are the examples."""

    def total(first: Any, second: Any) -> Any:
        batch = first.reshape(-1, regimes.SPACE)
        others = (
            second if jnp.issubdtype(second.dtype, jnp.integer) else second.reshape(batch.shape)
        )
        return jnp.sum(loss(batch, others, **options))

    return jax.vmap(total)


def _normalized_ntxent(embeddings: Any, labels: Any) -> Any:
    return optax.losses.ntxent(embeddings, labels, temperature=0.25) * len(labels)


def _kl(**options: Any) -> Function:
    elementwise = of_torch("kl_div", **options)
    return lambda log_probs, targets: elementwise(log_probs, targets).sum(-1)


PAIRS = (
    Row(
        "kl_divergence",
        jaxloss.kl_divergence,
        formulas.kl_divergence,
        regimes.distributions(logs=False),
        optax.losses.kl_divergence,
        _kl(),
        normwise=True,
    ),
    Row(
        "kl_divergence, log targets",
        functools.partial(jaxloss.kl_divergence, log_targets=True),
        formulas.kl_divergence_of_logs,
        regimes.distributions(logs=True),
        optax.losses.kl_divergence_with_log_targets,
        _kl(log_target=True),
        normwise=True,
    ),
    Row(
        "generalized_kl_divergence",
        jaxloss.generalized_kl_divergence,
        formulas.generalized_kl_divergence,
        regimes.distributions(logs=False),
        optax.losses.generalized_kl_divergence,
        normwise=True,
    ),
    Row(
        "generalized_kl_divergence, log targets",
        functools.partial(jaxloss.generalized_kl_divergence, log_targets=True),
        formulas.generalized_kl_divergence_of_logs,
        regimes.distributions(logs=True),
        limits=BEST,
    ),
    Row(
        "js_divergence, log targets",
        functools.partial(jaxloss.js_divergence, log_targets=True),
        formulas.js_divergence_of_logs,
        regimes.distributions(logs=True),
        normwise=True,
    ),
    Row(
        "cosine_similarity",
        jaxloss.cosine_similarity,
        formulas.cosine_similarity,
        regimes.VECTORS,
        optax.losses.cosine_similarity,
        lambda a, b: _torch().cosine_similarity(a, b, -1),
        absolute=True,
    ),
    Row(
        "cosine_distance",
        jaxloss.cosine_distance,
        formulas.cosine_distance,
        regimes.VECTORS,
        optax.losses.cosine_distance,
        lambda a, b: 1 - _torch().cosine_similarity(a, b, -1),
        normwise=True,
        limits=BEST,
    ),
    Row(
        "cosine_embedding",
        jaxloss.cosine_embedding,
        formulas.cosine_embedding,
        regimes.with_signs(regimes.some("benign", "scales", of=regimes.VECTORS)),
        torch=of_torch("cosine_embedding_loss"),
        normwise=True,
    ),
    Row(
        "triplet_margin",
        jaxloss.triplet_margin,
        formulas.triplet_margin,
        regimes.TRIPLETS,
        optax.losses.triplet_margin_loss,
        of_torch("triplet_margin_loss"),
        normwise=True,
    ),
    Row(
        "info_nce",
        _whole(jaxloss.info_nce, temperature=0.25),
        formulas.info_nce,
        regimes.BATCHES,
        normwise=True,
    ),
    Row(
        "sigmoid_contrastive",
        _whole(jaxloss.sigmoid_contrastive, temperature=0.25, bias=-1.0),
        formulas.sigmoid_contrastive,
        regimes.BATCHES,
        normwise=True,
    ),
    Row(
        "supervised_contrastive",
        _whole(jaxloss.supervised_contrastive, temperature=0.25),
        formulas.supervised_contrastive,
        regimes.LABELLED_BATCHES,
        normwise=True,
    ),
    Row(
        "nt_xent",
        _whole(jaxloss.nt_xent, temperature=0.25),
        formulas.nt_xent,
        regimes.LABELLED_BATCHES,
        _whole(_normalized_ntxent),
        normwise=True,
    ),
    Row(
        "dice",
        functools.partial(jaxloss.dice, axes=(-1,)),
        formulas.dice,
        regimes.MASKS,
        normwise=True,
    ),
    Row(
        "tversky",
        functools.partial(jaxloss.tversky, axes=(-1,), alpha=0.25, beta=0.75),
        formulas.tversky,
        regimes.MASKS,
        normwise=True,
    ),
)


def _torch() -> Any:
    from torch.nn import functional

    return functional


def _ctc(logits: Any, labels: Any) -> Any:
    return jaxloss.ctc(logits.reshape(len(logits), -1, regimes.SYMBOLS), labels)


def _ctc_of_optax(logits: Any, labels: Any) -> Any:
    frames = logits.reshape(len(logits), -1, regimes.SYMBOLS)
    none = jnp.zeros(frames.shape[:2], logits.dtype)
    return optax.losses.ctc_loss(frames, none, labels, none[:, : labels.shape[1]])


def _ctc_of_torch(logits: Any, labels: Any) -> Any:
    frames = logits.reshape(len(logits), -1, regimes.SYMBOLS).transpose(0, 1)
    lengths = [len(frames)] * len(logits), [labels.shape[1]] * len(logits)
    return _torch().ctc_loss(frames.log_softmax(-1), labels, *lengths, reduction="none")


def _quarters(*shape: int) -> np.ndarray:
    """A matrix that every dtype holds exactly."""
    return np.random.default_rng(shape[-1]).integers(-8, 9, shape) / 4.0


_KERNEL = _quarters(regimes.FEATURES, CLASSES)
_HEAD = _quarters(regimes.FEATURES, 4)
_TAILS = (
    (_quarters(regimes.FEATURES, 3), _quarters(3, 2)),
    (_quarters(regimes.FEATURES, 2), _quarters(2, 3)),
)


def _linear(hidden: Any, labels: Any) -> Any:
    return jaxloss.linear_cross_entropy(hidden, jnp.asarray(_KERNEL, hidden.dtype), labels)


def _logits_and_cross_entropy(hidden: Any, labels: Any) -> Any:
    logits = hidden @ jnp.asarray(_KERNEL, hidden.dtype)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def _entropy(hidden: Any, labels: Any) -> Any:
    kernel = jnp.asarray(_KERNEL, hidden.dtype)
    return primitives.linear_statistics(hidden, kernel, labels).entropy


def _adaptive(hidden: Any, labels: Any) -> Any:
    arrays = jax.tree.map(lambda array: jnp.asarray(array, hidden.dtype), (_HEAD, _TAILS))
    return jaxloss.adaptive_softmax(hidden, jaxloss.AdaptiveSoftmax(*arrays), labels)


LARGE = (
    Row(
        "ctc",
        _ctc,
        formulas.ctc,
        regimes.FRAMES,
        _ctc_of_optax,
        _ctc_of_torch,
        normwise=True,
    ),
    Row(
        "linear_cross_entropy",
        _linear,
        functools.partial(formulas.linear_cross_entropy, kernel=_KERNEL),
        regimes.HIDDEN,
        _logits_and_cross_entropy,
        normwise=True,
    ),
    Row(
        "adaptive_softmax",
        _adaptive,
        functools.partial(formulas.adaptive_softmax, head=_HEAD, tails=_TAILS),
        regimes.HIDDEN,
        normwise=True,
    ),
)

_LOGITS = regimes.of_first(regimes.LOGITS)
_VALUES = regimes.of_first(regimes.SIGNED)

PRIMITIVES = (
    Row(
        "primitives.softplus",
        primitives.softplus,
        formulas.softplus,
        _VALUES,
        jax.nn.softplus,
        lambda x: _torch().softplus(x),
        limits=BEST,
    ),
    Row(
        "primitives.log_cosh",
        primitives.log_cosh,
        formulas.log_cosh,
        regimes.of_first(regimes.some("benign", "tiny errors", "huge", of=ERRORS)),
        limits=FAIR,
    ),
    Row("primitives.absolute", primitives.absolute, abs, _VALUES, jnp.abs),
    Row(
        "primitives.positive_part",
        primitives.positive_part,
        formulas.positive,
        _VALUES,
        jax.nn.relu,
        lambda x: _torch().relu(x),
    ),
    Row("primitives.safe_product", primitives.safe_product, operator.mul, ERRORS, jnp.multiply),
    Row("primitives.safe_power", primitives.safe_power, operator.pow, regimes.POWERS, jnp.power),
    Row("primitives.xlogy", primitives.xlogy, formulas.xlogy, regimes.POSITIVE, xlogy),
    *(
        Row(
            f"primitives.norm, p {p}",
            functools.partial(primitives.norm, p=p),
            functools.partial(formulas.norm, p=p),
            regimes.of_first(regimes.some("benign", "scales", of=regimes.VECTORS)),
            functools.partial(jnp.linalg.norm, ord=p, axis=-1),
        )
        for p in (1.5, 2, 3)
    ),
    Row(
        "primitives.logsumexp",
        primitives.logsumexp,
        formulas.logsumexp,
        _LOGITS,
        functools.partial(jax.nn.logsumexp, axis=-1),
        lambda z: z.logsumexp(-1),
    ),
    Row(
        "primitives.log_softmax",
        lambda z: primitives.log_softmax(z)[..., 0],
        formulas.log_softmax_of_first,
        _LOGITS,
        lambda z: jax.nn.log_softmax(z)[..., 0],
        lambda z: z.log_softmax(-1)[..., 0],
    ),
    Row(
        "primitives.log_softmax_at",
        primitives.log_softmax_at,
        formulas.log_softmax_at,
        regimes.LOGITS,
    ),
    Row(
        "primitives.expected_log_softmax",
        primitives.expected_log_softmax,
        formulas.expected_log_softmax,
        regimes.SOFT_LABELS,
        soft=True,
    ),
    Row(
        "primitives.linear_statistics, entropy",
        _entropy,
        functools.partial(formulas.linear_entropy, kernel=_KERNEL),
        regimes.HIDDEN,
        normwise=True,
    ),
)


def _mean(loss: Function) -> Function:
    return lambda p, t: jnp.mean(loss(p, t)).reshape(1)


SUMS = (
    Row(
        "mean of squared_error",
        lambda p, t: jaxloss.mean(jaxloss.squared_error)(p, t).reshape(1),
        None,
        sums.SQUARES,
        _mean(optax.losses.squared_error),
        lambda p, t: _torch().mse_loss(p, t).reshape(1),
        limits=BEST,
        exact=sums.mean_of_squares,
    ),
    Row(
        "cross_entropy of many classes",
        jaxloss.cross_entropy,
        None,
        sums.CLASSES,
        optax.losses.softmax_cross_entropy_with_integer_labels,
        of_torch("cross_entropy"),
        limits=BEST,
        exact=sums.cross_entropy,
    ),
)

ROWS = (*REGRESSION, *BINARY, *CLASSIFICATION, *PAIRS, *LARGE, *PRIMITIVES, *SUMS)
