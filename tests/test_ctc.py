"""Connectionist temporal classification against the sum over every path, and its policies."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh, PartitionSpec as P

from jaxloss import ctc
from tests.helpers import value_and_gradient

FRAMES, CLASSES, LENGTH = 5, 5, 2
PAIRS = np.array(list(itertools.product([1, 2], repeat=LENGTH)))
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


@functools.cache
def alignments(frames, labels, blank=0):
    """Every path that becomes the labels when repetitions are merged, then blanks removed."""

    def collapsed(path):
        return [k for k, _ in itertools.groupby(path) if k != blank]

    every = itertools.product(range(CLASSES), repeat=frames)
    return [path for path in every if collapsed(path) == [*labels]]


def brute_force(logits, labels, blank=0):
    """The loss and gradient of one example; in mpmath's arithmetic for an array of objects."""
    exp, log = np.exp, np.log
    if logits.dtype == object:
        exp, log = np.vectorize(mpmath.exp, otypes=[object]), mpmath.log
    weights = exp(logits)
    probs = weights / weights.sum(-1, keepdims=True)
    terms = {}
    for path in alignments(len(logits), tuple(labels), blank):
        terms[path] = np.prod([probs[t, k] for t, k in enumerate(path)])
    total = sum(terms.values())
    occupancy = 0 * probs
    for path, term in terms.items():
        for t, k in enumerate(path):
            occupancy[t, k] += term / total
    return -log(total) if terms else np.inf, probs - occupancy if terms else 0


@functools.cache
def compiled(blank):
    """Values and gradients of a batch with lengths."""

    @jax.jit
    def run(logits, labels, frame_lengths, label_lengths):
        lengths = {"frame_lengths": frame_lengths, "label_lengths": label_lengths}
        value, pullback = jax.vjp(lambda z: ctc(z, labels, **lengths, blank=blank), logits)
        return value, pullback(jnp.ones_like(value))[0]

    return run


def evaluate(logits, labels, frame_lengths=None, label_lengths=None, blank=0):
    """Values and gradients; in batches of four, so that tests share a program."""
    examples = len(logits)
    lengths = [
        np.full(examples, default) if given is None else given
        for given, default in ((frame_lengths, FRAMES), (label_lengths, LENGTH))
    ]
    integers = [np.resize(a, (4, *np.shape(a)[1:])).astype(np.int32) for a in (labels, *lengths)]
    results = compiled(blank)(np.resize(logits, (4, *logits.shape[1:])), *integers)
    return [np.asarray(result)[:examples] for result in results]


def sample(rng, dtype=np.float32):
    return (rng.normal(size=(4, FRAMES, CLASSES)) * 2).astype(dtype)


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_sums_over_all_paths(blank, rng, x64):
    logits = sample(rng, np.float64)
    labels = PAIRS - 1 if blank else PAIRS
    for frames, length in itertools.product(range(FRAMES + 1), range(LENGTH + 1)):
        value, gradient = evaluate(logits, labels, [frames] * 4, [length] * 4, blank)
        for n in range(4):
            expected = brute_force(logits[n, :frames], labels[n, :length], blank)
            np.testing.assert_allclose(value[n], expected[0], **CLOSE)
            np.testing.assert_allclose(gradient[n, :frames], expected[1], **CLOSE)
            np.testing.assert_equal(gradient[n, frames:], 0)


@pytest.mark.exhaustive
def test_float32_keeps_its_digits_over_many_frames(rng, x64):
    """Sums of logarithms near -1000 would lose three."""
    logits = rng.normal(size=(2, 300, 20)).astype(np.float32) * 3
    logits[1] = 0  # Many walks, all alike: their number exceeds float32.
    labels = rng.integers(1, 20, (2, 40)).astype(np.int32)
    of_labels = functools.partial(ctc, labels=labels)
    value, gradient = value_and_gradient(of_labels, logits)
    assert value.dtype == gradient.dtype == np.float32
    exact_value, exact_gradient = value_and_gradient(of_labels, logits.astype(np.float64))
    np.testing.assert_allclose(value, exact_value, rtol=2e-7)
    np.testing.assert_allclose(gradient, exact_gradient, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("behind", [90.0, 1e4, 1e9])
def test_unlikely_labels_keep_loss_and_gradient(behind):
    """Probabilities below the smallest float32 are not 0."""
    logits = np.zeros((1, FRAMES, CLASSES), np.float32)
    logits[:, :, 1:] = -behind
    value, gradient = evaluate(logits, [[1, 2]])
    # Any two of the five frames have the labels.
    np.testing.assert_allclose(value, 2 * behind - np.log(10), rtol=3e-7)
    first = np.array([-0.4, -0.3, -0.2, -0.1, 0])
    expected = np.stack([np.full(FRAMES, 0.4), first, first[::-1], 0 * first, 0 * first], -1)
    np.testing.assert_allclose(gradient[0], expected, atol=2e-6)


CERTAIN = {
    "one-path": [0, 1, 0, 2, 2],
    "every-label": [1, 1, 2, 2, 2],
    "many-paths": [(0, 1), (0, 1), 1, (1, 2), (0, 2)],
    "either-blank": [(0, 1), 1, (0, 2), 2, (0, 2)],
    "three-alike": [1, (0, 1, 2), 2, (0, 2), 0],
    "with-blanks": [1, 0, 0, 2, 0],
}


@pytest.mark.parametrize("ahead", [3, 17, 36, 80])
@pytest.mark.parametrize("kind", CERTAIN)
def test_certain_labels_keep_their_small_loss(kind, ahead, rng):
    # Of few digits, so that float32 holds the differences of logits.
    logits = np.round(rng.normal(size=(1, FRAMES, CLASSES)) * 16).astype(np.float32) / 16
    for t, classes in enumerate(CERTAIN[kind]):
        logits[0, t, [classes]] += ahead
    value, gradient = evaluate(logits, [[1, 2]])
    with mpmath.workdps(100):
        exact, exact_gradient = brute_force(logits[0] * mpmath.mpf(1), [1, 2])
    assert value[0] >= 0
    np.testing.assert_allclose(value[0], float(exact), rtol=5e-7)
    exact_gradient = exact_gradient.astype(float)
    # Where two alignments are as likely, shares of 1/2 cancel.
    scale = 1 if any(isinstance(k, tuple) for k in CERTAIN[kind]) else np.abs(exact_gradient).max()
    np.testing.assert_allclose(gradient[0] / scale, exact_gradient / scale, atol=1e-5)


NO_ALIGNMENT = {
    "too-few-frames": ([1, 2], 1, ()),
    "no-frame-for-the-blank": ([1, 1], 2, ()),
    "no-frame": ([1, 2], 0, ()),
    "label-excluded": ([1, 2], FRAMES, (0, slice(None), 2)),
    "blank-excluded": ([1, 1], 3, (0, 1, 0)),
}


@pytest.mark.parametrize("case", NO_ALIGNMENT)
def test_no_alignment_means_infinity_and_gradient_0(case, rng):
    labels, frames, excluded = NO_ALIGNMENT[case]
    logits = sample(rng)
    if excluded:
        logits[excluded] = -np.inf
    value, gradient = evaluate(logits, [labels, *PAIRS[1:]], [frames, *[FRAMES] * 3])
    np.testing.assert_equal(value[0], np.inf)
    np.testing.assert_equal(gradient[0], 0)
    assert np.isfinite(value[1:]).all() and np.all(gradient[1:] != 0)


BAD = {
    "label-too-large": {"labels": [1, CLASSES]},
    "label-negative": {"labels": [-1, 1]},
    "label-blank": {"labels": [0, 1]},
    "frames-negative": {"frames": -1},
    "frames-too-many": {"frames": FRAMES + 1},
    "labels-negative": {"length": -1},
    "labels-too-many": {"length": LENGTH + 1},
    "nan": {"logits": (3, 2, np.nan)},
    "inf": {"logits": (0, 1, np.inf)},
    "nothing-but-minus-inf": {"logits": (4, slice(None), -np.inf)},
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_example_is_nan_and_no_other(case, rng):
    bad = BAD[case]
    logits, frames, lengths = sample(rng), [FRAMES] * 4, [LENGTH] * 4
    good, good_gradient = evaluate(logits, PAIRS)
    if "logits" in bad:
        t, k, score = bad["logits"]
        logits[1, t, k] = score
    frames[1], lengths[1] = bad.get("frames", FRAMES), bad.get("length", LENGTH)
    labels = [PAIRS[0], bad.get("labels", PAIRS[1]), *PAIRS[2:]]
    value, gradient = evaluate(logits, labels, frames, lengths)
    assert np.isnan(value[1]) and np.isnan(gradient[1]).all()
    others = [0, 2, 3]
    np.testing.assert_array_equal(value[others], good[others])
    np.testing.assert_array_equal(gradient[others], good_gradient[others])


def test_wide_integers_do_not_wrap():
    of_wide_label = functools.partial(ctc, labels=np.array([2**32 + 1]))
    of_wide_length = functools.partial(ctc, labels=np.array([1]), frame_lengths=np.int64(2**32 + 1))
    for loss in (of_wide_label, of_wide_length):
        assert np.isnan(jax.jit(loss)(jnp.zeros((2, CLASSES))))


HIDDEN_FRAMES, HIDDEN_LABELS = np.array([5, 3, 2, 4]), np.array([2, 1, 1, 0])


@pytest.mark.parametrize("padding", [-1, 0, 10**6])
@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_what_is_beyond_the_lengths_is_never_looked_at(padding, score, rng):
    clean, labels = sample(rng), PAIRS.copy()
    lengths = HIDDEN_FRAMES, HIDDEN_LABELS
    expected = evaluate(clean, labels, *lengths)
    logits = clean.copy()
    logits[np.arange(FRAMES) >= HIDDEN_FRAMES[:, None]] = score
    labels[np.arange(LENGTH) >= HIDDEN_LABELS[:, None]] = padding
    for result, wanted in zip(evaluate(logits, labels, *lengths), expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


@functools.cache
def derivatives():
    """First and second order, of an example with a hidden frame and a class excluded from one."""

    def loss(logits):
        lengths = {"frame_lengths": jnp.array(3), "label_lengths": jnp.array(1)}
        return ctc(logits, jnp.array([2, -1]), **lengths)

    def formula(logits):
        scores = logits[:3]
        log_probs = scores - jnp.log(jnp.sum(jnp.exp(scores), -1, keepdims=True))
        paths = np.array([path for path in alignments(3, (2,)) if path[1] != 1])
        return -jnp.log(jnp.sum(jnp.exp(jnp.sum(log_probs[np.arange(3), paths], -1))))

    def every(function, logits, direction):
        def pushforward(logits):
            return jax.jvp(function, (logits,), (direction,))

        return {
            "forward over forward": jax.jvp(pushforward, (logits,), (direction,)),
            "forward over reverse": jax.jacfwd(jax.grad(function))(logits),
            "reverse over reverse": jax.jacrev(jax.grad(function))(logits),
        }

    return [jax.jit(functools.partial(every, function)) for function in (loss, formula)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("certain", [False, True], ids=["", "certain"])
def test_second_derivatives(certain, rng, x64):
    ours, plain = derivatives()
    logits = rng.normal(size=(4, CLASSES))
    if certain:
        logits[:3, 2] += 6
    logits[1, 1] = -np.inf
    hidden = logits.copy()
    hidden[3] = np.nan
    direction = np.where(np.isfinite(logits), rng.normal(size=logits.shape), 0)
    expected = plain(logits, direction)
    for name, result in ours(hidden, direction).items():
        for ours_of, plain_of in zip(
            jax.tree.leaves(result), jax.tree.leaves(expected[name]), strict=True
        ):
            np.testing.assert_allclose(ours_of, plain_of, **CLOSE, err_msg=name)


@pytest.mark.exhaustive
def test_any_batch(rng):
    logits, labels = sample(rng), jnp.asarray(PAIRS)
    long, many = jnp.asarray(rng.normal(size=(32, CLASSES))), jnp.arange(20) % 2 + 1

    @jax.jit
    def run(logits):
        square = logits.reshape(2, 2, FRAMES, CLASSES), labels.reshape(2, 2, LENGTH)
        counts = jnp.full((2, 2), FRAMES - 1)
        return (
            ctc(*square, frame_lengths=counts),
            jax.vmap(jax.vmap(ctc))(square[0][:, :, :-1], square[1]),
            ctc(long, many),
            ctc(jnp.pad(long, ((0, 1), (0, 0))), many, frame_lengths=np.array(32)),
            ctc(logits[:0], labels[:0]),
            ctc(logits[:, :0, :1], labels[:, :0]),
        )

    expected, _ = evaluate(logits, PAIRS, [FRAMES - 1] * 4)
    square, one_by_one, long, with_hidden_frame, no_example, no_frame = run(logits)
    np.testing.assert_allclose(square, expected.reshape(2, 2), rtol=1e-6)
    np.testing.assert_allclose(one_by_one, expected.reshape(2, 2), rtol=1e-6)
    np.testing.assert_allclose(long, with_hidden_frame, rtol=1e-6)
    assert no_example.shape == (0,)
    np.testing.assert_equal(np.asarray(no_frame), 0)


def test_half_precision_is_computed_in_float32(rng):
    logits = sample(rng).astype(jnp.bfloat16)
    value, gradient = value_and_gradient(lambda z: ctc(z, PAIRS), logits)
    wide_value, wide_gradient = evaluate(logits.astype(np.float32), PAIRS)
    assert value.dtype == np.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, wide_value, rtol=1e-6)
    np.testing.assert_allclose(gradient.astype(float), wide_gradient, rtol=2**-8, atol=1e-6)


def test_a_pullback_stores_shares_and_no_more():
    logits, labels = jnp.zeros((8, 40, 20)), jnp.ones((8, 6), jnp.int32)
    _, pullback = jax.vjp(jax.jit(lambda z: ctc(z, labels)), logits)
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(pullback) if hasattr(leaf, "nbytes"))
    assert stored <= logits.nbytes + 4 * 8 * 40 * (2 * 6 + 1) + 4 * 4 * 8 * 40


def test_the_value_alone_does_not_go_back():
    def loops(function):
        return str(jax.make_jaxpr(function)(jnp.zeros((4, FRAMES, CLASSES)))).count("reverse=True")

    def loss(logits):
        return jnp.sum(ctc(logits, PAIRS))

    assert loops(loss) == 0 < loops(jax.grad(loss))


def test_it_shards_over_a_batch(rng):
    logits, labels = sample(rng), jnp.asarray(PAIRS)
    mesh = Mesh(np.array(jax.devices()[:4]), "batch")
    sharded = jax.shard_map(
        lambda z, y: (ctc(z, y), jax.grad(lambda z: jnp.sum(ctc(z, y)))(z)),
        mesh=mesh,
        in_specs=P("batch"),
        out_specs=P("batch"),
    )
    for result, wanted in zip(
        jax.jit(sharded)(logits, labels), evaluate(logits, PAIRS), strict=True
    ):
        np.testing.assert_allclose(result, wanted, atol=1e-6)


def test_it_exports_to_every_platform():
    def gradient(logits):
        return jax.grad(lambda z: jnp.sum(ctc(z, PAIRS)))(logits)

    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = export.export(jax.jit(gradient), platforms=platforms)(
        jnp.zeros((4, FRAMES, CLASSES))
    )
    assert exported.platforms == platforms


LOGITS, LABELS = jnp.zeros((4, FRAMES, CLASSES)), jnp.ones((4, LENGTH), jnp.int32)
BAD_CALLS = {
    "ctc: logits must have the shape (*batch, frames, classes), with at least one class, got": (
        ValueError,
        lambda: ctc(jnp.zeros(3), LABELS),
    ),
    "ctc: logits must be an array of real numbers, got str 'x'": (
        TypeError,
        lambda: ctc("x", LABELS),
    ),
    "ctc: labels must have the batch (4,) of logits (4, 5, 5) and an axis of labels, got (2,)": (
        ValueError,
        lambda: ctc(LOGITS, LABELS[0]),
    ),
    "ctc: labels must be integers (class indices), got float32 of shape (4, 2)": (
        TypeError,
        lambda: ctc(LOGITS, LABELS.astype(jnp.float32)),
    ),
    "ctc: frame_lengths must have the shape of the batch, (4,), got ()": (
        ValueError,
        lambda: ctc(LOGITS, LABELS, frame_lengths=3),
    ),
    "ctc: label_lengths must have the shape of the batch, (4,), got (4, 1)": (
        ValueError,
        lambda: ctc(LOGITS, LABELS, label_lengths=LABELS[:, :1]),
    ),
    "ctc: label_lengths must be integers, got float32 of shape (4,)": (
        TypeError,
        lambda: ctc(LOGITS, LABELS, label_lengths=jnp.ones(4)),
    ),
    "ctc: frame_lengths must be integers, got bool of shape (4,)": (
        TypeError,
        lambda: ctc(LOGITS, LABELS, frame_lengths=jnp.ones(4, bool)),
    ),
    "ctc: blank must be an integer, one of the 5 classes of logits from 0 to 4, got int 5": (
        ValueError,
        lambda: ctc(LOGITS, LABELS, blank=5),
    ),
    "ctc: blank must be an integer, one of the 5 classes of logits from 0 to 4, got int -1": (
        ValueError,
        lambda: ctc(LOGITS, LABELS, blank=-1),
    ),
    "ctc: blank must be an integer, one of the 5 classes of logits from 0 to 4, got float 0.0": (
        TypeError,
        lambda: ctc(LOGITS, LABELS, blank=0.0),
    ),
    "ctc: unexpected keyword reduction, str 'mean'; ctc takes frame_lengths, label_lengths": (
        TypeError,
        lambda: ctc(LOGITS, LABELS, reduction="mean"),
    ),
}


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_says_what_came_and_what_was_expected(message):
    error, call = BAD_CALLS[message]
    with pytest.raises(error, match=re.escape(message)):
        call()
