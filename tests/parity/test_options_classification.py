"""Every option of the losses that reduce an axis of classes, live: value and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch.nn.functional as F  # noqa: N812

import jaxloss
from tests.parity.agreement import REDUCTIONS, Case, agree, every, in_a_row, over, plain

# Rows, classes and further axes, as in PyTorch.
SCORES = [(1, 1), (5, 4), (2, 3, 2, 3)]


def distribution(rng, shape, axis=-1):
    array = rng.uniform(0.05, 1, shape)
    return array / array.sum(axis, keepdims=True)


def labelled(rng, shape):
    """Scores, labels, the same with some ignored, and class weights."""
    rows, classes, *further = shape
    labels = rng.integers(0, classes, (rows, *further))
    kept = rng.uniform(size=labels.shape) < 0.7
    kept.flat[0] = True  # PyTorch's mean over nothing is NaN.
    weights = rng.uniform(0.2, 3, classes)
    return rng.normal(size=shape) * 3, labels, np.where(kept, labels, -100), weights


def of_labels(loss, theirs, weighted, ignored, **options):
    """Every reduction, with and without class weights and an ignored label."""

    def ours(reduction, scores, labels, some_ignored, class_weights):
        chosen = functools.partial(loss, **options, axis=1)
        if ignored:
            chosen = jaxloss.ignoring(chosen, -100)
        if weighted:
            chosen = jaxloss.class_weighted(chosen, class_weights)
        answer = REDUCTIONS[reduction](chosen)(scores, some_ignored if ignored else labels)
        return getattr(answer, "losses", answer)

    def its(reduction, scores, labels, some_ignored, class_weights):
        given, weight = some_ignored if ignored else labels, class_weights if weighted else None
        return theirs(scores, given, weight=weight, reduction=reduction, **options)

    pair = (in_a_row(functools.partial(side, name) for name in REDUCTIONS) for side in (ours, its))
    return {f"weighted {weighted}, ignored {ignored}, {options}": tuple(pair)}


def label_case(loss, theirs, options=({},), shapes=SCORES):
    choices = every(weighted=[False, True], ignored=[False, True])
    pairs = [of_labels(loss, theirs, **c, **chosen) for c in choices for chosen in options]
    return Case(functools.reduce(dict.__or__, pairs), labelled, shapes)


def with_probabilities(rng, shape):
    targets = distribution(rng, shape, axis=1)
    return rng.normal(size=shape) * 3, targets, rng.uniform(0.2, 3, shape[1])


def of_probabilities(weighted, label_smoothing):
    def ours(reduction, logits, targets, weights):
        loss = jaxloss.cross_entropy
        loss = jaxloss.class_weighted(loss, weights) if weighted else loss
        answer = REDUCTIONS[reduction](loss)(
            logits, targets, axis=1, label_smoothing=label_smoothing
        )
        return getattr(answer, "losses", answer)

    def theirs(reduction, logits, targets, weights):
        return F.cross_entropy(
            logits,
            targets,
            weight=weights if weighted else None,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )

    sides = (ours, theirs)
    pair = (in_a_row(functools.partial(side, name) for name in REDUCTIONS) for side in sides)
    return {f"weighted {weighted}, smoothing {label_smoothing}": tuple(pair)}


def divergence(rng, shape):
    """Log-probabilities, targets, their logarithms, and which classes count."""
    log_probs, targets = np.log(distribution(rng, shape)), distribution(rng, shape)
    return log_probs, targets, np.log(targets), rng.uniform(size=shape) < 0.7


def of_kl(log_targets):
    place = 2 if log_targets else 1

    def ours(*arrays):
        return jaxloss.kl_divergence(arrays[0], arrays[place], log_targets=log_targets)

    def theirs(*arrays, reduction):
        return F.kl_div(arrays[0], arrays[place], reduction=reduction, log_target=log_targets)

    pairs = {
        "none": (ours, lambda *a: theirs(*a, reduction="none").sum(-1)),
        "sum": (jaxloss.sum(ours), functools.partial(theirs, reduction="sum")),
        "batchmean": (jaxloss.mean(ours), functools.partial(theirs, reduction="batchmean")),
        # It divides by the number of classes too.
        "mean": (
            lambda *a: jaxloss.mean(ours)(*a) / a[0].shape[-1],
            functools.partial(theirs, reduction="mean"),
        ),
    }
    return {f"log_targets {log_targets}: {name}": pair for name, pair in pairs.items()}


PROBABILITIES = [
    of_probabilities(**choice) for choice in every(weighted=[False, True], label_smoothing=[0, 0.1])
]

TORCH = {
    "nll": label_case(jaxloss.nll, F.nll_loss),
    "cross_entropy": label_case(jaxloss.cross_entropy, F.cross_entropy),
    "cross_entropy smoothing": label_case(
        jaxloss.cross_entropy,
        F.cross_entropy,
        every(label_smoothing=[0.1, 1.0]),
        SCORES[1:],
    ),
    "cross_entropy probabilities": Case(
        functools.reduce(dict.__or__, PROBABILITIES), with_probabilities, SCORES[1:], wrt=(0, 1)
    ),
    "kl_divergence": Case(
        of_kl(log_targets=False) | of_kl(log_targets=True),
        divergence,
        [(1, 3), (4, 5)],
        wrt=(0, 1, 2),
    ),
}


def cube(rng, shape):
    """Logits, a distribution and labels along each axis of three, and a class mask."""
    distributions = [distribution(rng, shape, axis) for axis in range(3)]
    sizes = [[n for place, n in enumerate(shape) if place != axis] for axis in range(3)]
    labels = [rng.integers(0, shape[axis], sizes[axis]) for axis in range(3)]
    mask = rng.uniform(size=shape) < 0.6
    np.put_along_axis(mask, labels[1][:, None], True, 1)
    flat_labels = rng.integers(0, shape[1] * shape[2], shape[0])
    return rng.normal(size=shape) * 3, *distributions, *labels, mask, flat_labels


def along(axis, first, ours, theirs, options=({},)):
    """Pairs of functions of the logits and of what stands at `first`, for the axis."""
    return {
        f"axis {axis} {name}": tuple(lambda *a, f=f: f(a[0], a[first + axis]) for f in pair)
        for name, pair in plain(
            functools.partial(ours, axis=axis), functools.partial(theirs, axis=axis), options
        ).items()
    }


def every_axis(first, ours, theirs, options=({},)):
    pairs = [along(axis, first, ours, theirs, options) for axis in range(3)]
    return functools.reduce(dict.__or__, pairs)


def flat(array):
    """The last two axes as one."""
    return array.reshape(len(array), -1)


INTEGER = optax.softmax_cross_entropy_with_integer_labels


def of_smoothing(*arrays, alpha):
    one_hot = jax.nn.one_hot(arrays[5], arrays[0].shape[1], axis=1, dtype=arrays[0].dtype)
    return optax.softmax_cross_entropy(
        arrays[0], optax.smooth_labels(one_hot, alpha, axis=1), axis=1
    )


def without(scores, targets, mask):
    """Scores and targets of no mass where the mask is False."""
    return jnp.where(mask, scores, -jnp.inf), jnp.where(mask, targets, 0)


CROSS_ENTROPY = (
    every_axis(4, jaxloss.cross_entropy, INTEGER)
    | {
        "masked classes": (
            lambda *a: jaxloss.cross_entropy(a[0], a[5], axis=1, class_mask=a[7]),
            lambda *a: INTEGER(a[0], a[5], axis=1, where=a[7]),
        ),
        # Optax's gradient with respect to masked probabilities is NaN.
        "masked classes, probabilities": (
            lambda *a: jaxloss.cross_entropy(
                a[0], jnp.where(a[7], a[2], 0), axis=1, class_mask=a[7]
            ),
            lambda *a: optax.softmax_cross_entropy(a[0], a[2], axis=1, where=a[7]),
        ),
        "masked classes, poly": (
            lambda *a: jaxloss.poly_cross_entropy(*without(a[0], a[2], a[7]), axis=1),
            lambda *a: optax.losses.poly_loss_cross_entropy(a[0], a[2], axis=1, where=a[7]),
        ),
        "two axes": (
            lambda *a: jaxloss.cross_entropy(flat(a[0]), a[8]),
            lambda *a: INTEGER(a[0], a[8], axis=(1, 2)),
        ),
    }
    | {
        f"smoothing {alpha}": (
            lambda *a, alpha=alpha: jaxloss.cross_entropy(
                a[0], a[5], axis=1, label_smoothing=alpha
            ),
            functools.partial(of_smoothing, alpha=alpha),
        )
        for alpha in (0.1, 1.0)
    }
)

SOFT_CROSS_ENTROPY = every_axis(1, jaxloss.cross_entropy, optax.softmax_cross_entropy) | {
    "two axes": (
        lambda *a: jaxloss.cross_entropy(flat(a[0]), flat(a[2])),
        lambda *a: optax.softmax_cross_entropy(a[0], a[2], axis=(1, 2)),
    ),
    "safe": (
        lambda *a: jaxloss.cross_entropy(a[0], a[3]),
        lambda *a: optax.safe_softmax_cross_entropy(a[0], a[3]),
    ),
    # The derivative with respect to targets is that of the sum, -z.
    "Fenchel-Young": (
        lambda *a: jaxloss.primitives.logsumexp(a[0]) - jnp.sum(a[0] * a[3], -1),
        lambda *a: optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)(a[0], a[3]),
    ),
}


def divergence_pairs(ours, theirs, place, **options):
    """With respect to any axis; the inputs are probabilities as it happens, and need not be."""
    ours = functools.partial(ours, **options)
    pairs = {
        f"axis {axis}": tuple(
            lambda *a, f=f, axis=axis: f(a[0], a[place], axis=axis) for f in (ours, theirs)
        )
        for axis in range(3)
    }
    if place == 1:
        pairs["masked classes"] = (
            lambda *a: ours(*without(a[0], a[1], a[3])),
            lambda *a: theirs(a[0], a[1], where=a[3]),
        )
    return {f"{theirs.__name__} {name}": pair for name, pair in pairs.items()}


def ranked(rng, shape):
    """Scores, relevances, weights of the items, and which items there are, one at least."""
    where = rng.uniform(size=shape) < 0.6
    where[..., 0] = True
    relevance = rng.integers(0, 4, shape).astype(float)
    return rng.normal(size=shape) * 2, relevance, rng.uniform(0.2, 2, shape), where


def of_ranking(masked, weighted):
    def ours(logits, relevance, weights, where):
        relevance = relevance * weights if weighted else relevance
        if not masked:
            return jaxloss.cross_entropy(logits, relevance)
        return jaxloss.cross_entropy(logits, jnp.where(where, relevance, 0), class_mask=where)

    def theirs(logits, relevance, weights, where, reduce_fn):
        return optax.losses.ranking_softmax_loss(
            logits,
            relevance,
            weights=weights if weighted else None,
            where=where if masked else None,
            reduce_fn=reduce_fn,
        )

    return {
        f"masked {masked}, weighted {weighted}": (
            in_a_row(reduce(ours) for reduce in REDUCTIONS.values()),
            in_a_row(functools.partial(theirs, reduce_fn=f) for f in (None, jnp.sum, jnp.mean)),
        )
    }


CUBE = [(3, 4, 2)]

OPTAX = {
    "cross_entropy labels": Case(CROSS_ENTROPY, cube, CUBE, peer="optax"),
    "cross_entropy probabilities": Case(
        SOFT_CROSS_ENTROPY, cube, CUBE, wrt=(0, 1, 2, 3), peer="optax"
    ),
    "poly_cross_entropy": Case(
        every_axis(
            1,
            jaxloss.poly_cross_entropy,
            optax.losses.poly_loss_cross_entropy,
            every(epsilon=[-1.0, 0.0, 2.0]),
        ),
        cube,
        CUBE,
        wrt=(0, 1, 2, 3),
        peer="optax",
    ),
    "kl_divergence": Case(
        divergence_pairs(jaxloss.kl_divergence, optax.kl_divergence, 1)
        | divergence_pairs(
            jaxloss.kl_divergence, optax.losses.kl_divergence_with_log_targets, 2, log_targets=True
        ),
        divergence,
        CUBE,
        wrt=(0, 1, 2),
        peer="optax",
    ),
    "generalized_kl_divergence": Case(
        divergence_pairs(jaxloss.generalized_kl_divergence, optax.generalized_kl_divergence, 1),
        divergence,
        CUBE,
        wrt=(0, 1),
        peer="optax",
    ),
    "ranking": Case(
        of_ranking(masked=False, weighted=False) | of_ranking(masked=False, weighted=True),
        ranked,
        [(5,), (4, 3)],
        wrt=(0, 1, 2),
        peer="optax",
    ),
    # Optax's gradients with respect to what is masked are NaN.
    "ranking masked": Case(
        of_ranking(masked=True, weighted=False) | of_ranking(masked=True, weighted=True),
        ranked,
        [(5,), (4, 3)],
        peer="optax",
    ),
}


# PyTorch warns that this mean divides by the number of classes too.
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@over(TORCH)
def test_torch(case, dtype, seed):
    agree(case, dtype, seed)


@over(OPTAX)
def test_optax(case, dtype, seed):
    agree(case, dtype, seed)
