"""What several test files use."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np


@contextlib.contextmanager
def x64_enabled():
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def value_and_gradient(function, first):
    """A function's values and the gradient of their sum, in reverse mode."""

    @jax.jit
    def run(first):
        value, pullback = jax.vjp(function, first)
        return value, pullback(jnp.ones_like(value))[0]

    return tuple(map(np.asarray, run(first)))
