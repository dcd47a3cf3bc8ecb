"""What a gradient stores, and what the compiled programs need beside their inputs and outputs."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from tests.cases import BASE, CASES, PRIMITIVES
from tests.helpers import exhaustive

pytestmark = pytest.mark.optimized

ROWS, CLASSES = 64, 1000
# Whose rules take arrays as they come, and widen them where they are computed with.
OF_ROWS = {"cross_entropy", "softmax_focal", "nll", "kl_divergence", "generalized_kl_divergence"}
OF_ROWS |= {"js_divergence", "cosine_similarity", "cosine_distance"}
# Those with a rule of their own, which says what to keep.
WITH_RULES = [
    case
    for case in CASES + PRIMITIVES
    if case.name
    in {
        *("smooth_l1", "huber", "log_cosh", "binary_cross_entropy", "softplus", "absolute"),
        *("binary_cross_entropy_with_logits", "positive_part", "norm", "cosine_similarity"),
        *("cosine_distance", "kl_divergence", "generalized_kl_divergence", "js_divergence"),
        *("cross_entropy", "softmax_focal", "sparsemax", "multilabel_margin", "logsumexp"),
        *("log_softmax", "log_softmax_at", "expected_log_softmax", "squared_error", "nll"),
        *("absolute_error", "epsilon_insensitive", "hinge", "soft_margin", "sigmoid_focal"),
    }
    and "class_mask" not in case.options
    and "class_weights" not in case.options
]


def stored(function, *arrays):
    """The bytes that a pullback holds, of arrays that are distinct."""
    jaxpr = jax.make_jaxpr(lambda *arrays: jax.tree.leaves(jax.vjp(function, *arrays)[1]))(*arrays)
    held = {id(variable): variable.aval for variable in jaxpr.jaxpr.outvars}
    return sum(aval.size * aval.dtype.itemsize for aval in held.values())


def sample(case, rng, dtype):
    """The case's arrays, large enough that a row's statistics are small beside a row."""
    arrays = case.arrays(rng, dtype)
    if case.elementwise:
        shape = (ROWS, 4)
        return [jnp.asarray(np.resize(a, shape)) for a in arrays]
    axis = case.options.get("axis", -1) % arrays[0].ndim
    rank = arrays[0].ndim
    shape = tuple(CLASSES if n == axis else ROWS if n == 0 else 1 for n in range(rank))
    rows = shape[:axis] + shape[axis + 1 :]
    return [jnp.asarray(np.resize(a, shape if a.ndim == rank else rows)) for a in arrays]


@pytest.mark.parametrize(
    "dtype",
    [*exhaustive(jnp.bfloat16), jnp.float32],
    ids=lambda d: d.__name__,
)
@pytest.mark.parametrize("case", WITH_RULES, ids=lambda case: case.id)
def test_a_pullback_stores_no_more_than_inputs_and_row_statistics(case, dtype, rng):
    first, *others = sample(case, rng, dtype)
    # What is computed elementwise is held in float32, and so are inputs that were widened.
    allowed = sum(a.size * 4 for a in (first, *others))
    assert stored(lambda x: case(x, *others), first) <= allowed + 12 * 4 * ROWS


@pytest.mark.parametrize(
    "case", [case for case in BASE if case.name in OF_ROWS], ids=lambda c: c.id
)
def test_a_loss_of_rows_stores_its_inputs_as_they_came(case, rng):
    first, *others = sample(case, rng, jnp.bfloat16)
    allowed = first.nbytes + sum(a.nbytes for a in others)
    assert stored(lambda x: case(x, *others), first) <= allowed + 12 * 4 * ROWS


# What a program needs is XLA's doing as much as ours: the figures are those of the current one.
OF_CURRENT_XLA = pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="XLA before JAX 0.10 fuses less into reductions"
)


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile()


def value_and_grad_of_mean(loss):
    return jax.value_and_grad(jaxloss.mean(loss))


def test_what_a_program_holds_is_known_after_it_was_kept_on_disk():
    def program():
        jax.clear_caches()
        return compiled(lambda x: jnp.sort(jnp.sin(x) @ jnp.cos(x)), ((512, 512), jnp.float32))

    first, second = (program().memory_analysis().temp_size_in_bytes for _ in range(2))
    assert first == second > 0


@OF_CURRENT_XLA
def test_cross_entropy_of_labels_needs_no_second_array_of_logits():
    program = compiled(
        value_and_grad_of_mean(jaxloss.cross_entropy),
        ((512, 4096), jnp.float32),
        ((512,), jnp.int32),
    )
    assert program.memory_analysis().temp_size_in_bytes < 0.01 * 512 * 4096 * 4


@OF_CURRENT_XLA
def test_cross_entropy_of_probabilities_needs_no_second_array_of_logits(monkeypatch):
    # On one device: rows on several are not taken some at a time.
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    shape = (512, 32000), jnp.float32
    program = compiled(value_and_grad_of_mean(jaxloss.cross_entropy), shape, shape)
    assert program.memory_analysis().temp_size_in_bytes < 0.05 * 512 * 32000 * 4


@OF_CURRENT_XLA
def test_triplet_margin_needs_little_beside_its_vectors():
    shape = (4096, 1024), jnp.float32
    mean = jaxloss.mean(jaxloss.triplet_margin)
    for function in (mean, value_and_grad_of_mean(jaxloss.triplet_margin)):
        program = compiled(function, shape, shape, shape)
        assert program.memory_analysis().temp_size_in_bytes < 0.01 * 3 * 4096 * 1024 * 4


@OF_CURRENT_XLA
def test_cosine_distance_needs_little_beside_its_vectors(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    shape = (4096, 1024), jnp.float32
    mean = jaxloss.mean(jaxloss.cosine_distance)
    for function in (mean, jax.value_and_grad(mean)):
        program = compiled(function, shape, shape)
        assert program.memory_analysis().temp_size_in_bytes < 0.15 * 2 * 4096 * 1024 * 4


@OF_CURRENT_XLA
def test_log_softmax_and_unit_vectors_copy_nothing_that_they_broadcast(monkeypatch):
    """Of the size of the logits, the similarities being those of `info_nce`, in temporaries."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for loss, shapes, size, copies in (
        (jaxloss.primitives.log_softmax, ((4096, 1000),), 4096 * 1000, 2.1),
        (jaxloss.info_nce, ((1024, 128),) * 2, 1024**2, 2.2),
    ):
        program = compiled(
            value_and_grad_of_mean(loss), *((shape, jnp.float32) for shape in shapes)
        )
        assert program.memory_analysis().temp_size_in_bytes < copies * size * 4


ERRORS = [
    jaxloss.squared_error,
    jaxloss.absolute_error,
    jaxloss.smooth_l1,
    jaxloss.huber,
    jaxloss.log_cosh,
    jaxloss.quantile,
    jaxloss.epsilon_insensitive,
    jaxloss.hinge,
    jaxloss.squared_hinge,
    jaxloss.perceptron,
    jaxloss.soft_margin,
    jaxloss.binary_cross_entropy_with_logits,
    jaxloss.hinge_embedding,
    jaxloss.margin_ranking,
]


def pieces(loss):
    """How many arrays of the losses' size it takes."""
    parameters = inspect.signature(loss).parameters.values()
    return sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


@OF_CURRENT_XLA
@pytest.mark.parametrize("loss", ERRORS, ids=lambda f: f.__name__)
def test_elementwise_losses_need_nothing(loss):
    shapes = pieces(loss) * [((2**16,), jnp.float32)]
    for function in (jaxloss.mean(loss), value_and_grad_of_mean(loss)):
        program = compiled(function, *shapes)
        assert program.memory_analysis().temp_size_in_bytes < 0.01 * 2**16 * 4


@OF_CURRENT_XLA
@pytest.mark.parametrize("log_targets", [False, True])
def test_kl_divergence_needs_nothing(log_targets):
    loss = functools.partial(jaxloss.kl_divergence, log_targets=log_targets)
    for function in (jaxloss.mean(loss), value_and_grad_of_mean(loss)):
        program = compiled(function, *2 * [((256, 256), jnp.float32)])
        assert program.memory_analysis().temp_size_in_bytes < 0.01 * 2**16 * 4


DIVERGENCES = [
    jaxloss.kl_divergence,
    jaxloss.generalized_kl_divergence,
    jaxloss.js_divergence,
]


@pytest.mark.parametrize("log_targets", [False, True])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda f: f.__name__)
def test_large_divergences_keep_nan_infinities_and_classes_without_mass(divergence, log_targets):
    log_probs = jnp.full((256, 256), -np.log(256))
    targets = jnp.full((256, 256), -np.log(256) if log_targets else 1 / 256)
    zero = -np.inf if log_targets else 0
    loss = functools.partial(divergence, log_targets=log_targets)
    function = jax.jit(jaxloss.mean(loss))

    def changed(log_prob, target):
        return function(log_probs.at[3, 77].set(log_prob), targets.at[3, 77].set(target))

    assert np.isfinite(changed(-1.0, zero)) and np.isfinite(changed(-np.inf, zero))
    finite = divergence is jaxloss.js_divergence
    assert np.isfinite(changed(-np.inf, targets[0, 0])) == finite
    assert np.isnan(changed(np.nan, targets[0, 0])) and np.isnan(changed(-1.0, np.nan))
    if not log_targets:
        assert np.isnan(changed(-1.0, -0.1)) and np.isnan(changed(-np.inf, -0.1))


@pytest.mark.parametrize("loss", [*ERRORS, jaxloss.gaussian_nll], ids=lambda f: f.__name__)
def test_a_large_sum_of_losses_does_not_lose_nan(loss):
    """XLA's CPU backend drops NaN from a maximum that it fuses into a sum."""
    arrays = [jnp.ones(2**16) for _ in range(pieces(loss))]
    function = jax.jit(jaxloss.mean(loss))
    assert np.isfinite(function(*arrays))
    for place, array in enumerate(arrays):
        changed = [*arrays[:place], array.at[77].set(np.nan), *arrays[place + 1 :]]
        assert np.isnan(function(*changed))


@pytest.mark.parametrize("loss", ERRORS, ids=lambda f: f.__name__)
def test_a_gradient_that_is_summed_does_not_lose_nan(loss):
    """Nor a tangent: a bias that all examples share, and a mean in forward mode."""
    arrays = [jnp.ones(2**16) for _ in range(pieces(loss))]

    def mean(bias, first, *others):
        return jnp.mean(loss(first + bias, *others))

    gradient = jax.jit(jax.grad(mean))
    tangent = jax.jit(lambda *arrays: jax.jvp(mean, (0.25, *arrays), (1.0, *arrays))[1])
    assert np.isfinite(gradient(0.25, *arrays)) and np.isfinite(tangent(*arrays))
    for place, array in enumerate(arrays):
        changed = [*arrays[:place], array.at[77].set(np.nan), *arrays[place + 1 :]]
        assert np.isnan(gradient(0.25, *changed))
        assert np.isnan(tangent(*changed))


@pytest.mark.parametrize(
    "loss", [jaxloss.cross_entropy, jaxloss.smooth_l1], ids=lambda f: f.__name__
)
def test_deriving_forward_mode_costs_reverse_mode_nothing(loss, monkeypatch):
    """The compiled value and gradient are those of the bare jax.custom_vjp."""
    shapes = [((256, 128), jnp.float32), ((256, 128), jnp.float32)]
    if loss is jaxloss.cross_entropy:
        shapes[1] = ((256,), jnp.int32)
    ours = compiled(value_and_grad_of_mean(loss), *shapes)
    monkeypatch.setattr(
        "jaxloss._autodiff.custom_vjp.__call__", lambda self, *args: self._reverse(*args)
    )
    bare = compiled(value_and_grad_of_mean(loss), *shapes)
    for figure in ("flops", "bytes accessed"):
        assert ours.cost_analysis()[figure] <= bare.cost_analysis()[figure]
    assert ours.memory_analysis().temp_size_in_bytes <= bare.memory_analysis().temp_size_in_bytes


def test_a_pullback_holds_only_what_its_gradients_depend_on():
    """Of a divergence along log-probabilities the targets, along targets both."""
    log_probs, targets = jnp.full((250, 128), -np.log(128.0)), jnp.full((250, 128), 1 / 128)

    def held(function, argument):
        arrays = jax.tree.leaves(jax.vjp(function, argument)[1])
        return sum(array.nbytes for array in arrays if array.size > 1)

    assert held(lambda x: jaxloss.kl_divergence(x, targets).sum(), log_probs) == targets.nbytes
    both = held(lambda y: jaxloss.kl_divergence(log_probs, y).sum(), targets)
    assert both <= 2 * targets.nbytes
