"""The numerical policy: a test for each row of its table, over every loss it applies to.

Each looks at value, reverse mode, forward mode and the second derivative, forward over reverse.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss import masked, mean
from tests.cases import BASE, CASES, OF_EACH_KIND, PRIMITIVES, QUICK, each
from tests.cases.exact import EXACT
from tests.cases.policy import (
    BIASED,
    OF_Y,
    TRAITS,
    ZERO_TIMES_LOG_ZERO,
    by_mpmath,
    class_axis,
    confident,
    excluding,
    infinite,
    parameters,
    rows_of,
    sampled,
    takes_labels,
    traits,
    with_mask,
)
from tests.helpers import quick_jit
from tests.modes import Modes, in_modes, ours, single, textbook, vectors

ALL = (*CASES, *PRIMITIVES)
# One row for each loss and primitive, but for those that are slow and have a file of tests each.
SLOW = {"adaptive_softmax", "linear_statistics"}
OURS = (*(c for c in QUICK if c.name not in SLOW and "-" not in c.id), BIASED[0])
# Stands for infinity in a formula of float64, where exp(-FAR) is 0 and a share of it is LARGE.
FAR, LARGE = 1e4, 15


def under(*names):
    """The cases under some row of the policy."""
    return [case for case in ALL if set(names) & set(traits(case))]


WITHOUT_BIAS = [case for case in under("softmax") if parameters(case)[0] != "hidden"]
SOFTMAX = [*WITHOUT_BIAS, *BIASED]
# Without weights, or a smoothing that leaves no prediction right.
PLAIN = [
    case
    for case in under("softmax", "sigmoid")
    if case.name in EXACT
    and case.options.keys() <= {"axis", "gamma", "alpha", "epsilon", "block_size"}
]


def close(actual, expected, rtol=1e-5):
    for array, truth in zip(actual, expected, strict=True):
        assert not np.any(np.isnan(truth))
        size = np.max(np.abs(truth[np.isfinite(truth)]), initial=0)
        np.testing.assert_allclose(array, truth, rtol=rtol, atol=3e-6 * size)


def has_nan(array):
    """Whether there is one in each row."""
    return np.isnan(array).reshape(len(array), -1).any(-1).all()


def limit(modes):
    """What the formula tends to, where it was given FAR for infinity."""
    return [np.where(np.abs(array) > LARGE, np.copysign(np.inf, array), array) for array in modes]


def test_every_loss_has_its_rows_of_the_policy():
    assert {case.name for case in ALL} == set(TRAITS)
    with_kinks = {case.name for case in ALL if case.kinks}
    assert {case.name for case in under("kinks")} <= with_kinks
    assert {case.name for case in under("logarithm")} == {
        case.name for case in ALL if case.id in ZERO_TIMES_LOG_ZERO
    }
    scored = {case.name for case in under("softmax", "sigmoid")}
    assert set(EXACT) == scored - {"sparsemax"}


UNMASKED = [case for case in SOFTMAX if "class_mask" not in case.options]


@each([case for case in (*ALL, OF_Y) if case.id in ZERO_TIMES_LOG_ZERO], quick=(*OURS, OF_Y))
def test_zero_times_the_logarithm_of_zero_is_zero(case):
    for arguments, value, gradient, curvature in ZERO_TIMES_LOG_ZERO[case.id]:
        arrays = [np.array([argument], float) for argument in arguments]
        cotangent, direction = given = vectors(case, arrays)
        slopes = np.array([gradient], float)
        across = slopes.ndim == 2
        second = direction @ np.array(curvature, float) if across else curvature * direction
        expected = (
            np.array([value], float),
            slopes * cotangent[:, None] if across else slopes * cotangent,
            (slopes * direction).sum(-1) if across else slopes * direction,
            second * cotangent,
        )
        close(ours(case, arrays, given), expected)


@each(SOFTMAX, quick=OURS)
def test_a_logit_of_minus_infinity_masks_its_class(case, rng):
    """Off the target as if there were no such class; on it the loss is inf."""
    seed = rng.integers(1 << 30)
    actual = ours(case, excluding(case, -np.inf, np.random.default_rng(seed)))
    expected = textbook(case, excluding(case, -FAR, np.random.default_rng(seed)))
    close(actual, limit(expected))


def all_nan(case, arrays):
    """NaN in all modes and all of the first two rows, and in no other unless they share a bias."""
    value, *derivatives = ours(case, arrays)
    if case.name == "logsumexp":
        assert np.all(np.isinf(value[:2]))
    else:
        derivatives = [value, *derivatives]
    for array in derivatives:
        # Frames beyond the end of a sequence have none of it.
        assert has_nan(array[:2]) if case.name == "ctc" else np.all(np.isnan(array[:2]))
        assert case in BIASED or np.all(np.isfinite(array[2:]))


@each(UNMASKED, quick=OURS)
def test_logits_of_which_all_are_minus_infinity_give_nan(case, rng):
    all_nan(case, infinite(case, -np.inf, rng))


@each([*UNMASKED, *(case for case in PLAIN if "sigmoid" in traits(case))], quick=OURS)
def test_a_logit_of_infinity_is_the_limit_of_a_sigmoid_and_nan_to_a_softmax(case, rng):
    if "sigmoid" not in traits(case):
        all_nan(case, infinite(case, np.inf, rng))
        return
    first, *others = arrays = sampled(case, rng)
    first[:2], first[2:4] = np.inf, -np.inf
    if others and parameters(case)[1] == "targets":
        others[0][::2], others[0][1] = others[0][::2] > 0.5, 0.25
    # So far that a small share of it is LARGE too.
    finite = [np.clip(first, -1e8, 1e8), *others]
    close(ours(case, arrays), limit(by_mpmath(case, finite, vectors(case, arrays))))


@each(PLAIN, quick=OURS)
def test_a_confident_prediction_keeps_its_tail(case, rng):
    arrays = confident(case, rng)
    given = vectors(case, arrays)
    # Products round the logits themselves.
    rtol = 1e-3 if parameters(case)[0] == "hidden" else 2e-5
    actual, exact = ours(case, arrays), by_mpmath(case, arrays, given)
    for n, array in enumerate(actual):
        # Shares of a lattice are sums of its own; what cancels there is 0 beside the largest.
        size = np.abs(exact[n]).max(tuple(range(1, array.ndim)), keepdims=True)
        atol = 1e-6 * size if case.name == "ctc" else 2e-38
        np.testing.assert_array_less(np.abs(array - exact[n]), rtol * np.abs(exact[n]) + atol)


OFFSETS = [case for case in under("offset") if "z_loss" not in case.options]


@each(OFFSETS, quick=OURS)
def test_a_common_offset_changes_nothing(case, rng):
    """Logits that float32 holds with 1e4 or with 1e8 added."""
    first, *others = sampled(case, rng)
    order = rows_of(case, first).argsort(-1).argsort(-1)
    first[:4] = np.round(first[:4] * 256) / 256
    rows_of(case, first)[4:] = 8 * order[4:]
    offset = np.repeat([1e4, 1e8], 4).reshape(8, *(1,) * (first.ndim - 1))
    value, *derivatives = textbook(case, [first, *others])
    if case.name == "logsumexp":
        value = value + offset.reshape(8, *(1,) * (value.ndim - 1))
    close(ours(case, [first + offset, *others]), [value, *derivatives])


@each(under("kinks") + [case for case in ALL if case.kinks and "kinks" not in traits(case)])
def test_kinks_and_limits(case):
    """The least subgradient, in both modes; nothing infinite or NaN in the second derivative."""
    by_shape = {}
    for arguments, value, gradient in case.kinks:
        numbers = tuple(map(np.asarray, arguments))
        alike = by_shape.setdefault(tuple(a.shape for a in numbers), [])
        alike.append((numbers, value, gradient))
    for points in by_shape.values():
        columns, values, gradients = zip(*points, strict=True)
        arrays = [np.stack(column) for column in zip(*columns, strict=True)]
        arrays = [a.astype(np.int32) if a.dtype.kind == "i" else a for a in arrays]
        cotangent, direction = given = vectors(case, arrays)
        value, reverse, forward, second = ours(case, arrays, given)
        slopes = np.asarray(gradients, np.float32)
        weights = cotangent.reshape(cotangent.shape + (1,) * (slopes.ndim - cotangent.ndim))
        alongs = (slopes * direction).reshape(*cotangent.shape, -1).sum(-1)
        np.testing.assert_allclose(value, np.float32(values), rtol=4e-7)
        np.testing.assert_allclose(reverse, slopes * weights, rtol=6e-7, atol=1e-35)
        np.testing.assert_allclose(forward, alongs, rtol=6e-7, atol=1e-7)
        finite = np.isfinite(slopes).reshape(len(points), -1).all(-1)
        assert np.all(np.isfinite(second[finite]))
        assert case in PRIMITIVES or not np.any(np.signbit(value))


# One of those that compare examples, which share what they make of vectors.
@each(under("vectors"), quick=[c for c in OURS if not c.compares or c.name == "nt_xent"])
def test_zero_vectors_and_vectors_of_any_length(case, rng):
    """Similarity, distance and gradient 0; lengths from 1e-25 to 1e25 make no other difference."""
    arrays = sampled(case, rng)
    cotangent, direction = given = vectors(case, arrays)
    count = sum(array.shape == arrays[0].shape for array in arrays)
    exact = textbook(case, arrays, given)
    # Powers of two, so that the numbers are the same.
    for length in (2.0**-83, 2.0**83):
        scaled = [length * array if n < count else array for n, array in enumerate(arrays)]
        along = (cotangent, single([direction * length])[0])
        value, reverse, forward, second = exact
        expected = (value, reverse / length, forward, second / length)
        if case.name in ("norm", "triplet_margin"):
            expected = textbook(case, scaled, along)
        close(ours(case, scaled, along), expected)
    if case.name in ("norm", "triplet_margin"):
        zero = [np.where(np.arange(8).reshape(8, *(1,) * (a.ndim - 1)) < 1, 0, a) for a in arrays]
        value, *derivatives = ours(case, zero, given)
        np.testing.assert_array_equal(value[0], case.options.get("margin", count // 3))
        for array, truth in zip(derivatives, exact[1:], strict=True):
            np.testing.assert_array_equal(array[0], 0)
            np.testing.assert_allclose(array[1:], truth[1:], rtol=1e-5, atol=1e-6)
        return
    # What is orthogonal to all others has similarity 0 with them, and is no zero vector.
    axis = class_axis(case) % arrays[0].ndim
    pad = [(0, 4) if n == axis else (0, 0) for n in range(arrays[0].ndim)]
    zeros = ((0, 0), (1, 1), (0, 2), (1, 2)) if count > 1 else ((0, 0),)
    padded = [np.pad(array, pad) if n < count else array for n, array in enumerate(arrays)]
    still = np.pad(direction, pad)
    for place, (n, row) in enumerate(zeros):
        arrays[n][row] = 0
        padded[n][row] = 0
        np.moveaxis(padded[n], axis, -1)[row, ..., place - 4] = 1
        still[row] = 0 if n == 0 else still[row]
    value, reverse, forward, second = textbook(case, padded, (cotangent, still))
    kept = [slice(0, -4) if n == axis else slice(None) for n in range(arrays[0].ndim)]
    reverse, second = reverse[tuple(kept)].copy(), second[tuple(kept)].copy()
    for n, row in zeros:
        if n == 0:
            reverse[row] = second[row] = 0
    close(ours(case, arrays, given), (value, reverse, forward, second))


# Without lengths, which are those of a whole batch and hide labels.
LABELLED = [case for case in ALL if takes_labels(case) and "label_lengths" not in case.options]


@each(LABELLED, quick=OURS)
def test_a_label_out_of_range_is_nan_in_its_loss_and_gradient(case, rng):
    """And in no other; lists of labels end at -1."""
    first, labels = arrays = sampled(case, rng)
    clean = ours(case, arrays)
    bounds = np.iinfo(labels.dtype)
    lists = case.name == "multilabel_margin"
    classes = case.classes or first.shape[class_axis(case)]
    bad = (-2 if lists else -1, classes, -100, bounds.max)
    for n, label in enumerate(bad):
        labels[(n, 0) if lists else n] = label if label >= bounds.min else bounds.max + label
    value, reverse, forward, second = results = ours(case, arrays)
    assert has_nan(value[:4]) and has_nan(reverse[:4]) and has_nan(forward[:4])
    # What has kinks is without curvature, or has that of its other terms.
    assert case.linear or "kinks" in traits(case) or has_nan(second[:4])
    for array, alone in zip(results, clean, strict=True):
        np.testing.assert_allclose(array[4:], alone[4:], rtol=1e-5, atol=1e-6)


MASKABLE = [with_mask(case) for case in ALL if "class_mask" in parameters(case)]


@each(MASKABLE, quick=MASKABLE[:1])
def test_a_target_that_is_masked_out_is_nan(case, rng):
    """In four rows, by a logit of any size; the others have losses that are not negative."""
    first, targets = arrays = sampled(case, rng)
    if takes_labels(case):
        targets[:4], targets[4:] = 1, 2
    else:
        rows_of(case, targets)[4:, ..., 1] = 0
    for hidden in (-1e3, 1e3, np.inf, np.nan):
        rows_of(case, first)[..., 1] = hidden
        value, reverse, forward, second = ours(case, arrays)
        assert np.all(np.isnan(value[:4])) and np.all(np.isnan(forward[:4]))
        assert has_nan(reverse[:4]) and has_nan(second[:4])
        assert np.all(value[4:] >= 0)
        assert np.all(np.isfinite(reverse[4:])) and np.all(np.isfinite(second[4:]))


@each(
    [case for case in CASES if "label_lengths" not in case.options],
    quick=(*OF_EACH_KIND, *(case for case in BASE if case.compares)),
)
def test_the_mean_of_nothing_is_zero(case, rng):
    """Of an empty batch, and where all is masked, whatever is behind the mask."""
    arrays = single(case.arrays(rng))
    shape = vectors(case, arrays)[0].shape
    hidden = [np.full_like(a, np.nan if a.dtype.kind == "f" else 77) for a in arrays]

    def of_mean(loss, first, *others, **options):
        function = functools.partial(mean(loss), **options)
        return in_modes(lambda x: function(x, *others), first, np.float32(1), jnp.ones_like(first))

    def run(hidden, where):
        results = [of_mean(case.bound, *(jnp.asarray(a[:0]) for a in arrays))]
        if not case.compares:
            results.append(of_mean(masked(case.bound), *hidden, where=where))
        return results

    for array in jax.tree.leaves(quick_jit(run)(hidden, np.zeros(shape, bool))):
        np.testing.assert_array_equal(array, 0)


@each(ALL, quick=OURS)
def test_nan_in_nan_out(case, rng):
    """A NaN in any argument shows in its own loss and gradient, and in no other."""
    arrays = sampled(case, rng)
    for n, array in enumerate(arrays):
        if array.dtype.kind != "f":
            continue
        bad = [a.copy() for a in arrays]
        # Of log-probabilities the label's alone is read.
        bad[n][(0,) * array.ndim] = np.nan
        if case.name == "nll":
            rows_of(case, bad[n])[0] = np.nan
        value, reverse, forward, second = ours(case, bad)
        assert np.isnan(value[(0,) * value.ndim])
        if not (case.linear and n == 0):
            assert np.isnan(reverse[(0,) * reverse.ndim])
            assert np.isnan(forward[(0,) * forward.ndim])
        if not case.compares:
            alone = case.name != "nll" and case not in PRIMITIVES
            assert not alone or np.count_nonzero(np.isnan(value)) == 1
            for array in (value, reverse, forward, second):
                assert np.all(np.isfinite(array[1:]))


@each([case for case in BASE if not case.compares], quick=BASE[:1])
def test_long_sums_neither_overflow_nor_drift(case, rng):
    """The mean of float16 losses, 2^24 of some; in every mode."""
    sample = case.arrays(rng, np.float16)
    exact = single(sample)
    cotangent, direction = vectors(case, exact)
    cotangent, direction = np.ones_like(cotangent), direction.astype(np.float16)
    times = 2 ** (24 if case.elementwise and case in (BASE[0], *OF_EACH_KIND) else 18) // 32
    # Blocks as large as the loss itself makes them.
    options = {name: o for name, o in case.options.items() if name != "block_size"}

    def long(array):
        return jnp.tile(array, (times, *(1,) * (array.ndim - 1)))

    @jax.jit
    def run(first, *others):
        function = mean(functools.partial(case.loss, **options))
        others = [long(array) for array in others]
        results, _ = in_modes(
            lambda x: function(x, *others),
            long(first),
            jnp.float32(times * cotangent.size),
            long(direction),
        )
        return Modes(results.value, results.reverse[-8:], results.forward, results.second[:8])

    value, reverse, forward, second = run(*sample)
    short = ours(case, exact, (cotangent, direction.astype(np.float32)))
    np.testing.assert_allclose(value, np.mean(short.value.astype(float)), rtol=1e-4)
    np.testing.assert_allclose(forward, np.mean(short.forward.astype(float)), rtol=1e-4, atol=1e-5)
    for array, expected in ((reverse, short.reverse), (second, short.second)):
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-3)
