"""Powers of two and leading digits are those of the numbers, on every platform."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss import _bits

pytestmark = pytest.mark.optimized

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_two(dtype, x64):
    limits = np.finfo(dtype)
    exponents = np.arange(limits.minexp, limits.maxexp).astype(dtype)
    powers = _bits.power_of_two(jnp.asarray(exponents))
    assert powers.dtype == dtype
    np.testing.assert_array_equal(powers, np.ldexp(dtype(1), exponents.astype(int)))
    below = jnp.array([limits.minexp - 1, -1e30, -np.inf], dtype)
    np.testing.assert_array_equal(_bits.power_of_two(below), [0, 0, 0])
    above = jnp.array([limits.maxexp, 1e30, np.inf], dtype)
    np.testing.assert_array_equal(_bits.power_of_two(above), powers[-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponents_and_digits(dtype, rng, x64):
    limits = np.finfo(dtype)
    values = np.exp2(rng.uniform(limits.minexp, limits.maxexp - 1, 300)).astype(dtype)
    edges = np.array([1, 2, np.nextafter(dtype(2), dtype(1)), limits.tiny], dtype)
    values = jnp.asarray(np.concatenate([values, edges]))
    mantissas, exponents = np.frexp(values)
    np.testing.assert_array_equal(_bits.exponents_of(values), exponents - 1)
    count = (limits.nmant + 1) // 2
    rounded = np.ldexp(np.rint(np.ldexp(mantissas, count)), exponents - count)
    np.testing.assert_array_equal(_bits.upper_half(values), rounded)
    within = values[(values > 8 * limits.tiny) & (values < limits.max / 8)]
    ratios = within / _bits.power_near(within)
    assert np.all((ratios >= 0.75) & (ratios <= 1.5))
    ends = _bits.power_near(jnp.array([0, limits.tiny, limits.max, np.inf], dtype))
    assert np.all(np.isfinite(ends) & np.isfinite(1 / ends) & (1 / ends >= limits.tiny))
    back = _bits.times_power_of_two(jnp.asarray(mantissas), jnp.asarray(exponents, dtype))
    np.testing.assert_array_equal(back, values)


def test_float64_by_the_first_float32_of_a_pair(x64):
    """What a TPU does; no array of such is at hand here."""
    exponents = jnp.arange(-126.0, 128.0)
    powers = _bits._of_float32(_bits._power_of_two, exponents)
    assert powers.dtype == np.float64
    np.testing.assert_array_equal(powers, np.exp2(exponents))
    np.testing.assert_array_equal(_bits._of_float32(_bits._exponents_of, powers), exponents)
    near = _bits._of_float32(_bits._power_near, jnp.array([0, 1e-300, 3, 1e300]))
    assert near[2] in (2, 4)
    assert np.all((near > 1e-38) & (near < 1e38))


@pytest.mark.parametrize(
    "loss",
    [jaxloss.sigmoid_focal, jaxloss.cosine_distance, jaxloss.js_divergence, jaxloss.log_cosh],
    ids=lambda loss: loss.__name__,
)
def test_a_tpu_is_not_asked_for_bits_of_float64(loss, x64):
    """XLA does not compile the one for it, and gives the bits of something else for the other."""
    array = jax.ShapeDtypeStruct((4, 8), jnp.float64)

    def asked(platform):
        gradient = jax.jit(jax.grad(lambda *arrays: jnp.sum(loss(*arrays))))
        text = jax.export.export(gradient, platforms=[platform])(array, array).mlir_module()
        lines = re.findall(r".*(?:reduce_precision|bitcast_convert).*", text)
        return [line for line in lines if "f64" in line]

    assert not asked("tpu")
    assert asked("cpu")
