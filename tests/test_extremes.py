"""What losses do at the ends of the range of numbers, beside the policy that all are under."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from bench.losses import LOSSES
from jaxloss import primitives
from tests.cases import BASE
from tests.helpers import exhaustive, value_and_gradient

pytestmark = pytest.mark.optimized


def one_hot_targets(logits, labels):
    return jaxloss.cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]))


def picked_log_softmax(logits, labels):
    return -jnp.take_along_axis(primitives.log_softmax(logits), labels[..., None], -1)[..., 0]


SOFTMAX = [jaxloss.cross_entropy, one_hot_targets, picked_log_softmax]


@pytest.mark.parametrize("function", SOFTMAX, ids=lambda f: f.__name__)
def test_an_offset_as_large_as_numbers_are(function):
    logits = jnp.array([[1e20], [3e38], [-3e38]], jnp.float32) * jnp.ones((1, 2))
    labels = jnp.zeros(3, jnp.int32)
    value, gradient = value_and_gradient(lambda z: function(z, labels), logits)
    np.testing.assert_allclose(value, np.log(2), rtol=2e-7)
    np.testing.assert_allclose(gradient, np.broadcast_to([-0.5, 0.5], (3, 2)), rtol=2e-7)


def test_ties_split_evenly_to_second_order():
    logits = jnp.array([2.0, 2.0, 2.0, -jnp.inf])

    def loss(logits):
        return jaxloss.cross_entropy(logits, jnp.array(1))

    p = np.array([1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(logits), p - [0, 1, 0, 0], rtol=3e-7)
    hessian = jax.jit(jax.hessian(loss))(logits)
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-7)


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
def test_a_label_of_any_dtype_does_not_wrap_to_a_class(label):
    scores = jnp.array([0.1, -0.5, 2.0])
    for loss in (jaxloss.cross_entropy, jaxloss.nll):
        value, gradient = value_and_gradient(lambda z, loss=loss: loss(z, label), scores)
        assert np.isnan(value) and np.any(np.isnan(gradient))


SIGNED = [case for case in BASE if "signs" in inspect.signature(case.loss).parameters]


@pytest.mark.parametrize("case", SIGNED, ids=lambda case: case.id)
@pytest.mark.parametrize("sign", [0, *exhaustive(2, -1.5), np.nan], ids=str)
def test_what_is_no_sign_is_nan_in_loss_and_gradient(case, sign, rng):
    *arrays, signs = case.arrays(rng, np.float32)
    bad = signs.astype(np.float32)
    bad.flat[0] = sign
    value, gradient = value_and_gradient(lambda first: case(first, *arrays[1:], bad), arrays[0])
    assert np.isnan(value.flat[0]) and np.isnan(gradient.flat[0])
    assert np.count_nonzero(np.isnan(value)) == 1 and np.all(np.isfinite(gradient[1:]))
    good = jax.jit(lambda: case(*arrays, signs.astype(np.float32)))()
    np.testing.assert_array_equal(good, jax.jit(lambda: case(*arrays, signs))())


def test_what_the_class_mask_leaves_out_is_not_seen():
    """NaN and infinity there reach neither value nor gradient; the rest is as without the class."""
    mask = jnp.array([True, False, True])
    loss = functools.partial(jaxloss.cross_entropy, label_smoothing=0.1, z_loss=0.01)
    for targets, kept in ((2, 1), (jnp.array([0.25, 0.0, 0.75]), jnp.array([0.25, 0.75]))):
        expected = value_and_gradient(lambda z, t=kept: loss(z, t), jnp.array([1.0, 3.0]))
        for hidden in (np.nan, np.inf, 1e30):
            value, gradient = value_and_gradient(
                lambda z, t=targets: loss(z, t, class_mask=mask),
                jnp.array([1.0, hidden, 3.0]),
            )
            np.testing.assert_allclose(value, expected[0], rtol=1e-6)
            np.testing.assert_allclose(gradient[[0, 2]], expected[1], rtol=1e-6)
            assert gradient[1] == 0


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


def test_wide_labels_are_not_merged_and_wide_signs_do_not_wrap():
    points, wide = jnp.eye(3), np.array([2**40, 2**41, 5])
    for loss in (jaxloss.nt_xent, jaxloss.supervised_contrastive):
        with pytest.raises(ValueError, match="must be integers of 32 bits, got int64"):
            loss(points, wide)
    assert np.isnan(jaxloss.hinge(1.0, np.array(2**32 + 1)))


@pytest.mark.parametrize("coordinate", [np.inf, -np.inf])
def test_an_infinite_vector_is_no_ordinary_one(coordinate):
    vector = jnp.array([coordinate, 1.0])
    assert primitives.norm(vector) == np.inf
    assert primitives.norm(jnp.array([2.0**127, 0.0])) == 2.0**127
    for loss in (jaxloss.cosine_similarity, jaxloss.cosine_distance):
        value, gradient = value_and_gradient(lambda v, loss=loss: loss(v, jnp.ones(2)), vector)
        assert np.isnan(value) and np.all(np.isnan(gradient))
    np.testing.assert_allclose(primitives.norm(jnp.array([3.0, 1.0]), p=300), 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        (functools.partial(jaxloss.poisson_nll, log_input=False), (-1.0, 2.0)),
        (functools.partial(jaxloss.poisson_nll, log_input=False), (-1.0, 0.0)),
        (jaxloss.squared_log_error, (-2.0, -2.0)),
        (jaxloss.squared_log_error, (0.0, -1.5)),
        (lambda v, e: jaxloss.gaussian_nll(e, 0.0, v), (-1.0, 0.0)),
        (lambda q, t: jaxloss.quantile(0.0, t, q=q), (1.5, 1.0)),
        (lambda t, _: jaxloss.info_nce(jnp.eye(2), jnp.eye(2), temperature=t).sum(), (-1.0, 0.0)),
    ],
    ids=["rate", "rate of nothing", "both", "target", "variance", "q", "temperature"],
)
def test_what_is_out_of_range_is_nan_in_loss_and_gradient(loss, arguments):
    first, second = map(jnp.float32, arguments)
    value, gradient = jax.jit(jax.value_and_grad(loss))(first, second)
    assert np.isnan(value) and np.isnan(gradient)


@pytest.mark.parametrize(
    ("error", "variance", "floor"),
    [(1e15, 1e20, 1e-6), (0.0, 1e-20, 1e-30), (2.0, 1e-9, 1e-3), (1e15, 1e25, 1e-6)],
)
def test_the_gradient_to_a_variance_at_any_scale_and_under_the_floor(error, variance, floor):
    gradient = jax.jit(
        jax.grad(lambda v: jaxloss.gaussian_nll(error, 0.0, v, minimum_variance=floor))
    )(jnp.float32(variance))
    effective = max(variance, floor)
    np.testing.assert_allclose(gradient, (1 - error**2 / effective) / (2 * effective), rtol=2e-6)


def test_no_mass_means_no_overlap_to_lose_and_no_gradient():
    empty = jnp.zeros((1, 2, 2))
    for loss in (jaxloss.dice, jaxloss.tversky):
        value, gradient = value_and_gradient(
            lambda p, loss=loss: loss(p, empty, axes=(1, 2), smooth=0.0), empty
        )
        assert value == 0 and np.all(gradient == 0)


def test_targets_of_no_mass_get_no_gradient():
    log_probs, targets = jnp.array([-1.0, -jnp.inf, -0.5]), jnp.array([0.5, 0.0, 0.0])
    for loss in (
        jaxloss.kl_divergence,
        jaxloss.generalized_kl_divergence,
        jaxloss.js_divergence,
    ):
        gradient = jax.jit(jax.grad(lambda t, loss=loss: loss(log_probs, t)))(targets)
        assert np.isfinite(gradient[0])
        np.testing.assert_array_equal(gradient[1:], 0)


def test_a_class_of_weight_zero_has_no_infinite_loss():
    logits, weights = jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0])
    for targets in (1, jnp.array([0.0, 1.0])):
        value, gradient = value_and_gradient(
            lambda z, t=targets: jaxloss.cross_entropy(z, t, class_weights=weights), logits
        )
        assert value == 0 and np.all(gradient == 0)


def test_a_ratio_that_underflows_has_a_second_derivative():
    """Reverse over reverse: the logarithm keeps a rule, as plain autodiff meets 1 / 0 times 0."""
    point = jnp.float32(np.nextafter(np.float32(-1), 0)), jnp.float32(3e38)
    second = jax.jacrev(jax.jacrev(jaxloss.squared_log_error, (0, 1)), (0, 1))(*point)
    above, below = (1 + float(z) for z in point)
    curvature = 2 * (1 - np.log(above) + np.log(below)) / above**2
    np.testing.assert_allclose(second[0][0], curvature, rtol=1e-5)
    # The others are below 1e-30: what they are products of XLA may round to 0.
    np.testing.assert_allclose([*second[0][1:], *second[1]], 0, atol=1e-30)


@pytest.mark.parametrize("function", ["log_softmax", "logsumexp"])
def test_a_softmax_of_scores_that_are_products(function, rng):
    """Where it is used XLA multiplies again, and rounds a product less a number only once."""
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((50, 1), (1, 6))]

    def scores(left, right):
        return (left @ jnp.ones((1, 1))) @ right

    function = getattr(jaxloss.primitives, function)
    actual = jax.jit(lambda *inputs: function(scores(*inputs)))(*inputs)
    np.testing.assert_allclose(actual, function(scores(*inputs)), rtol=1e-5, atol=1e-6)


# Of wide rows XLA's CPU backend makes other programs than of narrow ones.
WIDE = [
    loss
    for loss in LOSSES
    if not loss.elementwise
    and loss.floor not in {"products", "linear", "head"}
    and loss.name not in {"nll", "ctc"}  # These look at some of their scores alone.
]


@pytest.mark.parametrize("classes", [100, *exhaustive(64)])
@pytest.mark.parametrize("loss", WIDE, ids=lambda loss: loss.name)
def test_a_nan_in_a_wide_row_is_not_lost(loss, classes):
    """In the losses, in their mean, and in both with the gradient: each is a program of its own."""
    first, *others = loss.arrays(64, classes, jnp.float32)
    summed = jax.value_and_grad(lambda x: jnp.sum(loss.ours(x, *others)))
    programs = jax.jit(lambda x: loss.ours(x, *others)), jax.jit(lambda x: loss.mean(x, *others))
    for column in (classes // 2, classes - 1):
        changed = first.at[3, column].set(jnp.nan)
        losses, mean = (program(changed) for program in programs)
        assert np.isnan(losses[3]) and np.isfinite(losses[:3]).all(), column
        assert np.isnan(mean), column
        total, gradient = jax.jit(summed)(changed)
        assert np.isnan(total), column
        # That of a divergence of log-probabilities does not depend on them.
        if not loss.name.startswith("kl_divergence"):
            assert np.isnan(gradient[3]).any(), column
        assert np.isfinite(gradient[:3]).all(), column
