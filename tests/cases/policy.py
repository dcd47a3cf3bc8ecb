"""Which rows of the numerical policy a loss is under, beside those that all are under.

Labels, class masks and comparison within the batch are read off the table of cases itself.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss
from jaxloss import primitives
from tests.cases import large
from tests.cases.case import Case
from tests.cases.exact import EXACT
from tests.cases.large import KERNEL, PARAMETERS
from tests.helpers import x64_enabled
from tests.modes import exactly, single

# "logarithm": of a probability, times a number that may be 0. "softmax": of logits.
# "sigmoid": of a logit. "offset": only differences of scores matter. "vectors": lengths and angles.
# "kinks": the derivative jumps.
TRAITS = {
    "absolute": "kinks",
    "absolute_error": "kinks",
    "absolute_percentage_error": "kinks",
    "adaptive_softmax": "softmax",
    "binary_cross_entropy": "logarithm",
    "binary_cross_entropy_with_logits": "sigmoid",
    "cosine_distance": "vectors kinks",
    "cosine_embedding": "vectors kinks",
    "cosine_similarity": "vectors kinks",
    "cross_entropy": "logarithm softmax offset",
    "ctc": "softmax offset",
    "dice": "",
    "epsilon_insensitive": "kinks",
    "expected_log_softmax": "logarithm softmax offset",
    "gaussian_nll": "kinks",
    "generalized_kl_divergence": "logarithm",
    "hinge": "kinks",
    "hinge_embedding": "kinks",
    "huber": "kinks",
    "info_nce": "vectors",
    "js_divergence": "logarithm",
    "kl_divergence": "logarithm",
    "linear_cross_entropy": "softmax",
    "linear_statistics": "softmax",
    "log_cosh": "",
    "log_softmax": "softmax offset",
    "log_softmax_at": "softmax offset",
    "logsumexp": "softmax offset",
    "margin_ranking": "kinks",
    "multi_margin": "offset kinks",
    "multiclass_hinge": "offset kinks",
    "multiclass_perceptron": "offset kinks",
    "multilabel_margin": "offset kinks",
    "multilabel_soft_margin": "sigmoid",
    "nll": "",
    "norm": "vectors kinks",
    "nt_xent": "vectors",
    "perceptron": "kinks",
    "poisson_nll": "logarithm",
    "poly_cross_entropy": "logarithm softmax offset",
    "positive_part": "kinks",
    "quantile": "kinks",
    "safe_power": "kinks",
    "safe_product": "logarithm",
    "sigmoid_contrastive": "vectors",
    "sigmoid_focal": "sigmoid",
    "smooth_l1": "kinks",
    "soft_margin": "sigmoid",
    "softmax_focal": "softmax offset",
    "softplus": "sigmoid",
    "sparsemax": "softmax offset kinks",
    "squared_error": "",
    "squared_hinge": "kinks",
    "squared_log_error": "",
    "supervised_contrastive": "vectors",
    "triplet_margin": "vectors kinks",
    "tversky": "",
    "xlogy": "logarithm",
}


def traits(case):
    return TRAITS[case.name].split()


def parameters(case):
    return list(inspect.signature(case.loss).parameters)


def class_axis(case):
    return case.options.get("axis", -1)


def takes_labels(case):
    """Whether its last input is integers that name classes."""
    arrays = case.sample(np.random.default_rng(0))
    named = parameters(case)[len(arrays) - 1] in ("labels", "targets")
    return named and arrays[-1].dtype.kind in "iu" and not case.compares


def biased(loss, formula, width):
    """A case whose bias is its last input, so that it can make a logit infinite."""

    def sample(rng):
        hidden, labels = rng.normal(size=(8, 4)), np.array([0, 1, 2, 3, 4, 0, 1, 2], np.int32)
        return hidden, labels, rng.normal(size=width)

    return Case(f"{loss.__name__}-bias", loss, sample, formula, classes=5)


def linear_cross_entropy(hidden, labels, bias):
    kernel = jnp.asarray(KERNEL, bias.dtype)
    return jaxloss.linear_cross_entropy(hidden, kernel, labels, bias=bias, block_size=3)


def linear_statistics(hidden, labels, bias):
    kernel = jnp.asarray(KERNEL, bias.dtype)
    found = primitives.linear_statistics(hidden, kernel, labels, bias=bias, block_size=3)
    return jnp.stack([found.log_probs, found.logsumexp, found.entropy], -1)


def adaptive_softmax(hidden, labels, bias):
    given = (PARAMETERS.head, PARAMETERS.tails)
    head, tails = jax.tree.map(lambda leaf: jnp.asarray(leaf, bias.dtype), given)
    parameters = jaxloss.AdaptiveSoftmax(head, tails, bias)
    return jaxloss.adaptive_softmax(hidden, parameters, labels, block_size=2)


BIASED = (
    biased(linear_cross_entropy, large.linear_cross_entropy, 5),
    biased(linear_statistics, large.plain_statistics, 5),
    biased(adaptive_softmax, large.adaptive_softmax, 4),
)


# (arguments, value, gradient, second derivative) with respect to the first.
UNIFORM = [[0.25, -0.25, 0], [-0.25, 0.25, 0], [0, 0, 0]]
ZERO_TIMES_LOG_ZERO = {
    "binary_cross_entropy": [((0.0, 0.0), 0, 1, 1), ((1.0, 1.0), 0, -1, 1)],
    "poisson_nll": [((-np.inf, 0.0), 0, 0, 0)],
    "poisson_nll-rate-full": [((0.0, 0.0), 0, 1, 0)],
    "kl_divergence": [(([0.0, -np.inf], [1.0, 0.0]), 0, [-1, 0], np.zeros((2, 2)))],
    "generalized_kl_divergence": [
        (([0.0, -np.inf], [1.0, 0.0]), 0, [0, 0], [[1, 0], [0, 0]]),
        (([0.0, -np.inf], [0.0, 0.0]), 1, [1, 0], [[1, 0], [0, 0]]),
    ],
    "js_divergence": [
        (([0.0, -np.inf], [1.0, 0.0]), 0, [0, 0], [[0.25, 0], [0, 0]]),
        (
            ([0.0, -np.inf], [0.0, 1.0]),
            np.log(2),
            [np.log(2) / 2, 0],
            [[np.log(2) / 2, 0], [0, 0]],
        ),
    ],
    "cross_entropy": [(([0.0, 0.0, -np.inf], [1.0, 0.0, 0.0]), np.log(2), [-0.5, 0.5, 0], UNIFORM)],
    "poly_cross_entropy": [
        (([0.0, 0.0, -np.inf], [1.0, 0.0, 0.0]), np.log(2) + 1, [-1, 1, 0], UNIFORM)
    ],
    "expected_log_softmax": [
        (([0.0, 0.0, -np.inf], [1.0, 0.0, 0.0]), -np.log(2), [0.5, -0.5, 0], -np.array(UNIFORM)),
        (([0.0, -np.inf], [2.0, 0.0]), 0, [0, 0], np.zeros((2, 2))),
    ],
    "safe_product": [((0.0, -np.inf), 0, 0, 0), ((0.0, np.inf), 0, 0, 0)],
    "xlogy": [((0.0, 0.0), 0, 0, 0)],
    "xlogy-of-y": [((0.0, 0.0), 0, 0, 0)],
}


def xlogy(y, x):
    """Of its second argument, which is where a prediction stands."""
    return primitives.xlogy(x, y)


OF_Y = Case("xlogy-of-y", xlogy, lambda rng: (np.ones(1), np.ones(1)), xlogy)


def rows_of(case, array):
    """The array with the classes last, to be written to."""
    return np.moveaxis(array, class_axis(case), -1)


def sampled(case, rng):
    return [np.array(a) for a in case.arrays(rng)]


def excluding(case, fill, rng):
    """Logits of which one in each row is `fill`: not the target's in four rows, its own in two."""
    first, *others = arrays = sampled(case, rng)
    if case in BIASED:
        others[-1][1] = fill
        return arrays
    logits = rows_of(case, first)
    if case.name == "ctc":
        for row, labels in zip(logits, others[0], strict=True):
            free = set(range(4)) - {case.options.get("blank", 0), *labels}
            row[:3, min(free)] = fill
        return arrays
    classes = logits.shape[-1]
    for n in range(6):
        taken = np.zeros(logits.shape[1:-1], int)
        if others and takes_labels(case):
            taken = others[0][n].astype(int)
        place = (taken + (1 if n < 4 else 0)) % classes
        np.put_along_axis(logits[n], place[..., None], fill, -1)
        if others and not takes_labels(case) and n < 4:
            targets = rows_of(case, others[0])[n]
            np.put_along_axis(targets, place[..., None], 0, -1)
            targets /= targets.sum(-1, keepdims=True)
    return arrays


def infinite(case, fill, rng):
    """Logits that are `fill` in the first two rows: all if it is -inf, else one, of any class."""
    first, *others = arrays = sampled(case, rng)
    if case in BIASED:
        others[-1][: None if fill < 0 else 1] = fill
    elif case.name == "ctc":
        first[:2, 1, : None if fill < 0 else 1] = fill
    elif fill < 0:
        rows_of(case, first)[:2] = fill
    else:
        rows_of(case, first)[0, ..., 0] = rows_of(case, first)[1, ..., 1] = fill
    return arrays


def confident(case, rng):
    """The target ahead of all others by 20 nats or by 80, and a little."""
    first, *others = arrays = sampled(case, rng)
    ahead = np.repeat([20.0, 80.0], 4).reshape(8, *(1,) * (first.ndim - 1))
    ahead = ahead + rng.integers(0, 16, first.shape) / 8
    if case.name == "ctc":
        first[:] = -ahead
        a, b = np.moveaxis(others[0], 1, 0)
        for frame, classes in enumerate((a, 0 * a, b, b, b)):
            first[np.arange(8), frame, classes] = 0
    elif parameters(case)[0] == "hidden":
        first *= 8
        with x64_enabled():
            every = [case.plain(first, np.full(8, k, np.int32)) for k in range(5)]
        if case.name == "linear_statistics":
            every = [-losses[:, 0] for losses in every]
        others[0][:] = np.argmin(every, 0)
    elif "softmax" in traits(case):
        logits = rows_of(case, first)
        logits[:] = -rows_of(case, ahead)
        taken = np.zeros(logits.shape[:-1], int)
        if others and takes_labels(case):
            taken = others[0].astype(int)
        elif others:
            rows_of(case, others[0])[:] = 0
            np.put_along_axis(rows_of(case, others[0]), taken[..., None], 1, -1)
        np.put_along_axis(logits, taken[..., None], 0, -1)
    elif not others:
        first[:] = -ahead
    else:
        if parameters(case)[1] == "targets":
            others[0][:] = others[0] > 0.5
        first[:] = np.where(others[0] > 0, ahead, -ahead)
    return arrays


def with_mask(case):
    shape = np.shape(case.sample(np.random.default_rng(0))[0])
    axis = class_axis(case) % len(shape)
    mask = np.ones((shape[axis], *(1,) * (len(shape) - axis - 1)), bool)
    mask[1] = False
    return dataclasses.replace(case, options={**case.options, "class_mask": mask})


def by_mpmath(case, arrays, given):
    """All modes of a case, from `EXACT`."""
    first, *others = single(arrays)
    alone = "sigmoid" in traits(case) and case.elementwise

    def rows(array):
        """Numbers of one loss together."""
        if case.name == "ctc":
            return array
        if alone or array.ndim < first.ndim:
            return array.ravel()
        return rows_of(case, array).reshape(-1, array.shape[class_axis(case)])

    def back(array, like):
        if alone or like.ndim < first.ndim or case.name == "ctc":
            return array.reshape(like.shape)
        return np.moveaxis(array.reshape(rows_of(case, like).shape), -1, class_axis(case))

    cotangent, direction = given
    targets = rows(others[0]) if others else rows(first)
    options = {name: o for name, o in case.options.items() if name != "axis"}
    if "softmax" in traits(case) and targets.dtype.kind == "f":
        targets = targets.argmax(-1)
    results = exactly(
        functools.partial(EXACT[case.name], **options),
        rows(first),
        targets,
        rows(cotangent),
        rows(direction),
    )
    likes = (cotangent, first, cotangent, first)
    return [back(array, like) for array, like in zip(results, likes, strict=True)]
