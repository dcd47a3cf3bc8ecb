"""Cross-entropy of a linear layer, differentiated with all of its inputs, reduced and sharded."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

from jaxloss import (
    Weighted,
    accumulated_value_and_grad,
    checked,
    class_weighted,
    cross_entropy,
    ignoring,
    linear_cross_entropy,
    masked,
    mean,
    microbatched,
    pooled,
    scaled,
    sum as sum_of,
    weighted,
    weighted_sum,
)
from jaxloss._linear import default_block_size
from jaxloss.primitives import linear_statistics
from tests.helpers import exhaustive, quick_jit

TOKENS, FEATURES, CLASSES, BLOCK = 14, 5, 11, 4
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def inputs(rng, x64):
    """Floating inputs by name, and labels."""
    floating = {
        "hidden": rng.normal(size=(TOKENS, FEATURES)) * 1.5,
        "kernel": rng.normal(size=(FEATURES, CLASSES)),
        "bias": rng.normal(size=CLASSES),
        "class_weights": rng.uniform(0.2, 2, CLASSES),
        "label_smoothing": np.float64(0.1),
        "z_loss": np.float64(0.01),
        "logit_cap": np.float64(2.5),
    }
    return jax.tree.map(jnp.asarray, floating), jnp.asarray(rng.integers(0, CLASSES, TOKENS))


def plain(inputs, labels):
    """The same with all logits there, by the library's `cross_entropy`."""
    options = dict(inputs)
    logits = options.pop("hidden") @ options.pop("kernel")
    logits = logits + options.pop("bias", jnp.zeros(CLASSES))[None]
    if (cap := options.pop("logit_cap", None)) is not None:
        logits = cap * jnp.tanh(logits / cap)
    return cross_entropy(logits, labels, **options)


def ours(inputs, labels, class_axis=1, loss=linear_cross_entropy, **more):
    options = dict(inputs)
    hidden, kernel = options.pop("hidden"), options.pop("kernel")
    kernel = kernel if class_axis == 1 else kernel.T
    return loss(hidden, kernel, labels, class_axis=class_axis, block_size=BLOCK, **options, **more)


def modes(function, inputs, directions):
    """Value, gradient, tangent, and second derivatives in two ways, of a function to one number."""
    gradient = jax.grad(function)
    return {
        "value": function(inputs),
        "gradient": gradient(inputs),
        "jvp": jax.jvp(function, (inputs,), (directions,))[1],
        "hvp": jax.jvp(gradient, (inputs,), (directions,))[1],
        "reverse over reverse": jax.grad(
            lambda inputs: sum(
                jnp.vdot(slope, way)
                for slope, way in zip(
                    *map(jax.tree.leaves, (gradient(inputs), directions)), strict=True
                )
            )
        )(inputs),
        "vmap of gradient": jax.vmap(gradient)(jax.tree.map(lambda a: jnp.stack([a, a]), inputs)),
    }


OPTIONS = [
    (),
    *exhaustive(
        ("bias", "logit_cap"),
        ("class_weights", "label_smoothing"),
        ("label_smoothing", "z_loss"),
        ("bias", "class_weights", "label_smoothing", "z_loss", "logit_cap"),
    ),
]


@pytest.mark.parametrize("class_axis", [1, *exhaustive(0)])
@pytest.mark.parametrize("reduced", [*exhaustive(False), True])
@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_every_mode_equals_cross_entropy_of_all_logits(inputs, options, reduced, class_axis):
    """With respect to every input, for any cotangent or with weights, in ragged blocks."""
    inputs, labels = inputs
    inputs = {name: inputs[name] for name in ("hidden", "kernel", *options)}
    inputs["weights"] = 1.5 + jnp.cos(jnp.arange(TOKENS, dtype=jnp.float64))
    directions = jax.tree.map(lambda a: jnp.sin(1 + jnp.arange(a.size, dtype=a.dtype)), inputs)
    directions = jax.tree.map(lambda a, d: d.reshape(a.shape), inputs, directions)

    def split(inputs):
        inputs = dict(inputs)
        return inputs.pop("weights"), inputs

    def expected(inputs):
        weights, inputs = split(inputs)
        total = jnp.vdot(plain(inputs, labels), weights)
        return total / jnp.sum(weights) if reduced else total

    def actual(inputs):
        weights, inputs = split(inputs)
        if not reduced:
            return jnp.vdot(ours(inputs, labels, class_axis), weights)
        loss = mean(weighted(linear_cross_entropy))
        return ours(inputs, labels, class_axis, loss, weights=weights)

    actual, expected = (
        quick_jit(functools.partial(modes, f))(inputs, directions) for f in (actual, expected)
    )
    chex.assert_trees_all_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("class_axis", [0, 1])
def test_columns_that_are_added_in_slices(inputs, class_axis, monkeypatch):
    """As of more than 8192 classes: 11 of them, in two slices of 4 and the rest."""
    inputs, labels = inputs
    inputs = {name: inputs[name] for name in ("hidden", "kernel")}
    monkeypatch.setattr("jaxloss._logit_blocks._COLUMNS", 4)
    actual, expected = (
        quick_jit(jax.grad(lambda x, f=f: jnp.mean(f(x, labels))))(inputs)
        for f in (functools.partial(ours, class_axis=class_axis), plain)
    )
    chex.assert_trees_all_close(actual, expected, **CLOSE)


def by_tokens(hidden, kernel, labels, **options):
    """No loss of the library, so that combinators reduce the losses that it gives."""
    return linear_cross_entropy(hidden, kernel, labels, block_size=BLOCK, **options)


WHERE = np.arange(TOKENS) % 3 != 1
WEIGHTS = np.where(WHERE, np.linspace(0.5, 2, TOKENS), 0)
CHAINS = {
    "mean": lambda loss: mean(loss),
    "sum": lambda loss: sum_of(loss),
    "pooled": lambda loss: lambda *a, **k: pooled(loss)(*a, **k).mean(),
    "masked": lambda loss: functools.partial(mean(masked(loss)), where=WHERE),
    "weighted": lambda loss: functools.partial(mean(weighted(loss)), weights=WEIGHTS),
    "ignoring": lambda loss: mean(ignoring(loss, 3)),
    "class weights": lambda loss: mean(class_weighted(loss, np.linspace(0, 2, CLASSES))),
    "class weights, smoothed": lambda loss: functools.partial(
        mean(class_weighted(ignoring(loss, 3), np.linspace(0, 2, CLASSES))), label_smoothing=0.1
    ),
    "scaled": lambda loss: functools.partial(sum_of(scaled(weighted(loss), -3.0)), weights=WEIGHTS),
    "partial": lambda loss: mean(jax.jit(functools.partial(loss, z_loss=0.5))),
    "several": lambda loss: (
        lambda *a: mean(weighted_sum({"a": loss, "b": scaled(loss, 0.5)}, {"a": 2.0, "b": -1.0}))(
            *a
        )[0]
    ),
}


QUICK = ("masked", "class weights, smoothed", "several")


@pytest.mark.parametrize(
    "chain", [*QUICK, *exhaustive(*(chain for chain in CHAINS if chain not in QUICK))]
)
def test_combinators_reduce_it_as_any_loss(inputs, chain):
    """In three products, and equal to the losses of each token weighed and summed."""
    inputs, labels = inputs
    labels = labels.at[:2].set(3)
    chain = CHAINS[chain]

    def of(loss):
        def run(hidden, kernel):
            return chain(loss)(hidden, kernel, labels)

        return quick_jit(jax.value_and_grad(run, (0, 1)))(inputs["hidden"], inputs["kernel"])

    # The kernel closed over: a function that combinators know nothing of.
    def closed(hidden, kernel):
        def loss(hidden, labels, **options):
            return by_tokens(hidden, kernel, labels, **options)

        # Class weights are the loss's own where labels are smoothed.
        def smoothed(hidden, labels, *, label_smoothing=0.0, class_weights=None, z_loss=0.0):
            return loss(
                hidden,
                labels,
                label_smoothing=label_smoothing,
                class_weights=class_weights,
                z_loss=z_loss,
            )

        return chain(smoothed)(hidden, labels)

    expected = quick_jit(jax.value_and_grad(closed, (0, 1)))(inputs["hidden"], inputs["kernel"])
    blocked = functools.partial(linear_cross_entropy, block_size=BLOCK)
    chex.assert_trees_all_close(of(blocked), expected, **CLOSE)
    chex.assert_trees_all_close(of(linear_cross_entropy), expected, **CLOSE)


@pytest.mark.parametrize("chain", ["weighted", *exhaustive("masked", "ignoring")])
def test_nothing_gets_out_of_what_is_left_out(inputs, chain):
    inputs, labels = inputs
    labels = jnp.where(WHERE, labels, 3 if chain == "ignoring" else 0)
    labels = jnp.where(WHERE & (labels == 3), 4, labels)
    labels = jnp.where(WHERE & (labels == 0), 4, labels)
    loss = CHAINS[chain](functools.partial(linear_cross_entropy, block_size=BLOCK))
    run = quick_jit(jax.value_and_grad(loss, (0, 1)))
    clean = run(inputs["hidden"], inputs["kernel"], labels)
    bad = jnp.where(WHERE[:, None], inputs["hidden"], jnp.nan)
    if chain != "ignoring":
        labels = jnp.where(WHERE, labels, -100)
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(run(bad, inputs["kernel"], labels), clean)


@pytest.mark.exhaustive
def test_steps_share_the_kernel(inputs):
    """Microbatched and accumulated: the batch is split, the kernel is not."""
    inputs, labels = inputs
    hidden, kernel = inputs["hidden"], inputs["kernel"]
    expected = jax.value_and_grad(mean(linear_cross_entropy), (0, 1))(hidden, kernel, labels)
    in_steps = mean(microbatched(masked(linear_cross_entropy), 2))
    where = jnp.ones(TOKENS, bool)
    actual = jax.value_and_grad(in_steps, (0, 1))(hidden, kernel, labels, where=where)
    chex.assert_trees_all_close(actual, expected, **CLOSE)

    def sums(kernel, hidden, labels):
        return pooled(linear_cross_entropy)(hidden, kernel, labels)

    value, slope = accumulated_value_and_grad(sums, 2)(kernel, hidden, labels)
    chex.assert_trees_all_close((value, slope), (expected[0], expected[1][1]), **CLOSE)


@pytest.mark.exhaustive
def test_what_gives_the_losses_themselves_is_not_reduced(inputs):
    """A combinator without a reduction, and a mean over some axes, keep a loss for each token."""
    inputs, labels = inputs
    hidden, kernel = (inputs[name] for name in ("hidden", "kernel"))
    losses = linear_cross_entropy(hidden, kernel, labels)
    pair = weighted(linear_cross_entropy)(hidden, kernel, labels, weights=WEIGHTS)
    assert isinstance(pair, Weighted)
    np.testing.assert_allclose(pair.losses, WEIGHTS * losses, **CLOSE)
    square = hidden.reshape(2, -1, FEATURES), labels.reshape(2, -1)
    means = mean(linear_cross_entropy, axis=1)(square[0], kernel, square[1])
    np.testing.assert_allclose(means, losses.reshape(2, -1).mean(1), **CLOSE)


def products(function, *arrays):
    """How many matrix products a function's program has, those in its loops once."""
    return jax.jit(function).lower(*arrays).as_text().count("stablehlo.dot_general")


def compiled(function, *shapes):
    shapes = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    return jax.jit(function).lower(*shapes).compile()


def test_three_products_where_it_is_reduced_and_four_where_not():
    arrays = jnp.ones((8, 4)), jnp.ones((4, 6)), jnp.zeros(8, jnp.int32)
    assert products(linear_cross_entropy, *arrays) == 1
    assert products(mean(linear_cross_entropy), *arrays) == 1
    assert products(jax.grad(mean(linear_cross_entropy), (0, 1)), *arrays) == 3
    per_token = jax.grad(lambda *a: jnp.sum(jnp.square(linear_cross_entropy(*a))), (0, 1))
    assert products(per_token, *arrays) == 4


def temporaries(loss, tokens, features, classes):
    arrays = (
        ((tokens, features), jnp.float32),
        ((features, classes), jnp.float32),
        ((tokens,), jnp.int32),
    )
    program = compiled(jax.value_and_grad(loss, (0, 1)), *arrays)
    return program.memory_analysis().temp_size_in_bytes


blocked = functools.partial(linear_cross_entropy, block_size=64)


def squares(*arrays):
    return jnp.sum(jnp.square(blocked(*arrays)))


@pytest.mark.parametrize("loss", [mean(blocked), squares], ids=["reduced", "of tokens"])
@pytest.mark.optimized
def test_temporaries_do_not_grow_with_the_logits(loss):
    """Twice the tokens add their features a few times, and not their 4096 logits."""
    features, classes = 32, 4096
    small, large = (temporaries(loss, tokens, features, classes) for tokens in (1024, 2048))
    assert large - small <= 6 * 1024 * features * 4
    # A block's logits, their gradient, and a kernel's gradient or two.
    assert small <= 3 * 64 * classes * 4 + 2 * features * classes * 4 + 6 * 1024 * features * 4


@pytest.mark.optimized
def test_the_losses_of_each_token_hold_no_more_than_their_mean():
    """Their backward loop is that of the rule, and not what JAX makes of it in two transposes."""
    of_tokens, reduced = (temporaries(loss, 512, 256, 8192) for loss in (squares, mean(blocked)))
    assert of_tokens <= 1.1 * reduced


def test_the_default_block():
    """Tokens, features, classes: the rule that the docstring states."""
    assert default_block_size(2048, 512, 32000) == 344  # 6 blocks, of at most 393 tokens
    assert default_block_size(8192, 256, 131072) == 96  # 96 MiB of logits and gradient
    assert default_block_size(8192, 4096, 131072) == 512  # an eighth of the features
    assert default_block_size(8192, 256, 10**6) == 64
    assert default_block_size(100, 16, 50) == 100
    assert default_block_size(0, 16, 50) == 1


@pytest.mark.exhaustive
def test_bfloat16_is_summed_in_float32(rng):
    """The kernel's gradient is no worse for many blocks than for one."""
    hidden = jnp.asarray(rng.normal(size=(1024, 8)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(8, 16)), jnp.bfloat16)
    labels = jnp.asarray(rng.integers(0, 16, 1024), jnp.int32)

    def gradient(size):
        loss = functools.partial(linear_cross_entropy, block_size=size)
        return jax.jit(jax.value_and_grad(sum_of(loss), (0, 1)))(hidden, kernel, labels)

    losses = [gradient(size) for size in (1024, 8)]
    for value, slopes in losses:
        assert value.dtype == jnp.float32
        assert {slope.dtype for slope in slopes} == {jnp.dtype(jnp.bfloat16)}
    exact = jax.grad(lambda k: sum_of(linear_cross_entropy)(hidden.astype(k.dtype), k, labels))(
        kernel.astype(jnp.float32)
    )
    scale = np.abs(exact).max()
    of_one, of_many = (np.abs(slopes[1].astype(jnp.float32) - exact).max() for _, slopes in losses)
    assert of_one < 0.01 * scale
    assert of_many <= 1.25 * of_one


@pytest.mark.exhaustive
def test_float16_does_not_underflow(rng):
    """A mean's gradient at 2^-14 of a small probability is more than float16's products hold."""
    hidden = jnp.asarray(rng.normal(size=(256, 4)), jnp.float16)
    kernel = jnp.asarray(rng.normal(size=(4, 512)), jnp.float16)
    labels = jnp.zeros(256, jnp.int32)
    loss = mean(linear_cross_entropy)
    slope = jax.grad(loss, 1)(hidden, kernel, labels)
    exact = jax.grad(loss, 1)(hidden.astype(jnp.float32), kernel.astype(jnp.float32), labels)
    assert slope.dtype == jnp.float16
    np.testing.assert_allclose(slope.astype(jnp.float32), exact, rtol=6e-4, atol=4e-8)


@pytest.mark.parametrize("mesh_shape", [(2, 4), *exhaustive((1, 8))])
@pytest.mark.optimized
def test_a_sharded_vocabulary(rng, x64, mesh_shape):
    """Value and gradients as on one device, of any cotangent and reduced; and what is exchanged."""
    tokens, width = 16, 16
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(mesh_shape), ("data", "classes"))
    arrays = {
        "hidden": jnp.asarray(rng.normal(size=(tokens, FEATURES))),
        "kernel": jnp.asarray(rng.normal(size=(FEATURES, width))),
        "bias": jnp.asarray(rng.normal(size=width)),
        "class_weights": jnp.asarray(rng.uniform(0.5, 2, width)),
    }
    labels = jnp.asarray(rng.integers(0, width, tokens)).at[3].set(-100)
    specs = {
        "hidden": P("data"),
        "kernel": P(None, "classes"),
        "bias": P("classes"),
        "class_weights": P("classes"),
    }
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "logit_cap": 3.0}

    def reduced(data, classes):
        def loss(arrays, labels, **more):
            chain = mean(ignoring(linear_cross_entropy, -100), axis_name=data)
            named = dict(arrays) | more | {"axis_name": classes, "block_size": BLOCK}
            return chain(named.pop("hidden"), named.pop("kernel"), labels, **named)

        return loss

    def per_token(data, classes):
        def loss(arrays, labels, **more):
            losses = linear_cross_entropy(
                arrays["hidden"],
                arrays["kernel"],
                jnp.maximum(labels, 0),
                axis_name=classes,
                block_size=BLOCK,
                **more,
            )
            total = jnp.sum(jnp.square(losses))
            return total if data is None else jax.lax.psum(total, data)

        return loss

    def results(make, arrays, **more):
        loss = functools.partial(make("data", "classes"), **more)
        in_specs = ({name: specs[name] for name in arrays}, P("data"))
        sharded = jax.shard_map(loss, mesh=mesh, in_specs=in_specs, out_specs=P())
        alone = functools.partial(make(None, None), **more)

        def of(function):
            gradient = jax.grad(function)

            @jax.jit
            def run(arrays, labels):
                derivatives = [function(arrays, labels), gradient(arrays, labels)]
                if mesh_shape == (1, 8):  # among the exhaustive tests
                    curvature = jax.jvp(lambda a: gradient(a, labels), (arrays,), (arrays,))[1]
                    derivatives.append(curvature)
                return derivatives

            return run(arrays, labels)

        chex.assert_trees_all_close(of(sharded), of(alone), **CLOSE)
        return jax.jit(jax.value_and_grad(sharded)).lower(arrays, labels).compile().as_text()

    two = {name: arrays[name] for name in ("hidden", "kernel")}
    if mesh_shape == (1, 8):
        results(reduced, arrays, **options)

    def weighted_classes(data, classes):
        def loss(arrays, labels):
            chain = mean(
                class_weighted(linear_cross_entropy, np.arange(1.0, width + 1)), axis_name=data
            )
            named = dict(arrays) | {"axis_name": classes, "label_smoothing": 0.1}
            return chain(named.pop("hidden"), named.pop("kernel"), jnp.maximum(labels, 0), **named)

        return loss

    results(weighted_classes, two)
    for make in (reduced, per_token):
        text = results(make, two)
        assert "all-gather" not in text and "all-to-all" not in text
        found = re.findall(r"f64\[(\d+),1\]\S* all-reduce\(.*to_apply=%(\S+?)[,\s]", text)
        of_tokens = [re.search(rf"^%{name} .*?\n}}", text, re.M | re.S)[0] for _, name in found]
        kinds = ["maximum" if " maximum(" in body else "add" for body in of_tokens]
        assert sorted(kinds) == ["add", "add", "maximum"]  # those of the backward pass are kept
        assert {int(size) for size, _ in found} == {BLOCK}


def test_statistics_keep_their_tails():
    """Against mpmath: log-probability and entropy of a token that is certain to 20 and 80 nats."""
    kernel = jnp.array([[20.0, 80.0], [0.0, 0.0], [0.0, 0.0]]).T
    found = jax.jit(linear_statistics)(jnp.eye(2), kernel, jnp.array([0, 0]))
    with mpmath.workdps(60):
        for n, ahead in enumerate((20, 80)):
            normaliser = 1 + 2 * mpmath.exp(-ahead)
            rest = mpmath.exp(-ahead) / normaliser
            entropy = mpmath.log(normaliser) + 2 * rest * ahead
            np.testing.assert_allclose(found.log_probs[n], float(-mpmath.log(normaliser)), 1e-6)
            np.testing.assert_allclose(found.entropy[n], float(entropy), rtol=1e-6)
            np.testing.assert_allclose(found.logsumexp[n], ahead, rtol=1e-6)


@pytest.mark.exhaustive
def test_the_likeliest_class_is_the_first_of_several():
    kernel = jnp.array([[1.0, 3.0, 3.0, 0.0], [2.0, 0.0, 0.0, 2.0]])
    hidden = jnp.array([[1.0, 0.0], [0.0, 1.0], [jnp.nan, 0.0]])
    for labels in ([0, 0, 0], [1, 3, 1], [2, 0, 2]):
        found = linear_statistics(hidden, kernel, jnp.array(labels), block_size=2)
        np.testing.assert_array_equal(found.argmax, [1, 0, -1])


def test_the_likeliest_of_more_classes_than_float32_numbers_is_refused():
    shapes = ((1, 1), jnp.float32), ((1, 2**24 + 1), jnp.float32), ((1,), jnp.int32)
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    with pytest.raises(ValueError, match="kernel must have at most 16777216 classes"):
        jax.eval_shape(linear_statistics, *arrays)


@pytest.mark.exhaustive
def test_statistics_of_sharded_classes(rng, x64):
    mesh = Mesh(np.array(jax.devices()[:4]), ("classes",))
    hidden, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((6, 3), (3, 8)))
    labels = jnp.asarray(rng.integers(0, 8, 6))

    def of(axis_name):
        def run(hidden, kernel):
            found = linear_statistics(hidden, kernel, labels, axis_name=axis_name, block_size=4)
            objective = found.log_probs + jnp.sin(found.entropy) + found.logsumexp**2
            return jnp.sum(objective), found

        return run

    specs = (P(), P(None, "classes"))
    sharded = jax.shard_map(of("classes"), mesh=mesh, in_specs=specs, out_specs=P())
    gradients = (jax.jit(jax.grad(f, (0, 1), has_aux=True)) for f in (sharded, of(None)))
    chex.assert_trees_all_close(*(g(hidden, kernel) for g in gradients), **CLOSE)


@pytest.mark.exhaustive
def test_a_bias_of_minus_infinity_takes_a_class_out(inputs):
    """With a cap too, which would make a number of it; and the gradients there are 0."""
    inputs, labels = inputs
    inputs = {name: inputs[name] for name in ("hidden", "kernel", "bias", "logit_cap")}
    labels = jnp.minimum(labels, CLASSES - 2)
    padded = {**inputs, "bias": inputs["bias"].at[-1].set(-jnp.inf)}
    fewer = {**inputs, "kernel": inputs["kernel"][:, :-1], "bias": inputs["bias"][:-1]}
    results = []
    for given in (padded, fewer):
        of = quick_jit(
            jax.value_and_grad(lambda x: ours(x, labels, loss=mean(linear_cross_entropy)))
        )
        results.append(of(given))
    (value, slopes), (expected, of_fewer) = results
    np.testing.assert_allclose(value, expected, **CLOSE)
    for name, axis in (("kernel", 1), ("bias", 0)):
        kept, dropped = np.split(slopes[name], [CLASSES - 1], axis)
        np.testing.assert_allclose(kept, of_fewer[name], **CLOSE)
        np.testing.assert_array_equal(dropped, 0)
    for name in ("hidden", "logit_cap"):
        np.testing.assert_allclose(slopes[name], of_fewer[name], **CLOSE)


@pytest.mark.parametrize(
    "make",
    [lambda loss: checked(jax.jit(mean(loss))), lambda loss: mean(checked(loss))],
    ids=["around", "inside"],
)
def test_a_checked_program_names_the_label(make):
    run = make(linear_cross_entropy)
    with pytest.raises(
        ValueError,
        match=r"linear_cross_entropy: labels must be classes from 0 to 5, got 6 at index \(1,\)",
    ):
        jax.block_until_ready(run(jnp.ones((2, 3)), jnp.ones((3, 6)), jnp.array([5, 6])))


def test_a_factor_of_zero_has_a_slope(inputs):
    """It may be learned, from 0 on; a weight of 0 is a mask."""
    inputs, labels = inputs

    def of_factor(factor):
        return mean(scaled(linear_cross_entropy, factor))(*inputs_of(inputs), labels)

    def inputs_of(inputs):
        return inputs["hidden"], inputs["kernel"]

    expected = mean(linear_cross_entropy)(*inputs_of(inputs), labels)
    np.testing.assert_allclose(jax.grad(of_factor)(0.0), expected, **CLOSE)


@pytest.mark.exhaustive
def test_a_saturated_cap_keeps_its_slope():
    """d tanh(s) / ds is 4 exp(-2 s) to many digits where 1 - tanh(s)^2 is 0."""
    for score in (8.0, 16.0, 40.0):
        kernel = jnp.array([[score, 0.0]])
        slope = jax.grad(
            lambda k: mean(linear_cross_entropy)(jnp.ones((1, 1)), k, jnp.array([0]), logit_cap=1.0)
        )(kernel)
        expected = -4 * np.exp(-2 * score) / (1 + np.e)
        np.testing.assert_allclose(slope[0, 0], expected, rtol=2e-6)


@pytest.mark.exhaustive
def test_a_class_out_of_the_softmax_that_weighs_nothing(inputs):
    """Smoothing gives it a target, its weight takes that away, and 0 times infinity is 0."""
    inputs, labels = inputs
    labels = jnp.minimum(labels, CLASSES - 2)
    names = ("hidden", "kernel", "bias", "class_weights", "label_smoothing")
    inputs = {name: inputs[name] for name in names}
    inputs["bias"] = inputs["bias"].at[-1].set(-jnp.inf)
    inputs["class_weights"] = inputs["class_weights"].at[-1].set(0)
    actual, expected = (
        quick_jit(jax.value_and_grad(lambda x, f=f: jnp.mean(f(x, labels))))(inputs)
        for f in (ours, plain)
    )
    chex.assert_tree_all_finite(actual)
    chex.assert_trees_all_close(actual, expected, **CLOSE)


def test_wrong_calls(without_annotations):
    hidden, kernel, labels = jnp.ones((4, 3)), jnp.ones((3, 6)), jnp.zeros(4, jnp.int32)
    loss = mean(linear_cross_entropy)
    for call, message in (
        (lambda: loss(hidden, kernel.T, labels), "must have as many features.*pass class_axis=0"),
        (lambda: loss(hidden, kernel[None], labels), r"kernel \(features, classes\), none of them"),
        (
            lambda: loss(hidden, kernel, labels[:3]),
            r"labels must have the shape of hidden \(4, 3\)",
        ),
        (
            lambda: mean(class_weighted(linear_cross_entropy, np.ones(5)))(hidden, kernel, labels),
            "class_weights must have one weight for each of the 6 classes",
        ),
        (
            lambda: mean(masked(linear_cross_entropy))(
                hidden, kernel, labels, where=labels[:2] == 0
            ),
            "where must have the shape of the losses",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"unexpected keyword weights.*see jaxloss.weighted"):
        loss(hidden, kernel, labels, weights=jnp.ones(4))
    bound = jax.jit(functools.partial(linear_cross_entropy, hidden))
    with pytest.raises(TypeError, match=r"functools.partial must bind keywords only"):
        mean(masked(bound))(kernel, labels, where=labels == 0)
    with pytest.raises(TypeError, match="labels must be the third positional argument, got 2"):
        mean(ignoring(linear_cross_entropy, -100))(hidden, kernel, labels=labels)
