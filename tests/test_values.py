"""Values and gradients are the textbook's, also where the derivative jumps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import CASES, PRIMITIVES
from tests.helpers import value_and_gradient

KINKS = [
    pytest.param(case, *kink, id=f"{case.id}-{n}")
    for case in CASES + PRIMITIVES
    for n, kink in enumerate(case.kinks)
]


@pytest.mark.parametrize("case", CASES + PRIMITIVES, ids=lambda case: case.id)
def test_value_and_gradient_equal_the_formula(case, rng, x64):
    arrays = tuple(jnp.asarray(a) for a in case.arrays(rng))
    losses, gradient = value_and_gradient(lambda first: case(first, *arrays[1:]), arrays[0])
    np.testing.assert_allclose(losses, case.plain(*arrays), rtol=1e-12, atol=1e-14)
    expected = case.gradient(*map(np.asarray, arrays), **case.options)
    np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("case", "arrays", "loss", "gradient"), KINKS)
def test_kinks_and_limits(case, arrays, loss, gradient):
    first, *others = (
        jnp.asarray(a, jnp.int32 if isinstance(a, int) else jnp.float32) for a in arrays
    )

    def function(first):
        return case(first, *others)

    @jax.jit
    def modes(first):
        value, pullback = jax.vjp(function, first)
        [gradient] = pullback(jnp.ones_like(value))
        return value, gradient, jax.jacfwd(function)(first), jax.hessian(function)(first)

    value, reverse, forward, second = modes(first)
    np.testing.assert_allclose(value, np.float32(loss), rtol=2e-7)
    np.testing.assert_allclose(reverse, np.asarray(gradient, np.float32), rtol=2e-7)
    np.testing.assert_allclose(forward, np.asarray(gradient, np.float32), rtol=2e-7)
    if np.all(np.isfinite(gradient)):
        assert np.all(np.isfinite(second))


def test_losses_at_kinks_are_neither_negative_nor_minus_zero():
    for case in CASES:
        for arrays, *_ in case.kinks:
            first, *others = (
                jnp.asarray(a, jnp.int32 if isinstance(a, int) else jnp.float32) for a in arrays
            )
            assert not np.signbit(jax.jit(case.__call__)(first, *others)), (case.id, arrays)
