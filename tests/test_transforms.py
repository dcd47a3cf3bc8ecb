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
from tests.cases import CASES, PRIMITIVES

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
)
BASE = [case for case in CASES if case.id == case.name]


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


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("case", CASES + PRIMITIVES, ids=lambda case: case.id)
def test_mode(case, mode, x64):
    """Each mode under jit and vmap over two problems; a loss also under jit alone and as it is."""
    xs, ts, ours, plain = problem(case, copies=2)
    run = functools.partial(mode, ours)
    expected = jax.jit(jax.vmap(functools.partial(mode, plain)))(xs, ts)
    chex.assert_trees_all_close(jax.jit(jax.vmap(run))(xs, ts), expected, **CLOSE)
    if case in BASE:  # Options and parts are traced no differently.
        xs, ts, expected = jax.tree.map(lambda batch: batch[0], (xs, ts, expected))
        chex.assert_trees_all_close(jax.jit(run)(xs, ts), expected, **CLOSE)
        chex.assert_trees_all_close(run(xs, ts), expected, **CLOSE)


@pytest.mark.parametrize("case", BASE, ids=lambda case: case.id)
def test_third_order(case, x64):
    xs, ts, ours, plain = problem(case)
    expected = jax.jit(functools.partial(third_order, plain))(xs, ts)
    chex.assert_trees_all_close(
        jax.jit(functools.partial(third_order, ours))(xs, ts), expected, **CLOSE
    )


NUMBERS = [
    (case, option)
    for case in CASES
    for option, value in case.options.items()
    if option != "axis" and np.all(np.asarray(value) > 0)
]


@pytest.mark.parametrize(("case", "option"), NUMBERS, ids=lambda x: getattr(x, "id", x))
def test_options_are_differentiated_too(case, option, x64):
    """With the predictions, in reverse, forward, second order and from replicated to sharded."""
    first, *others = (jnp.asarray(a) for a in case.arrays(np.random.default_rng(3)))
    value = jnp.asarray(case.options[option], jnp.float64)
    fixed = {name: other for name, other in case.options.items() if name != option}
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

    def modes(function):
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
            loss = jaxloss.mean(case.loss, axis_name="data")
            return loss(first, *others, **{option: value}, **fixed)

        specs = (P("data"), P(), *(P("data") for _ in others))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())(first, value, *others)

    expected = jax.jit(lambda: modes(case.formula))()
    chex.assert_trees_all_close(jax.jit(lambda: modes(case.loss))(), expected, **CLOSE)
    gradients = jax.jit(jax.grad(sharded, (0, 1)))(first, value)
    rank = jax.eval_shape(case.bound, first, *others).ndim
    means = jax.tree.map(lambda jacobian: jacobian.mean(tuple(range(rank))), expected[0])
    chex.assert_trees_all_close(gradients, means, **CLOSE)


@pytest.mark.parametrize("mode", [checkpoint, scan], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_control_flow(case, mode, x64):
    xs, ts, ours, plain = problem(case)
    result = jax.jit(functools.partial(mode, ours))(xs, ts)
    expected = jax.jit(functools.partial(value_and_grad, plain))(xs, ts)
    chex.assert_trees_all_close(result, expected, **CLOSE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_shard_map(case, x64):
    """Value, gradient and tangent of the mean of data sharded over eight devices equal one's."""
    arrays = tuple(jnp.asarray(a) for a in case.arrays(np.random.default_rng(1)))
    active = tuple(n for n, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating))
    tangents = tuple(jnp.cos(arrays[n]) for n in active)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    sharded = jax.shard_map(
        jaxloss.mean(case.bound, axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P()
    )

    def all_modes(function):
        def run(*arrays):
            def of_active(*xs):
                full = list(arrays)
                for n, x in zip(active, xs, strict=True):
                    full[n] = x
                return function(*full)

            xs = tuple(arrays[n] for n in active)
            return (
                jax.value_and_grad(of_active, tuple(range(len(xs))))(*xs),
                jax.jvp(of_active, xs, tangents),
                hvp(lambda *xs: of_active(*xs)[None], xs, tangents),
            )

        return jax.jit(run)

    expected = all_modes(jaxloss.mean(case.bound))(*arrays)
    chex.assert_trees_all_close(all_modes(sharded)(*arrays), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_export(case):
    """Value and gradient are exported for four platforms from one machine, and run on its own."""
    arrays = tuple(jnp.asarray(a) for a in case.arrays(np.random.default_rng(2), np.float32))
    function = jax.jit(jax.value_and_grad(lambda *arrays: jnp.sum(case(*arrays))))
    exported = export.export(function, platforms=PLATFORMS)(*arrays)
    assert exported.platforms == PLATFORMS
    chex.assert_trees_all_close(exported.call(*arrays), function(*arrays), rtol=1e-6, atol=1e-7)
