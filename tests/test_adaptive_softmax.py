"""The adaptive softmax against the log-probabilities it stands for, and its policies."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh, PartitionSpec as P

import jaxloss
from jaxloss._adaptive_softmax import AdaptiveSoftmax, adaptive_softmax
from tests.helpers import exhaustive, quick_jit

FEATURES, CUTOFFS, CLASSES = 6, (4, 9), 15
# Every cluster, the last classes of each, in no order.
LABELS = np.array([14, 0, 8, 5, 3, 12, 4, 9, 1, 11, 7])


def model(rng, dtype=np.float64, *, bias=True, cutoffs=CUTOFFS, classes=CLASSES):
    shapes = AdaptiveSoftmax.init(
        jax.random.key(0), FEATURES, classes, cutoffs, div_value=2, head_bias=bias
    )
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), dtype), shapes)


def vectors(rng, *tokens, dtype=np.float64):
    return jnp.asarray(rng.normal(size=(*tokens, FEATURES)), dtype)


def plain(hidden, parameters, labels):
    """Log-probabilities of all classes, of which one is picked."""
    scores = hidden @ parameters.head
    if parameters.bias is not None:
        scores = scores + jnp.broadcast_to(parameters.bias, scores.shape)
    head = jax.nn.log_softmax(scores)
    shortlist = parameters.cutoffs[0]
    parts = [head[:, :shortlist]]
    for n, (projection, kernel) in enumerate(parameters.tails):
        tail = jax.nn.log_softmax(hidden @ projection @ kernel)
        parts.append(jnp.broadcast_to(head[:, shortlist + n, None], tail.shape) + tail)
    return -jnp.concatenate(parts, 1)[jnp.arange(labels.size), labels]


def average(losses):
    return lambda *inputs, **options: jnp.average(
        losses(*inputs, **options), weights=weights_of(inputs[0])
    )


def reduced(hidden, parameters, labels, **options):
    """By the combinators, which compute the gradient with the value."""
    loss = jaxloss.mean(jaxloss.weighted(adaptive_softmax))
    return loss(hidden, parameters, labels, weights=weights_of(hidden), **options)


def weights_of(hidden):
    """Of each token; one weighs nothing."""
    return jnp.arange(len(hidden), dtype=hidden.dtype)


def every_mode(function, hidden, parameters):
    inputs, along = (hidden, parameters), jax.tree.map(jnp.sin, (hidden, parameters))
    losses = functools.partial(function, labels=jnp.asarray(LABELS))

    def scalar(*inputs):
        values = losses(*inputs)
        return jnp.sum(values * jnp.cos(jnp.arange(values.size, dtype=values.dtype)))

    grad = jax.grad(scalar, (0, 1))

    def hvp(*inputs):
        return jax.jvp(grad, inputs, along)[1]

    def scanned(*inputs):
        start = jnp.zeros_like(losses(*inputs))
        steps = jnp.array([0.25, 0.75], start.dtype)
        return jax.lax.scan(lambda c, s: (c + s * losses(*inputs), None), start, steps)[0]

    return {
        "value": losses(*inputs),
        "grad": grad(*inputs),
        "jvp": jax.jvp(losses, inputs, along),
        "linearize": jax.linearize(losses, *inputs)[1](*along),
        "jacrev": jax.jacrev(losses, (0, 1))(*inputs),
        "jacfwd": jax.jacfwd(losses, (0, 1))(*inputs),
        "hvp": hvp(*inputs),
        "hessian": jax.hessian(scalar, (0, 1))(*inputs),
        "reverse over reverse": jax.jacrev(grad)(*inputs),
        "third order": jax.jvp(hvp, inputs, along)[1],
        "checkpoint": jax.grad(jax.checkpoint(scalar), (0, 1))(*inputs),
        "scan": jax.vjp(scanned, *inputs)[1](jnp.ones_like(losses(*inputs))),
        "vmap of grad": jax.vmap(grad, (0, None))(jnp.stack([hidden, -hidden]), parameters),
    }


WAYS = pytest.mark.parametrize(
    ("ours", "theirs"),
    [(adaptive_softmax, plain), (reduced, average(plain))],
    ids=["per token", "reduced"],
)


@pytest.mark.exhaustive
@WAYS
@pytest.mark.parametrize("bias", [True, False], ids=["bias", ""])
def test_every_mode(bias, ours, theirs, rng, x64):
    inputs = vectors(rng, LABELS.size), model(rng, bias=bias)
    ours = functools.partial(ours, block_size=2)
    actual, expected = (
        quick_jit(functools.partial(every_mode, function))(*inputs) for function in (ours, theirs)
    )
    for mode in expected:
        chex.assert_trees_all_close(actual[mode], expected[mode], rtol=1e-9, atol=1e-11)


LABELLED = {
    "head": [0, 3, 2, 0, 1],
    "first-tail": [4, 8, 5, 5, 4],
    "last-tail": [14, 9, 10, 14, 12],
    "without-the-first-tail": [13, 0, 9, 3, 12],
    "without-the-head": [13, 4, 9, 8, 12],
    "one": [9],
}


@functools.cache
def compiled(function, **options):
    @quick_jit
    def run(hidden, parameters, labels):
        losses, pullback = jax.vjp(lambda *x: function(*x, labels, **options), hidden, parameters)
        return losses, pullback(
            jnp.cos(1 + jnp.arange(losses.size, dtype=losses.dtype)).reshape(losses.shape)
        )

    # The programs of arrays that NumPy holds as 64 bits differ with x64.
    return lambda *inputs: run(*jax.tree.map(jnp.asarray, inputs))


@pytest.mark.parametrize("size", [3, *exhaustive(1, None)])
@WAYS
def test_any_labels_in_any_blocks(size, ours, theirs, rng, x64):
    parameters = model(rng)
    for labels in LABELLED.values():
        # Of one length, so that tests share a program.
        labels = jnp.asarray(np.resize(labels, 7))
        hidden = vectors(rng, 7)
        actual = compiled(ours, block_size=size)(hidden, parameters, labels)
        expected = compiled(theirs)(hidden, parameters, labels)
        chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "cutoffs",
    [(2, 3, 7), *exhaustive((1,), (13,))],
    ids=str,
)
def test_any_clusters(cutoffs, rng, x64):
    shapes = AdaptiveSoftmax.init(jax.random.key(1), 6, 14, cutoffs, div_value=1.5)
    parameters = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), shapes)
    assert (parameters.cutoffs, parameters.classes) == (cutoffs, 14)
    inputs = vectors(rng, 14), parameters, jnp.asarray(rng.permutation(14))
    actual, expected = compiled(adaptive_softmax)(*inputs), compiled(plain)(*inputs)
    chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.exhaustive
def test_log_probs_and_predictions(rng, x64):
    parameters, hidden = model(rng), vectors(rng, 50)
    log_probs = jax.jit(AdaptiveSoftmax.log_probs)(parameters, hidden)
    assert log_probs.shape == (50, CLASSES)
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, rtol=1e-12)
    predictions = np.asarray(jax.jit(AdaptiveSoftmax.predict)(parameters, hidden))
    assert set(np.digitize(predictions, CUTOFFS)) == {0, 1, 2}
    np.testing.assert_array_equal(predictions, jnp.argmax(log_probs, 1))
    for labels in np.arange(CLASSES), np.arange(CLASSES)[::-1]:
        losses, _ = compiled(adaptive_softmax)(hidden[:CLASSES], parameters, labels)
        np.testing.assert_allclose(losses, -log_probs[np.arange(CLASSES), labels], rtol=1e-12)
    np.testing.assert_array_equal(
        parameters.predict(hidden.reshape(5, 10, -1)).ravel(), predictions
    )
    np.testing.assert_allclose(parameters.log_probs(hidden[3]), log_probs[3], rtol=1e-14)


def test_a_bad_label_is_nan_and_no_other(rng):
    parameters, hidden = model(rng, np.float32), vectors(rng, LABELS.size, dtype=np.float32)
    run = compiled(adaptive_softmax, block_size=4)
    good, (good_gradient, _) = run(hidden, parameters, LABELS)
    others = np.delete(np.arange(LABELS.size), 5)
    for bad in (-1, -(2**31), CLASSES, 2**31 - 1):
        labels = LABELS.copy()
        labels[5] = bad
        losses, (gradient, _) = run(hidden, parameters, labels)
        assert np.isnan(losses[5]) and np.isnan(gradient[5]).all()
        np.testing.assert_allclose(losses[others], good[others], rtol=1e-6)
        np.testing.assert_allclose(gradient[others], good_gradient[others], rtol=1e-4, atol=1e-6)


@pytest.mark.exhaustive
def test_labels_of_any_integer_dtype(rng):
    parameters = AdaptiveSoftmax.init(jax.random.key(0), FEATURES, 300, (100, 200), div_value=2)
    hidden = vectors(rng, 3, dtype=np.float32)
    labels = np.array([99, 100, 127])

    @quick_jit
    def run(hidden):
        every = [jnp.asarray(labels, dtype) for dtype in ("int8", "uint8", "int16", "uint32")]
        wide = labels + 2**32  # On the host, where they do not wrap.
        return [adaptive_softmax(hidden, parameters, labels) for labels in (*every, labels, wide)]

    *narrow, expected, wide = run(hidden)
    for losses in narrow:
        np.testing.assert_array_equal(losses, expected)
    assert np.isnan(wide).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("ahead", [3, 20, 80])
def test_a_confident_token_keeps_its_small_loss(ahead, rng):
    """Both of the cluster and of the class within it, in value and gradient."""
    ones = jnp.ones((1, 1), jnp.float32)
    head = jnp.asarray(rng.integers(-8, 8, (1, 5)) / 8, jnp.float32).at[0, 4].add(ahead)
    kernel = jnp.asarray(rng.integers(-8, 8, (1, 6)) / 8, jnp.float32).at[0, 2].add(ahead)
    parameters = AdaptiveSoftmax(head, ((ones, kernel),))

    def of_kernels(kernels):
        head, kernel = kernels
        return adaptive_softmax(ones, AdaptiveSoftmax(head, ((ones, kernel),)), np.array([6]))[0]

    value, (to_head, to_kernel) = jax.jit(jax.value_and_grad(of_kernels))((head, kernel))
    with mpmath.workdps(60):
        exact = 0
        for scores, k, gradient in ((head, 4, to_head), (kernel, 2, to_kernel)):
            terms = [mpmath.exp(mpmath.mpf(float(z))) for z in scores[0]]
            rest = sum(terms) - terms[k]
            exact += mpmath.log1p(rest / terms[k])
            expected = [float(t / sum(terms)) for t in terms]
            expected[k] = -float(rest / sum(terms))
            np.testing.assert_allclose(gradient[0], expected, rtol=1e-6)
        np.testing.assert_allclose(value, float(exact), rtol=1e-6)
    assert parameters.cutoffs == (4,)


@pytest.mark.exhaustive
@pytest.mark.parametrize("cotangent", [1.0, np.nan])
def test_tokens_of_other_clusters_leave_a_tail_alone(cotangent, rng):
    """A tail's last block has some: their row statistics are of other scores, their losses NaN."""
    projection, kernel = (jnp.abs(array) for array in model(rng, np.float32).tails[1])
    first = model(rng, np.float32)
    parameters = AdaptiveSoftmax(first.head, (first.tails[0], (projection, -kernel)), None)
    # So that the scores of the last tail are all far below 0.
    hidden = jnp.abs(vectors(rng, 4, dtype=np.float32)).at[2:].multiply(1e4)
    labels = jnp.array([4, 5, 13, 12])

    @quick_jit
    def of_first_tail(hidden, labels, along):
        _, pullback = jax.vjp(
            lambda p: adaptive_softmax(hidden, p, labels, block_size=4), parameters
        )
        return pullback(along)[0].tails[0]

    together = of_first_tail(hidden, labels, jnp.array([1, 1, cotangent, 1], jnp.float32))
    alone = of_first_tail(hidden.at[2:].set(0), labels.at[2:].set(0), jnp.ones(4))
    chex.assert_trees_all_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.exhaustive
def test_any_batch(rng):
    parameters, hidden = model(rng, np.float32), vectors(rng, 2, 3, 4, dtype=np.float32)
    labels = rng.integers(0, CLASSES, (2, 3, 4))

    @quick_jit
    def run(hidden, labels):
        return (
            adaptive_softmax(hidden, parameters, labels),
            adaptive_softmax(hidden.reshape(24, -1), parameters, labels.reshape(24)),
            adaptive_softmax(hidden[1, 2, 3], parameters, labels[1, 2, 3]),
            jax.vmap(adaptive_softmax, (0, None, 0))(hidden, parameters, labels),
        )

    losses, flat, alone, mapped = run(hidden, jnp.asarray(labels))
    assert losses.shape == (2, 3, 4)
    np.testing.assert_array_equal(losses.ravel(), flat)
    np.testing.assert_allclose(alone, losses[1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(mapped, losses, rtol=1e-6)


@pytest.mark.exhaustive
def test_without_jit(rng):
    parameters, hidden = model(rng, np.float32), vectors(rng, 3, dtype=np.float32)
    labels = np.array([12, 0, 6])
    actual = jax.grad(lambda h: jnp.sum(adaptive_softmax(h, parameters, labels)))(hidden)
    expected = jax.jit(jax.grad(lambda h: jnp.sum(plain(h, parameters, labels))))(hidden)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [None, 2])
def test_no_tokens(size, rng):
    parameters = model(rng, np.float32)
    labels = jnp.zeros(0, jnp.int32)
    losses, gradients = compiled(adaptive_softmax, block_size=size)(
        vectors(rng, 0, dtype=np.float32), parameters, labels
    )
    assert losses.shape == (0,)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_half_precision_is_computed_in_float32(dtype, rng):
    parameters, hidden = model(rng, dtype), vectors(rng, LABELS.size, dtype=dtype)
    losses, gradients = compiled(adaptive_softmax, block_size=2)(hidden, parameters, LABELS)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (hidden, parameters))
    expected, expected_gradients = compiled(plain)(*wide, LABELS)
    assert losses.dtype == np.float32
    precision = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(losses, expected, rtol=4 * precision)
    for leaf, of_wide in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        assert leaf.dtype == dtype
        error = np.abs(leaf.astype(np.float32) - of_wide).max()
        assert error < 4 * precision * np.abs(of_wide).max()


@pytest.mark.exhaustive
def test_gradients_of_half_precision_kernels_are_summed_in_float32():
    """Of 4096 blocks of one token: bfloat16 would stop counting at 256."""
    ones = jnp.ones((1, 1), jnp.bfloat16)
    parameters = AdaptiveSoftmax(
        jnp.zeros((1, 2), jnp.bfloat16), ((ones, 0 * jnp.ones((1, 2), jnp.bfloat16)),)
    )

    def total(parameters):
        hidden, labels = jnp.ones((4096, 1), jnp.bfloat16), jnp.ones(4096, jnp.int32)
        return jnp.sum(adaptive_softmax(hidden, parameters, labels, block_size=1))

    gradient = jax.jit(jax.grad(total))(parameters)
    np.testing.assert_array_equal(gradient.tails[0][1].astype(np.float32), [[-2048, 2048]])


@pytest.mark.exhaustive
def test_float16_does_not_underflow(rng):
    """The gradient of a mean over many tokens, in entries that float16 could not hold."""
    parameters = AdaptiveSoftmax.init(
        jax.random.key(0), FEATURES, 4000, (100, 500), div_value=1.5, dtype=jnp.float16
    )
    hidden = vectors(rng, 2048, dtype=np.float16)
    labels = jnp.asarray(rng.integers(0, 4000, 2048), jnp.int32)
    run = jax.jit(jax.grad(lambda h, p: jnp.mean(adaptive_softmax(h, p, labels)), (0, 1)))
    exact = run(*jax.tree.map(lambda a: a.astype(jnp.float32), (hidden, parameters)))
    for ours, wide in zip(*map(jax.tree.leaves, (run(hidden, parameters), exact)), strict=True):
        assert ours.dtype == jnp.float16
        np.testing.assert_allclose(ours.astype(jnp.float32), wide, rtol=6e-4, atol=4e-8)


@pytest.mark.exhaustive
def test_parameters_of_another_dtype_are_widened(rng):
    parameters, hidden = model(rng, np.float32), vectors(rng, LABELS.size, dtype=jnp.bfloat16)
    losses, (to_hidden, to_parameters) = compiled(adaptive_softmax)(hidden, parameters, LABELS)
    assert losses.dtype == np.float32 and to_hidden.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(to_parameters)} == {np.dtype(np.float32)}
    expected, _ = compiled(plain)(hidden.astype(np.float32), parameters, LABELS)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "passes"),
    [(adaptive_softmax, 2), (jaxloss.mean(adaptive_softmax), 1)],
    ids=["per token", "reduced"],
)
@pytest.mark.parametrize(
    "kind", ["without-the-head", *exhaustive(*(k for k in LABELLED if k != "without-the-head"))]
)
def test_a_tail_computes_as_many_blocks_as_hold_its_tokens(kind, loss, passes, rng, monkeypatch):
    """Forward and backward, or at once; what runs in a step is counted by the running program."""
    visited = []
    inner = jaxloss._clusters._inner

    def counted(hidden, tail, tokens):
        jax.debug.callback(lambda size: visited.append(int(size)), tail[1].shape[1])
        return inner(hidden, tail, tokens)

    monkeypatch.setattr("jaxloss._clusters._inner", counted)
    labels = np.array(LABELLED[kind])
    parameters = model(rng, np.float32)

    def total(hidden, parameters):
        return jnp.sum(loss(hidden, parameters, labels, block_size=2))

    gradient = jax.jit(jax.grad(total, (0, 1)))(
        vectors(rng, labels.size, dtype=np.float32), parameters
    )
    jax.block_until_ready(gradient)
    jax.effects_barrier()
    for cluster, (_, kernel) in enumerate(parameters.tails, 1):
        blocks = -(-np.sum(np.digitize(labels, CUTOFFS) == cluster) // 2)
        assert visited.count(kernel.shape[1]) == passes * blocks, cluster


def of_shapes(tokens, features=64, classes=20000, cutoffs=(500, 4000), function=adaptive_softmax):
    """The compiled value and gradient of a mean, from shapes alone."""
    parameters = jax.eval_shape(
        lambda key: AdaptiveSoftmax.init(key, features, classes, cutoffs), jax.random.key(0)
    )
    hidden = jax.ShapeDtypeStruct((tokens, features), jnp.float32)
    labels = jax.ShapeDtypeStruct((tokens,), jnp.int32)

    def mean(hidden, parameters, labels):
        return jnp.mean(function(hidden, parameters, labels))

    return jax.jit(jax.value_and_grad(mean, (0, 1))).lower(hidden, parameters, labels).compile()


LOSSES = pytest.mark.parametrize(
    "loss", [adaptive_softmax, jaxloss.mean(adaptive_softmax)], ids=["per token", "reduced"]
)


@LOSSES
@pytest.mark.optimized
def test_scores_of_one_block_are_held_and_no_more(loss):
    tokens, head, largest = 2048, 502, 16000
    held = of_shapes(tokens, function=loss).memory_analysis().temp_size_in_bytes
    scores_of_head, block = 4 * tokens * head, 2 * 4 * 96 * largest
    assert held < scores_of_head + block + 4 * 4 * tokens * 64


@pytest.mark.exhaustive
def test_deriving_forward_mode_costs_reverse_mode_nothing(monkeypatch):
    """The compiled value and gradient are those of the bare jax.custom_vjp."""
    ours = of_shapes(1024)
    monkeypatch.setattr(
        "jaxloss._autodiff.custom_vjp.__call__", lambda self, *args: self._reverse(*args)
    )
    bare = of_shapes(1024)
    assert ours.memory_analysis().temp_size_in_bytes <= bare.memory_analysis().temp_size_in_bytes
    for figure in ("flops", "bytes accessed"):
        assert ours.cost_analysis()[figure] <= 1.001 * bare.cost_analysis()[figure]


@LOSSES
@pytest.mark.optimized
def test_no_kernel_is_copied_at_every_block(loss):
    """In particular not the sums of its gradient, through the conditionals."""
    text = of_shapes(1024, function=loss).as_text()
    for shape in ("16,3500", "4,16000"):
        assert f"f32[{shape}]" in text
        assert not re.search(rf"= f32\[{shape}\]\S* copy\(", text)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mean", [True, *exhaustive(False)])
def test_it_shards_over_tokens(mean, rng):
    """Tokens over eight devices, the parameters on each."""
    parameters, hidden = model(rng, np.float32), vectors(rng, 24, dtype=np.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, 24))
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    specs = {"mesh": mesh, "in_specs": (P("data"), P(), P("data"))}
    if mean:
        whole = jaxloss.mean(adaptive_softmax)
        of_shards = jaxloss.mean(adaptive_softmax, axis_name="data")
        sharded = jax.shard_map(of_shards, out_specs=P(), **specs)
    else:
        sharded = jax.shard_map(adaptive_softmax, out_specs=P("data"), **specs)
        whole = adaptive_softmax

    def derivatives(function):
        def total(hidden, parameters):
            return jnp.sum(function(hidden, parameters, labels))

        def run(hidden, parameters):
            inputs = hidden, parameters
            gradient = jax.value_and_grad(total, (0, 1))
            return gradient(*inputs), jax.jvp(gradient, inputs, inputs)[1]

        return quick_jit(run)(hidden, parameters)

    chex.assert_trees_all_close(derivatives(sharded), derivatives(whole), rtol=2e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_it_exports_to_every_platform(rng):
    parameters, hidden = model(rng, np.float32), vectors(rng, LABELS.size, dtype=np.float32)

    def total(hidden, head):
        of_head = AdaptiveSoftmax(head, parameters.tails, parameters.bias)
        return jnp.sum(adaptive_softmax(hidden, of_head, LABELS))

    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = export.export(jax.jit(jax.grad(total, (0, 1))), platforms=platforms)(
        hidden, parameters.head
    )
    assert exported.platforms == platforms


def test_checked_names_a_bad_label(rng):
    parameters, hidden = model(rng, np.float32), vectors(rng, 3, dtype=np.float32)
    loss = jaxloss.checked(jax.jit(adaptive_softmax))
    with pytest.raises(
        ValueError, match=re.escape("adaptive_softmax: labels must be classes from 0 to 14, got 15")
    ):
        loss(hidden, parameters, jnp.array([0, 15, 1]))


def test_init():
    key = jax.random.key(3)
    parameters = AdaptiveSoftmax.init(
        key,
        32,
        100,
        [10, 50],
        head_bias=True,
        initializer=jax.nn.initializers.ones,
        dtype=jnp.bfloat16,
    )
    shapes = ((32, 12), (((32, 8), (8, 40)), ((32, 2), (2, 50))), (12,))
    assert (
        parameters.head.shape,
        jax.tree.map(jnp.shape, parameters.tails),
        parameters.bias.shape,
    ) == shapes
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {np.dtype(jnp.bfloat16)}
    assert np.all(parameters.head == 1) and np.all(parameters.bias == 0)
    drawn = AdaptiveSoftmax.init(key, 32, 100, [10, 50])
    assert (
        drawn.bias is None and len({float(leaf.ravel()[0]) for leaf in jax.tree.leaves(drawn)}) == 5
    )


@pytest.mark.exhaustive
def test_it_learns(rng):
    """Zipf classes from features that tell them."""
    parameters = AdaptiveSoftmax.init(jax.random.key(0), 16, 60, (10, 30), div_value=2)
    table = jnp.asarray(rng.normal(size=(60, 16)), jnp.float32)
    labels = jnp.asarray(rng.choice(60, 400, p=(q := 1 / np.arange(1, 61)) / q.sum()))
    loss = jaxloss.mean(adaptive_softmax)

    @jax.jit
    def train(parameters):
        def step(parameters, _):
            value, gradient = jax.value_and_grad(lambda p: loss(table[labels], p, labels))(
                parameters
            )
            return jax.tree.map(lambda p, g: p - 0.5 * g, parameters, gradient), value

        return jax.lax.scan(step, parameters, length=200)

    parameters, values = train(parameters)
    assert values[-1] < 0.2 * values[0]
    assert np.mean(parameters.predict(table[labels]) == labels) > 0.85


HIDDEN = jnp.zeros((3, 8))
GOOD = AdaptiveSoftmax.init(jax.random.key(0), 8, 20, (5, 10), div_value=2)
ZEROS = jnp.zeros(3, jnp.int32)
init = functools.partial(AdaptiveSoftmax.init, jax.random.key(0), 8, 20)


def remade(head=GOOD.head, tails=GOOD.tails, bias=None):
    return adaptive_softmax(HIDDEN, AdaptiveSoftmax(head, tails, bias), ZEROS)


BAD_CALLS = {
    "AdaptiveSoftmax.init: cutoffs must increase, from 1 at least to 19 at most, one less than the "
    "classes, got (10, 5)": (ValueError, lambda: init((10, 5))),
    "at most, one less than the classes, got (5, 5)": (ValueError, lambda: init((5, 5))),
    "at most, one less than the classes, got (5, 20)": (ValueError, lambda: init((5, 20))),
    "at most, one less than the classes, got (0, 5)": (ValueError, lambda: init((0, 5))),
    "at most, one less than the classes, got ()": (ValueError, lambda: init(())),
    "AdaptiveSoftmax.init: cutoffs must be an integer, got float 5.0": (
        TypeError,
        lambda: init((5.0,)),
    ),
    "AdaptiveSoftmax.init: cutoffs must be a sequence of integers, such as (2000, 10000), got": (
        TypeError,
        lambda: init(5),
    ),
    "AdaptiveSoftmax.init: each cluster must have a feature at least, got features 8 and div_value "
    "4.0, which leave [2, 0]; take fewer cutoffs": (ValueError, lambda: init((5, 10))),
    "AdaptiveSoftmax.init: div_value must be positive, got 0": (
        ValueError,
        lambda: init((5,), div_value=0),
    ),
    "adaptive_softmax: hidden must have the shape (*tokens, features) with the 8 features of "
    "parameters.head (8, 7), got (3, 9)": (
        ValueError,
        lambda: adaptive_softmax(jnp.zeros((3, 9)), GOOD, ZEROS),
    ),
    "adaptive_softmax: labels must have the shape of hidden (3, 8) without its last axis, (3,), "
    "got (4,)": (ValueError, lambda: adaptive_softmax(HIDDEN, GOOD, jnp.zeros(4, jnp.int32))),
    "adaptive_softmax: labels must be integers (class indices), got float32 of shape (3,)": (
        TypeError,
        lambda: adaptive_softmax(HIDDEN, GOOD, jnp.zeros(3)),
    ),
    "adaptive_softmax: hidden must be an array of real numbers, got str 'x'": (
        TypeError,
        lambda: adaptive_softmax("x", GOOD, ZEROS),
    ),
    "adaptive_softmax: parameters must be an AdaptiveSoftmax, got tuple": (
        TypeError,
        lambda: adaptive_softmax(HIDDEN, (GOOD.head, GOOD.tails), ZEROS),
    ),
    "adaptive_softmax: block_size must be at least 1, got 0": (
        ValueError,
        lambda: adaptive_softmax(HIDDEN, GOOD, ZEROS, block_size=0),
    ),
    "adaptive_softmax: block_size must be an integer, got float 2.0": (
        TypeError,
        lambda: adaptive_softmax(HIDDEN, GOOD, ZEROS, block_size=2.0),
    ),
    "adaptive_softmax: parameters.head must have the shape (features, shortlist + clusters), with "
    "at least one class in the shortlist and one cluster, got (8, 2) with 2 tails": (
        ValueError,
        lambda: remade(head=jnp.zeros((8, 2))),
    ),
    "one cluster, got (8, 7) with 0 tails": (ValueError, lambda: remade(tails=())),
    "adaptive_softmax: parameters.tails[0][0] must have the shape (8, 4), of 2 axes, none empty, "
    "beside parameters.head (8, 7), got (9, 4)": (
        ValueError,
        lambda: remade(tails=((jnp.zeros((9, 4)), jnp.zeros((4, 5))),)),
    ),
    "adaptive_softmax: parameters.tails[0][1] must have the shape (4, 5), of 2 axes, none empty, "
    "beside parameters.head (8, 7), got (3, 5)": (
        ValueError,
        lambda: remade(tails=((jnp.zeros((8, 4)), jnp.zeros((3, 5))),)),
    ),
    "adaptive_softmax: parameters.bias must have the shape (7,), of 1 axes, none empty, beside "
    "parameters.head (8, 7), got (6,)": (ValueError, lambda: remade(bias=jnp.zeros(6))),
    "AdaptiveSoftmax.predict: hidden must have the shape": (
        ValueError,
        lambda: GOOD.predict(jnp.zeros(7)),
    ),
    "AdaptiveSoftmax.log_probs: hidden must have the shape": (
        ValueError,
        lambda: GOOD.log_probs(jnp.zeros(7)),
    ),
    "adaptive_softmax: unexpected keyword reduction, str 'mean'; adaptive_softmax takes "
    "block_size": (
        TypeError,
        lambda: adaptive_softmax(HIDDEN, GOOD, ZEROS, reduction="mean"),
    ),
}


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_says_what_came_and_what_was_expected(message):
    error, call = BAD_CALLS[message]
    with pytest.raises(error, match=re.escape(message)):
        call()
