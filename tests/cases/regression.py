"""Losses of real predictions and of measurements."""

import jax.numpy as jnp
import numpy as np

import jaxloss
from tests.cases.case import Case, clear, real


def smooth_l1(predictions, targets, beta):
    size = jnp.abs(predictions - targets)
    return jnp.where(size < beta, size**2 / (2 * beta), size - beta / 2)


def huber(predictions, targets, delta):
    size = jnp.abs(predictions - targets)
    return jnp.where(size < delta, size**2 / 2, delta * (size - delta / 2))


def clipped(predictions, targets, delta):
    return np.clip(predictions - targets, -delta, delta)


def quantile(predictions, targets, q):
    q = jnp.broadcast_to(q, predictions.shape)
    return jnp.maximum(q * (targets - predictions), (q - 1) * (targets - predictions))


def log_rates_and_counts(rng):
    # Counts on either side of 1, from where on Stirling's term is added.
    return rng.normal(size=(8, 4)), rng.choice([0.4, 2.5, 7.0], (8, 4))


def stirling(targets):
    counts = jnp.where(targets > 1, targets, 2.0)
    term = counts * jnp.log(counts) - counts + jnp.log(2 * jnp.pi * counts) / 2
    return jnp.where(targets > 1, term, 0)


def means_and_variances(rng):
    return *real(rng), rng.uniform(0.2, 3, (8, 4))


def gaussian_nll(predictions, targets, variances):
    return (jnp.log(variances) + (predictions - targets) ** 2 / variances) / 2


REGRESSION = (
    Case(
        "squared_error",
        jaxloss.squared_error,
        real,
        lambda p, t: (p - t) ** 2,
        lambda p, t: 2 * (p - t),
        kinks=(((1.0, 1.0), 0.0, 0.0),),
    ),
    Case(
        "absolute_error",
        jaxloss.absolute_error,
        real,
        lambda p, t: jnp.abs(p - t),
        lambda p, t: np.sign(p - t),
        kinks=(((1.0, 1.0), 0.0, 0.0),),
    ),
    Case(
        "smooth_l1",
        jaxloss.smooth_l1,
        real,
        smooth_l1,
        lambda p, t, beta: clipped(p, t, beta) / beta,
        {"beta": 1.0},
        kinks=(((1.0, 0.0), 0.5, 1.0), ((-1.0, 0.0), 0.5, -1.0), ((0.0, 0.0), 0.0, 0.0)),
    ),
    Case(
        "smooth_l1-beta",
        jaxloss.smooth_l1,
        real,
        smooth_l1,
        lambda p, t, beta: clipped(p, t, beta) / beta,
        {"beta": 0.3},
    ),
    Case(
        "smooth_l1-absolute",
        jaxloss.smooth_l1,
        real,
        lambda p, t, beta: jnp.abs(p - t),
        lambda p, t, beta: np.sign(p - t),
        {"beta": 0},
        kinks=(((1.0, 1.0), 0.0, 0.0), ((0.0, 2.0), 2.0, -1.0)),
    ),
    Case(
        "huber",
        jaxloss.huber,
        real,
        huber,
        clipped,
        {"delta": 1.0},
        kinks=(((1.0, 0.0), 0.5, 1.0), ((-1.0, 0.0), 0.5, -1.0), ((0.0, 0.0), 0.0, 0.0)),
    ),
    Case("huber-delta", jaxloss.huber, real, huber, clipped, {"delta": 1.7}),
    Case(
        "log_cosh",
        jaxloss.log_cosh,
        real,
        lambda p, t: jnp.log(jnp.cosh(p - t)),
        lambda p, t: np.tanh(p - t),
        kinks=(((1.0, 1.0), 0.0, 0.0),),
    ),
    Case(
        "quantile",
        jaxloss.quantile,
        real,
        quantile,
        lambda p, t, q: np.where(p > t, 1 - q, -q),
        {"q": 0.3},
        kinks=(((1.0, 1.0), 0.0, 0.0), ((0.0, 1.0), 0.3, -0.3), ((2.0, 1.0), 0.7, 0.7)),
    ),
    Case(
        "quantile-several",
        jaxloss.quantile,
        real,
        quantile,
        lambda p, t, q: np.where(p > t, 1 - q, -q),
        {"q": np.array([0.1, 0.5, 0.9, 0.99])},
    ),
    Case(
        "epsilon_insensitive",
        jaxloss.epsilon_insensitive,
        real,
        lambda p, t, epsilon: jnp.maximum(jnp.abs(p - t) - epsilon, 0),
        lambda p, t, epsilon: np.sign(p - t) * (np.abs(p - t) > epsilon),
        {"epsilon": 0.5},
        kinks=(
            ((0.5, 0.0), 0.0, 0.0),
            ((-0.5, 0.0), 0.0, 0.0),
            ((1.0, 1.0), 0.0, 0.0),
            ((1.0, 0.0), 0.5, 1.0),
        ),
    ),
    Case(
        "squared_log_error",
        jaxloss.squared_log_error,
        lambda rng: (rng.uniform(-0.9, 9, (8, 4)), rng.uniform(-0.9, 9, (8, 4))),
        lambda p, t: (jnp.log(1 + p) - jnp.log(1 + t)) ** 2,
        lambda p, t: 2 * (np.log(1 + p) - np.log(1 + t)) / (1 + p),
        kinks=(((1.0, 1.0), 0.0, 0.0), ((-1.0, 0.0), np.inf, -np.inf)),
    ),
    Case(
        "absolute_percentage_error",
        jaxloss.absolute_percentage_error,
        lambda rng: (clear(rng) * 3, clear(rng)),
        lambda p, t: jnp.abs(p - t) / jnp.abs(t),
        lambda p, t: np.sign(p - t) / np.abs(t),
        kinks=(
            ((2.0, 2.0), 0.0, 0.0),
            ((0.0, 0.0), 0.0, 0.0),
            ((1.0, 0.0), np.inf, np.inf),
            ((-3.0, -2.0), 0.5, -0.5),
        ),
    ),
    Case(
        "poisson_nll",
        jaxloss.poisson_nll,
        log_rates_and_counts,
        lambda x, t: jnp.exp(x) - t * x,
        lambda x, t: np.exp(x) - t,
        kinks=(((-np.inf, 0.0), 0.0, 0.0), ((-np.inf, 1.0), np.inf, -1.0)),
    ),
    Case(
        "poisson_nll-full",
        jaxloss.poisson_nll,
        log_rates_and_counts,
        lambda x, t, full: jnp.exp(x) - t * x + stirling(t),
        lambda x, t, full: np.exp(x) - t,
        {"full": True},
    ),
    Case(
        "poisson_nll-rate-full",
        jaxloss.poisson_nll,
        lambda rng: (rng.uniform(0.2, 5, (8, 4)), log_rates_and_counts(rng)[1]),
        lambda r, t, log_input, full: r - t * jnp.log(r) + stirling(t),
        lambda r, t, log_input, full: 1 - t / r,
        {"log_input": False, "full": True},
        kinks=(((0.0, 0.0), 0.0, 1.0), ((0.0, 1.0), np.inf, -np.inf), ((1.0, 1.0), 1.0, 0.0)),
    ),
    Case(
        "gaussian_nll",
        jaxloss.gaussian_nll,
        means_and_variances,
        gaussian_nll,
        lambda p, t, v: (p - t) / v,
        kinks=(((1.0, 1.0, 1.0), 0.0, 0.0), ((2.0, 1.0, 0.0), 0.5e6 - 6.907755, 1e6)),
    ),
    Case(
        "gaussian_nll-full",
        jaxloss.gaussian_nll,
        means_and_variances,
        lambda p, t, v, full, minimum_variance: gaussian_nll(p, t, v) + jnp.log(2 * jnp.pi) / 2,
        lambda p, t, v, full, minimum_variance: (p - t) / v,
        {"full": True, "minimum_variance": 0.01},
    ),
)
