"""What a gradient stores, and what the compiled programs need beside their inputs and outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from tests.cases import CASES, PRIMITIVES


def stored(function, *arrays):
    """The arrays that a pullback holds."""
    _, pullback = jax.vjp(function, *arrays)
    held = [leaf for leaf in jax.tree.leaves(pullback) if hasattr(leaf, "nbytes")]
    return list({leaf.unsafe_buffer_pointer(): leaf for leaf in held}.values())


ROWS, CLASSES = 64, 1000
# safe_product is left to autodiff and has no rule.
WITH_RULES = [case for case in CASES + PRIMITIVES if case.name != "safe_product"]


def sample(case, rng, dtype):
    """The case's arrays, large enough that a row's statistics are small beside a row."""
    large = {-1: (ROWS, CLASSES), 1: (ROWS, CLASSES, 1), -2: (ROWS, CLASSES, 1)}[case.axis]
    arrays = case.arrays(rng, dtype)
    shape = large if case.reduces else (ROWS, 4)
    rows = large[:1] + large[2:]
    return [jnp.asarray(np.resize(a, shape if a.ndim == arrays[0].ndim else rows)) for a in arrays]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__)
@pytest.mark.parametrize("case", WITH_RULES, ids=lambda case: case.id)
def test_a_pullback_stores_no_more_than_inputs_and_row_statistics(case, dtype, rng):
    arrays = sample(case, rng, dtype)
    first, *others = arrays
    # Losses without classes hold the error, or the target, in float32.
    width = 1 if case.reduces else 4 // dtype.dtype.itemsize
    allowed = width * sum(a.nbytes for a in arrays)
    if case.options.get("label_smoothing") and dtype == jnp.bfloat16:
        allowed *= 2  # Mixed targets are float32, and so are the logits beside them.
    statistics = 12 * 4 * ROWS
    assert sum(a.nbytes for a in stored(lambda x: case(x, *others), first)) <= allowed + statistics


# What a program needs is XLA's doing as much as ours: the figures are those of the current one.
OF_CURRENT_XLA = pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="XLA before JAX 0.10 fuses less into reductions"
)


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile()


def value_and_grad_of_mean(loss):
    return jax.value_and_grad(jaxloss.mean(loss))


@OF_CURRENT_XLA
def test_cross_entropy_of_labels_needs_no_second_array_of_logits():
    program = compiled(
        value_and_grad_of_mean(jaxloss.cross_entropy),
        ((512, 4096), jnp.float32),
        ((512,), jnp.int32),
    )
    assert program.memory_analysis().temp_size_in_bytes < 0.01 * 512 * 4096 * 4


@OF_CURRENT_XLA
@pytest.mark.parametrize(
    "loss", [jaxloss.squared_error, jaxloss.absolute_error], ids=lambda f: f.__name__
)
def test_elementwise_losses_need_nothing(loss):
    program = compiled(value_and_grad_of_mean(loss), *2 * [((2**20,), jnp.float32)])
    assert program.memory_analysis().temp_size_in_bytes < 0.01 * 2**20 * 4


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
