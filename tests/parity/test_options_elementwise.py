"""Every option of the losses with one value per element, live: value and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch.nn.functional as F  # noqa: N812

import jaxloss
from tests.parity.agreement import Case, agree, every, in_a_row, over, plain, reduced

SHAPES = [(), (2, 3, 4)]


def normal(rng, shape):
    return rng.normal(size=(2, *shape)) * 2


def normal_weighed(rng, shape):
    return *normal(rng, shape), rng.uniform(0.2, 3, shape)


def probabilities(rng, shape):
    """Predictions, soft and hard targets, and weights."""
    soft = rng.uniform(size=shape)
    return rng.uniform(0.01, 0.99, shape), soft, np.round(soft), rng.uniform(0.2, 3, shape)


def logits(rng, shape):
    """Scores, soft and hard targets, weights for each element, for each class, and for all."""
    soft = rng.uniform(size=shape)
    sizes = shape, shape[-1:], ()
    weights = [rng.uniform(0.2, 3, size) for size in sizes]
    return rng.normal(size=shape) * 5, soft, np.round(soft), *weights


def rows_of_logits(rng, shape):
    """The same with weights for each row and each class."""
    soft = rng.uniform(size=shape)
    weights = rng.uniform(0.2, 3, shape[:-1]), rng.uniform(0.2, 3, shape[-1])
    return rng.normal(size=shape) * 5, soft, np.round(soft), *weights


def counts(rng, shape):
    """Log-rates, rates, and counts on either side of 1, where Stirling's term sets in."""
    return rng.normal(size=shape), rng.uniform(0.3, 5, shape), rng.uniform(0.1, 6, shape)


def measurements(rng, shape):
    """Means, targets, and variances on either side of 0.1."""
    return *rng.normal(size=(2, *shape)), np.exp(rng.uniform(np.log(0.01), np.log(4), shape))


def by_sum_of_weights(loss):
    return jaxloss.mean(jaxloss.weighted(loss))


def by_count(loss):
    summed = jaxloss.sum(jaxloss.weighted(loss))
    return lambda x, y, weights: summed(x, y, weights=weights) / weights.size


def weighed(loss, theirs, mean):
    """A weight for each element; PyTorch's means divide in one of two ways."""
    ours = {
        "none": lambda x, y, weights: jaxloss.weighted(loss)(x, y, weights=weights).losses,
        "sum": jaxloss.sum(jaxloss.weighted(loss)),
        "mean": mean(loss),
    }
    return {
        "weighted": (
            in_a_row(
                lambda x, y, w, reduction=reduction: ours[reduction](x, y, weights=w)
                for reduction in ours
            ),
            in_a_row(
                lambda x, y, w, reduction=reduction: theirs(x, y, weight=w, reduction=reduction)
                for reduction in ours
            ),
        )
    }


def with_targets(place, ours, theirs, options=({},)):
    """Pairs of functions of the first array and that at the place of the targets."""
    return {
        f"targets {place}: {name}": tuple(
            lambda *arrays, f=f: f(arrays[0], arrays[place]) for f in pair
        )
        for name, pair in reduced(ours, theirs, options).items()
    }


def with_pos_weight(targets, pos_weight):
    bce, theirs = jaxloss.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
    return {
        f"targets {targets}, pos_weight {pos_weight}: {name}": pair
        for name, pair in reduced(
            lambda *a: bce(a[0], a[targets], pos_weight=a[pos_weight]),
            lambda *a, reduction: theirs(
                a[0], a[targets], pos_weight=a[pos_weight], reduction=reduction
            ),
        ).items()
    }


HUBER = functools.partial(jaxloss.huber, delta=0.7)

TORCH = {
    "squared_error": Case(reduced(jaxloss.squared_error, F.mse_loss), normal, SHAPES, wrt=(0, 1)),
    "squared_error weighted": Case(
        weighed(jaxloss.squared_error, F.mse_loss, by_sum_of_weights),
        normal_weighed,
        SHAPES,
        wrt=(0, 1, 2),
    ),
    "absolute_error": Case(reduced(jaxloss.absolute_error, F.l1_loss), normal, SHAPES, wrt=(0, 1)),
    "absolute_error weighted": Case(
        weighed(jaxloss.absolute_error, F.l1_loss, by_sum_of_weights),
        normal_weighed,
        SHAPES,
        wrt=(0, 1, 2),
    ),
    "smooth_l1": Case(
        reduced(jaxloss.smooth_l1, F.smooth_l1_loss, every(beta=[0.0, 0.5, 1.0, 3.0])),
        normal,
        SHAPES,
        wrt=(0, 1),
    ),
    "huber": Case(
        reduced(jaxloss.huber, F.huber_loss, every(delta=[0.5, 1.0, 3.0])),
        normal,
        SHAPES,
        wrt=(0, 1),
    ),
    "huber weighted": Case(
        weighed(HUBER, functools.partial(F.huber_loss, delta=0.7), by_count),
        normal_weighed,
        SHAPES,
        wrt=(0, 1, 2),
    ),
    "binary_cross_entropy": Case(
        with_targets(1, jaxloss.binary_cross_entropy, F.binary_cross_entropy)
        | with_targets(2, jaxloss.binary_cross_entropy, F.binary_cross_entropy),
        probabilities,
        SHAPES,
    ),
    "binary_cross_entropy weighted": Case(
        {
            name: tuple(lambda p, y, _, w, f=f: f(p, y, w) for f in pair)
            for name, pair in weighed(
                jaxloss.binary_cross_entropy, F.binary_cross_entropy, by_count
            ).items()
        },
        probabilities,
        SHAPES,
    ),
    "binary_cross_entropy_with_logits": Case(
        with_targets(
            1, jaxloss.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
        )
        | with_targets(
            2, jaxloss.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
        ),
        logits,
        SHAPES,
        wrt=(0, 1),
    ),
    "binary_cross_entropy_with_logits pos_weight": Case(
        with_pos_weight(1, 3)
        | with_pos_weight(1, 4)
        | with_pos_weight(1, 5)
        | with_pos_weight(2, 4),
        logits,
        SHAPES,
        wrt=(0, 1),
    ),
    "binary_cross_entropy_with_logits weighted": Case(
        {
            name: tuple(lambda *a, f=f: f(a[0], a[1], a[3]) for f in pair)
            for name, pair in weighed(
                jaxloss.binary_cross_entropy_with_logits,
                F.binary_cross_entropy_with_logits,
                by_count,
            ).items()
        },
        logits,
        SHAPES,
        wrt=(0, 1),
    ),
    "multilabel_soft_margin": Case(
        with_targets(1, jaxloss.multilabel_soft_margin, F.multilabel_soft_margin_loss)
        | with_targets(2, jaxloss.multilabel_soft_margin, F.multilabel_soft_margin_loss)
        | {
            f"weights, {name}": pair
            for name, pair in reduced(
                lambda z, _, y, rows, w: jaxloss.multilabel_soft_margin(z, y, class_weights=w),
                lambda z, _, y, rows, w, reduction: F.multilabel_soft_margin_loss(
                    z, y, w, reduction=reduction
                ),
            ).items()
        },
        rows_of_logits,
        [(6,), (2, 3, 4)],
        wrt=(0, 1, 2, 4),
    ),
    "poisson_nll": Case(
        reduced(
            lambda x, rate, n, full: jaxloss.poisson_nll(x, n, full=full),
            lambda x, rate, n, **o: F.poisson_nll_loss(x, n, **o),
            every(full=[False, True]),
        ),
        counts,
        SHAPES,
        wrt=(0, 2),
    ),
    # PyTorch adds eps to a rate, 1e-8 unless told.
    "poisson_nll rates": Case(
        reduced(
            lambda x, rate, n, full: jaxloss.poisson_nll(rate, n, log_input=False, full=full),
            lambda x, rate, n, **o: F.poisson_nll_loss(rate, n, log_input=False, eps=0, **o),
            every(full=[False, True]),
        ),
        counts,
        SHAPES,
        wrt=(1, 2),
    ),
    "gaussian_nll": Case(
        reduced(
            lambda x, y, v, eps, full: jaxloss.gaussian_nll(
                x, y, v, minimum_variance=eps, full=full
            ),
            F.gaussian_nll_loss,
            every(eps=[1e-6, 0.1], full=[False, True]),
        ),
        measurements,
        SHAPES,
        wrt=(0, 1, 2),
    ),
}


def optax_targets(place, ours, theirs, options=({},)):
    return {
        f"targets {place}: {name}": tuple(
            lambda *arrays, f=f: f(arrays[0], arrays[place]) for f in pair
        )
        for name, pair in plain(ours, theirs, options).items()
    }


def focal(rng, shape):
    """Scores, soft and hard targets: where a target is hard Optax's gradient to it is infinite."""
    soft = rng.uniform(0.02, 0.98, shape)
    return rng.normal(size=shape) * 3, soft, np.round(soft), np.array([0, 0.5, 1, 2, 3.5])


def focal_pairs(place):
    """Every gamma at once."""

    def of_every_gamma(loss):
        return lambda *arrays, **options: jax.vmap(
            lambda gamma: loss(arrays[0], arrays[place], gamma=gamma, **options)
        )(arrays[3])

    ours, theirs = map(of_every_gamma, (jaxloss.sigmoid_focal, optax.sigmoid_focal_loss))
    return plain(ours, theirs, every(alpha=[None, 0.25]))


OPTAX = {
    "squared_error": Case(
        plain(jaxloss.squared_error, optax.squared_error)
        | {"l2": (lambda x, y: jaxloss.squared_error(x, y) / 2, optax.l2_loss)},
        normal,
        SHAPES,
        wrt=(0, 1),
        peer="optax",
    ),
    "huber": Case(
        plain(jaxloss.huber, optax.huber_loss, every(delta=[0.5, 1.0, 3.0])),
        normal,
        SHAPES,
        wrt=(0, 1),
        peer="optax",
    ),
    "log_cosh": Case(
        plain(jaxloss.log_cosh, optax.log_cosh), normal, SHAPES, wrt=(0, 1), peer="optax"
    ),
    "binary_cross_entropy_with_logits": Case(
        optax_targets(
            1, jaxloss.binary_cross_entropy_with_logits, optax.sigmoid_binary_cross_entropy
        )
        | optax_targets(
            2, jaxloss.binary_cross_entropy_with_logits, optax.sigmoid_binary_cross_entropy
        ),
        logits,
        SHAPES,
        wrt=(0, 1),
        peer="optax",
    ),
    "sigmoid_focal soft": Case(focal_pairs(1), focal, SHAPES, wrt=(0, 1, 3), peer="optax"),
    "sigmoid_focal hard": Case(focal_pairs(2), focal, SHAPES, wrt=(0, 3), peer="optax"),
    "sparsemax of two classes": Case(
        {
            "": (
                lambda z, soft, y, gammas: jaxloss.sparsemax(
                    jnp.stack([jnp.zeros_like(z), z], -1), y.astype(jnp.int32)
                ),
                lambda z, soft, y, gammas: optax.losses.sparsemax_loss(z, y.astype(jnp.int32)),
            )
        },
        focal,
        SHAPES,
        peer="optax",
    ),
}


@over(TORCH)
def test_torch(case, dtype, seed):
    agree(case, dtype, seed)


@over(OPTAX)
def test_optax(case, dtype, seed):
    agree(case, dtype, seed)
