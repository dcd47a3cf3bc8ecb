"""The matrix: every loss under every transformation, against float64 autodiff of plain maths."""

import functools
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh, PartitionSpec as P

import jaxloss
from jaxloss import primitives
from jaxloss._autodiff import custom_vjp
from tests.cases import BASE, CASES, IN_FEWER_MODES, OF_EACH_KIND, PRIMITIVES, each
from tests.helpers import exhaustive, quick_jit

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def scalar(function, *arrays):
    """The function's values against one fixed cotangent, so that no symmetry hides an error."""
    losses = function(*arrays)
    cotangent = np.cos(np.arange(losses.size, dtype=np.float64)).reshape(losses.shape)
    return jnp.sum(losses * cotangent)


def grad(f, xs, ts):
    return jax.grad(functools.partial(scalar, f), tuple(range(len(xs))))(*xs)


def value_and_grad(f, xs, ts):
    return jax.value_and_grad(functools.partial(scalar, f), tuple(range(len(xs))))(*xs)


def jvp(f, xs, ts):
    return jax.jvp(f, xs, ts)


def jacfwd(f, xs, ts):
    return jax.jacfwd(f, tuple(range(len(xs))))(*xs)


def jacrev(f, xs, ts):
    return jax.jacrev(f, tuple(range(len(xs))))(*xs)


def hessian(f, xs, ts):
    return jax.hessian(functools.partial(scalar, f), tuple(range(len(xs))))(*xs)


def reverse_over_reverse(f, xs, ts):
    return jax.jacrev(lambda *xs: grad(f, xs, ts), tuple(range(len(xs))))(*xs)


def linearize(f, xs, ts):
    value, pushforward = jax.linearize(f, *xs)
    return value, pushforward(*ts)


def hvp(f, xs, ts):
    return jax.jvp(lambda *xs: grad(f, xs, ts), xs, ts)


def value_beside_gradient(f, xs, ts):
    """By the last argument, of the value that comes with the gradient by the first."""

    def value(*xs):
        return jax.value_and_grad(functools.partial(scalar, f))(*xs)[0]

    return jax.grad(value, len(xs) - 1)(*xs)


def third_order(f, xs, ts):
    return jax.jvp(lambda *xs: hvp(f, xs, ts)[1], xs, ts)


def checkpoint(f, xs, ts):
    return value_and_grad(jax.checkpoint(f), xs, ts)


def scan(f, xs, ts):
    """The losses of the whole batch, scaled step by step in a scan."""

    def stepped(*xs):
        def step(total, scale):
            return total + scale * f(*xs), None

        return jax.lax.scan(step, jnp.zeros_like(f(*xs)), jnp.array([0.25, 0.75]))[0]

    return value_and_grad(stepped, xs, ts)


MODES = (
    grad,
    value_and_grad,
    jvp,
    jacfwd,
    jacrev,
    hessian,
    reverse_over_reverse,
    linearize,
    hvp,
    checkpoint,
    scan,
)


def problem(case, copies=None):
    """Floating inputs with tangents and both functions of them, the labels being fixed."""
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    samples = [case.arrays(rng) for _ in range(copies or 1)]
    stacked = [np.stack(arrays) if copies else arrays[0] for arrays in zip(*samples, strict=True)]
    floating = tuple(jnp.asarray(a) for a in stacked if a.dtype.kind == "f")
    tangents = tuple(jnp.asarray(rng.normal(size=a.shape)) for a in floating)
    labels = [a for a in samples[0] if a.dtype.kind != "f"]

    def ours(*xs):
        return case(*xs, *labels)

    def plain(*xs):
        return case.plain(*xs, *labels)

    return floating, tangents, ours, plain


def every_mode(function, modes=MODES):
    return lambda xs, ts: {mode.__name__: mode(function, xs, ts) for mode in modes}


def from_derivatives(function):
    """What the modes should give, from a function's values, Jacobian and Hessian."""

    def run(xs, ts):
        losses, jacobian = function(*xs), jacfwd(function, xs, ts)
        second = hessian(function, xs, ts)
        weights = np.cos(np.arange(losses.size, dtype=np.float64)).reshape(losses.shape)
        rows = list(range(losses.ndim))
        gradient = tuple(jnp.tensordot(weights, row, (rows, rows)) for row in jacobian)
        tangent = sum(jnp.tensordot(j, t, t.ndim) for j, t in zip(jacobian, ts, strict=True))
        product = tuple(
            sum(jnp.tensordot(block, t, t.ndim) for block, t in zip(row, ts, strict=True))
            for row in second
        )
        value = jnp.sum(losses * weights)
        return {
            "grad": gradient,
            "value_and_grad": (value, gradient),
            "jvp": (losses, tangent),
            "jacfwd": jacobian,
            "jacrev": jacobian,
            "hessian": second,
            "reverse_over_reverse": second,
            "linearize": (losses, tangent),
            "hvp": (gradient, product),
            "checkpoint": (value, gradient),
            "scan": (value, gradient),
        }

    return run


def assert_modes_close(actual, expected):
    assert actual.keys() == expected.keys()
    for mode in actual:
        for ours, plain in zip(*map(jax.tree.leaves, (actual[mode], expected[mode])), strict=True):
            np.testing.assert_allclose(ours, plain, **CLOSE, err_msg=mode)


@each(BASE, quick=OF_EACH_KIND)
def test_every_mode(case, x64):
    """One compiled program of all modes over two problems, against the textbook's derivatives."""
    xs, ts, ours, plain = problem(case, copies=2)
    actual = quick_jit(jax.vmap(every_mode(jax.jit(ours), (*MODES, third_order))))(xs, ts)
    expected = quick_jit(jax.vmap(from_derivatives(plain)))(xs, ts)
    expected["third_order"] = quick_jit(jax.vmap(functools.partial(third_order, plain)))(xs, ts)
    assert_modes_close(actual, expected)


@each((*CASES, *PRIMITIVES), quick=IN_FEWER_MODES)
def test_first_and_second_order(case, x64):
    """Every row, and what losses are made of, in fewer modes."""
    xs, ts, ours, plain = problem(case, copies=2)
    modes = (value_and_grad, jvp, hvp, value_beside_gradient)
    actual, expected = (
        quick_jit(jax.vmap(every_mode(jax.jit(f), modes)))(xs, ts) for f in (ours, plain)
    )
    assert_modes_close(actual, expected)


@each(OF_EACH_KIND, quick=[case for case in OF_EACH_KIND if case.name in ("huber", "dice")])
def test_modes_as_they_are(case, x64):
    """Without jit, where every operation runs by itself."""
    xs, ts, ours, _ = problem(case)
    modes = every_mode(ours, (value_and_grad,))
    chex.assert_trees_all_close(modes(xs, ts), jax.jit(modes)(xs, ts), rtol=1e-10, atol=1e-12)


NUMBERS = [
    (case, option)
    for case in CASES
    for option, value in case.options.items()
    if np.asarray(value).dtype.kind == "f" and option != "p"
]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("case", "option"), NUMBERS, ids=lambda x: getattr(x, "id", x))
def test_options_are_differentiated_too(case, option, x64):
    """With the predictions, in reverse, forward, second order and from replicated to sharded."""
    first, *others = case.arrays(np.random.default_rng(3))
    first = jnp.asarray(first)
    value = jnp.asarray(case.options[option], jnp.float64)
    fixed = {name: other for name, other in case.options.items() if name != option}
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

    def modes(function, first, value):
        def losses(first, value):
            return function(first, *others, **{option: value}, **fixed)

        def mean(first, value):
            return jnp.mean(losses(first, value))

        return (
            jax.jacrev(losses, (0, 1))(first, value),
            jax.jacfwd(losses, (0, 1))(first, value),
            jax.hessian(mean, (0, 1))(first, value),
        )

    def sharded(first, value):
        def local(first, value, *others):
            loss = jaxloss.mean(case.gathering("data"), axis_name="data")
            return loss(first, *others, **{option: value}, **fixed)

        specs = (P("data"), P(), *(P("data") for _ in others))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())(first, value, *others)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = quick_jit(functools.partial(modes, case.formula))(first, value)
    actual = quick_jit(functools.partial(modes, case.loss))(first, value)
    chex.assert_trees_all_close(actual, expected, **CLOSE)
    gradients = quick_jit(jax.grad(sharded, (0, 1)))(first, value)
    rank = jax.eval_shape(case.bound, first, *others).ndim
    means = jax.tree.map(lambda jacobian: jacobian.mean(tuple(range(rank))), expected[0])
    chex.assert_trees_all_close(gradients, means, **CLOSE)


@each(BASE, quick=[case for case in BASE if case.name == "nt_xent"])
def test_shard_map(case, x64):
    """Value, gradient and tangent of data sharded over eight devices equal one's; some curvatures.

    A loss that compares examples gathers them, so that its mean is that of the whole batch too.
    """
    xs, ts, _, _ = problem(case)
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    labels = tuple(jnp.asarray(a) for a in case.arrays(rng) if a.dtype.kind != "f")
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    modes = (value_and_grad, jvp, *([hvp] if case in OF_EACH_KIND or case.compares else []))
    loss = functools.partial(case.gathering("data"), **case.options)
    sharded = jax.shard_map(
        jaxloss.mean(loss, axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P()
    )

    def derivatives(function):
        def of_floating(*xs):
            return function(*xs, *labels)[None]

        return quick_jit(every_mode(of_floating, modes))(xs, ts)

    expected = derivatives(jaxloss.mean(case.bound))
    chex.assert_trees_all_close(derivatives(sharded), expected, rtol=1e-10, atol=1e-12)


@each(BASE, quick=OF_EACH_KIND)
def test_export(case):
    """Value and gradient are exported for four platforms from one machine; some run on its own."""
    arrays = tuple(jnp.asarray(a) for a in case.arrays(np.random.default_rng(2), np.float32))
    function = jax.jit(jax.value_and_grad(lambda *arrays: jnp.sum(case(*arrays))))
    exported = export.export(function, platforms=PLATFORMS)(*arrays)
    assert exported.platforms == PLATFORMS
    if case in OF_EACH_KIND:
        chex.assert_trees_all_close(exported.call(*arrays), function(*arrays), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loops", [False, True])
def test_a_value_beside_its_gradient_follows_the_rule(loops, x64):
    """Where both are differentiated, JAX differentiates a forward pass: this one is NaN at 0."""

    def forward(pair, labels, factor):
        x, weight = pair
        return factor * weight * jnp.sqrt(jnp.square(x)), (pair, labels)

    def backward(factor, residuals, cotangent):
        (x, weight), _ = residuals
        slope = factor * jnp.sign(x) * cotangent
        return (slope * weight, slope * x), None

    @functools.partial(custom_vjp, static=1, loops=loops)
    def function(pair, labels, factor):
        return forward(pair, labels, factor)[0]

    function.defvjp(forward, backward)

    def both(x):
        losses, pullback = jax.vjp(lambda x: function((x, x - 2), np.arange(3), 5), x)
        return losses, pullback(jnp.ones_like(losses))[0]

    x, direction = jnp.array([0.0, -2.0, 3.0]), jnp.array([1.0, -1.0, 3.0])
    gradient, curvature = 5 * jnp.sign(x) * (2 * x - 2), 10 * jnp.sign(x)
    for form in (both, jax.jit(both), jax.checkpoint(both)):
        _, tangents = jax.jvp(form, (x,), (direction,))
        chex.assert_trees_all_close(tangents, (gradient * direction, curvature * direction))
        for part, expected in enumerate((gradient, curvature)):
            reverse = jax.grad(lambda x, form=form, part=part: jnp.sum(form(x)[part]))(x)
            np.testing.assert_allclose(reverse, expected)
        _, again = jax.jvp(lambda x, form=form: jax.jvp(form, (x,), (x,))[1][0], (x,), (x,))
        np.testing.assert_allclose(again, gradient * x + curvature * jnp.square(x))
    in_rows = jax.vmap(lambda x: jax.jvp(both, (x,), (direction,))[1][0])(jnp.stack([-x, x]))
    np.testing.assert_allclose(in_rows[1], gradient * direction)

    def by_x(weight):
        return jax.value_and_grad(lambda x: jnp.sum(function((x, weight), np.arange(3), 5)))(x)[0]

    np.testing.assert_allclose(jax.grad(by_x)(x - 2), 5 * jnp.abs(x))


def test_a_nonlinear_function_of_a_loss_at_its_kink_has_all_derivatives(x64):
    """Of s^2, where s is log 2 and its derivatives are 1/2, 1/4 and 0."""
    actual, derivative = [], lambda x: jnp.square(primitives.softplus(x))
    for order in range(4):
        actual.append(derivative(0.0))
        derivative = (jax.grad, jax.jacfwd)[order % 2](derivative)
    expected = [np.log(2) ** 2, np.log(2), (1 + np.log(2)) / 2, 0.75]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


# Of the JAX that we support, the oldest cannot set a mesh for types to name axes of.
@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="this JAX has no jax.set_mesh")
def test_vmap_over_an_axis_that_types_say_is_sharded():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    rng = np.random.default_rng(7)
    logits, labels = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32), jnp.arange(8) % 5

    def modes(z, y):
        loss = functools.partial(jaxloss.cross_entropy, targets=y)
        return jax.grad(loss)(z), jax.jvp(jax.grad(loss), (z,), (z,))[1]

    expected = jax.vmap(modes)(logits, labels)
    with jax.set_mesh(mesh):
        spread = (
            jax.device_put(a, jax.sharding.NamedSharding(mesh, P("data"))) for a in (logits, labels)
        )
        actual = jax.jit(jax.vmap(modes))(*spread)
    chex.assert_trees_all_close(actual, jax.device_get(expected), rtol=1e-6)


@pytest.mark.parametrize(
    "loss", ["linear_cross_entropy", *exhaustive("binary_cross_entropy_with_logits")]
)
def test_no_tracer_outlives_its_trace(loss):
    case = next(case for case in BASE if case.name == loss)
    first, *others = map(jnp.asarray, case.arrays(np.random.default_rng(8), np.float32))
    with jax.checking_leaks():
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(case(x, *others))))(first)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [jnp.float32, *exhaustive(jnp.float64)])
@pytest.mark.parametrize(
    "loss",
    [
        lambda z: jaxloss.cross_entropy(z, jnp.zeros(4, int)),
        lambda z: jaxloss.softmax_focal(z, jnp.zeros(4, int)),
        primitives.logsumexp,
        primitives.softplus,
    ],
    ids=["cross_entropy", "softmax_focal", "logsumexp", "softplus"],
)
def test_nothing_is_compiled_again_outside_jit(loss, dtype, caplog, x64):
    gradient = jax.grad(lambda z: jnp.sum(loss(z)))
    scores = jnp.ones((4, 3), dtype)
    with jax.log_compiles():
        jax.jit(lambda z: z + 1)(scores)
        assert "Compiling" in caplog.text
        gradient(scores)
        gradient(scores)
        caplog.clear()
        gradient(scores)
    assert "Compiling" not in caplog.text
