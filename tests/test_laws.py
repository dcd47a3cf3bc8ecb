"""The algebra's laws over every loss: hypothesis draws weights, masks, orders and partitions.

`make test` runs them over losses of each kind, `make test-exhaustive` over the others.

Each loss is compiled once for all its examples, as programs that take all that is drawn as data;
what a law says of an example then costs a call.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

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
)
from tests.cases import BASE, CASES, each
from tests.helpers import quick_jit, x64_enabled

# Combinators see a loss's axes, but not its other options.
LOSSES = [
    case
    for case in CASES
    if not case.compares and (case in BASE or {"axis", "axes"} & case.options.keys())
]
ROWS = 8
EXAMPLES = 15
QUICKEST = {"huber", "hinge", "cross_entropy-axis", "kl_divergence", "dice"}
CLOSE = {"rtol": 1e-10, "atol": 1e-13}
CLASS_WEIGHTS = np.array([0.5, 0.0, 2.0, 0.25, 3.0])

SEEDS = st.integers(0, 2**32 - 1)
DENSITIES = st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])
ORDERS = st.permutations(range(ROWS)).map(np.array)
POISONS = st.sampled_from([np.nan, np.inf, -np.inf, 1e300])


def law_over(losses):
    """The decorator of a law: as many examples for each loss, the same ones on every machine."""

    def decorate(law):
        law = settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )(given(st.data())(law))
        return each(losses, quick=[case for case in losses if case.id in QUICKEST])(law)

    return decorate


@functools.cache
def traced(case):
    """The loss, traced once for all that is made of it."""
    return jax.jit(case.bound)


@functools.cache
def losses_shape(case):
    with x64_enabled():
        return jax.eval_shape(traced(case), *case.arrays(np.random.default_rng(0))).shape


def draw(data, case):
    """Inputs, with weights and a mask for their losses, from none to all of which count."""
    rng = np.random.default_rng(data.draw(SEEDS, "seed"))
    inputs, shape = case.arrays(rng), losses_shape(case)
    weighing, seen = (rng.uniform(size=shape) < data.draw(DENSITIES, "density") for _ in range(2))
    return inputs, np.where(weighing, rng.uniform(0.125, 8, shape), 0), seen


def program(make):
    """A function of a case, made once, that runs in float64 and gives NumPy's arrays."""

    @functools.cache
    def of_case(case):
        compiled = quick_jit(make(case))

        def run(*args):
            with x64_enabled():
                return jax.tree.map(np.asarray, compiled(*args))

        return run

    return of_case


@program
def plainly(case):
    """The losses, and the gradient of their sum with given coefficients: no combinator in it."""

    def run(inputs, coefficients):
        first, *others = inputs
        losses, pullback = jax.vjp(lambda first: traced(case)(first, *others), first)
        return losses, pullback(coefficients)[0]

    return run


@program
def in_every_mode(case):
    """Of weighted and masked losses the sums, and of their mean value, gradient, two tangents."""

    def run(inputs, weights, where):
        first, *others = inputs
        loss = masked(weighted(traced(case)))
        direction = jnp.cos(jnp.arange(first.size, dtype=first.dtype)).reshape(first.shape)

        def of_first(first):
            return mean(loss)(first, *others, weights=weights, where=where)

        results = jax.jvp(jax.value_and_grad(of_first), (first,), (direction,))
        return pooled(loss)(*inputs, weights=weights, where=where), *results

    return run


@program
def in_parts(case):
    """Value and gradient of the mean of a batch that is cut in several ways."""
    halves = slice(0, ROWS // 2), slice(ROWS // 2, ROWS)

    def run(inputs, weights, where, order, part):
        first, *others = inputs
        loss = masked(weighted(traced(case)))

        def by_halves(first):
            arrays = [array[order] for array in (weights, where, first, *others)]
            cuts = [[array[half] for array in arrays] for half in halves]
            front, back = (pooled(loss)(*a, weights=w, where=m) for w, m, *a in cuts)
            return (front + back).mean()

        def by_name(first):
            masks = [where & (part == name) for name in range(3)]
            pairs = [pooled(loss)(first, *others, weights=weights, where=m) for m in masks]
            return functools.reduce(Weighted.__add__, pairs).mean()

        def by_steps(first):
            return mean(microbatched(loss, 2))(first, *others, weights=weights, where=where)

        def by_steps_inside(first):
            inside = masked(microbatched(weighted(traced(case)), 2))
            return mean(inside)(first, *others, weights=weights, where=where)

        def accumulated(shift, first, weights, where, others):
            return pooled(loss)(first + shift, *others, weights=weights, where=where)

        cuts = (by_halves, by_name, by_steps, by_steps_inside)
        step = accumulated_value_and_grad(accumulated, 2)
        shift = jnp.zeros_like(first[:1])
        return [jax.value_and_grad(cut)(first) for cut in cuts], step(
            shift, first, weights, where, others
        )

    return run


@program
def by_numbers(case):
    """Value and gradient of the mean alone, with weights of one, and scaled twice."""

    def run(inputs, a, b):
        first, *others = inputs
        loss = traced(case)
        ones = jnp.ones(losses_shape(case))
        means = (
            mean(loss),
            functools.partial(mean(weighted(loss)), weights=ones),
            mean(scaled(scaled(loss, a), b)),
        )
        return [jax.value_and_grad(lambda x, m=m: m(x, *others))(first) for m in means]

    return run


def shares(weights, where):
    """What each loss counts in the mean, by NumPy."""
    kept = np.where(where, weights, 0)
    return kept / (kept.sum() or 1)


@law_over(LOSSES)
def test_the_mean_divides_by_the_weights_of_what_is_not_masked(case, data):
    inputs, weights, where = draw(data, case)
    losses, expected = plainly(case)(inputs, shares(weights, where))
    sums, (value, gradient), _ = in_every_mode(case)(inputs, weights, where)
    np.testing.assert_allclose(value, np.sum(shares(weights, where) * losses), **CLOSE)
    np.testing.assert_allclose(gradient, expected, **CLOSE)
    kept = np.where(where, weights, 0)
    np.testing.assert_allclose(sums.losses, np.sum(kept * losses), **CLOSE)
    np.testing.assert_allclose(sums.weights, kept.sum(), **CLOSE)


@law_over(LOSSES)
def test_any_partition_pooled_is_the_whole(case, data):
    """Halves of any order, parts by name, steps of a scan; and gradients added step by step."""
    inputs, weights, where = draw(data, case)
    order = data.draw(ORDERS, "order")
    part = np.random.default_rng(data.draw(SEEDS, "part")).integers(0, 3, where.shape)
    _, (value, gradient), _ = in_every_mode(case)(inputs, weights, where)
    parts, (total, of_shift) = in_parts(case)(inputs, weights, where, order, part)
    for of_part in parts:
        chex.assert_trees_all_close(of_part, (value, gradient), **CLOSE)
    np.testing.assert_allclose(total, value, **CLOSE)
    np.testing.assert_allclose(of_shift, gradient.sum(0, keepdims=True), rtol=1e-9, atol=1e-12)


@law_over(LOSSES)
def test_the_order_of_the_batch_changes_nothing(case, data):
    inputs, weights, where = draw(data, case)
    order = data.draw(ORDERS, "order")
    run = in_every_mode(case)
    sums, (value, gradient), _ = run(inputs, weights, where)
    shuffled = run(tuple(a[order] for a in inputs), weights[order], where[order])
    chex.assert_trees_all_close(shuffled[:2], (sums, (value, gradient[order])), **CLOSE)


@law_over(LOSSES)
def test_nothing_gets_out_from_under_a_mask_or_a_weight_of_zero(case, data):
    """NaN, infinities and labels that are no class: not in a sum, value or derivative."""
    inputs, weights, where = draw(data, case)
    poison = data.draw(POISONS, "poison")
    hidden = ~where | (weights == 0)
    bad = tuple(poisoned(case, a, hidden, poison) for a in inputs)
    run = in_every_mode(case)
    clean = run(inputs, weights, where)
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(run(bad, np.where(where, weights, poison), where), clean)
    chex.assert_trees_all_equal(run(bad, np.where(hidden, 0, weights), where | hidden), clean)


def poisoned(case, array, hidden, poison):
    """An input with the poison, or a label that is none, in the rows that are hidden."""
    axes = case.options.get("axes", (case.options.get("axis", -1),))
    if array.ndim == hidden.ndim + len(axes):
        hidden = np.expand_dims(hidden, sorted(axis % array.ndim for axis in axes))
    hidden = hidden.reshape(hidden.shape + (1,) * (array.ndim - hidden.ndim))
    return np.where(
        hidden, np.asarray(poison if array.dtype.kind == "f" else 77, array.dtype), array
    )


@law_over(LOSSES)
def test_weights_of_one_change_nothing_and_factors_multiply(case, data):
    inputs = case.arrays(np.random.default_rng(data.draw(SEEDS, "seed")))
    a, b = (np.float64(data.draw(st.floats(-8, 8), "factor")) for _ in range(2))
    alone, with_ones, twice_scaled = by_numbers(case)(inputs, a, b)
    chex.assert_trees_all_close(with_ones, alone, **CLOSE)
    expected = jax.tree.map(lambda array: a * b * array, alone)
    chex.assert_trees_all_close(twice_scaled, expected, **CLOSE)


def takes_labels(case):
    """Whether the second input is integer classes, one for each loss."""
    _, second = list(inspect.signature(case.loss).parameters)[:2]
    first, labels, *_ = case.sample(np.random.default_rng(0))
    integers = second != "signs" and labels.dtype.kind in "iu"
    return integers and labels.shape == losses_shape(case) != first.shape


LABELLED = [case for case in LOSSES if takes_labels(case)]


@program
def by_labels(case):
    """Value and gradient of the mean: one label ignored, and classes weighted, both ways each."""

    def run(inputs, where, of_examples):
        first, labels = inputs
        loss = traced(case)
        classes = case.classes or first.shape[case.options.get("axis", -1)]
        class_weights = CLASS_WEIGHTS[:classes]
        means = (
            mean(ignoring(loss, 2)),
            functools.partial(mean(masked(loss)), where=where),
            mean(ignoring(class_weighted(loss, class_weights), 2)),
            functools.partial(mean(masked(weighted(loss))), where=where, weights=of_examples),
            mean(class_weighted(ignoring(loss, 2), class_weights)),
        )
        return [jax.value_and_grad(lambda x, m=m: m(x, labels))(first) for m in means]

    return run


@law_over(LABELLED)
def test_ignored_labels_and_class_weights_are_masks_and_weights(case, data):
    inputs = case.arrays(np.random.default_rng(data.draw(SEEDS, "seed")))
    labels = inputs[1]
    where = labels != 2
    bad = poisoned(case, inputs[0], ~where, data.draw(POISONS, "poison")), labels
    ignored, masked_, *all_weighted = by_labels(case)(bad, where, CLASS_WEIGHTS[labels])
    chex.assert_tree_all_finite(ignored)
    # Close, as sums of one program may be of other orders.
    chex.assert_trees_all_close(ignored, masked_, **CLOSE)
    for result in all_weighted:
        chex.assert_trees_all_close(result, all_weighted[1], **CLOSE)
