"""Values and gradients, in units in the last place, from mpmath's at the exact inputs."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxloss
from jaxloss import primitives
from jaxloss._exact import (
    exp,
    exponential,
    exponential_and_change,
    exponential_below,
    inverse,
    tanh,
)
from tests.helpers import exhaustive, value_and_gradient

pytestmark = pytest.mark.optimized


@pytest.fixture(autouse=True)
def many_digits():
    with mpmath.workdps(60):
        yield


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
        # 2.03 over 2000 rows of each regime: exp and log1p, where called, are within 1; in the
        # gradient sum, quotient and product add the rest.
        assert ulps(value[kept], [t[0] for t, k in zip(truths, kept, strict=True) if k]) <= 2
        flat = [g for truth in truths for g in truth[1]]
        flat = [g for g, ok in zip(flat, normal.ravel(), strict=True) if ok]
        assert ulps(gradient[normal], flat) <= 4


def test_cross_entropy_of_two_near_classes(rng):
    """Whose logarithms are of 1 + x for x up to 1, where XLA's log1p is 2.5 ULP off."""
    ahead = rng.uniform(0, 1, 3000).astype(np.float32)
    logits = jnp.stack([jnp.asarray(ahead), jnp.zeros(3000)], -1)
    losses = np.asarray(jax.jit(lambda z: jaxloss.cross_entropy(z, jnp.zeros(3000, int)))(logits))
    assert ulps(losses, [mpmath.log1p(mpmath.exp(-z)) for z in exact(ahead)]) <= 2


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
        # XLA's exp is within 1, and our logarithm within 1.2.
        assert ulps(value, [mpmath.log1p(mpmath.exp(z)) for z in signed]) <= 1.8
        slopes = [1 / (1 + mpmath.exp(-z)) for z in signed]
        slopes = [-s if y else s for s, y in zip(slopes, targets, strict=True)]
        assert ulps(gradient, slopes) <= 2.5


def test_binary_cross_entropy_in_double_precision(rng, x64):
    """XLA's log1p is 128 ULP off just below 0."""
    probabilities = 10.0 ** rng.uniform(-8, 0, 400)
    losses = np.asarray(jax.jit(jaxloss.binary_cross_entropy)(probabilities, np.zeros(400)))
    truths = [float(-mpmath.log1p(-p)) for p in map(mpmath.mpf, probabilities.tolist())]
    assert np.max(np.abs(losses - truths) / np.spacing(truths)) <= 2


def test_log_cosh_in_double_precision(x64):
    errors = np.array([1e-9, 1e-3, 0.3, 0.7, 0.999, 1.0, 1.001, 1.02, 1.1, 1.2, 1.5, 30.0])
    losses = np.asarray(jaxloss.log_cosh(errors, np.zeros(12)))
    with mpmath.workdps(60):
        truths = [float(mpmath.log(mpmath.cosh(mpmath.mpf(e)))) for e in errors.tolist()]
    np.testing.assert_allclose(losses, truths, rtol=1e-15)


@pytest.mark.parametrize("width", [0.1, 0.3, 0.7, 1.3, 3.3])
def test_regression_at_any_width(width, rng):
    """Where quotients by the width are rounded too, half of the errors near the kink.

    The error, twice in the square, the quotient, the product and the difference are rounded.
    """
    targets = rng.normal(size=8000).astype(np.float32)
    near = np.sign(targets) * width * rng.uniform(0.8, 1.2, 8000)
    errors = np.concatenate([near[::2], 3 * rng.normal(size=4000)])
    predictions = (targets + errors).astype(np.float32)
    # In float64 their differences are exact, and the formulas nearly.
    sizes = np.abs(predictions.astype(np.float64) - targets)
    steep = float(np.float32(width))
    truths = np.where(sizes < steep, sizes**2 / 2, steep * (sizes - steep / 2))
    for losses, exact in (
        (jaxloss.huber(predictions, targets, delta=width), truths),
        (jaxloss.smooth_l1(predictions, targets, beta=width), truths / steep),
    ):
        units = np.spacing(exact.astype(np.float32)).astype(np.float64)
        assert np.max(np.abs(np.asarray(losses, np.float64) - exact) / units) <= 3.1


def test_regression_to_the_last_places(rng):
    errors = np.concatenate([rng.normal(size=200), 10.0 ** rng.uniform(-8, 8, 200)])
    errors = errors.astype(np.float32)
    zeros = jnp.zeros_like(errors)
    value, gradient = value_and_gradient(lambda p: jaxloss.huber(p, zeros), jnp.asarray(errors))
    exact = [mpmath.mpf(float(e)) for e in errors]
    assert ulps(value, [e**2 / 2 if abs(e) < 1 else abs(e) - 0.5 for e in exact]) <= 0.51
    assert ulps(gradient, [min(max(e, -1), 1) for e in exact]) <= 0
    value, gradient = value_and_gradient(lambda p: jaxloss.log_cosh(p, zeros), jnp.asarray(errors))
    with mpmath.workdps(60):
        small = [e for e in exact if abs(e) < 1000]
        kept = np.abs(errors) < 1000
        assert ulps(value[kept], [mpmath.log(mpmath.cosh(e)) for e in small]) <= 5
        assert ulps(gradient[kept], [mpmath.tanh(e) for e in small]) <= 5


def exact(array):
    return [mpmath.mpf(float(x)) for x in np.ravel(array)]


def off_by(results, truths):
    """The largest error in ULP, of truths that float32 can hold."""
    held = [n for n, truth in enumerate(truths) if abs(truth) > 1e-30]
    return ulps(np.ravel(results)[held], [truths[n] for n in held])


REGIMES = {"benign": (-4, 4), "right": (0, 25), "wrong": (-80, 0)}


@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0])
@pytest.mark.parametrize("regime", REGIMES)
def test_focal_losses(regime, gamma, rng):
    logits = rng.uniform(*REGIMES[regime], 200).astype(np.float32)
    rows = np.stack([logits, np.zeros_like(logits)], -1)

    @jax.jit
    def run(logits, rows):
        sigmoid = functools.partial(jaxloss.sigmoid_focal, gamma=gamma)
        softmax = functools.partial(jaxloss.softmax_focal, gamma=gamma)
        ones, zeros = jnp.ones(200), jnp.zeros(200, jnp.int32)
        return (
            sigmoid(logits, ones),
            jax.grad(lambda z: jnp.sum(sigmoid(z, ones)))(logits),
            softmax(rows, zeros),
            jax.grad(lambda z: jnp.sum(softmax(z, zeros)))(rows)[:, 0],
        )

    wrong = [1 / (1 + mpmath.exp(z)) for z in exact(logits)]
    losses = [mpmath.log1p(mpmath.exp(-z)) for z in exact(logits)]
    values = [q**gamma * loss for q, loss in zip(wrong, losses, strict=True)]
    slopes = [
        -(q**gamma) * (gamma * (1 - q) * loss + q) for q, loss in zip(wrong, losses, strict=True)
    ]
    of_sigmoid, slope_of_sigmoid, of_softmax, slope_of_softmax = run(logits, rows)
    assert off_by(of_sigmoid, values) <= 4
    assert off_by(slope_of_sigmoid, slopes) <= 4.5
    # A square doubles the error of its base.
    assert off_by(of_softmax, values) <= 7
    assert off_by(slope_of_softmax, slopes) <= 7


def test_soft_margin(rng):
    scores = rng.uniform(-80, 80, 300).astype(np.float32)
    value, gradient = value_and_gradient(lambda z: jaxloss.soft_margin(z, jnp.ones(300)), scores)
    assert off_by(value, [mpmath.log1p(mpmath.exp(-z)) for z in exact(scores)]) <= 2
    assert off_by(gradient, [-1 / (1 + mpmath.exp(z)) for z in exact(scores)]) <= 2.5


ANGLES = {
    "any": (None, 1, 1),
    "scales": (None, 1e25, 1e-25),
    "near": (1e-3, 1e-20, 1e20),
    "nearer": (1e-6, 1, 3.3),
    "rounding": (1e-7, 1, 1),
}


@pytest.mark.parametrize("program", ["of both", *exhaustive("of the first"), "in one reading"])
@pytest.mark.parametrize("angle", ANGLES)
def test_cosines(angle, program, rng, request):
    """The second vectors are an argument of the program, or constants that XLA may fold."""
    if program == "in one reading":
        request.getfixturevalue("in_one_reading")
    closed_over = program == "of the first"
    difference, *scales = ANGLES[angle]
    first = rng.normal(size=(60, 7))
    second = rng.normal(size=(60, 7)) if difference is None else first
    second = second + (difference or 0) * rng.normal(size=(60, 7))
    first, second = (
        (vectors * scale).astype(np.float32)
        for vectors, scale in zip((first, second), scales, strict=True)
    )

    def run(first, second):
        return (
            jaxloss.cosine_distance(first, second),
            jaxloss.cosine_similarity(first, second),
            jax.grad(lambda a: jnp.sum(jaxloss.cosine_distance(a, second)))(first),
        )

    compiled = jax.jit(lambda first: run(first, second)) if closed_over else jax.jit(run)
    results = compiled(*([first] if closed_over else [first, second]))
    for *row, a, b in zip(*results, first, second, strict=True):
        distance, similarity, gradient = map(np.asarray, row)
        a, b = exact(a), exact(b)
        length_a, length_b = (mpmath.sqrt(mpmath.fsum(x * x for x in v)) for v in (a, b))
        cosine = mpmath.fsum(x * y for x, y in zip(a, b, strict=True)) / (length_a * length_b)
        assert off_by(distance, [1 - cosine]) <= 4.5
        assert abs(float(similarity) - float(cosine)) <= 2e-7
        slopes = [
            (cosine * x / length_a - y / length_b) / length_a for x, y in zip(a, b, strict=True)
        ]
        largest = max(map(abs, slopes))
        errors = [abs(g - s) for g, s in zip(exact(gradient), slopes, strict=True)]
        assert max(errors) <= 6e-7 * largest


@pytest.mark.parametrize("scale", [1, 1e25, 1e-25])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_norms(p, scale, rng):
    vectors = (rng.normal(size=(60, 7)) * scale).astype(np.float32)
    value, gradient = value_and_gradient(lambda x: primitives.norm(x, p=p), vectors)
    lengths = [mpmath.fsum(abs(x) ** mpmath.mpf(p) for x in exact(row)) for row in vectors]
    lengths = [length ** (1 / mpmath.mpf(p)) for length in lengths]
    slopes = [
        mpmath.sign(x) * (abs(x) / length) ** (mpmath.mpf(p) - 1)
        for row, length in zip(vectors, lengths, strict=True)
        for x in exact(row)
    ]
    assert off_by(value, lengths) <= 2.5
    assert off_by(gradient, slopes) <= 6


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, np.inf])
def test_a_coordinate_that_is_next_to_nothing_has_no_slope(p):
    gradient = jax.grad(lambda x: primitives.norm(x, p=p))(jnp.array([1e-20, 1e20]))
    assert gradient.tolist() == ([1, 1] if p == 1 else [pytest.approx(0, abs=1e-19), 1])


@pytest.mark.parametrize("difference", [1, 0.1, 1e-3, 1e-6])
def test_divergences_of_near_and_far_distributions(difference, rng):
    log_probs = rng.normal(size=(60, 6))
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    targets = (log_probs + difference * rng.normal(size=(60, 6))).astype(np.float32)
    log_probs = log_probs.astype(np.float32)
    generalized, jensen_shannon = [], []
    for row, target in zip(log_probs, targets, strict=True):
        p, t = ([mpmath.exp(x) for x in exact(logs)] for logs in (row, target))
        pairs = list(zip(p, t, strict=True))
        generalized.append(mpmath.fsum(b * mpmath.log(b / a) - b + a for a, b in pairs))
        jensen_shannon.append(
            mpmath.fsum(
                a * mpmath.log(2 * a / (a + b)) + b * mpmath.log(2 * b / (a + b)) for a, b in pairs
            )
            / 2
        )
    for loss, truths, allowed in (
        (jaxloss.generalized_kl_divergence, generalized, 3.5),
        (jaxloss.js_divergence, jensen_shannon, 8),  # XLA's tanh is within 2.9, and doubled.
    ):
        value, gradient = value_and_gradient(
            lambda p, loss=loss: loss(p, targets, log_targets=True), log_probs
        )
        assert off_by(value, truths) <= allowed
    differences = [
        mpmath.exp(a) - mpmath.exp(b) for a, b in zip(exact(log_probs), exact(targets), strict=True)
    ]
    gradient = jax.jit(
        jax.grad(lambda p: jnp.sum(jaxloss.generalized_kl_divergence(p, targets, log_targets=True)))
    )(log_probs)
    assert off_by(gradient, differences) <= 3


@pytest.mark.parametrize("loss", [jaxloss.generalized_kl_divergence, jaxloss.js_divergence])
def test_divergences_from_probabilities_of_nearly_the_same(loss, rng):
    """No logarithm of the targets is rounded, which costs some 1e-7 of a difference of 1e-3."""
    targets = rng.uniform(0.01, 1, (200, 1)).astype(np.float32)
    log_probs = (np.log(targets) + 1e-3 * rng.normal(size=(200, 1))).astype(np.float32)
    value, gradient = value_and_gradient(lambda p: loss(p, targets), log_probs)
    truths, slopes = [], []
    for q, t in zip(exact(log_probs), exact(targets), strict=True):
        p = mpmath.exp(q)
        m = (p + t) / 2
        if loss is jaxloss.js_divergence:
            truths.append((p * mpmath.log(p / m) + t * mpmath.log(t / m)) / 2)
            slopes.append(p * mpmath.log(p / m) / 2)
        else:
            truths.append(t * mpmath.log(t / p) - t + p)
            slopes.append(p - t)
    # The difference of the two is known to a part of the target that an exponential has as error.
    truths, slopes = np.array(truths, float), np.array(slopes, float)
    unknown = 2e-8 * targets.ravel()
    changes = log_probs.ravel() - np.log(targets.ravel().astype(np.float64))
    assert np.all(np.abs(value - truths) <= unknown * np.abs(changes) + 5e-7 * truths)
    assert np.all(np.abs(gradient.ravel() - slopes) <= unknown + 2e-7 * np.abs(slopes))


@pytest.mark.parametrize(
    "log_prob, target", [(1, 1.2e-38), (-85, 100), (-86, 1e30), (88, 1e-30), (88, 2e38)]
)
@pytest.mark.parametrize("loss", [jaxloss.generalized_kl_divergence, jaxloss.js_divergence])
def test_divergences_of_masses_far_apart_or_near_the_largest(loss, log_prob, target):
    log_probs, targets = jnp.array([log_prob], jnp.float32), jnp.array([target], jnp.float32)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(log_probs, targets)
    [q], [t] = exact(log_probs), exact(targets)
    p = mpmath.exp(q)
    m = (p + t) / 2
    if loss is jaxloss.js_divergence:
        truth = (p * mpmath.log(p / m) + t * mpmath.log(t / m)) / 2
        slopes = p * mpmath.log(p / m) / 2, mpmath.log(t / m) / 2
    else:
        truth, slopes = t * mpmath.log(t / p) - t + p, (p - t, mpmath.log(t / p))
    np.testing.assert_allclose(value, float(truth), rtol=2e-6)
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, [float(slope)], rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_with_what_rounding_took_off(dtype, rng, x64):
    limits = np.finfo(dtype)
    far = rng.uniform(np.log(limits.tiny), np.log(limits.max), 500)
    values = np.concatenate([far, rng.normal(size=500)]).astype(dtype)
    exponentials, relative = jax.jit(exponential)(values)
    assert exponentials.dtype == dtype
    for value, rounded, rest in zip(
        exact(values), exact(exponentials), exact(relative), strict=True
    ):
        truth = mpmath.exp(value)
        assert abs(rounded / truth - 1) < 0.65 * limits.eps
        assert abs(rounded * (1 + rest) / truth - 1) < 0.2 * limits.eps
    beyond = exponential(jnp.array([-jnp.inf, 1000, jnp.nan], dtype))[0]
    np.testing.assert_array_equal(beyond, [0, np.inf, np.nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_up_to_0(dtype, rng, x64):
    limits = np.finfo(dtype)
    # The rounding of x is put back to first order, and no more.
    values = -np.concatenate([rng.uniform(0, 87, 500), rng.exponential(size=500)]).astype(dtype)
    lost = (values * limits.eps * rng.uniform(-0.5, 0.5, 1000)).astype(dtype)
    truths = [mpmath.exp(v + d) for v, d in zip(exact(values), exact(lost), strict=True)]
    units = exact(np.spacing(np.array(truths, dtype)))
    for function, bound in ((exponential_below, 1.15), (exponential_and_change, 2)):
        found = jax.jit(function)(values, lost)
        errors = [abs(f - t) / u for f, t, u in zip(exact(found), truths, units, strict=True)]
        assert max(errors) < bound
    lowest = np.log(limits.tiny) * dtype(1 - 2e-6)
    ends = jnp.array([0, -1e4, -limits.max, lowest, jnp.nan, -jnp.inf], dtype)
    expected = [1, 0, 0, np.exp(lowest), np.nan, 0]
    below = jnp.asarray(np.linspace(1.0001, 3, 200) * lowest, dtype)
    np.testing.assert_array_equal(exponential_below(below, 0 * below), 0)
    # What was lost of infinity is NaN.
    np.testing.assert_allclose(exponential_below(ends, ends - ends), expected, rtol=1e-5)


def test_exponentials_of_float64(rng, x64):
    values = rng.uniform(-700, 700, 1000)
    found = exact(jax.jit(exp)(values))
    truths = [mpmath.exp(value) for value in exact(values)]
    units = exact(np.spacing(np.array(truths, np.float64)))
    assert max(abs(f - t) / u for f, t, u in zip(found, truths, units, strict=True)) < 0.65


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inverses_in_two_numbers(dtype, rng, x64):
    first = rng.uniform(0, 1, 500).astype(dtype)
    second = (1 + rng.exponential(size=500) * 10).astype(dtype)
    tangents = jnp.ones_like(first), 2 * jnp.ones_like(second)
    found, changes = jax.jit(lambda *x: jax.jvp(inverse, x, tangents))(first, second)
    for a, b, c, d, dc, dd in zip(*map(exact, (first, second, *found, *changes)), strict=True):
        assert abs((c + d) * (a + b) - 1) < 4 * np.finfo(dtype).eps ** 2
        assert abs((dc + dd) * (a + b) ** 2 / -3 - 1) < 2 * np.finfo(dtype).eps


def test_hyperbolic_tangents_of_float64(rng, x64):
    values = rng.normal(size=1000) * 10.0 ** rng.uniform(-12, 1, 1000)
    found, slopes = jax.jit(lambda x: jax.jvp(tanh, (x,), (jnp.ones_like(x),)))(values)
    truths = np.array([float(mpmath.tanh(value)) for value in exact(values)])
    assert np.max(np.abs(found - truths) / np.spacing(np.abs(truths))) <= 2.5
    np.testing.assert_allclose(slopes, 1 / np.cosh(values) ** 2, rtol=1e-14)
    ends = jnp.array([0, -0.0, jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(tanh(ends), [0, 0, 1, -1, np.nan])
    np.testing.assert_array_equal(np.signbit(tanh(ends))[:2], [False, True])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [100, 1000])
def test_gradients_of_many_classes(classes, dtype, rng, x64):
    """The sum of a row is what is left of the error; quotients and exponentials add little."""
    logits = rng.normal(size=(8, classes)).astype(dtype)
    labels = rng.integers(0, classes, 8)
    _, gradient = value_and_gradient(lambda z: jaxloss.cross_entropy(z, labels), logits)
    for row, label, slopes in zip(logits, labels, gradient, strict=True):
        exponentials = [mpmath.exp(z) for z in exact(row)]
        total = mpmath.fsum(exponentials)
        truths = [e / total for e in exponentials]
        truths[label] = -mpmath.fsum(p for k, p in enumerate(truths) if k != label)
        units = exact(np.spacing(np.abs(np.array(truths, dtype))))
        errors = [abs(f - t) / u for f, t, u in zip(exact(slopes), truths, units, strict=True)]
        assert max(errors) <= 3


@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_focal_losses_take_the_complement_from_the_sums(gamma, rng):
    """From the rounded log-probability, the power of it would be up to 9 units off."""
    logits = rng.normal(size=(1000, 2)).astype(np.float32) * 3
    labels = logits.argmax(-1)
    value, _ = value_and_gradient(
        lambda z: jaxloss.softmax_focal(z, labels, gamma=gamma), jnp.asarray(logits)
    )
    truths = []
    for row in logits:
        wrong = 1 / (1 + mpmath.exp(abs(mpmath.mpf(float(row[0])) - float(row[1]))))
        truths.append(-(wrong**gamma) * mpmath.log(1 - wrong))
    assert ulps(value, truths) <= 5


def test_gradients_of_soft_labels_near_the_prediction(rng):
    """p less q, which nearly cancel, is off by no more than p; with no class above one half."""
    logits = rng.normal(size=(300, 5)).astype(np.float32)
    truths = np.exp(logits.astype(np.float64))
    truths /= truths.sum(1, keepdims=True)
    kept = truths.max(1) < 0.5
    targets = truths.astype(np.float32)
    _, gradient = value_and_gradient(lambda z: jaxloss.cross_entropy(z, targets), logits)
    slopes = truths * targets.astype(np.float64).sum(1, keepdims=True) - targets
    units = np.spacing(targets).astype(np.float64)
    assert np.max((np.abs(gradient - slopes) / units)[kept]) <= 2.5


def test_squared_log_error_of_near_and_far_values(rng):
    predictions = rng.uniform(0, 10, 300).astype(np.float32)
    changes = 1 + rng.normal(size=300) * 10.0 ** rng.uniform(-6, 0, 300)
    targets = np.abs(predictions * changes).astype(np.float32)
    value, gradient = value_and_gradient(
        lambda p: jaxloss.squared_log_error(p, targets), predictions
    )
    logs = [
        mpmath.log1p(p) - mpmath.log1p(t)
        for p, t in zip(exact(predictions), exact(targets), strict=True)
    ]
    assert off_by(value, [log**2 for log in logs]) <= 8
    slopes = [2 * log / (1 + p) for log, p in zip(logs, exact(predictions), strict=True)]
    assert off_by(gradient, slopes) <= 5


def test_triplets_of_near_points(rng):
    """The distance of points that differ in the last digits is that of the digits."""
    anchors = rng.normal(size=(60, 3)).astype(np.float32)
    positives = np.nextafter(anchors, np.float32(9))
    negatives = anchors + np.float32(1)
    value, gradient = value_and_gradient(
        lambda a: jaxloss.triplet_margin(a, positives, negatives, margin=100.0), anchors
    )
    distances = np.linalg.norm(anchors.astype(float) - positives, axis=-1)
    expected = distances - np.linalg.norm(anchors.astype(float) - negatives, axis=-1) + 100
    np.testing.assert_allclose(value, expected, rtol=2e-7)
    units = (anchors.astype(float) - positives) / distances[:, None]
    away = anchors.astype(float) - negatives
    np.testing.assert_allclose(
        gradient, units - away / np.linalg.norm(away, axis=-1, keepdims=True), atol=3e-7
    )


def indexed(logits):
    return jaxloss.cross_entropy(logits, 1)


def soft(logits):
    return jaxloss.cross_entropy(logits, jnp.array([0.25, 0.5, 0.25]))


def adaptive(logits):
    """The head alone has classes that are scored by identity."""
    parameters = jaxloss.AdaptiveSoftmax(jnp.eye(3), ((jnp.ones((3, 1)), jnp.ones((1, 2))),))
    return jaxloss.adaptive_softmax(logits[None], parameters, jnp.array([1]))[0]


def linear(logits):
    return jaxloss.linear_cross_entropy(logits[None], jnp.eye(3), jnp.array([1]))[0]


@pytest.mark.parametrize("loss", [indexed, soft, primitives.logsumexp, adaptive, linear])
def test_second_derivatives_keep_the_tail_of_a_class_far_ahead(loss):
    """That of log sum exp along v is p (v - sum p v), all of it a tail where one p is nearly 1."""
    logits, along = jnp.array([40.0, 0.0, -1.0]), jnp.array([0.5, 0.75, 1.25])
    with jax.default_matmul_precision("highest"):
        second = jax.jit(lambda z: jax.jvp(jax.grad(loss), (z,), (along,))[1])(logits)
    shares = [mpmath.exp(z) for z in exact(logits)]
    shares = [share / mpmath.fsum(shares) for share in shares]
    mean = mpmath.fsum(p * v for p, v in zip(shares, exact(along), strict=True))
    truths = [float(p * (v - mean)) for p, v in zip(shares, exact(along), strict=True)]
    np.testing.assert_allclose(second, truths, rtol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_second_derivatives_of_confident_focal_losses_underflow_to_nothing(gamma):
    for nats in (45.0, 80.0):
        of_sigmoid = jax.hessian(lambda z: jaxloss.sigmoid_focal(z, 1.0, gamma=gamma))(nats)
        of_softmax = jax.hessian(lambda z: jaxloss.softmax_focal(z, 0, gamma=gamma))(
            jnp.array([nats, 0.0])
        )
        assert of_sigmoid == 0 and np.all(of_softmax == 0)


def test_the_probability_of_no_target_has_a_finite_second_derivative():
    assert jax.hessian(lambda p: jaxloss.binary_cross_entropy(p, 0.0))(1e-25) == 1


@pytest.mark.parametrize(("p", "bound"), [(3, 1.15), (7.5, 1.15), (50, 1.15), (1000, 3)])
def test_norms_of_other_degrees(p, bound, rng):
    """Only what is raised to a high power is divided by its largest coordinate first."""
    vectors = rng.normal(size=(300, 9)).astype(np.float32)
    value, _ = value_and_gradient(lambda x: primitives.norm(x, p=p), jnp.asarray(vectors))
    powers = [mpmath.fsum(abs(x) ** p for x in exact(row)) for row in vectors]
    truths = [power ** (1 / mpmath.mpf(p)) for power in powers]
    assert ulps(value, truths) <= bound
