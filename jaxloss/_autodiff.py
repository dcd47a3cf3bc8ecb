"""`custom_vjp` rules that also work in forward mode."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike, DTypeLike

from jaxloss._linear_map import transposed, vary, varying_axes

T = TypeVar("T")


class custom_vjp:  # noqa: N801  (stands where `jax.custom_vjp` would)
    r"""`jax.custom_vjp`, differentiable in forward mode too.

    A bare `jax.custom_vjp` refuses `jvp`, `jacfwd` and `linearize`. But its pullback
    $\bar y \mapsto J^\top \bar y$ is linear, and the transpose of a linear map is unique:
    transposing the pullback gives the pushforward $\dot x \mapsto J \dot x$ of the very same rule.
    So the rule is written once, for reverse mode, and every other mode follows from it.

    The `fwd` function must compute with plain maths, never by calling the decorated function, and
    `bwd` must be linear in the cotangent by JAX's own account (products, sums, selections); both
    are differentiated for derivatives of higher order, so residuals carry their derivative: what
    must not (a maximum that is only a shift) goes through `jax.lax.stop_gradient`. The value that
    `fwd` returns follows the rule when reverse mode is differentiated again, at every order. For an
    output that nobody uses `bwd` is given zeros, as by `jax.custom_vjp`.

    Args:
        function: the primal function, of arrays or pytrees of arrays, and of static arguments,
            these last, to a floating array or a pytree of them.
        static: how many of the last arguments are static (hashable Python values). As in
            `jax.custom_vjp`, `fwd` takes them in place and `bwd` takes them first.
        loops: whether `bwd` has a loop of its own (`scan`, `map`, `fori_loop`), which JAX 0.7
            transposes only once it is linearized.
        alike: whether all arguments are to vary over the same mesh axes in `shard_map`. A rule with
            collectives of its own says what varies, with `vary_alike`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static: int = 0,
        loops: bool = False,
        alike: bool = True,
    ) -> None:
        """Wrap `function`; `defvjp` completes it."""
        arity = len(inspect.signature(function).parameters)
        static_argnums = tuple(range(arity - static, arity))
        functools.update_wrapper(self, function)
        self._alike = alike
        self._reverse = jax.custom_vjp(function, nondiff_argnums=static_argnums)
        self._every = jax.custom_jvp(function, nondiff_argnums=static_argnums)
        self._every.defjvp(
            functools.partial(_pushforward, self._reverse, loops), symbolic_zeros=True
        )
        self._static_argnums, self._loops = static_argnums, loops

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Define the rule, as `jax.custom_vjp.defvjp` does."""
        # Once reverse mode is differentiated, as a function that takes value and gradient together
        # is for its second derivative, what JAX differentiates is `fwd` as it stands: of a value at
        # a kink, or of an infinite one, it would find another derivative than the rule's, or NaN.
        beside = jax.custom_jvp(
            lambda output, residuals, *args: output,
            nondiff_argnums=tuple(n + 2 for n in self._static_argnums),
        )

        def ruled(*args: Any) -> tuple[Any, Any]:
            output, residuals = fwd(*args)
            return beside(output, residuals, *args), residuals

        beside.defjvp(
            functools.partial(_pushforward_beside, beside, bwd, self._loops), symbolic_zeros=True
        )
        self._reverse.defvjp(ruled, bwd)

    def __call__(self, *args: Any) -> Any:
        """Evaluate the function."""
        return self._every(*(vary_alike(args) if self._alike else args))


def afresh(*arrays: Array) -> tuple[Array, ...]:
    """The same numbers, which XLA takes for others: what follows is computed and not stored.

    Of what a value and its gradient have in common, XLA may compute an expensive part in a kernel
    of its own and store it, as large as the inputs, where both could be one kernel that reads the
    inputs and writes the gradient. A rule's `bwd` that begins with its inputs afresh has nothing
    expensive in common with its `fwd`. On a CPU, where computing twice costs more than storing,
    nothing changes.
    """
    one: Any = jax.lax.platform_dependent(
        cpu=lambda: jnp.ones(()), default=lambda: jax.lax.optimization_barrier(jnp.ones(()))
    )
    return tuple(array * one.astype(array.dtype) for array in arrays)


def apart(*numbers: ArrayLike, dtype: DTypeLike) -> list[Array]:
    """Scalars for a `bwd` that XLA does not take for those of the value.

    XLA's CPU backend fuses all that a sum adds into the sum, except what the gradient shares: were
    it but a 0, it is written to memory, as large as the losses.
    """
    return jax.lax.optimization_barrier([jnp.asarray(number, dtype) for number in numbers])


def vary_alike(tree: T, others: Any = (), *, over: Any = (), within: Any = ()) -> T:
    """The tree, whose arrays vary over the same mesh axes, as any operator makes them in shard_map.

    A replicated option beside sharded data would get a cotangent that varies, which JAX refuses of
    a `custom_vjp`; the transpose of this cast is the psum that is due.

    Args:
        tree: arrays, and anything else, which stays as it is.
        others: arrays whose axes count too.
        over: names of axes to vary over as well.
        within: names of axes not to vary over, but where an array does already.
    """
    arrays = [leaf for leaf in jax.tree.leaves((tree, others)) if isinstance(leaf, jax.Array)]
    present = (varying_axes(jax.typeof(array)) for array in arrays)
    axes = frozenset[Any](over).union(*present) - frozenset(within)

    def cast(leaf: Any) -> Any:
        missing = axes - varying_axes(jax.typeof(leaf)) if isinstance(leaf, jax.Array) else ()
        return vary(leaf, tuple(missing)) if missing else leaf

    return jax.tree.map(cast, tree)


def _pushforward(function: Callable[..., Any], loops: bool, *args: Any) -> tuple[Any, Any]:
    *static, primals, tangents = args
    leaves, structure = jax.tree.flatten(primals)
    active, directions, whole = _active(tangents)

    def restricted(*values: Any) -> Any:
        return function(*jax.tree.unflatten(structure, _replaced(leaves, active, values)), *static)

    output, pullback = jax.vjp(restricted, *(leaves[n] for n in active))
    return output, transposed(pullback, output, directions, whole=whole, loops=loops)


def _pushforward_beside(
    beside: Callable[..., Any], bwd: Callable[..., Any], loops: bool, *args: Any
) -> tuple[Any, Any]:
    *static, (output, residuals, *primals), (_, _, *tangents) = args
    active, directions, whole = _active(tangents)

    def zeros_for_none(gradient: Any, primal: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, primal) if gradient is None else gradient

    def restricted(residuals: Any, cotangent: Any) -> tuple[Any, ...]:
        gradients = tuple(bwd(*static, residuals, cotangent))
        whole = jax.tree.map(zeros_for_none, gradients, tuple(primals), is_leaf=lambda g: g is None)
        leaves = jax.tree.leaves(whole)
        return tuple(leaves[n] for n in active)

    pullback = jax.tree_util.Partial(restricted, residuals)
    # The output again as a value with this rule: what takes the derivative of this one meets it.
    output = beside(output, residuals, *primals, *static)
    return output, transposed(pullback, output, directions, whole=whole, loops=loops)


def _active(tangents: Any) -> tuple[list[int], list[Any], bool]:
    """The places of those leaves along which there is a derivative, and their tangents.

    Integer inputs and inputs that nobody differentiates arrive as symbolic zeros. They stay out of
    the transpose, so nothing is stored or computed on their behalf. The last says whether all
    floating leaves are among them.
    """
    leaves = jax.tree.leaves(tangents)
    places = [n for n, tangent in enumerate(leaves) if type(tangent) is not SymbolicZero]
    others: list[Any] = [leaf.aval for leaf in leaves if type(leaf) is SymbolicZero]
    whole = not any(jnp.issubdtype(other.dtype, jnp.inexact) for other in others)
    return places, [leaves[n] for n in places], whole


def _replaced(items: Sequence[Any], places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    changed = list(items)
    for place, value in zip(places, values, strict=True):
        changed[place] = value
    return changed
