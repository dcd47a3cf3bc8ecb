"""Rows of where we differ on purpose: our answer is the truth, and the peer's is not.

A row goes when the peer mends it. Truths are exact values of the formula, computed by mpmath or by
hand, or what the policy of the README and the docstrings says.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch

INF = np.inf
f32, bf16 = jnp.float32, jnp.bfloat16


def row(id, ours, peer, arrays, truth):
    return pytest.param(ours, peer, arrays, truth, id=id)


def differ(ours, peer, arrays, truth):
    np.testing.assert_allclose(jax.jit(ours)(*arrays), truth, rtol=3e-6)
    answer = np.asarray(peer(*arrays), np.float64)
    assert not np.allclose(answer, truth, rtol=1e-3, atol=0, equal_nan=True)


def gradient_of(loss, by=0):
    return jax.grad(lambda *arrays: jnp.sum(loss(*arrays)), by)


def torch_gradient_of(loss):
    def gradient(first, *rest):
        tensors = [torch.tensor(np.asarray(a)) for a in (first, *rest)]
        tensors[0].requires_grad_()
        return torch.autograd.grad(loss(*tensors).sum(), tensors[0])[0].numpy()

    return gradient


def torch_value_of(loss):
    return lambda *arrays: loss(*(torch.tensor(np.asarray(a)) for a in arrays)).numpy()


def exact(*numbers):
    """A float32 array's own values, to mpmath."""
    return [mpmath.mpf(float(f32(number))) for number in numbers]
