"""Rows taken some at a time give what they give at once, on one device and nowhere else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxloss
from jaxloss import _row_blocks
from jaxloss._row_blocks import by_rows
from jaxloss._row_sums import maximum_rest_and_ties_once, maximum_rest_and_ties_twice
from tests.test_row_sums import ODD, ROWS, arrays_of


@pytest.fixture
def in_blocks(monkeypatch):
    """Sets how many elements a block has, as on a single device."""

    def set_block(elements):
        jax.clear_caches()
        monkeypatch.setattr(_row_blocks, "_BLOCK", elements)
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
        sums = functools.partial(
            by_rows, maximum_rest_and_ties_twice, maximum_rest_and_ties_once, axis
        )
        found = arrays_of(sums, *arrays)
        expected = arrays_of(functools.partial(maximum_rest_and_ties_twice, axis), *arrays)
        for got, known in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, known)


def of_probabilities(logits, probabilities):
    return jaxloss.cross_entropy(logits, probabilities, label_smoothing=0.1)


of_each_loss = pytest.mark.parametrize(
    "loss_of_rows", [of_probabilities, jaxloss.cosine_distance], ids=lambda f: f.__name__
)


@of_each_loss
@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd, jax.hessian], ids=lambda f: f.__name__)
def test_rows_taken_some_at_a_time_have_the_same_derivatives(loss_of_rows, mode, rng, in_blocks):
    logits = jnp.array(rng.normal(size=(2, 7, 5)))
    probabilities = jax.nn.softmax(jnp.array(rng.normal(size=logits.shape)))

    def derivative():
        def loss(logits):
            return jnp.sum(jnp.sin(jax.vmap(loss_of_rows)(logits, probabilities)))

        return np.asarray(jax.jit(mode(loss))(logits))

    expected = derivative()
    in_blocks(10)
    np.testing.assert_allclose(derivative(), expected, rtol=1e-5, atol=1e-7)


LARGE = jax.ShapeDtypeStruct((1024, 512), jnp.float32)


def loops(loss, *arrays):
    return jax.jit(loss).lower(*arrays).as_text().count("stablehlo.while")


@of_each_loss
def test_only_large_arrays_on_one_device_are_taken_some_rows_at_a_time(loss_of_rows, in_blocks):
    assert loops(loss_of_rows, LARGE, LARGE) == 0  # The tests have several devices.
    in_blocks(2**17)
    assert loops(loss_of_rows, LARGE, LARGE) == 1
    for rows, expected in ((255, 0), (256, 1)):  # Of 128 a block.
        array = jax.ShapeDtypeStruct((rows, 1024), jnp.float32)
        assert loops(loss_of_rows, array, array) == expected


@of_each_loss
def test_sizes_may_be_symbols_or_nothing(loss_of_rows, in_blocks):
    in_blocks(10)
    rows = jax.ShapeDtypeStruct((*export.symbolic_shape("rows"), 8), jnp.float32)
    exported = export.export(jax.jit(loss_of_rows))(rows, rows)
    arrays = jnp.ones((3, 8)), jnp.full((3, 8), 1 / 8)
    np.testing.assert_allclose(exported.call(*arrays), loss_of_rows(*arrays), rtol=1e-6, atol=1e-7)
    nothing = jnp.ones((3, 0))
    sums = by_rows(maximum_rest_and_ties_twice, maximum_rest_and_ties_once, 0, nothing)
    assert [array.shape for array in sums] == [(1, 0)] * 3


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
    assert _row_blocks._may_be_spread([jax.device_put(jnp.ones((8, 5)), rows)])
    assert not _row_blocks._may_be_spread([jnp.ones((8, 5))])


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
