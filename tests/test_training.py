"""Flax models, NNX and Linen, train with the losses under jit and Optax."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloss
from bench.averages import distance, trained


@pytest.fixture
def batch(rng):
    """Four clusters in the plane, a quarter of the points not to be counted."""
    labels = rng.integers(0, 4, 128).astype(np.int32)
    points = np.stack([labels // 2, labels % 2], -1) * 3 + rng.normal(size=(128, 2)) * 0.3
    where = rng.uniform(size=128) < 0.75
    points[~where] = np.nan
    return jnp.asarray(points, jnp.float32), jnp.asarray(labels), jnp.asarray(where)


pytestmark = pytest.mark.usefixtures("lenient_promotion")
LOSS = jaxloss.mean(jaxloss.masked(jaxloss.cross_entropy))


def test_nnx(batch):
    points, labels, where = batch
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 4, rngs=rngs))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def objective(model):
            # The model itself must not see a NaN: its parameters are shared by all points.
            return LOSS(model(jnp.where(where[:, None], points, 0)), labels, where=where)

        loss, gradient = nnx.value_and_grad(objective)(model)
        optimizer.update(model, gradient)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.05 * losses[0]


def test_linen(batch):
    points, labels, where = batch
    model = flax.linen.Dense(4)
    points = jnp.where(where[:, None], points, 0)
    parameters = model.init(jax.random.key(0), points)
    optimizer = optax.adam(0.3)

    @jax.jit
    def step(parameters, state):
        loss, gradient = jax.value_and_grad(
            lambda parameters: LOSS(model.apply(parameters, points), labels, where=where)
        )(parameters)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, loss

    state, losses = optimizer.init(parameters), []
    for _ in range(60):
        parameters, state, loss = step(parameters, state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


def test_training_in_steps_is_training_on_the_whole_batch():
    """Exactly, in both ways; Optax's mean of the steps' means ends elsewhere."""
    whole, _ = trained("one batch", updates=10, steps=4)
    for way in ("accumulated", "microbatched"):
        parameters, _ = trained(way, updates=10, steps=4)
        assert distance(parameters, whole) < 1e-6
    of_means, _ = trained("MultiSteps", updates=10, steps=4)
    assert distance(of_means, whole) > 1e-2
