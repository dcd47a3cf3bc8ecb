"""Where we differ on purpose from the peers' classification, regression and likelihoods."""

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
    bf16,
    differ,
    exact,
    f32,
    gradient_of,
    row,
    torch_gradient_of,
    torch_value_of,
)

pytestmark = pytest.mark.parity

TAIL = float(mpmath.log1p(mpmath.exp(-20)))
TAIL_SLOPE = float(mpmath.exp(-20) / (1 + mpmath.exp(-20)))
LN2 = float(mpmath.log(2))

index = jaxloss.cross_entropy
optax_index = optax.softmax_cross_entropy_with_integer_labels
logistic = jaxloss.binary_cross_entropy_with_logits

MASKED = (f32([[0, 0, -INF]]), f32([[1, 0, 0]]))
EMPTY_CLASS = (f32([[0, -INF]]), f32([[1, 0]]))
NEARLY_EQUAL = ([-0.6930, -0.6933], [0.5, 0.5])
HIDDEN = jnp.array([True, True, False])


def torch_index(logits, labels):
    return F.cross_entropy(logits, labels.long())


def with_class_mask(logits, targets, mask):
    if jnp.issubdtype(targets.dtype, jnp.floating):
        targets = jnp.where(mask, targets, 0)
    return jaxloss.cross_entropy(logits, targets, class_mask=mask)


def optax_with_where(logits, targets, mask):
    if jnp.issubdtype(targets.dtype, jnp.floating):
        return optax.softmax_cross_entropy(logits, targets, where=mask)
    return optax_index(logits, targets, where=mask)


def exact_generalized_kl(log_probs, targets):
    pairs = zip(exact(*log_probs), exact(*targets), strict=True)
    with mpmath.workdps(40):
        return float(sum(t * (mpmath.log(t) - x) - t + mpmath.exp(x) for x, t in pairs))


ROWS = [
    row("optax-offset", index, optax_index, (f32([1e8, 1e8]), jnp.int32(0)), LN2),
    row(
        "optax-offset-bfloat16",
        index,
        optax_index,
        (jnp.array([300, 300], bf16), jnp.int32(0)),
        LN2,
    ),
    row("optax-tail", index, optax_index, (f32([20, 0]), jnp.int32(0)), TAIL),
    row(
        "optax-tail-gradient",
        gradient_of(index),
        gradient_of(optax_index),
        (f32([20, 0]), jnp.int32(0)),
        [-TAIL_SLOPE, TAIL_SLOPE],
    ),
    row("torch-tail", index, torch_value_of(torch_index), (f32([20, 0]), jnp.int32(0)), TAIL),
    row("optax-label-minus-one", index, optax_index, (f32([1, 2, 3]), jnp.int32(-1)), np.nan),
    row(
        "optax-label-too-large-gradient",
        gradient_of(index),
        gradient_of(optax_index),
        (f32([1, 2, 3]), jnp.int32(3)),
        [np.nan] * 3,
    ),
    row(
        "optax-soft-masked-class",
        jaxloss.cross_entropy,
        optax.softmax_cross_entropy,
        (f32([0, 0, -INF]), f32([1, 0, 0])),
        LN2,
    ),
    row(
        "optax-safe-soft-masked-class-forward",
        lambda z, q: jax.jacfwd(lambda z: jaxloss.cross_entropy(z, q))(z),
        lambda z, q: jax.jacfwd(lambda z: optax.safe_softmax_cross_entropy(z, q))(z),
        (f32([0, 0, -INF]), f32([1, 0, 0])),
        [-0.5, 0.5, 0],
    ),
    row(
        "torch-logistic-tail",
        logistic,
        torch_value_of(F.binary_cross_entropy_with_logits),
        (f32(-20), f32(0)),
        TAIL,
    ),
    row(
        "optax-logistic-infinity",
        logistic,
        optax.sigmoid_binary_cross_entropy,
        (f32(INF), f32(1)),
        0.0,
    ),
    row(
        "optax-logistic-rounds-the-label",
        logistic,
        optax.sigmoid_binary_cross_entropy,
        (bf16(8), f32(0.999)),
        float(
            mpmath.mpf(float(f32(0.999))) * mpmath.log1p(mpmath.exp(-8))
            + (1 - mpmath.mpf(float(f32(0.999)))) * mpmath.log1p(mpmath.exp(8))
        ),
    ),
    row(
        "torch-clamps-logarithms",
        jaxloss.binary_cross_entropy,
        torch_value_of(F.binary_cross_entropy),
        (f32(0), f32(1)),
        INF,
    ),
    row(
        "optax-huber-gradient",
        gradient_of(jaxloss.huber),
        gradient_of(optax.huber_loss),
        (f32(1e-8), f32(0)),
        1e-8,
    ),
    row("optax-log-cosh", jaxloss.log_cosh, optax.log_cosh, (f32(1e-4), f32(0)), 5e-9),
    row(
        "torch-tail-gradient",
        gradient_of(index),
        torch_gradient_of(torch_index),
        (f32([20, 0]), jnp.int32(0)),
        [-TAIL_SLOPE, TAIL_SLOPE],
    ),
    row("optax-label-minus-100", index, optax_index, (jnp.zeros(200), jnp.int32(-100)), np.nan),
    row(
        "optax-where-hides-the-label",
        with_class_mask,
        optax_with_where,
        (f32([1, 2, 3]), jnp.int32(2), HIDDEN),
        np.nan,
    ),
    row(
        "optax-gradient-to-hidden-targets",
        gradient_of(with_class_mask, by=1),
        gradient_of(optax_with_where, by=1),
        (f32([0, 0, 0]), f32([1, 0, 0]), HIDDEN),
        [LN2, LN2, 0],
    ),
    row(
        "torch-soft-masked-class",
        jaxloss.mean(jaxloss.cross_entropy),
        torch_value_of(F.cross_entropy),
        MASKED,
        LN2,
    ),
    row(
        "optax-poly-masked-class",
        jaxloss.poly_cross_entropy,
        optax.losses.poly_loss_cross_entropy,
        MASKED,
        [LN2 + 1],
    ),
    row(
        "optax-poly-tail",
        jaxloss.poly_cross_entropy,
        optax.losses.poly_loss_cross_entropy,
        (f32([20, 0]), f32([1, 0])),
        TAIL + 2 * TAIL_SLOPE,
    ),
    row(
        "optax-focal-infinity",
        jaxloss.sigmoid_focal,
        optax.sigmoid_focal_loss,
        (f32([INF, -INF]), f32([1, 0])),
        [0, 0],
    ),
    row(
        "optax-sparsemax-nearly-right",
        jaxloss.sparsemax,
        optax.losses.multiclass_sparsemax_loss,
        (f32([[0.999, 0]]), jnp.int32([0])),
        [float((1 - exact(0.999)[0]) ** 2 / 4)],
    ),
    row("optax-kl-empty-class", jaxloss.kl_divergence, optax.kl_divergence, EMPTY_CLASS, [0]),
    row(
        "torch-kl-empty-class",
        jaxloss.sum(jaxloss.kl_divergence),
        torch_value_of(functools.partial(F.kl_div, reduction="sum")),
        EMPTY_CLASS,
        0,
    ),
    row(
        "optax-generalized-kl-empty-class",
        jaxloss.generalized_kl_divergence,
        optax.generalized_kl_divergence,
        EMPTY_CLASS,
        [0],
    ),
    row(
        "optax-generalized-kl-nearly-equal",
        jaxloss.generalized_kl_divergence,
        optax.generalized_kl_divergence,
        tuple(map(f32, NEARLY_EQUAL)),
        exact_generalized_kl(*NEARLY_EQUAL),
    ),
    row(
        "torch-poisson-adds-to-the-rate",
        lambda rates, counts: jaxloss.poisson_nll(rates, counts, log_input=False),
        torch_value_of(functools.partial(F.poisson_nll_loss, log_input=False, reduction="none")),
        (f32([1e-9]), f32([1])),
        [float(exact(1e-9)[0] - mpmath.log(exact(1e-9)[0]))],
    ),
    row(
        "torch-poisson-no-rate",
        jaxloss.poisson_nll,
        torch_value_of(functools.partial(F.poisson_nll_loss, reduction="none")),
        (f32([-INF]), f32([0])),
        [0],
    ),
]


@pytest.mark.parametrize(("ours", "peer", "arrays", "truth"), ROWS)
def test_we_are_right_where_the_peer_is_not(ours, peer, arrays, truth):
    differ(ours, peer, arrays, truth)


SILENT = [
    (jaxloss.huber, optax.huber_loss, (3,), (3, 1)),
    (jaxloss.hinge, optax.hinge_loss, (3,), (3, 1)),
    (logistic, optax.sigmoid_binary_cross_entropy, (3,), (3, 1)),
    (jaxloss.cross_entropy, optax.softmax_cross_entropy, (3, 2), (1, 2)),
]


@pytest.mark.parametrize(("ours", "peer", "shape", "other"), SILENT)
def test_optax_broadcasts_silently(ours, peer, shape, other, without_annotations):
    arrays = jnp.ones(shape), jnp.ones(other)
    assert peer(*arrays).shape == ((3, 3) if shape == (3,) else (3,))
    with pytest.raises(ValueError, match=f"{ours.__name__}: ") as error:
        ours(*arrays)
    assert str(shape) in str(error.value)
    assert str(other) in str(error.value)


def test_torch_lets_an_ignored_nan_through_and_divides_by_zero():
    logits = np.array([[np.nan, 0.0], [0.0, 0.0]], np.float32)
    labels = np.array([-100, 0])
    loss = jaxloss.mean(jaxloss.masked(jaxloss.cross_entropy))

    tensor = torch.tensor(logits, requires_grad=True)
    F.cross_entropy(tensor, torch.tensor(labels)).backward()
    assert np.isnan(tensor.grad.numpy()[0]).any()
    gradient = jax.grad(loss)(jnp.asarray(logits), labels, where=labels != -100)
    np.testing.assert_allclose(gradient, [[0, 0], [-0.5, 0.5]])

    assert torch.isnan(F.cross_entropy(torch.zeros(2, 2), torch.tensor([-100, -100])))
    assert loss(jnp.zeros((2, 2)), labels, where=np.array([False, False])) == 0
