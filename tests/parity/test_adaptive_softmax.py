"""The adaptive softmax and PyTorch's, live, of the same weights: value, gradients, predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss._adaptive_softmax import AdaptiveSoftmax, adaptive_softmax
from tests.helpers import quick_jit

pytestmark = pytest.mark.parity

TOKENS, FEATURES, CLASSES = 60, 16, 100
LABELS = {
    "shuffled": (0, CLASSES),
    "head": (0, 6),
    "first-tail": (6, 30),
    "last-tail": (70, CLASSES),
}


def as_ours(module, of_weight=lambda weight: weight.detach()):
    """PyTorch's weights, or what is made of each, as our parameters."""
    layers = (module.head, *(layer for tail in module.tail for layer in tail))
    head, *rest = (jnp.asarray(of_weight(layer.weight).numpy().T) for layer in layers)
    bias = module.head.bias
    return AdaptiveSoftmax(
        head,
        tuple(zip(rest[::2], rest[1::2], strict=True)),
        None if bias is None else jnp.asarray(of_weight(bias).numpy()),
    )


def gradient(weight):
    """PyTorch has none of what no token visits."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


@quick_jit
def derivatives(hidden, parameters, labels, along):
    losses, pullback = jax.vjp(
        lambda *inputs: adaptive_softmax(*inputs, labels, block_size=8), hidden, parameters
    )
    return losses, pullback(along)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(
    ("cutoffs", "div_value"),
    [((6, 30), 4.0), ((6, 30), 2.0), ((6,), 4.0), ((6, 30, 70), 2.0), ((1, 2), 2.5)],
    ids=str,
)
def test_adaptive_softmax(cutoffs, div_value, bias, labels, rng):
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
        FEATURES, CLASSES, cutoffs, div_value=div_value, head_bias=bias
    )
    for parameter in theirs.parameters():  # Larger than PyTorch's, so that predictions differ.
        torch.nn.init.normal_(parameter)
    hidden = rng.normal(size=(TOKENS, FEATURES)).astype(np.float32)
    classes = rng.integers(*LABELS[labels], TOKENS)
    along = np.linspace(1, 2, TOKENS, dtype=np.float32)

    tensor = torch.tensor(hidden, requires_grad=True)
    log_probs, mean = theirs(tensor, torch.tensor(classes))
    (-log_probs * torch.tensor(along)).sum().backward()

    ours = as_ours(theirs)
    shapes = AdaptiveSoftmax.init(
        jax.random.key(0), FEATURES, CLASSES, cutoffs, div_value=div_value, head_bias=bias
    )
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, shapes)
    assert ours.cutoffs == cutoffs and ours.classes == CLASSES

    losses, (to_hidden, to_parameters) = derivatives(hidden, ours, classes, along)
    close = {"rtol": 2e-5, "atol": 2e-5}
    np.testing.assert_allclose(losses, -log_probs.detach().numpy(), **close)
    np.testing.assert_allclose(losses.mean(), mean.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(to_hidden, tensor.grad.numpy(), **close)
    for mine, its in zip(
        jax.tree.leaves(to_parameters),
        jax.tree.leaves(as_ours(theirs, gradient)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, its, **close)
    np.testing.assert_allclose(
        ours.log_probs(hidden), theirs.log_prob(tensor).detach().numpy(), **close
    )
    np.testing.assert_array_equal(ours.predict(hidden), theirs.predict(tensor).numpy())
