"""What counts give, priors, offsets and weights; and the two scores that a ranking compares."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from tests.helpers import quick_jit

COUNTS = np.array([900, 90, 9, 1])


def test_priors_are_shares():
    np.testing.assert_allclose(jaxloss.class_priors(COUNTS), COUNTS / 1000, rtol=1e-6)
    np.testing.assert_array_equal(jaxloss.class_priors(jnp.array([3, 0, 1])), [0.75, 0, 0.25])


def test_under_jit_priors_of_infinite_counts_are_nan():
    for function in (jaxloss.class_priors, jaxloss.logit_adjustment):
        assert jnp.isnan(jax.jit(function)(jnp.array([jnp.inf, 1.0]))).all()


@pytest.mark.parametrize("counts", [[3e38, 3e38], [2e-38, 6e-38], [3e38, 2e-38]])
def test_priors_of_any_size(counts):
    counts = np.array(counts, np.float32)
    expected = counts / counts.sum(dtype=np.float64)
    np.testing.assert_allclose(jaxloss.class_priors(counts), expected, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("tau", [0, 0.5, 1.0, 2])
def test_adjustment_is_the_logarithm_of_the_priors(tau):
    actual = jaxloss.logit_adjustment(COUNTS, tau)
    np.testing.assert_allclose(actual, tau * np.log(COUNTS / 1000), rtol=1e-6)


def test_adjustment_is_bayes_rule(rng):
    """Probabilities of balanced classes become those at the true frequencies, and back."""
    likelihoods = rng.uniform(0.01, 1, (5, 4))
    balanced = jnp.log(likelihoods / likelihoods.sum(-1, keepdims=True)).astype(jnp.float32)
    joint = likelihoods * COUNTS
    true = joint / joint.sum(-1, keepdims=True)
    adjustment = jaxloss.logit_adjustment(COUNTS)[None]
    np.testing.assert_allclose(jax.nn.softmax(balanced + adjustment), true, rtol=1e-5)
    back = jax.nn.softmax(jnp.log(true).astype(jnp.float32) - adjustment)
    np.testing.assert_allclose(back, jnp.exp(balanced), rtol=1e-5)


def test_a_class_that_never_occurs_is_out_of_the_softmax():
    adjustment = jaxloss.logit_adjustment(jnp.array([3, 0, 1]))
    assert adjustment[1] == -jnp.inf
    loss = jaxloss.mean(lambda z, y: jaxloss.cross_entropy(z + adjustment[None], y))
    value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 3)), jnp.array([0]))
    np.testing.assert_allclose(value, -np.log(0.75), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.25, 0, 0.25]], rtol=1e-6)
    # With tau = 0 nothing is adjusted, also where the logarithm is infinite.
    np.testing.assert_array_equal(jaxloss.logit_adjustment(jnp.array([3, 0, 1]), 0), [0, 0, 0])


@pytest.mark.parametrize("beta", [0, 0.5, 0.9, 0.999, 0.999999, 1 - 1e-12, 1])
def test_weights_are_those_of_the_paper(beta, x64):
    counts = np.array([1, 2, 50, 10**6])
    log_beta = np.log(np.longdouble(beta)) if beta else -np.inf
    numbers = counts if beta == 1 else np.expm1(counts * log_beta) / np.expm1(log_beta)
    expected = 4 * (1 / numbers) / np.sum(1 / numbers)
    for dtype, rtol in ((np.float64, 1e-13), (np.float32, 2e-6)):
        actual = jaxloss.effective_number_weights(counts.astype(dtype), beta)
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected.astype(np.float64), rtol=rtol)
        np.testing.assert_allclose(jnp.sum(actual), 4, rtol=rtol)


def test_weights_go_from_equal_to_inverse():
    np.testing.assert_array_equal(jaxloss.effective_number_weights(COUNTS, 0), np.ones(4))
    inverse = 4 / COUNTS / np.sum(1 / COUNTS)
    np.testing.assert_allclose(jaxloss.effective_number_weights(COUNTS, 1), inverse, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        jaxloss.class_priors,
        jaxloss.logit_adjustment,
        lambda counts: jaxloss.effective_number_weights(counts, 0.99),
    ],
    ids=["class_priors", "logit_adjustment", "effective_number_weights"],
)
def test_under_jit_they_are_the_same_and_nonsense_is_nan(function):
    counts = jnp.asarray(COUNTS, jnp.float32)
    np.testing.assert_allclose(jax.jit(function)(counts), function(counts), rtol=1e-6)
    assert jnp.isnan(jax.jit(function)(jnp.array([-1.0, 3.0]))).all()
    assert jnp.isnan(jax.jit(function)(jnp.zeros(2))).all()
    many = jnp.stack([counts, counts[::-1]])
    np.testing.assert_allclose(jax.vmap(function)(many)[1], function(counts)[::-1], rtol=1e-6)


def plain_true_and_hardest(logits, labels):
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return logits[rows, labels], others.max(-1)


def test_the_true_and_the_hardest_logit(rng):
    logits = rng.normal(size=(20, 5)).astype(np.float32)
    labels = rng.integers(0, 5, 20)
    expected = plain_true_and_hardest(logits, labels)
    np.testing.assert_array_equal(jaxloss.true_and_hardest(logits, labels), expected)
    of_images = jaxloss.true_and_hardest(logits.T, labels, axis=0)
    np.testing.assert_array_equal(of_images, expected)


def test_ranked_they_are_the_multiclass_hinge(rng):
    logits, labels = rng.normal(size=(20, 5)).astype(np.float32), rng.integers(0, 5, 20)

    def ranked(logits):
        true, hardest = jaxloss.true_and_hardest(logits, labels)
        return jaxloss.margin_ranking(true, hardest, jnp.ones_like(true), margin=1.0)

    def both(loss):
        value, pullback = jax.vjp(loss, jnp.asarray(logits))
        return value, pullback(jnp.ones(20))[0]

    value, gradient = both(ranked)
    expected, slope = both(lambda logits: jaxloss.multiclass_hinge(logits, labels))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient, slope)


def test_ties_share_the_gradient_of_the_hardest():
    logits, labels = jnp.array([[1.0, 1.0, 0.0, 1.0]]), jnp.array([0])
    slopes = [
        jax.grad(lambda z, i=i: jaxloss.true_and_hardest(z, labels)[i].sum())(logits)
        for i in range(2)
    ]
    np.testing.assert_array_equal(slopes, [[[1, 0, 0, 0]], [[0, 0.5, 0, 0.5]]])


@pytest.mark.parametrize("classes", [3, 5000])
@pytest.mark.parametrize("place", [0, 1], ids=["true", "other"])
def test_a_row_with_nan_gives_nan(classes, place):
    logits = jnp.zeros((2, classes)).at[1, place].set(jnp.nan)
    labels = jnp.array([0, 0])

    @quick_jit
    def both(logits):
        scores, pullback = jax.vjp(lambda z: jaxloss.true_and_hardest(z, labels), logits)
        return scores, [pullback((jnp.eye(2)[i], jnp.eye(2)[1 - i]))[0] for i in range(2)]

    scores, gradients = both(logits)
    np.testing.assert_array_equal(scores, [[0, np.nan]] * 2)
    for gradient in gradients:
        assert not jnp.isnan(gradient[0]).any() and jnp.isnan(gradient[1]).all()


@pytest.mark.parametrize("label", [3, -1, 2**31 - 1])
def test_a_label_that_is_no_class_gives_nan(label):
    logits, labels = jnp.arange(6.0).reshape(2, 3), jnp.array([0, label])

    @quick_jit
    def both(logits):
        scores, pullback = jax.vjp(lambda z: jaxloss.true_and_hardest(z, labels), logits)
        return scores, [pullback((jnp.eye(2)[i], jnp.eye(2)[1 - i]))[0] for i in range(2)]

    (true, hardest), gradients = both(logits)
    np.testing.assert_array_equal(true, [0, np.nan])
    np.testing.assert_array_equal(hardest, [2, np.nan])
    for gradient in gradients:
        assert not jnp.isnan(gradient[0]).any() and jnp.isnan(gradient[1]).all()


def test_of_half_precision_they_are_float32_and_of_one_class_there_is_no_other():
    true, hardest = jaxloss.true_and_hardest(jnp.ones((2, 1), jnp.bfloat16), jnp.array([0, 0]))
    assert true.dtype == hardest.dtype == jnp.float32
    np.testing.assert_array_equal((true, hardest), [[1, 1], [-np.inf, -np.inf]])
    true, hardest = jaxloss.true_and_hardest(jnp.ones((2, 1)), jnp.array([0, 1]))
    np.testing.assert_array_equal((true, hardest), [[1, np.nan], [-np.inf, np.nan]])


def priors_of_numbers_beyond_float32():
    with np.errstate(over="ignore"):  # JAX warns that they are.
        return jaxloss.class_priors(np.array([1e300, 1.0]))


BAD_CALLS = {
    "class_priors: counts must have the shape (classes,), of one class at least, got (2, 2); of "
    "labels, jnp.bincount(labels, length=classes) are the counts.": (
        ValueError,
        lambda: jaxloss.class_priors(jnp.ones((2, 2))),
    ),
    "of one class at least, got (0,)": (ValueError, lambda: jaxloss.class_priors(jnp.ones(0))),
    "class_priors: counts must be finite and at least 0, got [ 1 -1]": (
        ValueError,
        lambda: jaxloss.class_priors(jnp.array([1, -1])),
    ),
    "class_priors: counts must not all be 0, as float32.": (
        ValueError,
        lambda: jaxloss.class_priors(np.array([1e-40, 0.0])),
    ),
    "class_priors: counts must be finite as float32, got": (
        ValueError,
        priors_of_numbers_beyond_float32,
    ),
    "logit_adjustment: counts must not all be 0": (
        ValueError,
        lambda: jaxloss.logit_adjustment(jnp.zeros(3)),
    ),
    "logit_adjustment: tau must be finite and at least 0, got -1": (
        ValueError,
        lambda: jaxloss.logit_adjustment(COUNTS, -1),
    ),
    "logit_adjustment: counts must be an array of real numbers, got str 'x'": (
        TypeError,
        lambda: jaxloss.logit_adjustment("x"),
    ),
    "effective_number_weights: counts must be finite and more than 0, got [0 1]": (
        ValueError,
        lambda: jaxloss.effective_number_weights(jnp.array([0, 1]), 0.9),
    ),
    "effective_number_weights: beta must be in [0, 1], got 1.5": (
        ValueError,
        lambda: jaxloss.effective_number_weights(COUNTS, 1.5),
    ),
    "effective_number_weights: beta must be a Python number, got float32 of shape ()": (
        TypeError,
        lambda: jaxloss.effective_number_weights(COUNTS, jnp.float32(0.5)),
    ),
    "true_and_hardest: labels must have the shape of logits (2, 3) without its class axis 1, "
    "(2,), got (3,)": (
        ValueError,
        lambda: jaxloss.true_and_hardest(jnp.ones((2, 3)), jnp.zeros(3, jnp.int32)),
    ),
    "true_and_hardest: logits must have at least one entry along axis -1": (
        ValueError,
        lambda: jaxloss.true_and_hardest(jnp.ones((2, 0)), jnp.zeros(2, jnp.int32)),
    ),
}


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_says_what_came_and_what_was_expected(message):
    error, call = BAD_CALLS[message]
    with pytest.raises(error, match=re.escape(message)):
        call()
