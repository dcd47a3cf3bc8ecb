"""The algebra's laws, over every loss: weights, masks, pools, shards; value and derivatives."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import jaxloss
from jaxloss import Weighted, masked, mean, pooled, weighted
from tests.cases import CASES

EVERY_LOSS = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def arrays_of(case, rng):
    return tuple(jnp.asarray(a) for a in case.arrays(rng))


def losses_shape(case, arrays):
    return jax.eval_shape(case, *arrays).shape


def with_gradient(reduced, arrays, **options):
    def function(first):
        return reduced(first, *arrays[1:], **options)

    return jax.jit(jax.value_and_grad(function))(arrays[0])


def every_mode(reduced):
    """Value, gradient, tangent, and product with the hessian, compiled."""

    @jax.jit
    def run(arrays, options):
        first, *others = arrays
        direction = (jnp.cos(jnp.arange(first.size, dtype=first.dtype)).reshape(first.shape),)

        def function(first):
            return reduced(first, *others, **options)

        return (
            jax.value_and_grad(function)(first),
            jax.jvp(function, (first,), direction),
            jax.jvp(jax.grad(function), (first,), direction)[1],
        )

    return run


@EVERY_LOSS
def test_mean_and_sum_of_plain_losses(case, rng, x64):
    arrays = arrays_of(case, rng)
    losses = case(*arrays)
    np.testing.assert_allclose(mean(case.bound)(*arrays), jnp.mean(losses), rtol=1e-12)
    np.testing.assert_allclose(jaxloss.sum(case.bound)(*arrays), jnp.sum(losses), rtol=1e-12)
    np.testing.assert_allclose(mean(case.bound, axis=0)(*arrays), jnp.mean(losses, 0), rtol=1e-12)
    assert pooled(case.bound)(*arrays).weights == losses.size


@EVERY_LOSS
def test_weights_of_one_change_nothing(case, rng, x64):
    arrays = arrays_of(case, rng)
    ones = jnp.ones(losses_shape(case, arrays))
    expected = with_gradient(mean(case.bound), arrays)
    actual = with_gradient(mean(weighted(case.bound)), arrays, weights=ones)
    chex.assert_trees_all_close(actual, expected, rtol=1e-12)


@EVERY_LOSS
def test_weighted_mean_divides_by_the_weights(case, rng, x64):
    arrays = arrays_of(case, rng)
    weights = jnp.asarray(rng.uniform(0.1, 2, losses_shape(case, arrays)))
    losses = np.asarray(case(*arrays))
    np.testing.assert_allclose(
        mean(weighted(case.bound))(*arrays, weights=weights), np.average(losses, weights=weights)
    )
    gradient = jax.grad(lambda w: mean(weighted(case.bound))(*arrays, weights=w))(weights)
    total = weights.sum()
    expected = (losses - np.average(losses, weights=weights)) / total
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@EVERY_LOSS
def test_where_equals_the_subset(case, rng, x64):
    arrays = arrays_of(case, rng)
    rows = np.array([0, 2, 3, 7])
    where = np.zeros(losses_shape(case, arrays), bool)
    where[rows] = True
    value, gradient = with_gradient(mean(masked(case.bound)), arrays, where=where)
    subset = tuple(a[rows] for a in arrays)
    expected_value, expected_gradient = with_gradient(mean(case.bound), subset)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    np.testing.assert_allclose(gradient[rows], expected_gradient, rtol=1e-12)
    np.testing.assert_array_equal(np.delete(gradient, rows, 0), 0)


@EVERY_LOSS
def test_nothing_under_the_mask_gets_out(case, rng, x64):
    """NaN, infinities and labels that are no class: not in value, gradient, tangent or hessian."""
    arrays = arrays_of(case, rng)
    shape = losses_shape(case, arrays)
    hidden = jnp.array([1, 4])
    options = {
        "where": jnp.ones(shape, bool).at[hidden].set(False),
        "weights": jnp.asarray(rng.uniform(0.5, 2, shape)),
    }
    run = every_mode(mean(masked(weighted(case.bound))))
    clean = run(arrays, options)
    chex.assert_tree_all_finite(clean)
    for poison in (np.nan, np.inf, -np.inf, 1e300):
        bad = tuple(a.at[hidden].set(poison if a.dtype == jnp.float64 else 77) for a in arrays)
        options["weights"] = options["weights"].at[hidden].set(poison)
        chex.assert_trees_all_equal(run(bad, options), clean)


@EVERY_LOSS
def test_any_partition_pooled_is_the_whole(case, rng, x64):
    arrays = arrays_of(case, rng)
    weights = jnp.asarray(rng.uniform(0, 2, losses_shape(case, arrays)))
    loss = pooled(weighted(case.bound))

    def parts(first):
        full = (first, *arrays[1:])
        total = None
        for start, stop in itertools.pairwise((0, 1, 4, 8)):
            part = loss(*(a[start:stop] for a in full), weights=weights[start:stop])
            total = part if total is None else total + part
        return total.mean()

    expected = with_gradient(mean(weighted(case.bound)), arrays, weights=weights)
    actual = jax.jit(jax.value_and_grad(parts))(arrays[0])
    chex.assert_trees_all_close(actual, expected, rtol=1e-11)


@EVERY_LOSS
def test_order_of_combinators_does_not_matter(case, rng, x64):
    arrays = arrays_of(case, rng)
    shape = losses_shape(case, arrays)
    options = {
        "weights": jnp.asarray(rng.uniform(0, 2, shape)),
        "where": jnp.asarray(rng.integers(0, 2, shape).astype(bool)).at[0].set(True),
    }
    chex.assert_trees_all_equal(
        with_gradient(mean(weighted(masked(case.bound))), arrays, **options),
        with_gradient(mean(masked(weighted(case.bound))), arrays, **options),
    )


@EVERY_LOSS
def test_mean_of_nothing_is_zero(case, rng):
    arrays = tuple(jnp.asarray(a) for a in case.arrays(rng, np.float32))
    nothing = jnp.zeros(losses_shape(case, arrays), bool)
    chex.assert_trees_all_equal(
        with_gradient(mean(masked(case.bound)), arrays, where=nothing),
        (jnp.float32(0), jnp.zeros_like(arrays[0])),
    )
    empty = tuple(a[:0] for a in arrays)
    value, gradient = with_gradient(mean(case.bound), empty)
    assert value == 0 and gradient.shape == empty[0].shape


@EVERY_LOSS
def test_unequal_shards_equal_one_device(case, rng, x64):
    arrays = arrays_of(case, rng)
    where = jnp.asarray(rng.integers(0, 2, losses_shape(case, arrays)).astype(bool)).at[0].set(True)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    reduced = mean(masked(case.bound), axis_name="data")

    def local(where, *arrays):
        return reduced(*arrays, where=where)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P())
    expected = with_gradient(mean(masked(case.bound)), arrays, where=where)
    actual = jax.jit(jax.value_and_grad(lambda first: sharded(where, first, *arrays[1:])))(
        arrays[0]
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-11)


def test_one_mean_exchanges_two_numbers(rng):
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    reduced = mean(weighted(jaxloss.huber), axis_name="data")
    sharded = jax.shard_map(
        lambda p, t, w: reduced(p, t, weights=w), mesh=mesh, in_specs=P("data"), out_specs=P()
    )
    program = jax.jit(sharded).lower(*3 * (jnp.ones(8),)).compile().as_text()
    exchanged = [line for line in program.splitlines() if " all-reduce(" in line]
    assert exchanged and all("f32[]" in line for line in exchanged)
    assert sum(line.split(" all-reduce(")[0].count("f32[]") for line in exchanged) == 2


@pytest.mark.parametrize("reduction", [jaxloss.sum, pooled], ids=lambda f: f.__name__)
def test_sums_over_a_vmapped_axis(reduction):
    reduced = reduction(jaxloss.squared_error, axis_name="shard")
    values = jnp.arange(6.0).reshape(3, 2)
    sums = jax.vmap(lambda p: reduced(p, jnp.zeros(2)), axis_name="shard")(values)
    if isinstance(sums, Weighted):
        np.testing.assert_array_equal(sums.weights, 3 * [6])
        sums = sums.losses
    np.testing.assert_array_equal(sums, 3 * [55])


def test_sums_over_some_axes():
    values = jnp.arange(6.0).reshape(3, 2)
    pair = pooled(jaxloss.squared_error, axis=0)(values, jnp.zeros((3, 2)))
    np.testing.assert_array_equal(pair.losses, [20, 35])
    np.testing.assert_array_equal(pair.weights, [3, 3])


def test_weights_of_zero_have_mean_and_gradient_zero():
    zeros = jnp.zeros(2)
    value, gradient = with_gradient(
        mean(weighted(jaxloss.squared_error)), (jnp.ones(2), zeros), weights=zeros
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, zeros)


def test_mean_over_a_vmapped_axis():
    reduced = mean(weighted(jaxloss.squared_error), axis_name="shard")
    values = jnp.arange(6.0).reshape(3, 2)
    means = jax.vmap(lambda p, w: reduced(p, jnp.zeros(2), weights=w), axis_name="shard")(
        values, values
    )
    np.testing.assert_allclose(means, 3 * [225 / 15])


@pytest.mark.parametrize(
    ("axis", "options"), [(-1, {}), (1, {"axis": 1}), (0, {"axis": 0})], ids=str
)
def test_a_mask_follows_the_class_axis(axis, options, rng):
    """Also where the lengths of class axis and batch axes are equal."""
    logits = jnp.asarray(np.moveaxis(rng.normal(size=(3, 3, 3)), -1, axis), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, (3, 3)))
    where = jnp.asarray(rng.integers(0, 2, (3, 3)).astype(bool)).at[0, 1].set(False)
    poisoned = jnp.where(jnp.expand_dims(where, axis), logits, jnp.nan)
    reduced = mean(masked(functools.partial(jaxloss.cross_entropy, **options)))
    value, gradient = with_gradient(reduced, (poisoned, labels), where=where)
    losses = jaxloss.cross_entropy(logits, labels, **options)
    np.testing.assert_allclose(value, losses[where].mean(), rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_half_precision_losses_of_a_user_are_summed_in_float32():
    def user_loss(predictions):
        return predictions

    ones = jnp.ones(2**17, jnp.float16)
    assert jaxloss.sum(user_loss)(ones) == 2**17
    assert mean(weighted(user_loss))(ones, weights=ones) == 1
    assert mean(user_loss)(ones).dtype == jnp.float32


def test_a_metric_is_averaged_too():
    def correct(logits, labels):
        return logits.argmax(-1) == labels

    logits = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    score = mean(masked(correct))(
        logits, jnp.array([0, 1, 1]), where=jnp.array([True, True, False])
    )
    assert score == 1


def test_masks_reach_into_pytrees():
    def user_loss(batch):
        return jnp.square(batch["x"]).sum(-1) / batch["scale"]

    batch = {"x": jnp.array([[1.0, 1.0], [jnp.nan, 0.0]]), "scale": jnp.array([2.0, 0.0])}
    loss = mean(masked(user_loss))
    value, gradient = jax.value_and_grad(loss)(batch, where=jnp.array([True, False]))
    assert value == 1
    chex.assert_tree_all_finite(gradient)


def test_weighted_passes_through_transformations():
    """A pair is a pytree: the sum over a scan is the pooled mean of the whole."""
    predictions = jnp.arange(6.0).reshape(3, 2)
    loss = pooled(jaxloss.squared_error)

    @jax.jit
    def scanned(predictions):
        start = Weighted(jnp.float32(0), jnp.float32(0))
        step = functools.partial(_accumulate, loss)
        return jax.lax.scan(step, start, predictions)[0].mean()

    np.testing.assert_allclose(scanned(predictions), jnp.mean(predictions**2), rtol=1e-6)


def _accumulate(loss, total, predictions):
    return total + loss(predictions, jnp.zeros_like(predictions)), None


def test_mean_of_pools_is_not_the_mean_of_means():
    loss = pooled(jaxloss.squared_error)
    first, second = (
        loss(jnp.array([1.0, 1.0, 1.0]), jnp.zeros(3)),
        loss(jnp.array([3.0]), jnp.zeros(1)),
    )
    assert (first + second).mean() == 3
    assert (first.mean() + second.mean()) / 2 == 5
