"""Large means of elementwise losses, summed in parts, are what they are at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxloss
from jaxloss import _parts
from tests.cases import CASES, each
from tests.helpers import x64_enabled

pytestmark = pytest.mark.optimized

IN_PARTS = [
    case
    for case in CASES
    if _parts.is_summed_in_parts(getattr(jaxloss, case.name))
    and all(isinstance(option, (bool, int, float)) for option in case.options.values())
]


@pytest.fixture
def in_parts(monkeypatch):
    """Parts of 128 numbers, as on a single device."""
    jax.clear_caches()
    monkeypatch.setattr(_parts, "_PART", 128)
    monkeypatch.setattr(_parts, "_WIDTH", 64)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    yield
    monkeypatch.undo()
    jax.clear_caches()


def loops(function, *arrays):
    return jax.jit(function).lower(*arrays).as_text().count("stablehlo.while")


def large(case, rng, dtype=np.float64, shape=(10, 30)):
    """The case's arrays: two parts, and some more numbers."""
    return [jnp.asarray(np.resize(array, shape)) for array in case.arrays(rng, dtype)]


def at_once(loss, *arrays):
    return jnp.mean(loss(*arrays))


@each(IN_PARTS, quick=[case for case in IN_PARTS if not case.options])
def test_the_mean_and_its_derivatives_are_those_of_the_whole(case, rng, in_parts):
    with x64_enabled():
        first, *others = large(case, rng)
        loss = functools.partial(getattr(jaxloss, case.name), **case.options)
        along = jnp.cos(jnp.arange(first.size, dtype=first.dtype)).reshape(first.shape)

        def modes(mean, first, along):
            def total(first):
                return mean(first, *others)

            product = jax.jvp(jax.grad(total), (first,), (along,))[1]
            beside = jax.jvp(jax.value_and_grad(total), (first,), (along,))[1][0]
            return jax.value_and_grad(total)(first), product, beside

        found, expected = (
            jax.jit(functools.partial(modes, mean))(first, along)
            for mean in (jaxloss.mean(loss), functools.partial(at_once, loss))
        )
        for got, known in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, known, rtol=1e-12, atol=1e-14)
        assert loops(jaxloss.mean(loss), first, *others)


def test_each_argument_has_its_gradient(rng, in_parts):
    arrays = [jnp.array(rng.uniform(0.5, 2, (3, 100)), jnp.float32) for _ in range(3)]
    found = jax.grad(jaxloss.sum(jaxloss.gaussian_nll), (0, 1, 2))(*arrays)
    expected = jax.grad(lambda *arrays: jnp.sum(jaxloss.gaussian_nll(*arrays)), (0, 1, 2))(*arrays)
    for got, known in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, known, rtol=1e-6)


def test_half_precision_integers_and_mapped_batches_are_summed_in_parts(rng, in_parts):
    logits = jnp.array(rng.normal(size=(4, 300)), jnp.bfloat16)
    targets = jnp.array(rng.integers(0, 2, (4, 300)))
    loss = jaxloss.binary_cross_entropy_with_logits
    mean = jaxloss.mean(loss)
    assert loops(mean, logits, targets) and loops(jax.vmap(mean), logits, targets)
    expected = jnp.mean(loss(logits, targets), 1)
    assert expected.dtype == jnp.float32
    np.testing.assert_allclose(jax.vmap(mean)(logits, targets), expected, rtol=1e-6)
    np.testing.assert_allclose(mean(logits, targets), expected.mean(), rtol=1e-6)
    gradient = jax.vmap(jax.grad(mean))(logits, targets)
    assert gradient.dtype == jnp.bfloat16
    known = jax.grad(lambda z: jnp.sum(jnp.mean(loss(z, targets), 1)))(logits)
    np.testing.assert_array_equal(np.asarray(gradient), np.asarray(known))


def test_other_reductions_and_numbers_in_front(rng, in_parts):
    loss = jaxloss.binary_cross_entropy_with_logits
    arrays = [jnp.array(rng.uniform(size=300), jnp.float32) for _ in range(2)]
    values = loss(*arrays)
    pooled = jaxloss.pooled(loss)(*arrays)
    np.testing.assert_allclose(pooled.losses, values.sum(), rtol=1e-6)
    assert pooled.weights == 300
    scaled = jaxloss.mean(jaxloss.scaled(loss, 0.5))
    np.testing.assert_allclose(scaled(*arrays), values.mean() / 2, rtol=1e-6)
    jitted = jaxloss.mean(functools.partial(jax.jit(loss), label_smoothing=0.5))
    known = loss(*arrays, label_smoothing=0.5).mean()
    np.testing.assert_allclose(jitted(*arrays), known, rtol=1e-6)
    for reduced in (jaxloss.pooled(loss), scaled, jitted):
        assert loops(reduced, *arrays)


def test_what_is_not_summed_in_parts(rng, in_parts):
    logits, targets = jnp.array(rng.normal(size=(3, 100))), jnp.ones((3, 100))
    loss = jaxloss.binary_cross_entropy_with_logits
    assert loops(jaxloss.mean(loss), logits, targets)
    assert not loops(jaxloss.mean(loss), logits[:2], targets[:2])  # Less than two parts.
    assert not loops(jaxloss.mean(loss, axis=0), logits, targets)
    assert not loops(lambda *a: jaxloss.mean(loss)(*a, pos_weight=jnp.ones(100)), logits, targets)
    assert not loops(lambda s: jaxloss.mean(loss)(logits, targets, label_smoothing=s), 0.5)
    assert not loops(jaxloss.mean(functools.partial(loss, targets=targets)), logits)
    assert not loops(jaxloss.mean(functools.partial(loss, logits)), targets)
    assert not loops(jaxloss.mean(lambda *arrays: loss(*arrays)), logits, targets)
    assert not loops(jaxloss.mean(jaxloss.squared_error), logits, targets)
    where = jnp.ones((3, 100), bool)
    assert not loops(
        lambda *a: jaxloss.mean(jaxloss.masked(loss))(*a, where=where), logits, targets
    )
    with pytest.raises(ValueError, match=r"got 2.0 at index \(2, 99\)"):
        jaxloss.checked(jaxloss.mean(loss))(logits, targets.at[2, 99].set(2))


def test_wrong_calls_are_refused_as_ever(in_parts):
    numbers = jnp.ones(300)
    mean = jaxloss.mean(jaxloss.poisson_nll)
    with pytest.raises(TypeError, match="unexpected keyword"):
        mean(numbers, numbers, gamma=1.0)
    mean(numbers, numbers, full=True)
    with pytest.raises(TypeError, match="full"):
        mean(numbers, numbers, full=1)
    # Messages are of the caller's arrays, not of a part.
    with pytest.raises(Exception, match="300") as error:
        mean(numbers.astype(jnp.complex64), numbers)
    assert "64]" not in str(error.value) and "64)" not in str(error.value)
    with pytest.raises(TypeError, match="missing"):
        mean()
    found = mean(predictions=jnp.zeros(()), targets=jnp.ones(()))
    assert found == jaxloss.poisson_nll(jnp.zeros(()), jnp.ones(()))


def test_arrays_on_several_devices_are_summed_where_they_are(rng):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    arrays = [jax.ShapeDtypeStruct((2**19,), jnp.float32, sharding=spread)] * 2
    program = jax.jit(jax.grad(jaxloss.mean(jaxloss.soft_margin))).lower(*arrays)
    assert "stablehlo.while" not in program.as_text()
    assert "all-gather" not in program.compile().as_text()


def test_sizes_may_be_symbols(in_parts):
    rows = jax.ShapeDtypeStruct((*export.symbolic_shape("rows"), 300), jnp.float32)
    exported = export.export(jax.jit(jaxloss.mean(jaxloss.absolute_percentage_error)))(rows, rows)
    assert exported.call(jnp.ones((2, 300)), jnp.full((2, 300), 2.0)) == 0.5


def test_a_second_call_outside_jit_compiles_nothing(in_parts, caplog):
    numbers = jnp.ones(300)
    step = jax.value_and_grad(lambda x: jaxloss.mean(jaxloss.sigmoid_focal)(x, numbers, gamma=0.5))
    step(numbers)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        step(numbers)
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]


@each(IN_PARTS, quick=[case for case in IN_PARTS if not case.options])
def test_value_and_gradient_hold_next_to_nothing(case, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    loss = functools.partial(getattr(jaxloss, case.name), **case.options)
    count = len(case.arrays(np.random.default_rng(0), np.float32))
    arrays = [jax.ShapeDtypeStruct((2**24,), jnp.float32)] * count
    compiled = jax.jit(jax.value_and_grad(jaxloss.mean(loss))).lower(*arrays).compile()
    # The gradient of focal loss computes a logarithm in a kernel of its own.
    inputs = 1 if case.name == "sigmoid_focal" else 0
    held = compiled.memory_analysis().temp_size_in_bytes
    assert held <= (inputs + 0.01) * 4 * 2**24


def test_narrow_arrays_are_not_widened_before_the_loop(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    arrays = [jax.ShapeDtypeStruct((2**22,), jnp.bfloat16)] * 2
    mean = jaxloss.mean(jaxloss.binary_cross_entropy_with_logits)
    held = jax.jit(mean).lower(*arrays).compile().memory_analysis().temp_size_in_bytes
    assert held < 0.75 * 2 * 4 * 2**22  # Three quarters of both in float32.
