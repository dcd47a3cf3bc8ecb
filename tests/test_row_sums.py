"""Sums over rows: the one reading of accelerators gives what the two of a CPU give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss import _cosine
from jaxloss._lanes import ONE_BY_ONE
from jaxloss._row_sums import (
    highest_and_ties_once,
    highest_and_ties_twice,
    maximum_and_others_once,
    maximum_and_others_twice,
    maximum_rest_and_ties_once,
    maximum_rest_and_ties_twice,
)
from jaxloss._vectors import power_and_square_once, power_and_square_twice
from tests.helpers import quick_jit, x64_enabled

pytestmark = pytest.mark.optimized

INF, NAN = np.inf, np.nan
ROWS = np.array(
    [
        [0.0, 1.0, 2.0, 3.0, 4.0],
        [4.0, 3.0, 2.0, 1.0, 0.0],
        [20.0, 0.0, -1.0, -2.0, 0.5],
        [-80.0, 0.0, -1.0, -80.0, 0.5],
        [7.0, 7.0, 7.0, 7.0, 7.0],
        [1e8, 1e8 + 8, 1e8 - 16, 0.0, -1e8],
        [-INF, 1.0, -INF, 2.0, 2.0],
        [1.0, -INF, -INF, -INF, -INF],
        [-3e38, 3e38, 0.0, -INF, 3e38],
    ],
    np.float32,
)
ODD = np.array([[-INF] * 5, [INF, 0, 1, 2, 3], [0, NAN, 1, 2, 3], [INF] * 5], np.float32)
WEIGHTS = np.linspace(0, 1, ROWS.size, dtype=np.float32).reshape(ROWS.shape)
LABELS = [[k] * len(ROWS) for k in (0, 1, 4)]


others_twice = functools.partial(maximum_and_others_twice, ONE_BY_ONE)
rest_and_ties_twice = functools.partial(maximum_rest_and_ties_twice, ONE_BY_ONE)


def arrays_of(function, *arrays):
    return [np.asarray(found) for found in jax.jit(function)(*arrays)]


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: f"label {labels[0]}")
def test_the_sum_of_the_others_is_the_same(labels):
    index = jnp.array(labels)[:, None]
    (m, rest), (n, other) = (
        arrays_of(functools.partial(function, 1), ROWS, index)
        for function in (maximum_and_others_once, others_twice)
    )
    np.testing.assert_array_equal(m, n)
    np.testing.assert_allclose(rest, other, rtol=5e-7, atol=1e-37)


def test_the_sum_below_the_maximum_and_its_ties_are_the_same():
    once, twice = (
        arrays_of(functools.partial(function, 1), ROWS, WEIGHTS)
        for function in (maximum_rest_and_ties_once, rest_and_ties_twice)
    )
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_allclose(once[1], twice[1], rtol=5e-7, atol=1e-37)
    np.testing.assert_array_equal(once[2], twice[2])
    for found, expected in zip(once[3:], twice[3:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=5e-7)


@pytest.mark.parametrize("label", [0, 3])
def test_what_is_no_softmax_is_nan(label):
    index = jnp.full((len(ODD), 1), label)
    assert np.all(np.isnan(arrays_of(functools.partial(maximum_and_others_once, 1), ODD, index)[1]))
    assert np.all(np.isnan(arrays_of(functools.partial(maximum_rest_and_ties_once, 1), ODD)[1]))


def pairwise(operands, initial, merged, axes):
    """As an accelerator reduces: in a tree."""
    [axis] = axes
    parts = [jnp.moveaxis(operand, axis, 0) for operand in operands]
    while len(parts[0]) > 1:
        half = len(parts[0]) // 2
        parts = merged([part[:half] for part in parts], [part[half:] for part in parts])
    return [part[0] for part in parts]


@pytest.mark.parametrize("ahead", [0.0, 12.0])
def test_no_accuracy_is_lost_in_merging(ahead, rng, monkeypatch):
    monkeypatch.setattr("jax.lax.reduce", pairwise)
    logits = (3 * rng.normal(size=(256, 1024))).astype(np.float32)
    labels = rng.integers(0, 1024, 256)
    logits[np.arange(256), labels] += ahead
    others = functools.partial(maximum_and_others_once, 1)
    m, rest = arrays_of(others, logits, labels[:, None])
    exact = np.exp(logits.astype(np.float64) - np.asarray(m, np.float64))
    exact[np.arange(256), labels] = 0
    exact = exact.sum(1, keepdims=True)
    assert np.max(np.abs(rest - exact) / np.spacing(exact.astype(np.float32))) < 4
    m, rest, ties = arrays_of(functools.partial(maximum_rest_and_ties_once, 1), logits)
    exact = np.exp(logits.astype(np.float64) - np.asarray(m, np.float64)).sum(1, keepdims=True) - 1
    assert np.all(ties == 1)
    assert np.max(np.abs(rest - exact) / np.spacing(exact.astype(np.float32))) < 4


def test_the_highest_of_the_others_and_its_ties_are_the_same_of_one_reading():
    scores = jnp.array(
        [
            [3.0, 1.0, 3.0, 3.0],  # The label shares the highest score, or is ahead.
            [1.0, 5.0, 1.0, 0.0],
            [-jnp.inf, 2.0, -jnp.inf, -jnp.inf],
            [jnp.inf, 0.0, 1.0, jnp.inf],
            [0.0, 1.0, jnp.nan, 2.0],
        ]
    )
    index = jnp.array([[0], [1], [1], [1], [0]])
    highest, ties = highest_and_ties_once(scores, index)
    assert highest.tolist()[:4] == [[3], [1], [-jnp.inf], [jnp.inf]] and jnp.isnan(highest[4, 0])
    assert ties.tolist()[:4] == [[2], [2], [4], [2]]
    twice, counted = highest_and_ties_twice(scores, index)
    np.testing.assert_array_equal(highest, twice)
    # Where all others are -inf their number does not matter: no loss is that far behind a label.
    assert counted.tolist()[:2] == [[2], [2]] and counted.tolist()[3] == [2]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_other_dtypes_and_axes_are_served(dtype):
    with x64_enabled():
        logits, index = jnp.asarray(ROWS[:4].T, dtype), jnp.array([[0, 1, 0, 3]])
        for once, twice in (
            (maximum_and_others_once(0, logits, index), others_twice(0, logits, index)),
            (maximum_rest_and_ties_once(0, logits), rest_and_ties_twice(0, logits)),
        ):
            for found, expected in zip(once, twice, strict=True):
                assert found.dtype == expected.dtype and found.shape == expected.shape == (1, 4)
                np.testing.assert_allclose(found, expected, rtol=5e-7)


ODD_VECTORS = np.array(
    [
        [0.0, 0, 0, 0, 0],
        [3e38, 1e-30, 0, -3e38, 1],
        [1e-38, 0, -1e-38, 0, 0],
        [INF, 0, 1, 2, 3],
        [0, NAN, 1, 2, 3],
        [1, 2, 3, 4, 5],
    ],
    np.float32,
)


def test_lengths_are_the_same_of_one_reading():
    once, twice = (
        arrays_of(functools.partial(function, -1), ODD_VECTORS, -ODD_VECTORS[::-1] / 2)
        for function in (power_and_square_once, power_and_square_twice)
    )
    for found, expected in zip(once, twice, strict=True):
        np.testing.assert_allclose(found, expected, rtol=5e-7)


def test_the_sums_of_cosines_are_the_same_of_one_reading():
    first, second = np.repeat(ODD_VECTORS, 6, 0), np.tile(ODD_VECTORS, (6, 1))
    once, twice = (
        arrays_of(functools.partial(sums, 1), first, second)
        for sums in (_cosine.sums_together, functools.partial(_cosine.sums_by, ONE_BY_ONE))
    )
    finite = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    # Of each vector the rest is not compared: it is what rounding left, of other sums.
    for place in (0, 1, 3, 4, 6, 7):
        np.testing.assert_allclose(once[place][finite], twice[place][finite], rtol=1e-6, atol=1e-13)
    for found in (once[7], twice[7]):
        assert not np.isfinite(found[~finite]).any()


LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
CLASSES = (jnp.array([0, 3, 1]),)
IN_EVERY_MODE = {
    "labels": (jaxloss.cross_entropy, CLASSES),
    "probabilities": (jaxloss.cross_entropy, (jax.nn.softmax(LOGITS[::-1]),)),
    "hinge": (jaxloss.multiclass_hinge, CLASSES),
    "cosine": (jaxloss.cosine_distance, (LOGITS[::-1],)),
    "triplet": (jaxloss.triplet_margin, (LOGITS[::-1], LOGITS + 1)),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", IN_EVERY_MODE)
def test_losses_work_in_every_mode_in_one_reading(case, request):
    loss, others = IN_EVERY_MODE[case]

    def total(logits):
        return jnp.sum(loss(logits, *others))

    def modes(logits):
        each = jax.vmap(jax.grad(loss))(logits, *others)
        return total(logits), jax.grad(total)(logits), each, jax.hessian(total)(logits)

    expected = quick_jit(modes)(LOGITS)
    request.getfixturevalue("in_one_reading")
    for found, known in zip(quick_jit(modes)(LOGITS), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=2e-6, atol=1e-7)
