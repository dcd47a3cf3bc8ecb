"""The numerical policy: tails, offsets, infinities, ties, labels that are no class, NaN."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxloss
from jaxloss import primitives
from tests.cases import CASES
from tests.helpers import value_and_gradient

AHEAD = [1, 20, 45, 80]


def one_hot_targets(logits, labels):
    return jaxloss.cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]))


def picked_log_softmax(logits, labels):
    return -jnp.take_along_axis(primitives.log_softmax(logits), labels[..., None], -1)[..., 0]


SOFTMAX = [jaxloss.cross_entropy, one_hot_targets, picked_log_softmax]


@pytest.mark.parametrize("nats", AHEAD)
@pytest.mark.parametrize("function", SOFTMAX, ids=lambda f: f.__name__)
def test_softmax_keeps_its_tail(function, nats):
    logits = jnp.array([0.0, nats, -1.0])
    value, gradient = value_and_gradient(lambda z: function(z, jnp.array(1)), logits)
    rest = mpmath.exp(-nats) + mpmath.exp(-1 - nats)
    np.testing.assert_allclose(value, float(mpmath.log1p(rest)), rtol=3e-7)
    others = [float(mpmath.exp(z - nats) / (1 + rest)) for z in (0, -1)]
    expected = [others[0], -float(rest / (1 + rest)), others[1]]
    np.testing.assert_allclose(gradient, expected, rtol=4e-7)
    forward = jax.jit(jax.jacfwd(lambda z: function(z, jnp.array(1))))(logits)
    np.testing.assert_allclose(forward, expected, rtol=4e-7)


@pytest.mark.parametrize("nats", AHEAD)
@pytest.mark.parametrize("target", [0, 1])
def test_sigmoid_keeps_its_tail(target, nats):
    logit = jnp.float32(nats if target else -nats)
    value, gradient = value_and_gradient(
        lambda z: jaxloss.binary_cross_entropy_with_logits(z, target), logit
    )
    tail = mpmath.exp(-nats)
    np.testing.assert_allclose(value, float(mpmath.log1p(tail)), rtol=3e-7)
    sign = -1 if target else 1
    np.testing.assert_allclose(gradient, sign * float(tail / (1 + tail)), rtol=4e-7)


@pytest.mark.parametrize("offset", [1e4, 1e8, -1e8, 1e20, 3e38, -3e38])
@pytest.mark.parametrize("function", SOFTMAX, ids=lambda f: f.__name__)
def test_common_offset_changes_nothing(function, offset):
    logits = jnp.array([offset, offset], jnp.float32)
    value, gradient = value_and_gradient(lambda z: function(z, jnp.array(0)), logits)
    np.testing.assert_allclose(value, np.log(2), rtol=2e-7)
    np.testing.assert_allclose(gradient, [-0.5, 0.5], rtol=2e-7)


@pytest.mark.parametrize("function", SOFTMAX, ids=lambda f: f.__name__)
def test_ties_split_evenly_to_second_order(function):
    logits = jnp.array([2.0, 2.0, 2.0, -jnp.inf])

    def loss(logits):
        return function(logits, jnp.array(1))

    third = 1 / 3
    np.testing.assert_allclose(
        jax.jit(jax.grad(loss))(logits), [third, -2 / 3, third, 0], rtol=3e-7
    )
    p = np.array([third, third, third, 0])
    hessian = jax.jit(jax.hessian(loss))(logits)
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-7)


@pytest.mark.parametrize("function", SOFTMAX, ids=lambda f: f.__name__)
@pytest.mark.parametrize("logits", [[-np.inf, -np.inf], [np.inf, 0.0], [0.0, np.inf]])
def test_softmax_of_nothing_or_infinity_is_nan(function, logits):
    value, gradient = value_and_gradient(lambda z: function(z, jnp.array(0)), jnp.array(logits))
    assert np.isnan(value) and np.all(np.isnan(gradient))


def test_minus_infinity_masks_a_class_in_every_mode():
    masked, free = jnp.array([0.3, -0.2, -jnp.inf]), jnp.array([0.3, -0.2])
    for targets in (jnp.array(0), jnp.array([0.6, 0.4, 0.0])):
        kept = targets if targets.ndim == 0 else targets[:2]
        for mode in (jax.grad, jax.jacfwd, jax.hessian):
            ours = jax.jit(mode(lambda z, t=targets: jaxloss.cross_entropy(z, t)))(masked)
            expected = jax.jit(mode(lambda z, t=kept: jaxloss.cross_entropy(z, t)))(free)
            assert np.all(np.isfinite(ours))
            np.testing.assert_allclose(
                ours[..., :2] if mode is not jax.hessian else ours[:2, :2], expected, rtol=3e-7
            )
            np.testing.assert_array_equal(ours[..., 2], 0)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("logit", [0.0, 1e-30, -1e-30])
def test_the_sigmoid_is_smooth_at_zero(logit, target):
    """Second derivatives there, with respect to the weight too."""

    def loss(logit, weight):
        return jaxloss.binary_cross_entropy_with_logits(logit, target, pos_weight=weight)

    [[by_logit, mixed], [mixed_again, by_weight]] = jax.jit(jax.hessian(loss, (0, 1)))(logit, 1.0)
    np.testing.assert_allclose(by_logit, 0.25, rtol=1e-6)
    np.testing.assert_allclose([mixed, mixed_again], -0.5 * target, rtol=1e-6)
    assert by_weight == 0


def test_a_class_far_below_the_maximum_has_no_share():
    logits = jnp.array([1e10, 0.0])
    value, gradient = value_and_gradient(lambda z: jaxloss.cross_entropy(z, 1), logits)
    assert value == np.float32(1e10)
    np.testing.assert_array_equal(gradient, [1, -1])


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0])
def test_smoothing_with_a_masked_class_is_infinite_or_nothing(smoothing):
    """Traced or not: no share of an infinite loss is 0, any share is infinite."""
    logits = jnp.array([1.0, -jnp.inf])
    for targets in (0, jnp.array([1.0, 0.0])):

        def loss(smoothing, targets=targets):
            return jaxloss.cross_entropy(logits, targets, label_smoothing=smoothing)

        assert loss(smoothing) == jax.jit(loss)(smoothing) == (np.inf if smoothing else 0)


BAD_LABELS = [
    np.int32(-1),
    np.int32(3),
    np.int32(-100),
    np.int32(2**31 - 1),
    np.int8(-1),
    np.uint8(255),
    np.uint32(2**32 - 1),
    np.int64(2**32 + 1),
    -1,
    2**40,
]


@pytest.mark.parametrize("label", BAD_LABELS, ids=lambda n: f"{type(n).__name__}-{n}")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_out_of_range_is_nan_in_loss_and_gradient(label, smoothing):
    scores = jnp.array([0.1, -0.5, 2.0])
    losses = [functools.partial(jaxloss.cross_entropy, label_smoothing=smoothing), jaxloss.nll]
    for loss in losses[: 1 if smoothing else 2]:
        value, gradient = value_and_gradient(lambda z, loss=loss: loss(z, label), scores)
        tangent = jax.jit(jax.jacfwd(lambda z, loss=loss: loss(z, label)))(scores) @ scores
        assert np.isnan(value) and np.isnan(tangent) and np.any(np.isnan(gradient))
        if loss is not jaxloss.nll:
            assert np.all(np.isnan(gradient))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_nan_in_nan_out(case, rng):
    """A NaN prediction or target shows in its own loss and gradient, and in no other."""
    arrays = [jnp.asarray(a) for a in case.arrays(rng, np.float32)]
    for n, array in enumerate(arrays):
        if not jnp.issubdtype(array.dtype, jnp.floating) or (n == 0 and case.name == "nll"):
            continue
        poisoned = list(arrays)
        poisoned[n] = array.at[(0,) * array.ndim].set(jnp.nan)
        value, gradient = value_and_gradient(
            lambda first, poisoned=poisoned: case(first, *poisoned[1:]), poisoned[0]
        )
        bad = (0,) * value.ndim
        assert np.isnan(value[bad]) and np.isnan(gradient[(0,) * array.ndim])
        assert np.count_nonzero(np.isnan(value)) == 1
        assert np.all(np.isfinite(gradient[1:]))


@pytest.mark.parametrize(
    ("predictions", "targets"), [(-0.1, 0.0), (-0.1, 1.0), (1.1, 0.0), (1.1, 1.0), (1.1, 0.5)]
)
def test_binary_cross_entropy_of_no_probability_is_nan(predictions, targets):
    value, gradient = value_and_gradient(
        lambda p: jaxloss.binary_cross_entropy(p, targets), jnp.float32(predictions)
    )
    assert np.isnan(value) and np.isnan(gradient)


@pytest.mark.parametrize(
    ("loss", "error", "value", "gradient"),
    [
        (jaxloss.huber, 1e-8, 5e-17, 1e-8),
        (jaxloss.smooth_l1, 1e-8, 5e-17, 1e-8),
        (jaxloss.huber, -3e38, 3e38, -1.0),
        (jaxloss.smooth_l1, 1e20, 1e20, 1.0),
        (functools.partial(jaxloss.huber, delta=1e9), 2.0, 2.0, 2.0),
        (functools.partial(jaxloss.smooth_l1, beta=1e-30), 1e-8, 1e-8, 1.0),
        (jaxloss.log_cosh, 1e-4, 5e-9, 1e-4),
        (jaxloss.log_cosh, -3e38, 3e38, -1.0),
        (jaxloss.absolute_error, 2e-38, 2e-38, 1.0),
    ],
)
def test_tiny_and_huge_errors(loss, error, value, gradient):
    results = value_and_gradient(lambda p: loss(p, 0.0), jnp.float32(error))
    np.testing.assert_allclose(results, [value, gradient], rtol=3e-7)


def ulps(ours, truths):
    """Error in units in the last place of the result's dtype."""
    truths = np.array([float(truth) for truth in truths])
    return np.max(
        np.abs(ours.astype(np.float64) - truths) / np.spacing(np.abs(truths).astype(np.float32))
    )


def cross_entropy_truth(row, label):
    total = mpmath.fsum(mpmath.exp(mpmath.mpf(float(z))) for z in row)
    loss = mpmath.log(total) - float(row[label])
    gradient = [mpmath.exp(float(z)) / total for z in row]
    gradient[label] = -mpmath.fsum(p for j, p in enumerate(gradient) if j != label)
    return loss, gradient


@pytest.mark.parametrize("spread", [1, 5, 30], ids=["benign", "spread", "confident"])
def test_cross_entropy_to_the_last_places(spread, rng):
    logits = (rng.normal(size=(200, 7)) * spread).astype(np.float32)
    labels = rng.integers(0, 7, 200)
    labels[::2] = logits[::2].argmax(-1)
    value, gradient = value_and_gradient(
        lambda z: jaxloss.cross_entropy(z, labels), jnp.asarray(logits)
    )
    with mpmath.workdps(60):
        truths = [
            cross_entropy_truth(row, label) for row, label in zip(logits, labels, strict=True)
        ]
        # XLA flushes the terms that underflow, which near there are part of the sum.
        normal = np.array([[abs(g) > 1e-30 for g in truth[1]] for truth in truths])
        kept = np.array([truth[0] > 1e-30 for truth in truths])
        # XLA's exp is within 1 and its log1p within 1.7; sum, quotient and product add the rest.
        assert ulps(value[kept], [t[0] for t, k in zip(truths, kept, strict=True) if k]) <= 3.5
        flat = [g for truth in truths for g in truth[1]]
        flat = [g for g, ok in zip(flat, normal.ravel(), strict=True) if ok]
        assert ulps(gradient[normal], flat) <= 4


@pytest.mark.parametrize("spread", [1, 30], ids=["benign", "confident"])
def test_binary_cross_entropy_with_logits_to_the_last_places(spread, rng):
    logits = np.clip(rng.normal(size=400) * spread, -80, 80).astype(np.float32)
    targets = rng.integers(0, 2, 400)
    value, gradient = value_and_gradient(
        lambda z: jaxloss.binary_cross_entropy_with_logits(z, targets), jnp.asarray(logits)
    )
    with mpmath.workdps(60):
        signed = [
            (-1 if y else 1) * mpmath.mpf(float(z)) for z, y in zip(logits, targets, strict=True)
        ]
        assert ulps(value, [mpmath.log1p(mpmath.exp(z)) for z in signed]) <= 2
        slopes = [1 / (1 + mpmath.exp(-z)) for z in signed]
        slopes = [-s if y else s for s, y in zip(slopes, targets, strict=True)]
        assert ulps(gradient, slopes) <= 3


def test_log_cosh_in_double_precision(x64):
    errors = np.array([1e-9, 1e-3, 0.3, 0.7, 0.999, 1.0, 1.5, 30.0])
    losses = np.asarray(jaxloss.log_cosh(errors, np.zeros(8)))
    with mpmath.workdps(60):
        truths = [float(mpmath.log(mpmath.cosh(mpmath.mpf(e)))) for e in errors.tolist()]
    np.testing.assert_allclose(losses, truths, rtol=1e-15)


def test_regression_to_the_last_places(rng):
    errors = np.concatenate([rng.normal(size=200), 10.0 ** rng.uniform(-8, 8, 200)])
    errors = errors.astype(np.float32)
    zeros = jnp.zeros_like(errors)
    value, gradient = value_and_gradient(lambda p: jaxloss.huber(p, zeros), jnp.asarray(errors))
    exact = [mpmath.mpf(float(e)) for e in errors]
    assert ulps(value, [e**2 / 2 if abs(e) < 1 else abs(e) - 0.5 for e in exact]) <= 2
    assert ulps(gradient, [min(max(e, -1), 1) for e in exact]) <= 0
    value, gradient = value_and_gradient(lambda p: jaxloss.log_cosh(p, zeros), jnp.asarray(errors))
    with mpmath.workdps(60):
        small = [e for e in exact if abs(e) < 1000]
        kept = np.abs(errors) < 1000
        assert ulps(value[kept], [mpmath.log(mpmath.cosh(e)) for e in small]) <= 5
        assert ulps(gradient[kept], [mpmath.tanh(e) for e in small]) <= 5
