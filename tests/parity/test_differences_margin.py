"""Where we differ on purpose from the peers' margins, vectors, alignments and masks."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import jaxloss
from tests.parity.differences import (
    INF,
    differ,
    exact,
    f32,
    gradient_of,
    row,
    torch_gradient_of,
    torch_value_of,
)

pytestmark = pytest.mark.parity

cosine = jaxloss.cosine_similarity
triplet = functools.partial(jaxloss.triplet_margin, margin=10.0)
optax_triplet = functools.partial(optax.losses.triplet_margin_loss, margin=10.0)

NEARLY_PARALLEL = ([1, 2, 3.0001], [1, 2, 3])
TRIPLET = (f32([1, 2, 3]), f32([2, 2, 2]), f32([5, 5, 5]))
# The anchor is its own positive.
COINCIDING = (f32([[1, 2]]), f32([[1, 2]]), f32([[1.5, 2]]))
SMALL = (f32([[0, 0]]), f32([[1e-6, 0]]), f32([[0, 2e-6]]))
CONFIDENT = (f32([[[0, 35, 0], [35, 0, 0], [0, 0, 35]]]), jnp.int32([[1, 2]]))
TOO_SHORT = (jnp.zeros((1, 3, 3)), jnp.int32([[1, 1, 2]]))
PAIRS = (f32([[1, 0], [1, 0], [0, 1], [0, 1]]), jnp.int32([0, 0, 1, 1]))
PAIRS_LOSS = float(mpmath.log(1 + 2 * mpmath.exp(-1)))


def torch_ctc(logits, labels):
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    lengths = [torch.full((len(labels),), array.shape[1]) for array in (logits, labels)]
    return F.ctc_loss(log_probs, labels.long(), *lengths, reduction="none")


def optax_ctc(logits, labels):
    return optax.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, jnp.zeros(labels.shape))


def mean_over_pairs(embeddings, labels):
    """Optax's mean where every example has as many positives."""
    return jaxloss.mean(jaxloss.nt_xent)(embeddings, labels, temperature=1.0)


def exact_cosine_distance(first, second):
    first, second = exact(*first), exact(*second)
    with mpmath.workdps(40):
        lengths = mpmath.sqrt(mpmath.fdot(first, first) * mpmath.fdot(second, second))
        return float(1 - mpmath.fdot(first, second) / lengths)


def exact_triplet(p):
    """|(1, 0, 1)| - |(4, 3, 2)| + 10."""
    nearer, farther = (mpmath.root(1**p * 2, p), mpmath.root(4**p + 3**p + 2**p, p))
    return float(nearer - farther + 10)


def exact_confident_ctc():
    """Labels 1, 2 in three frames: five alignments, of which one is ahead by 35 nats a frame."""
    with mpmath.workdps(60):
        ahead = mpmath.exp(35)
        alignments = ahead**3 + 2 * ahead**2 + 2 * ahead
        return float(-mpmath.log(alignments / (ahead + 2) ** 3))


ROWS = [
    row(
        "torch-soft-margin",
        jaxloss.sum(jaxloss.soft_margin),
        torch_value_of(F.soft_margin_loss),
        (f32([-100]), f32([1])),
        100,
    ),
    row(
        "torch-soft-margin-gradient",
        gradient_of(jaxloss.soft_margin),
        torch_gradient_of(F.soft_margin_loss),
        (f32([-100]), f32([1])),
        [-1],
    ),
    row(
        "torch-soft-margin-of-no-sign",
        jaxloss.mean(jaxloss.soft_margin),
        torch_value_of(F.soft_margin_loss),
        (f32([2]), f32([0])),
        np.nan,
    ),
    row("optax-hinge-of-no-sign", jaxloss.hinge, optax.hinge_loss, (f32(2), f32(0)), np.nan),
    row(
        "optax-hinge-gradient-at-the-margin",
        gradient_of(jaxloss.hinge),
        gradient_of(optax.hinge_loss),
        (f32(1), f32(1)),
        0,
    ),
    row(
        "optax-perceptron-gradient-at-zero",
        gradient_of(jaxloss.perceptron),
        gradient_of(optax.losses.perceptron_loss),
        (f32(0), f32(1)),
        0,
    ),
    row(
        "optax-multiclass-hinge-gradient-at-the-margin",
        gradient_of(jaxloss.multiclass_hinge),
        gradient_of(optax.losses.multiclass_hinge_loss),
        (f32([[1, 0, 0]]), jnp.int32([0])),
        [[0, 0, 0]],
    ),
    row(
        "optax-multiclass-perceptron-gradient-at-a-tie",
        gradient_of(jaxloss.multiclass_perceptron),
        gradient_of(optax.losses.multiclass_perceptron_loss),
        (f32([[1, 1, 0]]), jnp.int32([0])),
        [[0, 0, 0]],
    ),
    row(
        "torch-margin-ranking-gradient-at-the-margin",
        gradient_of(jaxloss.margin_ranking),
        torch_gradient_of(F.margin_ranking_loss),
        (f32([1]), f32([1]), f32([1])),
        [0],
    ),
    row(
        "torch-hinge-embedding-gradient-at-the-margin",
        gradient_of(jaxloss.hinge_embedding),
        torch_gradient_of(F.hinge_embedding_loss),
        (f32([1]), f32([-1])),
        [0],
    ),
    row("optax-cosine-zero", cosine, optax.cosine_similarity, (f32([0, 0]), f32([3, 4])), 0),
    row(
        "optax-cosine-zero-gradient",
        gradient_of(cosine),
        gradient_of(optax.cosine_similarity),
        (f32([0, 0]), f32([3, 4])),
        [0, 0],
    ),
    row(
        "torch-cosine-embedding-zero-gradient",
        gradient_of(jaxloss.cosine_embedding),
        torch_gradient_of(F.cosine_embedding_loss),
        (f32([[0, 0]]), f32([[3, 4]]), f32([1])),
        [[0, 0]],
    ),
    row(
        "optax-cosine-tiny", cosine, optax.cosine_similarity, (f32([3e-20, 4e-20]), f32([3, 4])), 1
    ),
    row("optax-cosine-huge", cosine, optax.cosine_similarity, (f32([3e20, 4e20]), f32([3, 4])), 1),
    row(
        "torch-cosine-tiny",
        cosine,
        torch_value_of(functools.partial(F.cosine_similarity, dim=-1)),
        (f32([3e-20, 4e-20]), f32([3, 4])),
        1,
    ),
    row(
        "torch-cosine-huge",
        cosine,
        torch_value_of(functools.partial(F.cosine_similarity, dim=-1)),
        (f32([3e20, 4e20]), f32([3, 4])),
        1,
    ),
    row(
        "optax-cosine-distance-nearly-parallel",
        jaxloss.cosine_distance,
        optax.cosine_distance,
        tuple(map(f32, NEARLY_PARALLEL)),
        exact_cosine_distance(*NEARLY_PARALLEL),
    ),
    row(
        "torch-cosine-embedding-nearly-parallel",
        jaxloss.cosine_embedding,
        torch_value_of(F.cosine_embedding_loss),
        (*map(f32, NEARLY_PARALLEL), f32(1)),
        exact_cosine_distance(*NEARLY_PARALLEL),
    ),
    row(
        "optax-triplet-city-block",
        functools.partial(triplet, p=1),
        functools.partial(optax_triplet, norm_degree=1),
        TRIPLET,
        exact_triplet(1),
    ),
    row(
        "optax-triplet-third-degree",
        functools.partial(triplet, p=3),
        functools.partial(optax_triplet, norm_degree=3),
        TRIPLET,
        exact_triplet(3),
    ),
    row(
        "torch-triplet-gradient-at-coinciding-vectors",
        gradient_of(jaxloss.triplet_margin),
        torch_gradient_of(F.triplet_margin_loss),
        COINCIDING,
        [[1, 0]],
    ),
    row(
        "torch-triplet-adds-to-differences",
        jaxloss.sum(functools.partial(jaxloss.triplet_margin, margin=2e-6)),
        torch_value_of(functools.partial(F.triplet_margin_loss, margin=2e-6)),
        SMALL,
        1e-6,
    ),
    row("optax-ctc-confident", jaxloss.ctc, optax_ctc, CONFIDENT, [exact_confident_ctc()]),
    row(
        "torch-ctc-confident",
        jaxloss.ctc,
        torch_value_of(torch_ctc),
        CONFIDENT,
        [exact_confident_ctc()],
    ),
    row("optax-ctc-too-short", jaxloss.ctc, optax_ctc, TOO_SHORT, [INF]),
    row(
        "torch-ctc-too-short-gradient",
        gradient_of(jaxloss.ctc),
        torch_gradient_of(torch_ctc),
        TOO_SHORT,
        np.zeros((1, 3, 3)),
    ),
    row(
        "optax-ntxent-small-vectors",
        mean_over_pairs,
        functools.partial(optax.ntxent, temperature=1.0),
        (PAIRS[0] * 1e-6, PAIRS[1]),
        PAIRS_LOSS,
    ),
    row(
        "optax-ntxent-without-positives",
        mean_over_pairs,
        functools.partial(optax.ntxent, temperature=1.0),
        (PAIRS[0], jnp.arange(4)),
        0,
    ),
    row(
        "optax-dice-nothing-there",
        lambda z, t: jaxloss.dice(jax.nn.sigmoid(z), t, axes=(1, 2), smooth=0.0),
        functools.partial(optax.losses.binary_dice_loss, smooth=0.0),
        (jnp.full((1, 2, 2), -200.0), jnp.zeros((1, 2, 2))),
        [0],
    ),
]


@pytest.mark.parametrize(("ours", "peer", "arrays", "truth"), ROWS)
def test_we_are_right_where_the_peer_is_not(ours, peer, arrays, truth):
    differ(ours, peer, arrays, truth)


def test_optax_dice_of_probabilities_cannot_be_jitted():
    masks = jnp.full((1, 2, 2, 2), 0.5), jnp.eye(2)[jnp.array([[[0, 1], [1, 1]]])]

    @jax.jit
    def theirs(predictions, targets):
        return optax.losses.dice_loss(predictions, targets, apply_softmax=False)

    with pytest.raises(jax.errors.TracerBoolConversionError):
        theirs(*masks)
    ours = jax.jit(functools.partial(jaxloss.dice, axes=(1, 2)))(*masks)
    # Of each class a half is predicted everywhere; it has one pixel of four, or three.
    np.testing.assert_allclose(ours, [[1 - 3 / 5, 1 - 5 / 7]], rtol=3e-6)
