"""Values and gradients are the textbook's."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import CASES, IN_FEWER_MODES, PRIMITIVES, QUICK, each
from tests.helpers import value_and_gradient

pytestmark = pytest.mark.optimized


# Of the others `test_first_and_second_order` compares values and gradients to fewer digits.
@each(CASES + PRIMITIVES, quick=[case for case in QUICK if case not in IN_FEWER_MODES])
def test_value_and_gradient_equal_the_formula(case, rng, x64):
    arrays = case.arrays(rng)
    losses, gradient = value_and_gradient(lambda first: case(first, *arrays[1:]), arrays[0])
    assert losses.dtype == gradient.dtype == jnp.float64
    [(expected, slope)] = case.textbook([arrays])
    np.testing.assert_allclose(losses, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-14)
