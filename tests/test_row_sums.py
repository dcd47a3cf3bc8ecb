"""Sums over a softmax's rows: the one reading of accelerators gives what the two of a CPU give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss import _row_sums
from jaxloss._row_sums import (
    by_rows,
    maximum_and_others_once,
    maximum_and_others_twice,
    maximum_rest_and_ties_once,
    maximum_rest_and_ties_twice,
)
from tests.helpers import quick_jit, x64_enabled

INF, NAN = np.inf, np.nan
ROWS = np.array(
    [
        [0.0, 1.0, 2.0, 3.0, 4.0],
        [4.0, 3.0, 2.0, 1.0, 0.0],
        [20.0, 0.0, -1.0, -2.0, 0.5],
        [-80.0, 0.0, -1.0, -80.0, 0.5],
        [7.0, 7.0, 7.0, 7.0, 7.0],
        [1e8, 1e8 + 8, 1e8 - 16, 0.0, -1e8],
        [-INF, 1.0, -INF, 2.0, 2.0],
        [1.0, -INF, -INF, -INF, -INF],
        [-3e38, 3e38, 0.0, -INF, 3e38],
    ],
    np.float32,
)
ODD = np.array([[-INF] * 5, [INF, 0, 1, 2, 3], [0, NAN, 1, 2, 3], [INF] * 5], np.float32)
WEIGHTS = np.linspace(0, 1, ROWS.size, dtype=np.float32).reshape(ROWS.shape)
LABELS = [[k] * len(ROWS) for k in (0, 1, 4)]


def arrays_of(function, *arrays):
    return [np.asarray(found) for found in jax.jit(function)(*arrays)]


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: f"label {labels[0]}")
def test_the_sum_of_the_others_is_the_same(labels):
    index = jnp.array(labels)[:, None]
    (m, rest), (n, other) = (
        arrays_of(functools.partial(function, axis=1), ROWS, index)
        for function in (maximum_and_others_once, maximum_and_others_twice)
    )
    np.testing.assert_array_equal(m, n)
    np.testing.assert_allclose(rest, other, rtol=5e-7, atol=1e-37)


def test_the_sum_below_the_maximum_and_its_ties_are_the_same():
    once, twice = (
        arrays_of(functools.partial(function, 1), ROWS, WEIGHTS)
        for function in (maximum_rest_and_ties_once, maximum_rest_and_ties_twice)
    )
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_allclose(once[1], twice[1], rtol=5e-7, atol=1e-37)
    np.testing.assert_array_equal(once[2], twice[2])
    for found, expected in zip(once[3:], twice[3:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=5e-7)


@pytest.mark.parametrize("label", [0, 3])
def test_what_is_no_softmax_is_nan(label):
    index = jnp.full((len(ODD), 1), label)
    assert np.all(
        np.isnan(arrays_of(functools.partial(maximum_and_others_once, axis=1), ODD, index)[1])
    )
    assert np.all(np.isnan(arrays_of(functools.partial(maximum_rest_and_ties_once, 1), ODD)[1]))


def pairwise(operands, initial, merged, axes):
    """As an accelerator reduces: in a tree."""
    [axis] = axes
    parts = [jnp.moveaxis(operand, axis, 0) for operand in operands]
    while len(parts[0]) > 1:
        half = len(parts[0]) // 2
        parts = merged([part[:half] for part in parts], [part[half:] for part in parts])
    return [part[0] for part in parts]


@pytest.mark.parametrize("ahead", [0.0, 12.0])
def test_no_accuracy_is_lost_in_merging(ahead, rng, monkeypatch):
    monkeypatch.setattr("jax.lax.reduce", pairwise)
    logits = (3 * rng.normal(size=(256, 1024))).astype(np.float32)
    labels = rng.integers(0, 1024, 256)
    logits[np.arange(256), labels] += ahead
    others = functools.partial(maximum_and_others_once, axis=1)
    m, rest = arrays_of(others, logits, labels[:, None])
    exact = np.exp(logits.astype(np.float64) - np.asarray(m, np.float64))
    exact[np.arange(256), labels] = 0
    exact = exact.sum(1, keepdims=True)
    assert np.max(np.abs(rest - exact) / np.spacing(exact.astype(np.float32))) < 4
    m, rest, ties = arrays_of(functools.partial(maximum_rest_and_ties_once, 1), logits)
    exact = np.exp(logits.astype(np.float64) - np.asarray(m, np.float64)).sum(1, keepdims=True) - 1
    assert np.all(ties == 1)
    assert np.max(np.abs(rest - exact) / np.spacing(exact.astype(np.float32))) < 4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_other_dtypes_and_axes_are_served(dtype):
    with x64_enabled():
        logits, index = jnp.asarray(ROWS[:4].T, dtype), jnp.array([[0, 1, 0, 3]])
        for once, twice in (
            (maximum_and_others_once(logits, index, 0), maximum_and_others_twice(logits, index, 0)),
            (maximum_rest_and_ties_once(0, logits), maximum_rest_and_ties_twice(0, logits)),
        ):
            for found, expected in zip(once, twice, strict=True):
                assert found.dtype == expected.dtype and found.shape == expected.shape == (1, 4)
                np.testing.assert_allclose(found, expected, rtol=5e-7)


@pytest.fixture
def in_one_reading(monkeypatch):
    """Losses that read once on the CPU too."""
    choose = lambda *arrays, cpu, default: default(*arrays)  # noqa: E731
    monkeypatch.setattr(_row_sums.jax.lax, "platform_dependent", choose)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", ["labels", "probabilities"])
def test_losses_work_in_every_mode_in_one_reading(target, rng, request):
    logits = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    targets = jnp.array([0, 3, 1]) if target == "labels" else jax.nn.softmax(logits[::-1])

    def total(logits):
        return jnp.sum(jaxloss.cross_entropy(logits, targets))

    def modes(logits):
        each = jax.vmap(jax.grad(jaxloss.cross_entropy))(logits, targets)
        return total(logits), jax.grad(total)(logits), each, jax.hessian(total)(logits)

    expected = quick_jit(modes)(logits)
    request.getfixturevalue("in_one_reading")
    for found, known in zip(quick_jit(modes)(logits), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=2e-6, atol=1e-7)


@pytest.fixture
def in_blocks(monkeypatch):
    """Sets how many elements a block has, as on a single device."""

    def set_block(elements):
        jax.clear_caches()
        monkeypatch.setattr(_row_sums, "_BLOCK", elements)
        monkeypatch.setattr(jax, "device_count", lambda: 1)

    yield set_block
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("elements", [5, 10, 20, 1000], ids=lambda n: f"blocks of {n}")
def test_rows_taken_some_at_a_time_have_the_same_sums(elements, dtype, in_blocks):
    # Fifteen rows of five: blocks of one row, of two and of four, of which the last overlap.
    in_blocks(elements)
    rows = jnp.array(np.concatenate([ROWS, ODD, ROWS[:2]]), dtype)
    weights = jnp.linspace(0, 1, rows.size, dtype=jnp.float32).reshape(rows.shape)
    for axis, arrays in (
        (1, (rows, weights)),
        (2, (rows.reshape(3, 5, 5), weights.reshape(3, 5, 5))),
        (0, (rows.T, weights.T)),
    ):
        found = arrays_of(functools.partial(by_rows, maximum_rest_and_ties_twice, axis), *arrays)
        expected = arrays_of(functools.partial(maximum_rest_and_ties_twice, axis), *arrays)
        for got, sums in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, sums)


def of_probabilities(logits, probabilities):
    return jaxloss.cross_entropy(logits, probabilities, label_smoothing=0.1)


@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd, jax.hessian], ids=lambda f: f.__name__)
def test_rows_taken_some_at_a_time_have_the_same_derivatives(mode, rng, in_blocks):
    logits = jnp.array(rng.normal(size=(2, 7, 5)))
    probabilities = jax.nn.softmax(jnp.array(rng.normal(size=logits.shape)))

    def derivative():
        def loss(logits):
            return jnp.sum(jnp.sin(jax.vmap(of_probabilities)(logits, probabilities)))

        return np.asarray(jax.jit(mode(loss))(logits))

    expected = derivative()
    in_blocks(10)
    np.testing.assert_allclose(derivative(), expected, rtol=1e-5, atol=1e-7)


LARGE = jax.ShapeDtypeStruct((1024, 512), jnp.float32)


def loops(*arrays):
    return jax.jit(of_probabilities).lower(*arrays).as_text().count("stablehlo.while")


def test_only_large_arrays_on_one_device_are_taken_some_rows_at_a_time(in_blocks):
    assert loops(LARGE, LARGE) == 0  # The tests have several devices.
    in_blocks(2**17)
    assert loops(LARGE, LARGE) == 1
    small = jax.ShapeDtypeStruct((64, 1024), jnp.float32)
    assert loops(small, small) == 0


def test_rows_on_several_devices_stay_where_they_are(rng):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    arrays = (jax.ShapeDtypeStruct(LARGE.shape, LARGE.dtype, sharding=rows),) * 2
    program = jax.jit(jax.grad(lambda z, q: jnp.mean(of_probabilities(z, q)))).lower(*arrays)
    assert "all-gather" not in program.compile().as_text()


def test_rows_that_a_type_says_are_spread_are_not_taken_some_at_a_time(in_blocks):
    in_blocks(10)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    assert _row_sums._may_be_spread([jax.device_put(jnp.ones((8, 5)), rows)])
    assert not _row_sums._may_be_spread([jnp.ones((8, 5))])


def test_rows_taken_some_at_a_time_in_shard_map(rng, in_blocks):
    in_blocks(10)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    none = jax.sharding.PartitionSpec()
    logits = jnp.array(rng.normal(size=(8, 5)), jnp.float32)
    probabilities = jax.nn.softmax(logits[:4][::-1])
    spread = jax.shard_map(of_probabilities, mesh=mesh, in_specs=(spec, none), out_specs=spec)
    expected = of_probabilities(logits, jnp.concatenate([probabilities] * 2))
    np.testing.assert_allclose(jax.jit(spread)(logits, probabilities), expected, rtol=1e-6)


def test_a_second_call_outside_jit_compiles_nothing(in_blocks, caplog):
    in_blocks(2**17)
    logits = jnp.ones(LARGE.shape)
    of_probabilities(logits, logits)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        of_probabilities(logits, logits)
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]
