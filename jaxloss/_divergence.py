"""Divergences of a predicted distribution, given in logarithms, from a target."""

from __future__ import annotations

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check, _checked, _options, _relative_entropy
from jaxloss._autodiff import custom_vjp


def _reduced(
    function: str,
    divergence: custom_vjp,
    log_probs: ArrayLike,
    targets: ArrayLike,
    log_targets: bool,
    axis: int,
    *,
    normalized: bool = True,
) -> Array:
    """A divergence of rows, of distributions unless told so."""
    log_targets = _options.flag(function, "log_targets", log_targets)
    scores, masses = _check.of_one_shape(function, log_probs=log_probs, targets=targets)
    axis = _check.reduced_axis(function, axis, log_probs=scores)
    if normalized:
        # As they came: the sum of rounded numbers is not 1.
        _checked.distributions(function, axis, logs=True, log_probs=scores)
        _checked.distributions(function, axis, logs=log_targets, targets=masses)
    return divergence(scores, masses, log_targets, axis)


@_check.known_keywords
def kl_divergence(
    log_probs: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    log_targets: bool = False,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence of the predicted distribution from the target.

    $$\ell = \sum_j t_j (\log t_j - \log p_j)$$

    The prediction comes first, and in logarithms. Gradient: $-t$ with respect to `log_probs`, and
    $\log t - \log p + 1$ to the targets, 0 where $t = 0$. With $0 \log 0 = 0$, a class without
    target mass adds nothing, even at a log-probability of -inf. Nothing is normalised. PyTorch's
    `reduction="batchmean"` is our mean; its elementwise mean divides by the class count too.

    Args:
        log_probs: log-probabilities, at least one class along `axis`; -inf is allowed.
        targets: probabilities, or their logarithms, of the same shape.
        log_targets: whether `targets` are logarithms.
        axis: the axis of the classes.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 input. At least 0 for
        distributions, but for rounding: see `generalized_kl_divergence` where they nearly agree.

    Raises:
        TypeError: an input is not made of real numbers, `axis` is not an integer, or `log_targets`
            is not True or False.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> log_probs = jnp.log(jnp.array([[0.5, 0.5, 0.0]]))
        >>> jaxloss.kl_divergence(log_probs, jnp.array([[0.25, 0.75, 0.0]]))
        Array([0.1308], dtype=float32)

    Source: Kullback and Leibler, "On information and sufficiency" (1951); PyTorch `kl_div`.
    """
    return _reduced(
        "kl_divergence",
        _relative_entropy.relative_entropy,
        log_probs,
        targets,
        log_targets,
        axis,
    )


@_check.known_keywords
def generalized_kl_divergence(
    log_probs: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    log_targets: bool = False,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence of measures that need not sum to one.

    $$\ell = \sum_j t_j \log \frac{t_j}{p_j} - t_j + p_j$$

    Each term is at least 0, and keeps its accuracy where the two nearly agree; for distributions
    the sum is `kl_divergence`. Gradient: $p - t$ with respect to `log_probs`, and
    $\log t - \log p$ to the targets, 0 where $t = 0$.

    Args:
        log_probs: logarithms of the predicted measure; -inf is allowed.
        targets: the target measure, or its logarithm, of the same shape.
        log_targets: whether `targets` are logarithms.
        axis: the axis of the classes.

    Returns:
        One loss per row; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, `axis` is not an integer, or `log_targets`
            is not True or False.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> log_probs = jnp.log(jnp.array([[1.0, 2.0, 3.0]]))
        >>> jaxloss.generalized_kl_divergence(log_probs, jnp.array([[1.0, 1.0, 0.0]]))
        Array([3.307], dtype=float32)

    Source: Bregman, "The relaxation method of finding the common point of convex sets" (1967);
    Optax `generalized_kl_divergence`.
    """
    return _reduced(
        "generalized_kl_divergence",
        _relative_entropy.bregman,
        log_probs,
        targets,
        log_targets,
        axis,
        normalized=False,
    )


@_check.known_keywords
def js_divergence(
    log_probs: Real[ArrayLike, "..."],
    targets: Real[ArrayLike, "..."],
    *,
    log_targets: bool = False,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Jensen-Shannon divergence: of either distribution from the mean of the two.

    $$\ell = \tfrac12 \sum_j p_j \log \frac{p_j}{m_j} + \tfrac12 \sum_j t_j \log \frac{t_j}{m_j},
      \qquad m = \frac{p + t}{2}$$

    Symmetric, at least 0 and, for distributions, at most $\log 2$; accurate where the two nearly
    agree. Gradient: $\frac12 p \log(p / m)$ with respect to `log_probs`, $\frac12 \log(t / m)$ to
    the targets, 0 where they have no mass.

    Args:
        log_probs: log-probabilities, at least one class along `axis`; -inf is allowed.
        targets: probabilities, or their logarithms, of the same shape.
        log_targets: whether `targets` are logarithms.
        axis: the axis of the classes.

    Returns:
        One loss per row, in nats; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers, `axis` is not an integer, or `log_targets`
            is not True or False.
        ValueError: the shapes differ, there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> log_probs = jnp.log(jnp.array([[1.0, 0.0]]))
        >>> jaxloss.js_divergence(log_probs, jnp.array([[0.0, 1.0]]))
        Array([0.6931], dtype=float32)

    Source: Lin, "Divergence measures based on the Shannon entropy" (1991).
    """
    return _reduced(
        "js_divergence",
        _relative_entropy.jensen_shannon,
        log_probs,
        targets,
        log_targets,
        axis,
    )
