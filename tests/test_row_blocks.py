"""Rows taken some at a time give what they give at once, on one device and nowhere else."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxloss
from jaxloss import _cosine, _row_blocks
from jaxloss._lanes import IN_LANES, ONE_BY_ONE
from jaxloss._row_blocks import by_rows
from jaxloss._row_sums import (
    maximum_and_others_twice,
    maximum_rest_and_ties_once,
    maximum_rest_and_ties_twice,
)
from tests.helpers import exhaustive
from tests.test_row_sums import ODD, ODD_VECTORS, ROWS, arrays_of

pytestmark = pytest.mark.optimized


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
@pytest.mark.parametrize(
    "elements", [10, *exhaustive(20), 40, *exhaustive(1000)], ids=lambda n: f"blocks of {n}"
)
def test_rows_taken_some_at_a_time_have_the_same_sums(elements, dtype, in_blocks):
    # Fifteen rows of five in two arrays: one row, two or four at a time, of which the last overlap.
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
        expected = arrays_of(
            functools.partial(maximum_rest_and_ties_twice, ONE_BY_ONE, axis), *arrays
        )
        for got, known in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, known)


def padded(rows, width, filling):
    """The same rows with more columns, in a random order."""
    more = np.full((len(rows), width - rows.shape[1]), filling, rows.dtype)
    return np.random.default_rng(0).permutation(np.concatenate([rows, more], 1), axis=1)


WIDTHS = pytest.mark.parametrize("width", [63, 64, *exhaustive(65, 127), 130])


def in_both_ways(sums, *arrays):
    return (arrays_of(functools.partial(sums, rows, 1), *arrays) for rows in (IN_LANES, ONE_BY_ONE))


# In float64 the order of a sum shows in its last digits alone.


@WIDTHS
def test_a_softmax_has_the_same_sums_in_lanes(width, x64):
    scores = padded(np.concatenate([ROWS, ODD]), width, -2.0).astype(np.float64)
    weights = np.linspace(0, 1, scores.size).reshape(scores.shape)
    index = np.argmin(scores, 1)[:, None]  # Not at infinity, which a selection drops.
    for sums, array in ((maximum_rest_and_ties_twice, weights), (maximum_and_others_twice, index)):
        for found, expected in zip(*in_both_ways(sums, scores, array), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13)


@WIDTHS
def test_cosines_have_the_same_sums_in_lanes(width, x64):
    vectors = padded(ODD_VECTORS, width, 0.5).astype(np.float64)
    first, second = np.repeat(vectors, 6, 0), np.tile(vectors, (6, 1))
    finite = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    lanes, one_by_one = in_both_ways(_cosine.sums_by, first, second)
    # Of each vector the rest is not compared: it is what rounding left, of other sums.
    for place in (0, 1, 3, 4, 6, 7):
        found, expected = lanes[place][finite], one_by_one[place][finite]
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-25)
    assert not np.isfinite(lanes[7][~finite]).any()


def test_wide_rows_are_reduced_in_lanes():
    def program(rows, width):
        arrays = [jax.ShapeDtypeStruct((3, width), jnp.float32)] * 2
        return jax.jit(functools.partial(_cosine.sums_by, rows, 1)).lower(*arrays).as_text()

    assert "x4x16xf32" in program(IN_LANES, 64)
    assert "x4x15xf32" not in program(IN_LANES, 63)
    assert "x4x16xf32" not in program(ONE_BY_ONE, 64)


def test_losses_are_summed_in_lanes(in_blocks):
    in_blocks(2**18)
    for rows in (300, 10000):  # At once, and some at a time.
        array = jax.ShapeDtypeStruct((rows, 100), jnp.float32)
        for loss in LOSSES[:3]:
            assert re.search(r"x[24]x(25|50)xf32", jax.jit(loss).lower(array, array).as_text())


def test_rows_of_a_mapped_axis_are_taken_some_at_a_time(in_blocks):
    in_blocks(2**18)
    array = jax.ShapeDtypeStruct((4096, 1024), jnp.float32)
    for loss in (jaxloss.cross_entropy, *LOSSES[1:]):
        assert loops(jax.vmap(loss), array, array) == 1
        compiled = jax.jit(jax.vmap(loss)).lower(array, array).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 3e6
        # And one row of as many numbers is not folded as a whole.
        row = jax.ShapeDtypeStruct((2**22,), jnp.float32)
        assert not re.search(r"(4x1048576|2x2097152)xf32", jax.jit(loss).lower(row, row).as_text())


@pytest.mark.parametrize("mode", ["value", "gradient"])
def test_narrow_arrays_are_widened_some_rows_at_a_time(mode, in_blocks):
    in_blocks(2**18)
    array = jax.ShapeDtypeStruct((4096, 1024), jnp.bfloat16)
    for loss in (jaxloss.cross_entropy, jaxloss.generalized_kl_divergence, *LOSSES[1:3]):
        mean = jaxloss.mean(loss)
        program = jax.jit(mean if mode == "value" else jax.grad(mean)).lower(array, array)
        # Of both arrays a copy as bits, which slices are taken of, and nothing in float32.
        held = program.compile().memory_analysis().temp_size_in_bytes
        assert held < 1.2 * 2 * 2 * array.size


def test_what_is_shared_by_mapped_rows_is_not_stored_for_each(in_blocks):
    in_blocks(2**18)
    rows = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    pairs = jax.vmap(jax.vmap(jaxloss.kl_divergence, (None, 0)), (0, None))
    compiled = jax.jit(pairs).lower(rows, rows).compile()
    # Copies for each pair would be two arrays; the terms are one where XLA does not fuse them.
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * 4 * 256**3


def of_probabilities(logits, probabilities):
    return jaxloss.cross_entropy(logits, probabilities, label_smoothing=0.1)


LOSSES = [of_probabilities, jaxloss.cosine_distance, jaxloss.kl_divergence, jaxloss.js_divergence]
of_each_loss = pytest.mark.parametrize("loss_of_rows", LOSSES, ids=lambda f: f.__name__)


@of_each_loss
@pytest.mark.parametrize(
    "mode", [*exhaustive(jax.grad, jax.jacfwd), jax.hessian], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("width", [*exhaustive(5), 70])
def test_rows_taken_some_at_a_time_have_the_same_derivatives(
    loss_of_rows, mode, width, rng, in_blocks
):
    logits = jnp.array(rng.normal(size=(2, 7, width)))
    probabilities = jax.nn.softmax(jnp.array(rng.normal(size=logits.shape)))

    def derivative():
        def loss(logits):
            # Over the width: the sine of a large loss has few digits.
            return jnp.sum(jnp.sin(jax.vmap(loss_of_rows)(logits, probabilities) / width))

        return np.asarray(jax.jit(mode(loss))(logits))

    expected = derivative()
    in_blocks(4 * width)
    np.testing.assert_allclose(derivative(), expected, rtol=1e-5, atol=1e-7)


LARGE = jax.ShapeDtypeStruct((1024, 512), jnp.float32)


def loops(loss, *arrays):
    return jax.jit(loss).lower(*arrays).as_text().count("stablehlo.while")


@of_each_loss
def test_only_large_arrays_on_one_device_are_taken_some_rows_at_a_time(loss_of_rows, in_blocks):
    assert loops(loss_of_rows, LARGE, LARGE) == 0  # The tests have several devices.
    in_blocks(2**18)
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
    assert _row_blocks.may_be_spread([jax.device_put(jnp.ones((8, 5)), rows)])
    assert not _row_blocks.may_be_spread([jnp.ones((8, 5))])


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
