"""Values and gradients are the textbook's, also where the derivative jumps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import CASES, PRIMITIVES, each
from tests.helpers import value_and_gradient

KINKED = [case for case in CASES + PRIMITIVES if case.kinks]


@each(CASES + PRIMITIVES)
def test_value_and_gradient_equal_the_formula(case, rng, x64):
    arrays = case.arrays(rng)
    losses, gradient = value_and_gradient(lambda first: case(first, *arrays[1:]), arrays[0])
    assert losses.dtype == gradient.dtype == jnp.float64
    [(expected, slope)] = case.textbook([arrays])
    np.testing.assert_allclose(losses, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("case", KINKED, ids=lambda case: case.id)
def test_kinks_and_limits(case):
    """All of a case's kinks in one program: value, gradient in both modes, second derivative."""

    def modes(arrays):
        first, *others = (
            jnp.asarray(a, jnp.int32 if holds_integers(a) else jnp.float32) for a in arrays
        )

        def function(first):
            return case(first, *others)

        value, pullback = jax.vjp(function, first)
        [reverse] = pullback(jnp.ones_like(value))
        return value, reverse, jax.jacfwd(function)(first), jax.hessian(function)(first)

    results = jax.jit(lambda: [modes(arrays) for arrays, _, _ in case.kinks])()
    for (_, loss, gradient), (value, reverse, forward, second) in zip(
        case.kinks, results, strict=True
    ):
        np.testing.assert_allclose(value, np.float32(loss), rtol=4e-7)
        np.testing.assert_allclose(reverse, np.asarray(gradient, np.float32), rtol=4e-7, atol=1e-35)
        np.testing.assert_allclose(forward, np.asarray(gradient, np.float32), rtol=4e-7, atol=1e-35)
        if np.all(np.isfinite(gradient)):
            assert np.all(np.isfinite(second))
        assert case in PRIMITIVES or not np.signbit(value)


def holds_integers(argument):
    return np.asarray(argument).dtype.kind == "i"
