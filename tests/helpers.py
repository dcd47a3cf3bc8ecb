"""What several test files use."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@contextlib.contextmanager
def x64_enabled():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def exhaustive(*values):
    """Parameters of a test that `make test` leaves to `make test-exhaustive`."""
    return [pytest.param(value, marks=pytest.mark.exhaustive) for value in values]


def quick_jit(function):
    """`jax.jit` without XLA's optimisations, for laws that hold with and without them.

    Most of the suite's time goes into compiling programs that run once; so it takes less than half.
    """
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return jax.jit(function, compiler_options=options)


def value_and_gradient(function, first):
    """A function's values and the gradient of their sum, in reverse mode."""

    @jax.jit
    def run(first):
        value, pullback = jax.vjp(function, first)
        return value, pullback(jnp.ones_like(value))[0]

    return tuple(map(np.asarray, run(first)))
