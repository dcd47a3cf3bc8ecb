"""The bench's table of losses: it leaves none out, and its peers compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.losses import LOSSES
from tests.cases import CASES
from tests.helpers import quick_jit

WITH_A_PEER = [loss for loss in LOSSES if loss.optax is not None]


def test_every_loss_has_a_row():
    names = {loss.name.split(",")[0] for loss in LOSSES}
    assert {case.name for case in CASES} <= names
    assert len({loss.name for loss in LOSSES}) == len(LOSSES)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_inputs_are_as_announced(loss):
    size = loss.sizes[0]
    drawn = jax.eval_shape(lambda: loss.arrays(*size, jnp.bfloat16))
    announced = loss.shapes(*size, jnp.bfloat16)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), drawn, announced)
    assert jax.tree.all(same)


@pytest.mark.parametrize("loss", WITH_A_PEER, ids=lambda loss: loss.name)
def test_optax_computes_the_same(loss, lenient_promotion):
    arrays = loss.arrays(*loss.sizes[0], jnp.float32)
    ours, theirs = quick_jit(lambda arrays: (loss.mean(*arrays), jnp.mean(loss.optax(*arrays))))(
        arrays
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
