"""A loss of each kind with and without jit, of arrays on the device and of NumPy's."""

import chex
import jax
import numpy as np
from absl.testing import parameterized

import jaxloss
from tests.cases import CASES
from tests.helpers import x64_enabled

KINDS = {"huber", "cross_entropy", "kl_divergence", "triplet_margin"}


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    @parameterized.named_parameters((case.id, case) for case in CASES if case.id in KINDS)
    def test_mean(self, case):
        arrays = case.arrays(np.random.default_rng(0), np.float32)
        actual = self.variant(jaxloss.mean(case.bound))(*arrays)
        doubles = (a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays)
        with x64_enabled():
            first, *rest = doubles
            expected = np.asarray(jax.jit(lambda first: case.plain(first, *rest))(first))
        chex.assert_shape(actual, ())
        np.testing.assert_allclose(actual, expected.mean(), rtol=2e-6)
