"""Every option of every loss that PyTorch has, live: value and gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings, strategies as st

import jaxloss
from tests.helpers import x64_enabled

pytestmark = pytest.mark.parity

REDUCTIONS = {"none": lambda loss: loss, "sum": jaxloss.sum, "mean": jaxloss.mean}
DTYPES = {"float32": (1e-5, 2e-6), "float64": (1e-10, 1e-12)}
EVERY = pytest.mark.parametrize(
    ("reduction", "dtype"), list(itertools.product(REDUCTIONS, DTYPES)), ids=str
)
# Few shapes: what JAX compiles for one example serves the next.
SHAPES = st.sampled_from([(), (1,), (7,), (4, 3), (2, 3, 4)])
SCORES = st.sampled_from([(1, 1), (6, 1), (5, 4), (3, 4, 2), (2, 3, 2, 3)])
SEEDS = st.integers(0, 2**32 - 1)


def law(test):
    """As many examples on every machine, and the same ones."""
    return settings(max_examples=15, deadline=None, derandomize=True, database=None)(test)


def agree(dtype, ours, theirs, first):
    """Values and gradients with respect to `first` of a JAX and a PyTorch function are close."""
    first = first.astype(dtype)
    with x64_enabled():
        value, pullback = jax.vjp(ours, jnp.asarray(first))
        [gradient] = pullback(jnp.ones_like(value))
    tensor = torch.tensor(first, requires_grad=True)
    expected = theirs(tensor)
    [expected_gradient] = torch.autograd.grad(expected.sum(), tensor)
    rtol, atol = DTYPES[dtype]
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=rtol, atol=atol)
    np.testing.assert_allclose(gradient, expected_gradient.numpy(), rtol=rtol, atol=atol)


REGRESSION = {
    "squared_error": (jaxloss.squared_error, F.mse_loss, [{}]),
    "absolute_error": (jaxloss.absolute_error, F.l1_loss, [{}]),
    "smooth_l1": (jaxloss.smooth_l1, F.smooth_l1_loss, [{"beta": b} for b in (0.0, 0.5, 1.0, 3)]),
    "huber": (jaxloss.huber, F.huber_loss, [{"delta": d} for d in (0.5, 1.0, 3)]),
}


@EVERY
@pytest.mark.parametrize("name", REGRESSION)
@law
@given(shape=SHAPES, seed=SEEDS)
def test_regression(name, reduction, dtype, shape, seed):
    ours, theirs, every_option = REGRESSION[name]
    rng = np.random.default_rng(seed)
    predictions, targets = rng.normal(size=(2, *shape)).astype(dtype) * 2
    for options in every_option:
        agree(
            dtype,
            lambda p, options=options: REDUCTIONS[reduction](ours)(p, targets, **options),
            lambda p, options=options: theirs(
                p, torch.tensor(targets), reduction=reduction, **options
            ),
            np.asarray(predictions),
        )


@EVERY
@law
@given(shape=SHAPES, seed=SEEDS, soft=st.booleans())
def test_binary_cross_entropy(reduction, dtype, shape, seed, soft):
    rng = np.random.default_rng(seed)
    predictions, targets = rng.uniform(0.01, 0.99, (2, *shape))
    targets = np.asarray(targets if soft else targets.round()).astype(dtype)
    agree(
        dtype,
        lambda p: REDUCTIONS[reduction](jaxloss.binary_cross_entropy)(p, targets),
        lambda p: F.binary_cross_entropy(p, torch.tensor(targets), reduction=reduction),
        np.asarray(predictions),
    )


@EVERY
@pytest.mark.parametrize("weight", ["none", "scalar", "class"])
@law
@given(shape=SHAPES, seed=SEEDS, soft=st.booleans())
def test_binary_cross_entropy_with_logits(weight, reduction, dtype, shape, seed, soft):
    rng = np.random.default_rng(seed)
    targets = rng.uniform(size=shape)
    targets = np.asarray(targets if soft else np.round(targets)).astype(dtype)
    size = {"none": None, "scalar": (), "class": shape[-1:]}[weight]
    pos_weight = None if size is None else np.asarray(rng.uniform(0.1, 5, size)).astype(dtype)
    loss = REDUCTIONS[reduction](jaxloss.binary_cross_entropy_with_logits)
    agree(
        dtype,
        lambda z: loss(z, targets, **({} if pos_weight is None else {"pos_weight": pos_weight})),
        lambda z: F.binary_cross_entropy_with_logits(
            z,
            torch.tensor(targets),
            pos_weight=None if pos_weight is None else torch.tensor(pos_weight),
            reduction=reduction,
        ),
        np.asarray(rng.normal(size=shape) * 5),
    )


@EVERY
@pytest.mark.parametrize(
    ("weighted", "ignored"), list(itertools.product([False, True], repeat=2)), ids=str
)
@pytest.mark.parametrize("smoothing", [None, 0.0, 0.1], ids=["nll", "plain", "smoothing"])
@law
@given(shape=SCORES, seed=SEEDS)
def test_labels(smoothing, weighted, ignored, reduction, dtype, shape, seed):
    """Class indices, with class weights and ignored labels through the combinators."""
    if smoothing and weighted:
        return  # PyTorch weighs the uniform term class by class: no weight of an example says that.
    rng = np.random.default_rng(seed)
    rows, classes, *trailing = shape
    scores = rng.normal(size=shape) * 3
    labels = rng.integers(0, classes, (rows, *trailing))
    class_weights = rng.uniform(0.2, 3, classes).astype(dtype)
    where = rng.uniform(size=labels.shape) < 0.7
    where.flat[0] = True  # PyTorch's mean over nothing is NaN.
    given_labels = np.where(where, labels, -100) if ignored else labels

    loss, theirs, options = jaxloss.cross_entropy, F.cross_entropy, {"label_smoothing": smoothing}
    if smoothing is None:
        loss, theirs, options = jaxloss.nll, F.nll_loss, {}
    keywords = dict(options, axis=1)
    if weighted:
        loss = jaxloss.weighted(loss)
        keywords["weights"] = class_weights[labels]
    if ignored:
        loss = jaxloss.masked(loss)
        keywords["where"] = where
    if reduction == "none" and (weighted or ignored):
        reduce = lambda combined: lambda *a, **k: combined(*a, **k).losses  # noqa: E731
    else:
        reduce = REDUCTIONS[reduction]

    agree(
        dtype,
        lambda z: reduce(loss)(z, given_labels, **keywords),
        lambda z: theirs(
            z,
            torch.tensor(given_labels),
            weight=torch.tensor(class_weights) if weighted else None,
            reduction=reduction,
            **options,
        ),
        scores,
    )


@EVERY
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@law
@given(shape=SCORES, seed=SEEDS)
def test_class_probabilities(smoothing, reduction, dtype, shape, seed):
    rng = np.random.default_rng(seed)
    rows, classes, *trailing = shape
    logits = rng.normal(size=shape) * 3
    targets = rng.dirichlet(np.ones(classes), (rows, *trailing))
    targets = np.moveaxis(targets, -1, 1).astype(dtype)
    loss = REDUCTIONS[reduction](jaxloss.cross_entropy)

    def theirs(z):
        options = {"label_smoothing": smoothing, "reduction": "none"}
        losses = F.cross_entropy(z, torch.tensor(targets), **options)
        # PyTorch's mean divides by the number of rows alone where there are further axes.
        return {"none": lambda x: x, "sum": torch.sum, "mean": torch.mean}[reduction](losses)

    agree(dtype, lambda z: loss(z, targets, axis=1, label_smoothing=smoothing), theirs, logits)
