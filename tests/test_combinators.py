"""What combinators do that the laws over every loss (test_laws.py) do not say."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss import (
    Weighted,
    accumulated_value_and_grad,
    class_weighted,
    ignoring,
    masked,
    mean,
    microbatched,
    pooled,
    scaled,
    weighted,
    weighted_sum,
)


def with_gradient(reduced, arrays, **options):
    """Value and gradient with respect to the first array."""

    @jax.jit
    def run():
        return jax.value_and_grad(lambda first: reduced(first, *arrays[1:], **options))(arrays[0])

    return run()


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


LOGITS = jnp.array([[1.0, 2.0, 0.5], [0.0, 0.3, -1.0], [0.2, 0.1, 2.0], [jnp.nan, 0.0, 0.0]])
LABELS = jnp.array([0, 2, 1, -100])
CLASS_WEIGHTS = np.array([0.5, 2.0, 0.0], np.float32)


def test_class_weights_weigh_each_class_of_a_smoothed_label():
    """As PyTorch: every class's term by its own weight, and the label's weight in the divisor."""
    smoothing = 0.3
    loss = mean(ignoring(class_weighted(jaxloss.cross_entropy, CLASS_WEIGHTS), -100))
    value, gradient = with_gradient(loss, (LOGITS, LABELS), label_smoothing=smoothing)
    rows = np.asarray(LOGITS[:3], np.float64)
    log_probs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    targets = (1 - smoothing) * np.eye(3)[[0, 2, 1]] + smoothing / 3
    expected = -np.sum(CLASS_WEIGHTS * targets * log_probs) / (0.5 + 0 + 2)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.all(np.isfinite(gradient)) and np.any(gradient[1] != 0)


def test_class_weights_of_probabilities_count_every_example():
    targets = jnp.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    loss = mean(class_weighted(jaxloss.cross_entropy, CLASS_WEIGHTS))
    expected = jaxloss.cross_entropy(LOGITS[:2], targets, class_weights=CLASS_WEIGHTS).mean()
    np.testing.assert_allclose(loss(LOGITS[:2], targets), expected, rtol=1e-6)


def test_class_weights_of_class_weights_multiply():
    twice = class_weighted(class_weighted(jaxloss.nll, np.array([2.0, 3.0])), np.array([5.0, 1.0]))
    sums = pooled(twice)(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))
    assert sums.weights == 10 + 3 + 3


def test_a_label_out_of_range_has_no_class_weight():
    pair = class_weighted(jaxloss.nll, np.array([2.0, 3.0]))(jnp.zeros((2, 2)), jnp.array([1, -1]))
    np.testing.assert_array_equal(pair.weights, [3, np.nan])


def test_a_label_that_the_dtype_cannot_hold_ignores_nothing():
    labels = jnp.array([0, 255], jnp.uint8)
    assert pooled(ignoring(jaxloss.nll, -1))(jnp.zeros((2, 300)), labels).weights == 2
    assert pooled(ignoring(jaxloss.nll, 255))(jnp.zeros((2, 300)), labels).weights == 1


def test_a_weight_is_learned_but_one_of_zero_is_a_mask():
    losses, weights = jnp.array([1.0, 3.0, 5.0]), jnp.array([1.0, 3.0, 0.0])
    gradient = jax.grad(lambda w: mean(weighted(jnp.abs))(losses, weights=w))(weights)
    np.testing.assert_allclose(gradient, [(1 - 2.5) / 4, (3 - 2.5) / 4, 0])


def test_a_factor_is_learned():
    gradient = jax.grad(lambda c: mean(scaled(jnp.abs, c))(jnp.array([1.0, 3.0])))(2.0)
    assert gradient == 2


def two_heads(**factors):
    parts = {
        "class": masked(jaxloss.cross_entropy),
        "size": lambda logits, labels: jaxloss.huber(logits[:, 0], labels.astype(jnp.float32)),
    }
    return weighted_sum(parts, factors or {"class": 1.0, "size": 0.5})


def test_a_sum_of_losses_reports_its_components():
    where = jnp.array([True, False, True, True])
    logits, labels = LOGITS.at[3].set(0.5), jnp.array([0, 2, 1, 1])
    objective = jax.value_and_grad(mean(two_heads()), has_aux=True)
    (total, components), gradient = jax.jit(objective)(logits, labels, where=where)
    parts = {
        "class": with_gradient(mean(masked(jaxloss.cross_entropy)), (logits, labels), where=where),
        "size": with_gradient(mean(jaxloss.huber), (logits[:, 0], labels.astype(jnp.float32))),
    }
    for name, (value, _) in parts.items():
        np.testing.assert_allclose(components[name], value, rtol=1e-6)
    np.testing.assert_allclose(total, parts["class"][0] + 0.5 * parts["size"][0], rtol=1e-6)
    expected = parts["class"][1].at[:, 0].add(0.5 * parts["size"][1])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_a_sum_of_losses_is_a_loss():
    """Masked, scaled, in steps, in halves that pool, and a component of another sum."""
    logits, labels = LOGITS.at[3].set(0.5), jnp.array([0, 2, 1, 1])
    where, inner = jnp.array([True, False, True, True]), two_heads()
    whole = weighted_sum(
        {"class": jaxloss.cross_entropy, "size": inner.losses[1]}, {"class": 1.0, "size": 0.5}
    )
    expected = mean(masked(whole))(logits, labels, where=where)
    in_steps = mean(microbatched(masked(whole), 2))(logits, labels, where=where)
    chex.assert_trees_all_close(in_steps, expected, rtol=1e-6)
    halves = [
        pooled(masked(whole))(logits[n : n + 2], labels[n : n + 2], where=where[n : n + 2])
        for n in (0, 2)
    ]
    chex.assert_trees_all_close((halves[0] + halves[1]).mean(), expected, rtol=1e-6)
    for hidden in (
        functools.partial(masked(whole), where=where),
        lambda *arrays: masked(whole)(*arrays, where=where),
    ):
        chex.assert_trees_all_close(mean(hidden)(logits, labels), expected, rtol=1e-6)
    total, components = mean(scaled(whole, 3.0))(logits, labels)
    np.testing.assert_allclose(total, 3 * mean(whole)(logits, labels)[0], rtol=1e-6)
    nested = weighted_sum({"both": whole, "again": jaxloss.nll}, {"both": 2.0, "again": 0.0})
    total, components = mean(masked(nested))(logits, labels, where=where)
    np.testing.assert_allclose(total, 2 * expected[0], rtol=1e-6)
    chex.assert_trees_all_close(components["both"], expected, rtol=1e-6)


def test_combinators_under_jit_and_partial_are_seen_through():
    loss = jax.jit(functools.partial(jaxloss.cross_entropy, axis=0))
    value, gradient = with_gradient(
        mean(ignoring(loss, -100)), (jnp.swapaxes(LOGITS, 0, 1), LABELS)
    )
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_a_loss_may_give_what_is_weighed_already():
    def user_loss(predictions, targets):
        return Weighted(2 * jnp.abs(predictions - targets), 2 * jnp.ones_like(targets))

    value = mean(masked(weighted(user_loss)))(
        jnp.array([1.0, 5.0, 9.0]),
        jnp.zeros(3),
        weights=jnp.array([3.0, 1.0, 1.0]),
        where=jnp.array([True, True, False]),
    )
    assert value == (3 * 1 + 5) / 4


@pytest.mark.exhaustive
def test_steps_keep_the_intermediates_of_one():
    """The temporaries of the compiled gradient fall as the steps grow in number."""
    x, kernel = jnp.zeros((512, 32)), jnp.zeros((32, 256))
    labels, where = jnp.zeros(512, jnp.int32), jnp.ones(512, bool)

    def temporaries(value_and_grad):
        program = jax.jit(value_and_grad).lower(kernel, x, labels, where).compile()
        return program.memory_analysis().temp_size_in_bytes

    def in_steps(steps):
        def objective(kernel, x, labels, where):
            loss = masked(lambda x, labels: jaxloss.cross_entropy(jnp.tanh(x @ kernel), labels))
            return mean(microbatched(loss, steps))(x, labels, where=where)

        return temporaries(jax.value_and_grad(objective))

    def accumulated(steps):
        def losses(kernel, x, labels, where):
            loss = pooled(masked(jaxloss.cross_entropy))
            return loss(jnp.tanh(x @ kernel), labels, where=where)

        return temporaries(accumulated_value_and_grad(losses, steps))

    for figures in ([in_steps(n) for n in (2, 8, 32)], [accumulated(n) for n in (2, 8, 32)]):
        # Beyond the batch in steps and the gradient, which stay.
        rest = [figure - x.nbytes - kernel.nbytes for figure in figures]
        assert rest[1] < 0.5 * rest[0] and rest[2] < 0.5 * rest[1]


def test_accumulated_gradients_are_those_of_learned_weights_too(rng):
    """The quotient's derivative, with weights that depend on the parameters."""
    x, y = (jnp.asarray(rng.normal(size=12), jnp.float32) for _ in range(2))

    def losses(parameters, x, y):
        weights = jax.nn.softplus(parameters["weight"] * x)
        predictions = parameters["slope"] * x
        return pooled(weighted(jaxloss.squared_error))(predictions, y, weights=weights)

    parameters = {"slope": jnp.float32(0.7), "weight": jnp.float32(-1.3)}
    expected = jax.value_and_grad(lambda p: losses(p, x, y).mean())(parameters)
    actual = jax.jit(accumulated_value_and_grad(losses, 4))(parameters, x, y=y)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)


def test_accumulated_gradients_are_summed_in_float32():
    """And come back in the parameters' dtype: 1024 steps of one thousandth each."""

    def losses(scale, x):
        return pooled(lambda x: scale * x)(x)

    x = jnp.full(1024, 1 + 2**-7, jnp.bfloat16)
    _, gradient = accumulated_value_and_grad(losses, 1024)(jnp.bfloat16(1), x)
    assert gradient.dtype == jnp.bfloat16 and gradient == 1 + 2**-7


def test_accumulated_gradients_of_nothing_are_zero():
    def losses(slope, x):
        return pooled(masked(jnp.square))(slope * x, where=x > 100)

    value, gradient = accumulated_value_and_grad(losses, 2)(jnp.float32(1), jnp.ones(4))
    assert value == 0 and gradient == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", ["masked", "weighted", "ignoring"])
def test_a_model_inside_a_masked_loss_keeps_its_gradient(way, rng):
    """Also where the model or the loss is singular at 0, and whatever the masked rows hold."""
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    labels = jnp.array([0, 1, 2, -100, -100, -100])
    kernel, where = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), labels >= 0

    def loss(kernel):
        def of_rows(x, labels):
            scores = x @ kernel
            norms = jnp.linalg.norm(scores, axis=-1, keepdims=True)
            return jaxloss.cross_entropy(scores / norms, labels) + jnp.log(norms[:, 0])

        return of_rows

    def reduced(kernel, x):
        if way == "masked":
            return mean(masked(loss(kernel)))(x, labels, where=where)
        if way == "weighted":
            return mean(weighted(loss(kernel)))(x, labels, weights=where.astype(jnp.float32))
        return mean(ignoring(loss(kernel), -100))(x, labels)

    expected = jax.grad(lambda kernel: mean(loss(kernel))(x[:3], labels[:3]))(kernel)
    for masked_rows in (x[3:], jnp.zeros((3, 4)), jnp.full((3, 4), jnp.nan)):
        gradient = jax.jit(jax.grad(reduced))(kernel, x.at[3:].set(masked_rows))
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_a_masked_sign_is_a_sign():
    """And a masked error is not 0: a model that the loss closes over keeps its gradient."""

    def slope(loss):
        def of_slope(slope):
            reduced = mean(masked(lambda x, y: loss(slope * x, y)))
            return reduced(jnp.ones(2), jnp.array([1, -1]), where=jnp.array([True, False]))

        return jax.grad(of_slope)(0.5)

    assert slope(jaxloss.hinge) == -1
    assert slope(lambda p, t: jnp.sqrt(jnp.square(p - t.astype(jnp.float32)))) == -1


def test_a_wrapper_that_moves_axes_is_not_looked_through():
    """vmap's signature is that of what it maps; its axes are not, also where lengths coincide."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3)), jnp.float32)
    labels, where = jnp.array([[0, 1, 0], [1, 0, 1]]), jnp.array([[True] * 3, [True, False, True]])
    loss = jax.vmap(functools.partial(jaxloss.cross_entropy, axis=0))
    with pytest.raises(ValueError, match="which an input of shape"):
        mean(masked(loss))(logits, labels, where=where)

    def told(logits, labels, axis=1):
        return loss(logits, labels)

    value, _ = with_gradient(
        mean(masked(told)), (logits.at[1, :, 1].set(jnp.nan), labels), where=where
    )
    np.testing.assert_allclose(value, np.mean(loss(logits, labels)[where]), rtol=1e-6)
    means = mean(jax.vmap(mean(jaxloss.squared_error)))(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    assert means == 1


def test_what_partial_binds_is_seen():
    where = jnp.array([True, True, True, False])
    bound = functools.partial(masked(jaxloss.cross_entropy), where=where)
    expected = mean(masked(jaxloss.cross_entropy))(LOGITS, LABELS * 0, where=where)
    assert mean(bound)(LOGITS, LABELS * 0) == expected
    both = weighted_sum({"a": bound, "b": lambda z, y, **options: z[:, 0]}, {"a": 1.0, "b": 0.0})
    total, components = mean(both)(LOGITS.at[3].set(0), LABELS * 0, label_smoothing=0.0)
    assert total == components["a"] == expected


def test_pairs_pool_by_pythons_sum():
    losses = [pooled(jaxloss.squared_error)(jnp.full(n, float(n)), jnp.zeros(n)) for n in (1, 2, 3)]
    np.testing.assert_allclose(sum(losses).mean(), (1 + 2 * 4 + 3 * 9) / 6)
    parts = [
        pooled(weighted_sum({"a": jnp.abs}, {"a": 2.0}))(jnp.full(n, float(n))) for n in (1, 3)
    ]
    total, components = sum(parts).mean()
    assert total == 2 * components["a"] == 5
    with pytest.raises(TypeError):
        1 + losses[0]


def test_what_a_user_weighs_is_widened_and_of_one_shape():
    ones = jnp.ones(2**17, jnp.float16)
    assert mean(lambda p: Weighted(p, jnp.ones_like(p)))(ones) == 1
    with pytest.raises(ValueError, match="losses and weights must have the same shape"):
        mean(lambda p: Weighted(p, jnp.float32(1)))(jnp.ones(4))


def test_weights_of_zero_still_let_examples_be_compared_with():
    embeddings = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    weights, labels = jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.array([0, 0, 1, 1])
    value = mean(weighted(jaxloss.nt_xent))(embeddings, labels, weights=weights)
    np.testing.assert_allclose(value, jaxloss.nt_xent(embeddings, labels)[:3].mean(), rtol=1e-6)


def test_accumulated_gradients_are_not_summed_in_half_precision():
    def losses(scale, x):
        return pooled(lambda x: scale * x)(x)

    large = jnp.full(8, 6e4, jnp.float16)
    _, gradient = accumulated_value_and_grad(losses, 4)(jnp.float16(1), large)
    assert gradient == large[0]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "mean: takes a loss that is not reduced, got mean(huber); a reduction comes",
         lambda: mean(mean(jaxloss.huber))),
        (TypeError, "microbatched: takes a loss that is not reduced, got mean(huber)",
         lambda: microbatched(jax.jit(mean(jaxloss.huber)), 2)),
        (TypeError, "microbatched: nt_xent compares the examples of a batch",
         lambda: microbatched(jaxloss.nt_xent, 2)),
        (ValueError, "microbatched: steps must be at least 1, got 0.",
         lambda: microbatched(jaxloss.huber, 0)),
        (TypeError, "microbatched: steps must be an integer, got float 2.0.",
         lambda: microbatched(jaxloss.huber, 2.0)),
        (ValueError, "microbatched(huber): steps must divide the batch, got 3 steps for 4 "
         "examples; pad the batch to 6 and mask what was added.",
         lambda: microbatched(jaxloss.huber, 3)(jnp.ones(4), jnp.ones(4))),
        (ValueError, "microbatched(huber): all inputs must have the batch as their first axis, got "
         "the shapes (4,), (2,);",
         lambda: microbatched(jaxloss.huber, 2)(jnp.ones(4), jnp.ones(2))),
        (ValueError, "microbatched(<lambda>): the loss must give one value for each of the 2 "
         "examples of a step, got losses of shape ();",
         lambda: microbatched(lambda p: jnp.mean(p), 2)(jnp.ones(4))),
        (TypeError, "accumulated_value_and_grad: <lambda> must give the Weighted of one loss, got "
         "float32 of shape (2,); return jaxloss.pooled(loss)(...)",
         lambda: accumulated_value_and_grad(lambda p, x: p * x, 2)(1.0, jnp.ones(4))),
        (TypeError, "ignoring: index must be an integer, got float -1.0.",
         lambda: ignoring(jaxloss.nll, -1.0)),
        (TypeError, "ignoring(nll): labels must be integers (class indices), got float32",
         lambda: ignoring(jaxloss.nll, -1)(LOGITS, LOGITS[:, 0])),
        (TypeError, "ignoring(nll): the labels must be the second positional argument, got 1 ",
         lambda: ignoring(jaxloss.nll, -1)(LOGITS, labels=LABELS)),
        (ValueError, "class_weighted: class_weights must have the shape (classes,), got ().",
         lambda: class_weighted(jaxloss.nll, 1.0)),
        (ValueError, "class_weighted: class_weights must be finite and at least 0, got",
         lambda: class_weighted(jaxloss.nll, np.array([1.0, -1.0]))),
        (TypeError, "class_weighted(nll): labels must be integers (class indices), got float32",
         lambda: class_weighted(jaxloss.nll, np.ones(2))(LOGITS, LOGITS)),
        (TypeError, "class_weighted(cross_entropy): class_weights are given twice, also to the",
         lambda: class_weighted(jaxloss.cross_entropy, CLASS_WEIGHTS)(
             LOGITS, LABELS, class_weights=CLASS_WEIGHTS, label_smoothing=0.1)),
        (TypeError, "class_weighted(cross_entropy): class_weights are given twice, also to the",
         lambda: class_weighted(
             functools.partial(jaxloss.cross_entropy, class_weights=CLASS_WEIGHTS), CLASS_WEIGHTS
         )(LOGITS, LABELS)),
        (ValueError, "class_weighted(cross_entropy): class_weights must have one weight for each "
         "of the 3 classes of an input of shape (4, 3), got (5,).",
         lambda: class_weighted(jaxloss.cross_entropy, np.ones(5))(LOGITS, LABELS)),
        (TypeError, "weighted_sum: takes a loss, a function of predictions and targets, got int 3;",
         lambda: weighted_sum({"a": 3}, {"a": 1.0})),
        (TypeError, "checked: takes a function that calls losses, not its result or its compiled "
         "program, got Compiled;",
         lambda: jaxloss.checked(jax.jit(jnp.abs).lower(1.0).compile())),
        (ValueError, "scaled: factor must be a scalar, got",
         lambda: scaled(jaxloss.nll, jnp.ones(2))),
        (TypeError, "weighted_sum: losses must be a dictionary with an entry for each loss, got ",
         lambda: weighted_sum([jaxloss.nll], {})),
        (ValueError, "weighted_sum: losses and factors must have the same names, got a and b.",
         lambda: weighted_sum({"a": jaxloss.nll}, {"b": 1.0})),
        (TypeError, "weighted_sum(nll, huber): none of the losses takes colour=.",
         lambda: weighted_sum({"a": jaxloss.nll, "b": jaxloss.huber}, {"a": 1.0, "b": 1.0})(
             LOGITS, LABELS, colour=3)),
        (ValueError, "masked(weighted(huber)): where and weights must have the same shape, that of "
         "the losses, got (4,) and (2,).",
         lambda: masked(weighted(jaxloss.huber))(
             jnp.ones(4), jnp.ones(4), where=jnp.ones(4, bool), weights=jnp.ones(2))),
    ],
)  # fmt: skip
def test_message(error, message, call, without_annotations):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call()
