"""Losses of a layer with a large output, given their parameters: functions of hidden and labels."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss
from jaxloss.primitives import linear_statistics
from tests.cases.case import Case
from tests.cases.classification import log_softmax, one_hot

RNG = np.random.default_rng(11)
KERNEL, BIAS = RNG.normal(size=(4, 5)), RNG.normal(size=5)
WEIGHTS = np.array([0.5, 1.0, 2.0, 0.1, 3.0])


def given(loss, *parameters):
    """A function of what is of the batch; its own tests differentiate it with all of its inputs."""

    def of_batch(hidden, labels, **options):
        double = jax.config.jax_enable_x64 and getattr(hidden, "dtype", None) == jnp.float64
        dtype = jnp.float64 if double else jnp.float32
        shared = jax.tree.map(lambda parameter: jnp.asarray(parameter, dtype), parameters)
        # JAX 0.10 gives an array of NumPy that a program has held in float32 the same type in
        # programs traced under x64, so that each call has its own.
        copies = {
            name: np.copy(option) if isinstance(option, np.ndarray) else option
            for name, option in options.items()
        }
        return loss(hidden, *shared, labels, **copies)

    of_batch.__name__ = of_batch.__qualname__ = loss.__name__
    kept = [
        parameter
        for name, parameter in inspect.signature(loss).parameters.items()
        if name not in ("kernel", "parameters", "axis_name")
    ]
    of_batch.__signature__ = inspect.Signature(kept)
    return of_batch


def hidden_and_labels(rng):
    return rng.normal(size=(8, 4)), rng.integers(0, 5, 8).astype(np.int32)


def linear_cross_entropy(
    hidden,
    labels,
    bias=0.0,
    class_weights=1.0,
    label_smoothing=0.0,
    z_loss=0.0,
    logit_cap=None,
    block_size=None,
):
    logits = hidden @ KERNEL + bias
    if logit_cap is not None:
        logits = logit_cap * jnp.tanh(logits / logit_cap)
    targets = (1 - label_smoothing) * one_hot(labels, 5, -1) + label_smoothing / 5
    normaliser = jnp.log(jnp.sum(jnp.exp(logits), -1))
    losses = -jnp.sum(class_weights * targets * log_softmax(logits, -1), -1)
    return losses + z_loss * normaliser**2


def stacked_statistics(hidden, kernel, labels, *, block_size=None):
    found = linear_statistics(hidden, kernel, labels, block_size=block_size)
    return jnp.stack([found.log_probs, found.logsumexp, found.entropy], -1)


stacked_statistics.__name__ = "linear_statistics"


def plain_statistics(hidden, labels, bias=0.0, block_size=None):
    logits = hidden @ KERNEL + bias
    log_probs = log_softmax(logits, -1)
    of_labels = jnp.sum(one_hot(labels, 5, -1) * log_probs, -1)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, -1)
    return jnp.stack([of_labels, jnp.log(jnp.sum(jnp.exp(logits), -1)), entropy], -1)


PARAMETERS = jaxloss.AdaptiveSoftmax(
    RNG.normal(size=(4, 4)),
    (
        (RNG.normal(size=(4, 2)), RNG.normal(size=(2, 2))),
        (RNG.normal(size=(4, 1)), np.ones((1, 1))),
    ),
    RNG.normal(size=4),
)


def adaptive_softmax(hidden, labels, bias=PARAMETERS.bias, block_size=None):
    """Two classes in the head, two in the first tail, one in the second."""
    head = log_softmax(hidden @ PARAMETERS.head + bias, -1)
    tails = [log_softmax(hidden @ p @ k, -1) for p, k in PARAMETERS.tails]
    clusters = [head[:, 2 + n, None] + tail for n, tail in enumerate(tails)]
    log_probs = jnp.concatenate([head[:, :2], *clusters], -1)
    return -jnp.sum(one_hot(labels, 5, -1) * log_probs, -1)


def linear(name, **options):
    loss = given(jaxloss.linear_cross_entropy, KERNEL)
    options = {"block_size": 3, **options}
    return Case(name, loss, hidden_and_labels, linear_cross_entropy, options=options, classes=5)


LARGE = (
    linear("linear_cross_entropy"),
    linear("linear_cross_entropy-smoothing", label_smoothing=0.1, z_loss=0.01),
    linear(
        "linear_cross_entropy-weights",
        bias=BIAS,
        class_weights=WEIGHTS,
        label_smoothing=0.2,
        logit_cap=3.0,
    ),
    Case(
        "adaptive_softmax",
        given(jaxloss.adaptive_softmax, PARAMETERS),
        hidden_and_labels,
        adaptive_softmax,
        options={"block_size": 2},
        classes=5,
    ),
)

STATISTICS = (
    Case(
        "linear_statistics",
        given(stacked_statistics, KERNEL),
        hidden_and_labels,
        plain_statistics,
        options={"block_size": 3},
        classes=5,
    ),
)
