"""What goes in and what comes out: half and double precision, integers, NumPy, Python."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from tests.cases import CASES
from tests.helpers import value_and_gradient, x64_enabled

LABELLED = [case for case in CASES if case.sample(np.random.default_rng(0))[1].dtype.kind in "iu"]
ELEMENTWISE = [case for case in CASES if not case.reduces]


def loss_and_gradient(case, arrays):
    first, *others = arrays
    return value_and_gradient(lambda first: case(first, *others), first)


@pytest.mark.parametrize(
    "dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_low_precision_is_computed_in_float32(case, dtype, rng):
    """The loss is the formula's at the rounded inputs, and the gradient is rounded once."""
    arrays = [jnp.asarray(a) for a in case.arrays(rng, dtype)]
    losses, gradient = loss_and_gradient(case, arrays)
    assert losses.dtype == jnp.float32
    assert gradient.dtype == dtype
    exact = [np.asarray(a, np.float64) if a.dtype == dtype else np.asarray(a) for a in arrays]
    with x64_enabled():
        expected = case.plain(*exact)
    np.testing.assert_allclose(losses, expected, rtol=3e-6, atol=3e-7)
    np.testing.assert_allclose(
        np.asarray(gradient, np.float64),
        case.gradient(*exact, **case.options),
        rtol=0.51 * float(jnp.finfo(dtype).eps) + 2e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_double_precision_stays_double(case, rng, x64):
    losses, gradient = loss_and_gradient(case, [jnp.asarray(a) for a in case.arrays(rng)])
    assert losses.dtype == gradient.dtype == jnp.float64


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_numpy_arrays_are_accepted(case, rng):
    arrays = case.arrays(rng, np.float32)
    on_device = case(*map(jnp.asarray, arrays))
    np.testing.assert_array_equal(case(*arrays), on_device)
    # NumPy's default dtype is what its users pass; without x64 JAX makes it float32.
    doubles = [a.astype(np.float64) if a.dtype.kind == "f" else a.astype(np.int64) for a in arrays]
    assert case(*doubles).dtype == jnp.float32
    np.testing.assert_array_equal(case(*doubles), on_device)


@pytest.mark.parametrize("case", ELEMENTWISE, ids=lambda case: case.id)
def test_python_scalars_are_accepted(case):
    if np.ndim(case.options.get("pos_weight", 1.0)):
        case = next(other for other in CASES if other.id == case.name)
    loss = case(0.25, 0.75)
    assert loss.shape == () and loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, case(jnp.float32(0.25), np.float32(0.75)))
    np.testing.assert_array_equal(case(1, 0), case(1.0, 0.0))
    np.testing.assert_array_equal(case(jnp.float32(1), True), case(1.0, 1.0))


def test_python_scalars_do_not_widen(x64):
    assert jaxloss.squared_error(jnp.float32(1), 0.0).dtype == jnp.float32
    assert jaxloss.squared_error(jnp.float32(1), np.int64(0)).dtype == jnp.float32
    assert jaxloss.squared_error(1.0, 0).dtype == jnp.float64


def test_wide_integers_are_not_wrapped():
    assert float(jaxloss.squared_error(np.array(2**32 + 1), np.array(2**32))) == 0.0
    assert float(jaxloss.absolute_error(2**40, 0)) == 2**40


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("case", LABELLED, ids=lambda case: case.id)
def test_labels_of_any_integer_dtype(case, dtype, rng, x64):
    first, labels = case.arrays(rng)
    expected = case(first, labels)
    np.testing.assert_array_equal(case(first, jnp.asarray(labels.astype(dtype))), expected)
    np.testing.assert_array_equal(case(first, labels.astype(dtype)), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_narrow_labels_reach_only_the_classes_they_can_name(dtype, rng):
    logits = rng.normal(size=(2, 300)).astype(np.float32)
    labels = np.array([127, 100], dtype)
    expected = jaxloss.cross_entropy(logits, labels.astype(np.int32))
    np.testing.assert_array_equal(jaxloss.cross_entropy(logits, labels), expected)


def test_targets_are_not_rounded_to_the_precision_of_the_logits():
    logits = jnp.array([8.0], jnp.bfloat16)
    loss = jaxloss.binary_cross_entropy_with_logits(logits, jnp.array([0.999]))
    np.testing.assert_allclose(loss, [8.3354e-3], rtol=1e-4)
