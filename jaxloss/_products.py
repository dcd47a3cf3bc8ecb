"""Products in which a factor of 0 wins against an infinity."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check


def safe_product(
    factor: Real[ArrayLike, "*shape"], term: Real[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Product of a factor and a term in which 0 times $\pm\infty$ is 0.

    Gradient: $(term, factor)$, the first 0 where the term was dropped; so nothing comes back from a
    dropped term in any mode. NaN stays NaN.

    Args:
        factor: real numbers.
        term: real numbers of the same shape, infinite perhaps.

    Returns:
        The shape of the inputs; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.safe_product(jnp.array([0.0, 2.0]), jnp.array([-jnp.inf, 3.0]))
        Array([0., 6.], dtype=float32)
    """
    factor, term = _check.real_arrays("safe_product", factor=factor, term=term)
    _check.same_shape("safe_product", factor=factor, term=term)
    dtype = _check.wide(factor, term)
    factor, term = factor.astype(dtype), term.astype(dtype)
    return factor * jnp.where((factor == 0) & jnp.isinf(term), 0, term)
