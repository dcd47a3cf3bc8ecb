"""What goes in and what comes out: half and double precision, integers, NumPy, Python."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from tests.cases import BASE, CASES, OF_EACH_KIND, each
from tests.helpers import quick_jit, x64_enabled


def parameters(case):
    return inspect.signature(case.loss).parameters


HALVES = (jnp.float16, jnp.bfloat16, jnp.float32)
SAMPLES = {case.id: case.sample(np.random.default_rng(0)) for case in CASES}
LABELLED = [
    case
    for case in BASE
    if SAMPLES[case.id][-1].dtype.kind in "iu" and "signs" not in parameters(case)
]
SCALARS = [case for case in BASE if case.elementwise]


@each(CASES, quick=OF_EACH_KIND)
def test_low_precision_is_computed_in_float32(case, rng):
    """The loss is the formula's at the rounded inputs, and the gradient is rounded once."""
    samples = {dtype: case.arrays(rng, dtype) for dtype in HALVES}

    @quick_jit
    def run(samples):
        def loss_and_gradient(first, *others):
            value, pullback = jax.vjp(lambda first: case(first, *others), first)
            return value, pullback(jnp.ones_like(value))[0]

        return [loss_and_gradient(*arrays) for arrays in samples]

    exact = [
        [a.astype(np.float64) if a.dtype == dtype else a for a in arrays]
        for dtype, arrays in samples.items()
    ]
    with x64_enabled():
        expected = case.textbook(exact)
    for dtype, (losses, gradient), (value, slope) in zip(
        samples, run(list(samples.values())), expected, strict=True
    ):
        assert losses.dtype == jnp.float32
        assert gradient.dtype == dtype
        np.testing.assert_allclose(losses, value, rtol=3e-6, atol=1e-6)
        np.testing.assert_allclose(
            np.asarray(gradient, np.float64),
            slope,
            rtol=0.51 * float(jnp.finfo(dtype).eps) + 2e-6,
            atol=2e-6,
        )


@each(BASE, quick=[case for case in BASE if case.name in {"js_divergence", "cosine_embedding"}])
@pytest.mark.parametrize("order", [1, -1], ids=["first narrow", "last narrow"])
def test_each_gradient_has_the_dtype_of_its_argument(case, order, rng):
    """And is the one of wide arrays of the same numbers, rounded once."""
    arrays = case.arrays(rng, np.float32)
    floating = [n for n, a in enumerate(arrays) if a.dtype == np.float32]
    dtypes = [jnp.bfloat16, *[jnp.float32] * (len(floating) - 1)][::order]
    given = [jnp.asarray(arrays[n], dtype) for n, dtype in zip(floating, dtypes, strict=True)]

    @quick_jit
    def gradients(given):
        def loss(*given):
            full = list(arrays)
            for n, array in zip(floating, given, strict=True):
                full[n] = array
            return jnp.sum(case(*map(jnp.asarray, full)))

        places = range(len(given))
        return jax.grad(loss, places)(*given), jax.grad(loss, places)(
            *(array.astype(jnp.float32) for array in given)
        )

    for found, wide, dtype in zip(*gradients(given), dtypes, strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(found, np.float32),
            wide,
            rtol=0.51 * float(jnp.finfo(dtype).eps) + 1e-6,
            atol=1e-7,
        )


@each(BASE, quick=OF_EACH_KIND)
def test_numpy_arrays_are_accepted(case, rng):
    """Closed over, so that the loss sees NumPy's arrays and not what jit makes of them."""
    arrays = case.arrays(rng, np.float32)
    # NumPy's default dtype is what its users pass; without x64 JAX makes it float32.
    doubles = [a.astype(np.float64) if a.dtype.kind == "f" else a.astype(np.int64) for a in arrays]
    on_device = [jnp.asarray(a) for a in arrays]
    expected, *results = quick_jit(lambda: [case(*a) for a in (on_device, arrays, doubles)])()
    for losses in results:
        assert losses.dtype == jnp.float32
        np.testing.assert_array_equal(losses, expected)


@pytest.mark.parametrize("case", SCALARS, ids=lambda case: case.id)
def test_python_scalars_are_accepted(case):
    rest = [1] * (len(SAMPLES[case.id]) - 1)
    floats = [1.0 for _ in rest]
    alike = [(0.25, *rest), (jnp.float32(0.25), *map(np.float32, rest)), (0.25, *floats)]
    integers = [(2, *rest), (2.0, *floats)]
    if "signs" not in parameters(case):
        integers.append((jnp.float32(2), *(True for _ in rest)))
    for calls in (alike, integers):
        expected, *results = quick_jit(lambda calls=calls: [case(*call) for call in calls])()
        assert expected.shape == () and expected.dtype == jnp.float32
        for loss in results:
            np.testing.assert_array_equal(loss, expected)


@each(CASES, quick=OF_EACH_KIND)
def test_single_precision_stays_single(case, rng, x64):
    """Where float64 is allowed, of which NumPy's options are: losses and every gradient."""
    arrays = case.arrays(rng, np.float32)
    floating = [n for n, a in enumerate(arrays) if a.dtype == np.float32]

    def modes(*xs):
        full = list(arrays)
        for n, x in zip(floating, xs, strict=True):
            full[n] = x
        losses, pullback = jax.vjp(lambda *xs: case(*xs), *map(jnp.asarray, full))
        return losses, [pullback(losses)[n] for n in floating]

    shapes = jax.eval_shape(modes, *(arrays[n] for n in floating))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_python_scalars_do_not_widen(x64):
    assert jaxloss.squared_error(jnp.float32(1), 0.0).dtype == jnp.float32
    assert jaxloss.squared_error(jnp.float32(1), np.int64(0)).dtype == jnp.float32
    assert jaxloss.squared_error(1.0, 0).dtype == jnp.float64


def test_wide_integers_are_not_wrapped():
    assert float(jaxloss.squared_error(np.array(2**32 + 1), np.array(2**32))) == 0.0
    assert float(jaxloss.absolute_error(2**40, 0)) == 2**40


@each(LABELLED, quick=[case for case in LABELLED if case in OF_EACH_KIND])
def test_labels_of_any_integer_dtype(case, rng, x64):
    first, labels = case.arrays(rng)
    dtypes = ["int8", "int16", "int32", "int64"]
    if labels.min() >= 0:  # A list of labels ends at -1.
        dtypes += ["uint8", "uint16", "uint32"]

    def losses():
        of_numpy = [case(first, labels.astype(dtype)) for dtype in dtypes]
        return case(first, labels), of_numpy, case(first, jnp.asarray(labels.astype("int8")))

    expected, of_numpy, of_jax = quick_jit(losses)()
    for actual in (*of_numpy, of_jax):
        np.testing.assert_array_equal(actual, expected)


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
