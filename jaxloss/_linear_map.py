"""Linear maps that carry their transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive, Var
from jax.interpreters import ad, batching, mlir

# A linear map that is transposed as a whole, where JAX transposes a function operation by operation
# and stores whatever those multiply by: x -> A(r) x, with residuals r, is a primitive of two
# functions, each the transpose of the other, of which JAX traces the one that is used.


class _Map(NamedTuple):
    """A function of residuals and inputs, and the types of its results.

    They are None once it is mapped over a batch: then it is traced to find them.
    """

    function: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
    types: tuple[Any, ...] | None


def transposed(
    pullback: Callable[..., Any],
    output: Any,
    directions: Sequence[Any],
    *,
    whole: bool,
    loops: bool,
) -> Any:
    """A pullback's transpose along the directions; the transpose of that is the pullback itself.

    `output`, an array or a pytree of arrays, is what the pullback is of. `whole` says whether the
    pullback gives all cotangents that it can, and so needs all its residuals; `loops` whether it
    has a loop, which JAX 0.7 transposes only once it is linearized.
    """
    leaves, tree = jax.tree.flatten(pullback)
    outputs, structure = jax.tree.flatten(output)
    types = tuple(map(jax.typeof, outputs))
    # At some outputs of the right type: what is linear has one derivative everywhere.
    points = [jnp.zeros_like(array) for array in outputs] if loops else []
    count = len(points)

    def of_leaves(leaves: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        # Constants are NumPy's to JAX, and would be so to the pullback.
        arrays = [x if isinstance(x, Array) else jnp.asarray(x) for x in leaves]
        of_outputs = jax.tree.unflatten(structure, cotangents)
        return tuple(jax.tree.unflatten(tree, arrays)(of_outputs))

    needed = list(range(len(leaves)))
    unneeded: dict[int, Any] = {}
    if not (whole or loops):
        needed = _needed(of_leaves, leaves, types)
        unneeded = {n: jax.typeof(leaves[n]) for n in set(range(len(leaves))).difference(needed)}
    size = len(leaves)

    def backward(residuals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        arrays: dict[int, Any] = dict(zip(needed, residuals[count:], strict=True))
        for n, type_ in unneeded.items():
            arrays[n] = _zeros(type_)
        return of_leaves([arrays[n] for n in range(size)], cotangents)

    def forward(residuals: Sequence[Any], directions: Sequence[Any]) -> tuple[Any, ...]:
        def pulled_back(cotangents: list[Any]) -> tuple[Any, ...]:
            return backward(residuals, cotangents)

        if loops:
            _, transpose = jax.vjp(pulled_back, list(residuals[:count]))
        else:
            transpose = jax.linear_transpose(pulled_back, list(types))
        return tuple(transpose(tuple(directions))[0])

    along = _apply(
        [*points, *(leaves[n] for n in needed)],
        directions,
        _Map(forward, types),
        _Map(backward, tuple(map(jax.typeof, directions))),
    )
    return jax.tree.unflatten(structure, along)


def _zeros(array_type: Any) -> Array:
    zeros, axes = jnp.zeros(array_type.shape, array_type.dtype), varying_axes(array_type)
    return vary(zeros, tuple(axes)) if axes else zeros


def _needed(function: Callable[..., Any], leaves: Sequence[Any], types: Sequence[Any]) -> list[int]:
    """The places of those leaves on which the function's results depend."""
    jaxpr = jax.make_jaxpr(function)([jax.typeof(leaf) for leaf in leaves], list(types)).jaxpr
    live = {variable for variable in jaxpr.outvars if isinstance(variable, Var)}
    for equation in reversed(jaxpr.eqns):
        if not live.isdisjoint(equation.outvars):
            live.update(variable for variable in equation.invars if isinstance(variable, Var))
    return [n for n, variable in enumerate(jaxpr.invars[: len(leaves)]) if variable in live]


def _apply(
    residuals: Sequence[Any], inputs: Sequence[Any], forward: _Map, backward: _Map
) -> list[Any]:
    maps = {"forward": forward, "backward": backward, "stored": len(residuals)}
    return list(_linear_map.bind(*residuals, *inputs, **maps))


def _evaluate(*args: Any, forward: _Map, backward: _Map, stored: int) -> Sequence[Any]:
    return forward.function(args[:stored], args[stored:])


def _type(*types: Any, **maps: Any) -> Sequence[Any]:
    known: Sequence[Any] | None = maps["forward"].types
    if known is not None:
        return known
    return jax.make_jaxpr(lambda *args: _evaluate(*args, **maps))(*types).out_avals


def _transpose(
    cotangents: Sequence[Any], *args: Any, forward: _Map, backward: _Map, stored: int
) -> list[Any]:
    outputs = _apply(
        args[:stored], [ad.instantiate_zeros(ct) for ct in cotangents], backward, forward
    )
    inputs = zip(args[stored:], outputs, strict=True)
    return [None] * stored + [output if ad.is_undefined_primal(x) else None for x, output in inputs]


# d [A(r) x] = A(r) dx + d[A(r)] x; in the second term x is a constant, and JAX differentiates
# through `forward`.


def _pushforward(
    primals: Sequence[Any], tangents: Sequence[Any], *, stored: int, forward: _Map, backward: _Map
) -> tuple[Sequence[Any], Sequence[Any]]:
    residuals, inputs = primals[:stored], primals[stored:]
    outputs = _apply(residuals, inputs, forward, backward)
    along = [n for n, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]
    terms = []
    if any(n >= stored for n in along):
        directions = [ad.instantiate_zeros(tangent) for tangent in tangents[stored:]]
        terms.append(_apply(residuals, directions, forward, backward))
    changing = [n for n in along if n < stored]
    if changing:

        def of_changing(*values: Any) -> Sequence[Any]:
            every = list(residuals)
            for n, value in zip(changing, values, strict=True):
                every[n] = value
            return forward.function(every, inputs)

        _, change = jax.jvp(
            of_changing,
            tuple(residuals[n] for n in changing),
            tuple(tangents[n] for n in changing),
        )
        terms.append(change)
    return outputs, [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)]


def _batch(
    args: Sequence[Any],
    axes: Sequence[int | None],
    *,
    forward: _Map,
    backward: _Map,
    stored: int,
) -> tuple[Sequence[Any], Sequence[int]]:
    # Each input gets the axis, that its cotangent may have it too.
    inputs = jax.vmap(lambda *every: every[stored:], tuple(axes))(*args)
    over = (list(axes[:stored]), 0)

    def mapped(one: _Map) -> _Map:
        return _Map(
            lambda residuals, inputs: jax.vmap(one.function, over)(list(residuals), list(inputs)),
            None,
        )

    outputs = _apply(args[:stored], inputs, mapped(forward), mapped(backward))
    return outputs, [0] * len(outputs)


_linear_map = Primitive("linear_map")
_linear_map.multiple_results = True
_linear_map.def_impl(_evaluate)
_linear_map.def_abstract_eval(_type)
mlir.register_lowering(_linear_map, mlir.lower_fun(_evaluate, multiple_results=True))
ad.primitive_jvps[_linear_map] = _pushforward
ad.primitive_transposes[_linear_map] = _transpose
batching.primitive_batchers[_linear_map] = _batch


def varying_axes(array_type: Any) -> frozenset[Any]:
    """The mesh axes over which an array of this type varies in `shard_map`."""
    # JAX 0.10 moved what was `vma`.
    return array_type.vma if hasattr(array_type, "vma") else array_type.manual_axis_type.varying


def vary(array: jax.Array, axes: tuple[Any, ...]) -> jax.Array:
    """The array, which varies over these axes too."""
    # JAX 0.8.2 renamed what was `pvary`.
    return (
        jax.lax.pcast(array, axes, to="varying")
        if hasattr(jax.lax, "pcast")
        else jax.lax.pvary(array, axes)  # type: ignore[attr-defined]
    )
