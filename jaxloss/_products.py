"""Products in which a factor of 0 wins against an infinity."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from jaxloss import _check
from jaxloss._autodiff import custom_vjp


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
    return _safe_product(*_pair("safe_product", factor=factor, term=term))


def _safe_product(factor: Array, term: Array) -> Array:
    return factor * jnp.where((factor == 0) & jnp.isinf(term), 0, term)


def _pair(function: str, **arguments: ArrayLike) -> tuple[Array, Array]:
    """Two inputs of one shape, in the dtype that they are computed in."""
    first, second = _check.real_arrays(function, **arguments)
    _check.same_shape(function, **dict(zip(arguments, (first, second), strict=True)))
    dtype = _check.wide(first, second)
    return first.astype(dtype), second.astype(dtype)


def xlogy(x: Real[ArrayLike, "*shape"], y: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""$x \log y$, with $0 \log 0 = 0$ in value and in every derivative with respect to $y$.

    Gradient: $(\log y,\ x / y)$. NaN in both where $y < 0$, whatever $x$.

    Args:
        x: factors.
        y: arguments of the logarithm, of the same shape, at least 0.

    Returns:
        The shape of the inputs; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.xlogy(jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0]))
        Array([0., 0.], dtype=float32)

    Source: the convention of entropy, Cover and Thomas, "Elements of Information Theory", 2.1.
    """
    return _xlogy(*_pair("xlogy", x=x, y=y))


@custom_vjp
def _xlogy(x: Array, y: Array) -> Array:
    return _safe_product(x, jnp.log(y))


# d/dx = log y and d/dy = x / y, whose limit along x = 0 is 0 at y = 0 too.
_xlogy.defvjp(
    lambda x, y: (_safe_product(x, jnp.log(y)), (x, y)),
    lambda residuals, g: (g * jnp.log(residuals[1]), g * _ratio(residuals[0], residuals[1])),
)


def xlog1py(x: Real[ArrayLike, "*shape"], y: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""$x \log(1 + y)$, with $0 \log 0 = 0$ in value and in every derivative with respect to $y$.

    Gradient: $(\log(1 + y),\ x / (1 + y))$. NaN in both where $y < -1$, whatever $x$.

    Args:
        x: factors.
        y: real numbers of the same shape, at least -1.

    Returns:
        The shape of the inputs; float32, or float64 for float64 input.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.primitives.xlog1py(jnp.array([0.0, 1.0]), jnp.array([-1.0, 1e-10]))
        Array([0.e+00, 1.e-10], dtype=float32)

    Source: as for `xlogy`.
    """
    return _xlog1py(*_pair("xlog1py", x=x, y=y))


@custom_vjp
def _xlog1py(x: Array, y: Array) -> Array:
    return _safe_product(x, jnp.log1p(y))


# d/dx = log(1 + y) and d/dy = x / (1 + y), as for xlogy.
_xlog1py.defvjp(
    lambda x, y: (_safe_product(x, jnp.log1p(y)), (x, y)),
    lambda residuals, g: (g * jnp.log1p(residuals[1]), g * _ratio(residuals[0], 1 + residuals[1])),
)


def _ratio(x: Array, y: Array) -> Array:
    """x / y with 0 / 0 = 0, and NaN for negative y."""
    return x / jnp.where(y < 0, jnp.nan, jnp.where((x == 0) & (y == 0), 1, y))
