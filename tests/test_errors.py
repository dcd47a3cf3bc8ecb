"""Bad calls: the message names the function and the argument, what came and what was expected."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss import primitives
from tests.cases import CASES

ROWS = jnp.ones((4, 3))
VECTOR = jnp.ones(4)
LABELS = jnp.zeros(4, jnp.int32)


pytestmark = pytest.mark.usefixtures("without_annotations")

ELEMENTWISE = sorted({case.name for case in CASES if not case.reduces})
LOSSES = sorted({case.name for case in CASES})


def bad(error, message, function, *args, **options):
    return pytest.param(error, message, functools.partial(function, *args, **options), id=message)


BAD_CALLS = [
    bad(
        ValueError,
        "smooth_l1: beta must be finite and at least 0, got -1",
        jaxloss.smooth_l1,
        VECTOR,
        VECTOR,
        beta=-1,
    ),
    bad(
        ValueError,
        "smooth_l1: beta must be a scalar, got float32 of shape (4,)",
        jaxloss.smooth_l1,
        VECTOR,
        VECTOR,
        beta=VECTOR,
    ),
    bad(
        TypeError,
        "smooth_l1: beta must be an array of real numbers, got str 'x'",
        jaxloss.smooth_l1,
        VECTOR,
        VECTOR,
        beta="x",
    ),
    bad(
        ValueError,
        "huber: delta must be finite and at least 0, got -0.5",
        jaxloss.huber,
        VECTOR,
        VECTOR,
        delta=-0.5,
    ),
    bad(
        ValueError,
        "huber: delta must be finite and at least 0, got inf",
        jaxloss.huber,
        VECTOR,
        VECTOR,
        delta=np.inf,
    ),
    bad(
        TypeError,
        "huber: unexpected keyword beta, float 1.0; huber takes delta.",
        jaxloss.huber,
        VECTOR,
        VECTOR,
        beta=1.0,
    ),
    bad(
        TypeError,
        "squared_error: unexpected keyword reduction, str 'mean'; squared_error takes no options. "
        "A loss never weighs or reduces the batch: see jaxloss.mean.",
        jaxloss.squared_error,
        VECTOR,
        VECTOR,
        reduction="mean",
    ),
    bad(
        TypeError,
        "cross_entropy: unexpected keyword weight, float 2.0; cross_entropy takes axis, "
        "label_smoothing. "
        "A loss never weighs or reduces the batch: see jaxloss.weighted.",
        jaxloss.cross_entropy,
        ROWS,
        LABELS,
        weight=2.0,
    ),
    bad(
        TypeError,
        "nll: labels must be integers (class indices), got float32 of shape (4,)",
        jaxloss.nll,
        ROWS,
        VECTOR,
    ),
    bad(
        ValueError,
        "cross_entropy: floating targets are probabilities and must have the shape of logits "
        "(4, 3), got (4,); for class indices pass integers",
        jaxloss.cross_entropy,
        ROWS,
        VECTOR,
    ),
    bad(
        TypeError,
        "cross_entropy: targets must be integers (class indices) or floats (probabilities), got "
        "bool of shape (4,)",
        jaxloss.cross_entropy,
        ROWS,
        VECTOR > 0,
    ),
    bad(
        ValueError,
        "cross_entropy: labels must have the shape of logits (4, 3) without its class axis 1, "
        "(4,), got (4, 1)",
        jaxloss.cross_entropy,
        ROWS,
        LABELS[:, None],
    ),
    bad(
        ValueError,
        "cross_entropy: axis must be one of the 2 axes of logits (4, 3), from -2 to 1, got 3",
        jaxloss.cross_entropy,
        ROWS,
        LABELS,
        axis=3,
    ),
    bad(
        TypeError,
        "cross_entropy: axis must be an integer, got float 1.0",
        jaxloss.cross_entropy,
        ROWS,
        LABELS,
        axis=1.0,
    ),
    bad(
        ValueError,
        "cross_entropy: logits must have an axis of classes, got a scalar",
        jaxloss.cross_entropy,
        1.0,
        0,
    ),
    bad(
        ValueError,
        "cross_entropy: logits must have at least one class along axis -1, got shape (4, 0)",
        jaxloss.cross_entropy,
        ROWS[:, :0],
        LABELS,
    ),
    bad(
        ValueError,
        "cross_entropy: label_smoothing must be finite and in [0, 1], got 1.5",
        jaxloss.cross_entropy,
        ROWS,
        LABELS,
        label_smoothing=1.5,
    ),
    bad(
        ValueError,
        "binary_cross_entropy: label_smoothing must be finite and in [0, 1], got -0.1",
        jaxloss.binary_cross_entropy,
        VECTOR,
        VECTOR,
        label_smoothing=-0.1,
    ),
    bad(
        ValueError,
        "binary_cross_entropy_with_logits: pos_weight must be a scalar or broadcast to the shape "
        "(4, 3), got (4,)",
        jaxloss.binary_cross_entropy_with_logits,
        ROWS,
        ROWS,
        pos_weight=VECTOR,
    ),
    bad(
        TypeError,
        "logsumexp: logits must be an array of real numbers, got complex64 of shape (4, 3)",
        primitives.logsumexp,
        ROWS.astype(jnp.complex64),
    ),
    bad(
        ValueError,
        "log_softmax: axis must be one of the 2 axes of logits (4, 3), from -2 to 1, got -3",
        primitives.log_softmax,
        ROWS,
        axis=-3,
    ),
    bad(
        TypeError,
        "mean: takes a loss, a function of predictions and targets, got float32 of shape (4,)",
        jaxloss.mean,
        VECTOR,
    ),
    bad(
        TypeError,
        "weighted: takes a loss, a function of predictions and targets, got float 1.0",
        jaxloss.weighted,
        1.0,
    ),
    bad(
        TypeError,
        "weighted(huber): the keyword weights= is missing, got delta",
        jaxloss.mean(jaxloss.weighted(jaxloss.huber)),
        VECTOR,
        VECTOR,
        delta=1.0,
    ),
    bad(
        TypeError,
        "weighted(huber): weights must be an array of real numbers, got str 'balanced'",
        jaxloss.mean(jaxloss.weighted(jaxloss.huber)),
        VECTOR,
        VECTOR,
        weights="balanced",
    ),
    bad(
        ValueError,
        "weighted(cross_entropy): weights must have the shape of the losses, (4,), got (4, 3)",
        jaxloss.mean(jaxloss.weighted(jaxloss.cross_entropy)),
        ROWS,
        LABELS,
        weights=ROWS,
    ),
    bad(
        TypeError,
        "masked(huber): where must be boolean, True for what counts, got float32 of shape (4,)",
        jaxloss.mean(jaxloss.masked(jaxloss.huber)),
        VECTOR,
        VECTOR,
        where=VECTOR,
    ),
    bad(
        ValueError,
        "masked(huber): where must have the shape of the losses, which an input of shape (4,) does "
        "not begin with, got (3,)",
        jaxloss.mean(jaxloss.masked(jaxloss.huber)),
        VECTOR,
        VECTOR,
        where=VECTOR[:3] > 0,
    ),
    bad(
        ValueError,
        "masked(squared_error): where must have the shape of the losses, (4, 3), got (4,)",
        jaxloss.mean(jaxloss.masked(jaxloss.squared_error)),
        ROWS,
        ROWS,
        where=VECTOR > 0,
    ),
    bad(
        ValueError,
        "cross_entropy: labels must have the shape of logits (4, 3) without its class axis 1, "
        "(4,), got (3,); pass axis=0.",
        jaxloss.cross_entropy,
        ROWS,
        LABELS[:3],
    ),
    bad(
        ValueError,
        "cross_entropy: labels must have the shape of logits (4, 3) without its class axis 1, "
        "(4,), got (4, 3); one-hot targets are probabilities and must be floating.",
        jaxloss.cross_entropy,
        ROWS,
        ROWS.astype(jnp.int32),
    ),
    bad(
        ValueError,
        "binary_cross_entropy_with_logits: pos_weight must be finite and at least 0, got -1.0",
        jaxloss.binary_cross_entropy_with_logits,
        VECTOR,
        VECTOR,
        pos_weight=-1.0,
    ),
    bad(
        TypeError,
        "huber: unexpected keyword axis, int 0; huber takes delta. A loss never weighs or reduces "
        "the batch: see jaxloss.mean.",
        jaxloss.mean(jaxloss.huber),
        VECTOR,
        VECTOR,
        axis=0,
    ),
    bad(
        TypeError,
        "weighted: masked(weighted(huber)) takes weights= already.",
        lambda: jaxloss.weighted(jaxloss.masked(jaxloss.weighted(jaxloss.huber))),
    ),
    bad(
        TypeError,
        "masked(huber): targets must be passed by position, got it as a keyword",
        jaxloss.mean(jaxloss.masked(jaxloss.huber)),
        VECTOR,
        targets=VECTOR,
        where=VECTOR > 0,
    ),
    bad(
        ValueError,
        "safe_product: factor and term must have the same shape, got factor (4,) and term (4, 3)",
        primitives.safe_product,
        VECTOR,
        ROWS,
    ),
    bad(
        ValueError,
        "masked(nll): inputs must be integers of 32 bits, got int64 of shape (4,) with wider",
        jaxloss.mean(jaxloss.masked(jaxloss.nll)),
        ROWS,
        np.array([0, 1, 2, 2**32 + 1]),
        where=VECTOR > 0,
    ),
    bad(
        TypeError,
        "pooled(huber): losses must be an array of real numbers, got Weighted Weighted(",
        jaxloss.mean(jaxloss.pooled(jaxloss.huber)),
        VECTOR,
        VECTOR,
    ),
    bad(
        ValueError,
        "Weighted: both sides of + must have the same shape, got (4,) and ()",
        lambda: jaxloss.Weighted(VECTOR, VECTOR) + jaxloss.Weighted(VECTOR[0], VECTOR[0]),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD_CALLS)
def test_message(error, message, call):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call()


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((), (1,)), ((2, 3), (3, 2))], ids=str)
def test_nothing_broadcasts(name, shapes):
    loss = getattr(jaxloss, name)
    first, second = map(jnp.ones, shapes)
    came = re.escape(f"{shapes[0]} and ") + r"\w+ " + re.escape(f"{shapes[1]}")
    for call in (loss, jax.jit(loss), jax.vmap(loss, axis_size=2, in_axes=None)):
        with pytest.raises(ValueError, match=f"^{name}: .* must have the same shape, got .*{came}"):
            call(first, second)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", ["text", None, 1j, {}], ids=str)
def test_what_is_no_number_is_refused(name, value):
    loss = getattr(jaxloss, name)
    with pytest.raises(TypeError, match=f"^{name}: .* must be .*, got "):
        loss(value, 0)
    with pytest.raises(TypeError, match=f"^{name}: .* must be .*, got "):
        loss(ROWS, value)


@pytest.mark.parametrize("name", LOSSES)
def test_an_unknown_keyword_lists_the_known_ones(name):
    loss = getattr(jaxloss, name)
    with pytest.raises(
        TypeError, match=f"^{name}: unexpected keyword colour, int 3; {name} takes "
    ):
        loss(VECTOR, VECTOR, colour=3)


@pytest.mark.parametrize("name", LOSSES)
def test_options_are_keywords(name):
    with pytest.raises(
        TypeError, match=rf"{name}\(\) takes 2 positional arguments but 3 were given"
    ):
        getattr(jaxloss, name)(VECTOR, VECTOR, 1)


def test_a_traced_option_out_of_bounds_is_nan():
    traced = jax.jit(lambda beta: jaxloss.smooth_l1(0.5, 0.0, beta=beta))
    assert traced(1.0) == 0.125
    assert traced(0.0) == 0.5
    assert jnp.isnan(traced(-1.0))
    smoothed = jax.jit(lambda s: jaxloss.cross_entropy(ROWS[0], 0, label_smoothing=s))
    assert jnp.isfinite(smoothed(0.5))
    assert jnp.isnan(smoothed(1.5))
