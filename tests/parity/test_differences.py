"""Where we differ on purpose: our answer is the truth, and the peer's is not.

A row goes when the peer mends it. Truths are exact values of the formula, computed by mpmath or by
hand.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import jaxloss

pytestmark = pytest.mark.parity

TAIL = float(mpmath.log1p(mpmath.exp(-20)))
LN2 = float(mpmath.log(2))
INF = np.inf


def gradient_of(loss):
    return lambda first, *rest: jax.grad(lambda x: jnp.sum(loss(x, *rest)))(first)


def torch_gradient_of(loss):
    def gradient(first, *rest):
        tensors = [torch.tensor(np.asarray(a)) for a in (first, *rest)]
        tensors[0].requires_grad_()
        return torch.autograd.grad(loss(*tensors).sum(), tensors[0])[0].numpy()

    return gradient


def torch_value_of(loss):
    return lambda *arrays: loss(*(torch.tensor(np.asarray(a)) for a in arrays)).numpy()


def long_labels(loss):
    return lambda logits, labels: loss(logits, labels.long())


index = jaxloss.cross_entropy
optax_index = optax.softmax_cross_entropy_with_integer_labels
torch_index = long_labels(F.cross_entropy)
logistic = jaxloss.binary_cross_entropy_with_logits
f32, bf16 = jnp.float32, jnp.bfloat16


def row(id, ours, peer, arrays, truth):
    return pytest.param(ours, peer, arrays, truth, id=id)


ROWS = [
    row(
        "optax-offset",
        index,
        optax_index,
        (f32([1e8, 1e8]), jnp.int32(0)),
        LN2,
    ),
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
        [-float(mpmath.exp(-20) / (1 + mpmath.exp(-20))), 2.0611537e-09],
    ),
    row("torch-tail", index, torch_value_of(torch_index), (f32([20, 0]), jnp.int32(0)), TAIL),
    row(
        "optax-label-minus-one",
        index,
        optax_index,
        (f32([1, 2, 3]), jnp.int32(-1)),
        np.nan,
    ),
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
]


@pytest.mark.parametrize(("ours", "peer", "arrays", "truth"), ROWS)
def test_we_are_right_where_the_peer_is_not(ours, peer, arrays, truth):
    np.testing.assert_allclose(ours(*arrays), truth, rtol=3e-6)
    answer = np.asarray(peer(*arrays), np.float64)
    assert not np.allclose(answer, truth, rtol=1e-3, atol=0, equal_nan=True)


def test_optax_broadcasts_silently(without_annotations):
    column, row = jnp.ones((3, 1)), jnp.ones(3)
    assert optax.huber_loss(row, column).shape == (3, 3)
    with pytest.raises(ValueError, match=r"huber: .* \(3,\) and targets \(3, 1\)"):
        jaxloss.huber(row, column)


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
