"""What losses are made of, which goes through the same laws where they apply."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxloss import primitives
from tests.cases.case import (
    Case,
    clear,
    logits_and_labels,
    logits_and_probabilities,
    normalized,
    probabilities_and_targets,
)
from tests.cases.classification import (
    cross_entropy,
    cross_entropy_gradient,
    soft_cross_entropy,
    soft_cross_entropy_gradient,
)


def logits_only(shape=(8, 5)):
    return lambda rng: (rng.normal(size=shape) * 2,)


def softmax_jacobian_sum(logits, axis=-1):
    """The pullback of ones through log_softmax."""
    return 1 - logits.shape[axis] * normalized(logits, axis)


def power_norm(vectors, p, axis):
    sizes = jnp.abs(vectors)
    return jnp.max(sizes, axis) if p == np.inf else jnp.sum(sizes**p, axis) ** (1 / p)


ELEMENTS = (
    Case(
        "logsumexp",
        primitives.logsumexp,
        logits_only(),
        lambda z: jnp.log(jnp.sum(jnp.exp(z), -1)),
        lambda z: normalized(z, -1),
        kinks=(
            (([1.0, 1.0],), 1 + np.log(2), [0.5, 0.5]),
            (([0.0, -np.inf],), 0.0, [1.0, 0.0]),
            (([-np.inf, -np.inf],), -np.inf, [np.nan, np.nan]),
            (([np.inf, 0.0],), np.inf, [np.nan, np.nan]),
            (([0.0, np.inf],), np.inf, [np.nan, np.nan]),
        ),
    ),
    Case(
        "logsumexp-axis",
        primitives.logsumexp,
        logits_only((8, 3, 2)),
        lambda z, axis: jnp.log(jnp.sum(jnp.exp(z), axis)),
        normalized,
        {"axis": 1},
    ),
    Case(
        "log_softmax",
        primitives.log_softmax,
        logits_only(),
        lambda z: z - jnp.log(jnp.sum(jnp.exp(z), -1, keepdims=True)),
        softmax_jacobian_sum,
    ),
    Case(
        "log_softmax-axis",
        primitives.log_softmax,
        logits_only((8, 3, 2)),
        lambda z, axis: z - jnp.log(jnp.sum(jnp.exp(z), axis, keepdims=True)),
        softmax_jacobian_sum,
        {"axis": 1},
    ),
    Case(
        "log_softmax_at",
        primitives.log_softmax_at,
        logits_and_labels(),
        lambda z, labels: -cross_entropy(z, labels),
        lambda z, labels: -cross_entropy_gradient(z, labels),
    ),
    Case(
        "expected_log_softmax",
        primitives.expected_log_softmax,
        logits_and_probabilities(),
        lambda z, q: -soft_cross_entropy(z, q),
        lambda z, q: -soft_cross_entropy_gradient(z, q),
        kinks=(
            (([0.0, -np.inf], [2.0, 0.0]), 0.0, [0.0, 0.0]),
            (([0.0, -np.inf], [0.0, 1.0]), -np.inf, [-1.0, 1.0]),
        ),
    ),
    Case(
        "safe_product",
        primitives.safe_product,
        probabilities_and_targets,
        lambda x, y: x * y,
        lambda x, y: y,
        kinks=(((0.0, -np.inf), 0.0, 0.0), ((2.0, np.inf), np.inf, np.inf)),
        linear=True,
    ),
    Case(
        "safe_power",
        primitives.safe_power,
        probabilities_and_targets,
        lambda x, a: x**a,
        lambda x, a: a * x ** (a - 1),
        kinks=(((0.0, 0.5), 0.0, 0.0), ((0.0, 0.0), 1.0, 0.0), ((0.0, 2.0), 0.0, 0.0)),
    ),
    Case(
        "xlogy",
        primitives.xlogy,
        probabilities_and_targets,
        lambda x, y: x * jnp.log(y),
        lambda x, y: np.log(y),
        kinks=(((0.0, 0.0), 0.0, 0.0), ((1.0, 0.0), -np.inf, -np.inf), ((0.0, 1.0), 0.0, 0.0)),
        linear=True,
    ),
    Case(
        "absolute",
        primitives.absolute,
        lambda rng: (clear(rng),),
        jnp.abs,
        np.sign,
        kinks=(((0.0,), 0.0, 0.0),),
    ),
    Case(
        "positive_part",
        primitives.positive_part,
        lambda rng: (clear(rng),),
        lambda x: jnp.maximum(x, 0),
        lambda x: 1.0 * (x > 0),
        kinks=(((0.0,), 0.0, 0.0), ((-1.0,), 0.0, 0.0)),
    ),
    Case(
        "softplus",
        primitives.softplus,
        lambda rng: (rng.normal(size=(8, 4)) * 3,),
        lambda x: jnp.log(1 + jnp.exp(x)),
        lambda x: 1 / (1 + np.exp(-x)),
        kinks=(
            ((0.0,), np.log(2), 0.5),
            ((np.inf,), np.inf, 1.0),
            ((-np.inf,), 0.0, 0.0),
            ((-50.0,), np.exp(-50), np.exp(-50)),
        ),
    ),
    Case(
        "log_cosh",
        primitives.log_cosh,
        lambda rng: (clear(rng),),
        lambda x: jnp.log(jnp.cosh(x)),
        np.tanh,
        kinks=(((0.0,), 0.0, 0.0),),
    ),
    *(
        Case(
            f"norm-{p}-axis" if p != 2 else "norm",
            primitives.norm,
            lambda rng: (rng.normal(size=(8, 3, 2)),),
            functools.partial(power_norm, p=p, axis=axis),
            options={} if p == 2 else {"p": p, "axis": axis},
            kinks=(
                (([0.0, 0.0],), 0.0, [0.0, 0.0]),
                (([np.nan, 1.0],), np.nan, [np.nan, np.nan]),
                (([3.0, -3.0],), 3 * 2 ** (1 / p), [2 ** (1 / p - 1), -(2 ** (1 / p - 1))]),
            )
            if axis == -1
            else (),
        )
        for p, axis in ((2, -1), (1, 1), (3, -1), (np.inf, -1), (1.5, 1))
    ),
)
