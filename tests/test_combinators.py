"""The algebra's laws, over every loss: weights, masks, pools, shards; value and derivatives."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import jaxloss
from jaxloss import Weighted, masked, mean, pooled, weighted
from tests.cases import BASE, CASES, OF_EACH_KIND
from tests.helpers import quick_jit

# Combinators see a loss's axes, but not its other options.
LOSSES = [
    case
    for case in CASES
    if not case.compares and (case in BASE or {"axis", "axes"} & case.options.keys())
]
EVERY_LOSS = pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.id)
ROWS, FRONT, BACK = np.array([0, 2, 3, 7]), slice(0, 4), slice(4, 8)


def arrays_of(case, rng):
    return tuple(jnp.asarray(a) for a in case.arrays(rng))


def losses_shape(case, arrays):
    return jax.eval_shape(case, *arrays).shape


def gradient_of(reduced, arrays, **options):
    """Value and gradient with respect to the first array."""
    return jax.value_and_grad(lambda first: reduced(first, *arrays[1:], **options))(arrays[0])


def with_gradient(reduced, arrays, **options):
    return jax.jit(lambda: gradient_of(reduced, arrays, **options))()


def pooled_parts(loss, arrays, weights):
    """The mean of two parts, pooled; of four rows each, as the subset, to be traced once."""
    loss = pooled(weighted(loss))

    def parts(first):
        full = (first, *arrays[1:])
        front, back = (
            loss(*(a[part] for a in full), weights=weights[part]) for part in (FRONT, BACK)
        )
        return (front + back).mean()

    return jax.value_and_grad(parts)(arrays[0])


@EVERY_LOSS
def test_laws(case, rng, x64):
    """In one program, for speed; what each pair of results says stands beside its assertion."""
    arrays = arrays_of(case, rng)
    shape = losses_shape(case, arrays)
    weights = jnp.asarray(rng.uniform(0.1, 2, shape))
    only_rows = np.zeros(shape, bool)
    only_rows[ROWS] = True
    some = jnp.asarray(rng.integers(0, 2, shape).astype(bool)).at[0].set(True)
    loss = jax.jit(case.bound)  # Traced once for all laws.

    @quick_jit
    def program(arrays, weights):
        return {
            "losses": loss(*arrays),
            "mean": mean(loss)(*arrays),
            "sum": jaxloss.sum(loss)(*arrays),
            "mean of columns": mean(loss, axis=0)(*arrays),
            "ones": mean(weighted(loss))(*arrays, weights=jnp.ones(shape)),
            "weighted": gradient_of(mean(weighted(loss)), arrays, weights=weights),
            "of weights": jax.grad(lambda w: mean(weighted(loss))(*arrays, weights=w))(weights),
            "parts": pooled_parts(loss, arrays, weights),
            "where": gradient_of(mean(masked(loss)), arrays, where=only_rows),
            "subset": gradient_of(mean(loss), tuple(a[ROWS] for a in arrays)),
            "one order": mean(weighted(masked(loss)))(*arrays, weights=weights, where=some),
            "other order": mean(masked(weighted(loss)))(*arrays, weights=weights, where=some),
            "nothing": gradient_of(mean(masked(loss)), arrays, where=jnp.zeros(shape, bool)),
            "empty": gradient_of(mean(loss), tuple(a[:0] for a in arrays)),
        }

    results = program(arrays, weights)
    losses, w = np.asarray(results["losses"]), np.asarray(weights)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-14)
    close(results["mean"], losses.mean())
    close(results["sum"], losses.sum())
    close(results["mean of columns"], losses.mean(0))
    # Weights of one change nothing.
    close(results["ones"], results["mean"])
    # The weighted mean divides by the weights.
    average = np.average(losses, weights=w)
    close(results["weighted"][0], average)
    np.testing.assert_allclose(
        results["of weights"], (losses - average) / w.sum(), rtol=1e-9, atol=1e-12
    )
    # Any partition, pooled, is the whole.
    chex.assert_trees_all_close(results["parts"], results["weighted"], rtol=1e-11, atol=1e-14)
    # where equals the subset.
    close(results["where"][0], results["subset"][0])
    close(results["where"][1][ROWS], results["subset"][1])
    np.testing.assert_array_equal(np.delete(results["where"][1], ROWS, 0), 0)
    # The order of combinators does not matter.
    close(results["one order"], results["other order"])
    # The mean of nothing is 0, with gradient 0.
    for value, gradient in (results["nothing"], results["empty"]):
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@EVERY_LOSS
def test_nothing_under_the_mask_gets_out(case, rng, x64):
    """NaN, infinities and labels that are no class: not in value, gradient, tangent or hessian."""
    arrays = arrays_of(case, rng)
    shape = losses_shape(case, arrays)
    hidden = jnp.array([1, 4])
    where = jnp.ones(shape, bool).at[hidden].set(False)
    weights = jnp.asarray(rng.uniform(0.5, 2, shape))
    reduced = mean(masked(weighted(case.bound)))

    @quick_jit
    def every_mode(arrays, weights):
        first, *others = arrays
        direction = (jnp.cos(jnp.arange(first.size, dtype=first.dtype)).reshape(first.shape),)

        def function(first):
            return reduced(first, *others, weights=weights, where=where)

        return (
            jax.value_and_grad(function)(first),
            jax.jvp(function, (first,), direction),
            jax.jvp(jax.grad(function), (first,), direction)[1],
        )

    clean = every_mode(arrays, weights)
    chex.assert_tree_all_finite(clean)
    for poison in (np.nan, np.inf, -np.inf, 1e300):
        bad = tuple(a.at[hidden].set(poison if a.dtype == jnp.float64 else 77) for a in arrays)
        chex.assert_trees_all_equal(every_mode(bad, weights.at[hidden].set(poison)), clean)


@pytest.mark.parametrize("case", OF_EACH_KIND, ids=lambda case: case.id)
def test_unequal_shards_equal_one_device(case, rng, x64):
    """Equal shards of every loss are in test_transforms."""
    arrays = arrays_of(case, rng)
    where = jnp.asarray(rng.integers(0, 2, losses_shape(case, arrays)).astype(bool)).at[0].set(True)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    reduced = mean(masked(case.bound), axis_name="data")

    def local(where, *arrays):
        return reduced(*arrays, where=where)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P())
    expected = with_gradient(mean(masked(case.bound)), arrays, where=where)
    actual = quick_jit(jax.value_and_grad(lambda first: sharded(where, first, *arrays[1:])))(
        arrays[0]
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-11, atol=1e-14)


def test_a_loss_that_compares_examples_cannot_be_masked():
    with pytest.raises(TypeError, match="masked: info_nce compares the examples of a batch"):
        masked(functools.partial(jaxloss.info_nce, temperature=0.5))


def test_a_mask_on_labels_that_a_program_closes_over():
    labels, where = np.array([0, 1]), np.array([True, False])
    loss = mean(masked(jaxloss.cross_entropy))
    value = jax.jit(lambda logits: loss(logits, labels, where=where))(jnp.zeros((2, 3)))
    np.testing.assert_allclose(value, np.log(3), rtol=1e-6)


def test_a_mask_goes_around_the_axes_of_an_image(rng):
    predictions = jnp.asarray(rng.uniform(size=(2, 3, 3, 4)), jnp.float32)
    where = jnp.ones((2, 4), bool).at[1, 2].set(False)
    poisoned = predictions.at[1, :, :, 2].set(jnp.nan)
    loss = mean(masked(jaxloss.dice))
    value, gradient = with_gradient(
        loss, (poisoned, jnp.ones_like(predictions)), where=where, axes=(1, 2)
    )
    losses = jaxloss.dice(predictions, jnp.ones_like(predictions), axes=(1, 2))
    np.testing.assert_allclose(value, losses[where].mean(), rtol=1e-6)
    assert np.all(np.isfinite(gradient))


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
