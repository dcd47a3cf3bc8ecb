"""Bad calls: the message names the function and the argument, what came and what was expected."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss import primitives
from tests.cases import BASE

ROWS = jnp.ones((4, 3))
VECTOR = jnp.ones(4)
LABELS = jnp.zeros(4, jnp.int32)


pytestmark = pytest.mark.usefixtures("without_annotations")


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
        "label_smoothing, class_weights, class_mask, z_loss. "
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
        "cross_entropy: logits must have an axis to reduce, got a scalar",
        jaxloss.cross_entropy,
        1.0,
        0,
    ),
    bad(
        ValueError,
        "cross_entropy: logits must have at least one entry along axis -1, got shape (4, 0)",
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
        "weighted(cross_entropy): weights must have the shape of the losses, which an input of "
        "shape (4,) does not begin with, got (4, 3)",
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
        ValueError,
        "Weighted: both sides of + must have the same shape, got (4,) and ()",
        lambda: jaxloss.Weighted(VECTOR, VECTOR) + jaxloss.Weighted(VECTOR[0], VECTOR[0]),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD_CALLS)
def test_message(error, message, call):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call()


def arguments(case):
    """The names of a loss's arrays, with a sample of each."""
    names = [
        p.name for p in inspect.signature(case.loss).parameters.values() if p.kind != p.KEYWORD_ONLY
    ]
    return dict(zip(names, case.arrays(np.random.default_rng(0), np.float32), strict=True))


def refused(case, error, message, arrays, **options):
    # Under jit, so that nothing but the check itself runs.
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: case.loss(*arrays.values(), **{**case.options, **options}))


EVERY_LOSS = pytest.mark.parametrize("case", BASE, ids=lambda case: case.name)


@EVERY_LOSS
def test_shapes_that_do_not_agree(case):
    """A row too few, an axis too many or too few, in any argument: nothing is broadcast."""
    good = arguments(case)
    for name, array in good.items():
        for bad in (array[:-1], array[..., None], array[0]):
            if len(good) == 1:
                continue
            shape = re.escape(str(bad.shape))
            refused(case, ValueError, rf"^{case.name}: .*{shape}", {**good, name: bad})


@EVERY_LOSS
def test_what_is_no_number_is_refused(case):
    good = arguments(case)
    for name, array in good.items():
        for bad in ("text", None, 1j, {}, array.astype(np.complex64)):
            message = rf"^{case.name}: {name} must be .*, got "
            refused(case, TypeError, message, {**good, name: bad})
        if name == "labels":
            message = rf"^{case.name}: labels must be integers \(class indices\), got float32"
            refused(case, TypeError, message, {**good, name: array.astype(np.float32)})
        if name == "signs":
            message = rf"^{case.name}: signs must be an array of 1 and -1, got bool of shape"
            refused(case, TypeError, message, {**good, name: array > 0})


@EVERY_LOSS
def test_unknown_and_positional_options(case):
    good, name = arguments(case), case.name
    message = f"^{name}: unexpected keyword colour, int 3; {name} takes "
    refused(case, TypeError, message, good, colour=3)
    message = rf"{name}\(\) takes {len(good)} positional arguments but {len(good) + 1} "
    options = {"axes": (1, 2)} if "axes" in case.options else {}
    with pytest.raises(TypeError, match=message):
        case.loss(*good.values(), 1, **options)


AXES = [case for case in BASE if "axis" in inspect.signature(case.loss).parameters]


@pytest.mark.parametrize("case", AXES, ids=lambda case: case.name)
def test_axes_that_do_not_exist(case):
    good = arguments(case)
    first = next(iter(good))
    refused(
        case, ValueError, rf"^{case.name}: axis must be one of the 2 axes of {first}", good, axis=2
    )
    refused(
        case, TypeError, f"^{case.name}: axis must be an integer, got float 1.0", good, axis=1.0
    )
    empty = {name: array[..., :0] if array.ndim == 2 else array for name, array in good.items()}
    refused(
        case, ValueError, f"^{case.name}: {first} must have at least one entry along axis", empty
    )


NUMBER = "must be a scalar, got float32 of shape (2,)"
AT_LEAST_0 = "must be finite and at least 0, got -1"
ABOVE_0 = "must be finite and more than 0, got 0"
FINITE = "must be finite, got inf"
FRACTION = "must be finite and in [0, 1], got 2"
FLAG = "must be True or False, got int 1; under jit, bind it"
PAIR = np.ones(2, np.float32)
OPTIONS = [
    ("smooth_l1", "beta", -1, AT_LEAST_0),
    ("smooth_l1", "beta", PAIR, NUMBER),
    ("huber", "delta", -1, AT_LEAST_0),
    ("quantile", "q", 2, FRACTION),
    ("quantile", "q", PAIR, "must be a scalar or broadcast to the shape (8, 4), got (2,)"),
    ("epsilon_insensitive", "epsilon", -1, AT_LEAST_0),
    ("poisson_nll", "log_input", 1, FLAG),
    ("poisson_nll", "full", 1, FLAG),
    ("gaussian_nll", "full", 1, FLAG),
    ("gaussian_nll", "minimum_variance", 0, ABOVE_0),
    ("hinge_embedding", "margin", np.inf, FINITE),
    ("margin_ranking", "margin", PAIR, NUMBER),
    ("multi_margin", "p", 3, "must be 1 or 2, got int 3."),
    ("multi_margin", "margin", np.inf, FINITE),
    ("multiclass_hinge", "margin", PAIR, NUMBER),
    (
        "multilabel_soft_margin",
        "class_weights",
        PAIR,
        "must have one weight for each class of logits (8, 4) along axis 1, (4,), got (2,)",
    ),
    ("sigmoid_focal", "gamma", -1, AT_LEAST_0),
    ("sigmoid_focal", "alpha", 2, FRACTION),
    ("softmax_focal", "gamma", -1, AT_LEAST_0),
    ("poly_cross_entropy", "epsilon", np.inf, FINITE),
    ("cross_entropy", "class_weights", -np.ones(5), "must be finite and at least 0, got [-1. -1."),
    (
        "cross_entropy",
        "class_mask",
        np.ones(5),
        "must be boolean, True for what counts, got float64 of shape (5,)",
    ),
    (
        "cross_entropy",
        "class_mask",
        np.ones(3, bool),
        "must be a scalar or broadcast to the shape (8, 5), got (3,)",
    ),
    ("cross_entropy", "z_loss", -1, AT_LEAST_0),
    (
        "linear_cross_entropy",
        "bias",
        np.ones(3),
        "must have one entry for each of the 5 classes of kernel (4, 5), got (3,)",
    ),
    (
        "linear_cross_entropy",
        "class_weights",
        PAIR,
        "must have one weight for each of the 5 classes of kernel (4, 5), got (2,)",
    ),
    ("linear_cross_entropy", "z_loss", -1, AT_LEAST_0),
    ("linear_cross_entropy", "logit_cap", 0, ABOVE_0),
    (
        "linear_cross_entropy",
        "class_axis",
        2,
        "must be one of the 2 axes of kernel (4, 5), from -2 to 1, got 2",
    ),
    ("linear_cross_entropy", "block_size", 0, "must be at least 1 token, got 0."),
    ("adaptive_softmax", "block_size", 0, "must be at least 1, got 0."),
    ("kl_divergence", "log_targets", 1, FLAG),
    ("generalized_kl_divergence", "log_targets", 1, FLAG),
    ("js_divergence", "log_targets", 1, FLAG),
    ("cosine_embedding", "margin", 2, "must be finite and in [-1, 1], got 2"),
    ("triplet_margin", "margin", -1, AT_LEAST_0),
    ("triplet_margin", "p", 0.5, "must be at least 1 (infinity is allowed), got 0.5"),
    ("triplet_margin", "p", "two", "must be a Python number (it chooses the formula), got str"),
    ("triplet_margin", "swap", 1, FLAG),
    (
        "triplet_margin",
        "distance",
        lambda x, y: x - y,
        "must have the shape of anchors (8, 5) without axis 1, (8,), got (8, 5)",
    ),
    ("info_nce", "temperature", 0, ABOVE_0),
    ("nt_xent", "temperature", -1, "must be finite and more than 0, got -1"),
    ("supervised_contrastive", "temperature", PAIR, NUMBER),
    ("sigmoid_contrastive", "temperature", 0, ABOVE_0),
    ("sigmoid_contrastive", "bias", np.inf, FINITE),
    (
        "ctc",
        "blank",
        4,
        "must be an integer, one of the 4 classes of logits from 0 to 3, got int 4",
    ),
    ("ctc", "frame_lengths", PAIR, "must be integers, got float32 of shape (2,)"),
    ("ctc", "label_lengths", np.array([1, 1]), "must have the shape of the batch, (8,), got (2,)"),
    ("dice", "smooth", -1, AT_LEAST_0),
    ("dice", "axes", 1, "must be a tuple of the axes to sum over, such as (1, 2)"),
    ("dice", "axes", (1, 1), "must be distinct axes of predictions, got (1, 1)"),
    ("tversky", "axes", (3, 4), "must be one of the 4 axes of predictions (8, 3, 2, 2)"),
    ("tversky", "smooth", PAIR, NUMBER),
    ("tversky", "alpha", -1, AT_LEAST_0),
    ("tversky", "beta", -1, AT_LEAST_0),
]


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    OPTIONS,
    ids=[f"{o[0]}-{o[1]}-{n}" for n, o in enumerate(OPTIONS)],
)
def test_a_bad_option(name, option, value, message):
    case = next(case for case in BASE if case.name == name)
    kinds = ("True", "boolean", "Python number", "a tuple", "must be integers")
    typed = any(words in message for words in kinds)
    error = TypeError if typed else ValueError
    refused(
        case,
        error,
        f"^{re.escape(f'{name}: {option} {message}')}",
        arguments(case),
        **{option: value},
    )


def test_every_option_has_a_bad_value():
    """But those that have a test for every loss, or take anything hashable."""
    options = {
        (case.name, p.name)
        for case in BASE
        for p in inspect.signature(case.loss).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in ("axis", "axis_name", "label_smoothing")
    }
    tested = {(name, option) for name, option, _, _ in OPTIONS}
    tested.add(("binary_cross_entropy_with_logits", "pos_weight"))
    assert options == tested


def test_a_traced_option_out_of_bounds_is_nan():
    traced = jax.jit(lambda beta: jaxloss.smooth_l1(0.5, 0.0, beta=beta))
    assert traced(1.0) == 0.125
    assert traced(0.0) == 0.5
    assert jnp.isnan(traced(-1.0))
    smoothed = jax.jit(lambda s: jaxloss.cross_entropy(ROWS[0], 0, label_smoothing=s))
    assert jnp.isfinite(smoothed(0.5))
    assert jnp.isnan(smoothed(1.5))
