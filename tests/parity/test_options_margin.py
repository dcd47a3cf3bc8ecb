"""Every option of the margins, hinges and rankings, live: value and gradients."""

import functools

import numpy as np
import optax
import torch.nn.functional as F  # noqa: N812

import jaxloss
from tests.parity.agreement import Case, agree, every, over, plain, reduced

SHAPES = [(), (2, 3, 4)]
ROWS = [(1, 1), (6, 5)]


def signed(rng, shape):
    return rng.normal(size=shape) * 2, rng.choice([-1.0, 1.0], shape)


def two_signed(rng, shape):
    return *rng.normal(size=(2, *shape)), rng.choice([-1.0, 1.0], shape)


def labelled(rng, shape):
    labels = rng.integers(0, shape[1], shape[0])
    return rng.normal(size=shape) * 2, labels, rng.uniform(0.2, 3, shape[1])


def listed(rng, shape):
    """Scores, and a list of targets for each row that ends at the first -1 or with the row."""
    scores = rng.normal(size=shape) * 2
    rows, classes = np.atleast_2d(scores).shape
    lists = np.stack([rng.permutation(classes) for _ in range(rows)])
    ends = rng.integers(0, classes + 1, rows)
    # What stands behind the end is not looked at.
    lists[np.arange(classes) == ends[:, None]] = -1
    return scores, lists.reshape(shape)


def of_weights(p, margin):
    """The weight of each label's class, which PyTorch's mean does not divide by."""
    loss = functools.partial(jaxloss.multi_margin, p=p, margin=margin)
    ours = jaxloss.weighted(loss)

    def unreduced(scores, labels, weights):
        return ours(scores, labels, weights=weights[labels]).losses

    def theirs(scores, labels, weights, reduction):
        return F.multi_margin_loss(
            scores, labels, p=p, margin=margin, weight=weights, reduction=reduction
        )

    [pair] = reduced(unreduced, theirs).values()
    return {f"weighted {p} {margin}": pair}


def of_labels(p, margin):
    options = {"p": p, "margin": margin}
    [pair] = reduced(jaxloss.multi_margin, F.multi_margin_loss, [options]).values()
    return {str(options): tuple(lambda z, y, w, f=f: f(z, y) for f in pair)}


MULTI_MARGIN = [
    pairs(**options)
    for options in every(p=[1, 2], margin=[0.5, 1.0, -0.3])
    for pairs in (of_labels, of_weights)
]

TORCH = {
    "hinge_embedding": Case(
        reduced(jaxloss.hinge_embedding, F.hinge_embedding_loss, every(margin=[0.0, 1.0, 2.5])),
        signed,
        SHAPES,
    ),
    "soft_margin": Case(reduced(jaxloss.soft_margin, F.soft_margin_loss), signed, SHAPES),
    "margin_ranking": Case(
        reduced(jaxloss.margin_ranking, F.margin_ranking_loss, every(margin=[0.0, 0.5, -1.0])),
        two_signed,
        SHAPES,
        wrt=(0, 1),
    ),
    "multi_margin": Case(functools.reduce(dict.__or__, MULTI_MARGIN), labelled, ROWS),
    "multilabel_margin": Case(
        reduced(jaxloss.multilabel_margin, F.multilabel_margin_loss), listed, [(4,), *ROWS]
    ),
}

OPTAX = {
    "hinge": Case(plain(jaxloss.hinge, optax.hinge_loss), signed, SHAPES, peer="optax"),
    "perceptron": Case(
        plain(jaxloss.perceptron, optax.losses.perceptron_loss), signed, SHAPES, peer="optax"
    ),
    "multiclass": Case(
        {
            "hinge": (
                lambda z, y, w: jaxloss.multiclass_hinge(z, y),
                lambda z, y, w: optax.losses.multiclass_hinge_loss(z, y),
            ),
            "perceptron": (
                lambda z, y, w: jaxloss.multiclass_perceptron(z, y),
                lambda z, y, w: optax.losses.multiclass_perceptron_loss(z, y),
            ),
            "sparsemax": (
                lambda z, y, w: jaxloss.sparsemax(z, y),
                lambda z, y, w: optax.losses.multiclass_sparsemax_loss(z, y),
            ),
        },
        labelled,
        [(6, 5), (3, 2)],
        peer="optax",
    ),
}


@over(TORCH)
def test_torch(case, dtype, seed):
    agree(case, dtype, seed)


@over(OPTAX)
def test_optax(case, dtype, seed):
    agree(case, dtype, seed)
