"""Linear maps that carry their transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# JAX transposes a linear function operation by operation: it traces the function and its transpose,
# and to transpose that again traces both once more; and it stores whatever those operations
# multiply by. This one is transposed as a whole: x -> A(r) x, with residuals r that it stores and
# no more, is a primitive of two functions, each the transpose of the other, which are traced as
# they are used.


class _Map(NamedTuple):
    """A function of residuals and inputs, and the types of its results where they are known."""

    function: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
    results: tuple[Any, ...] | None = None


def transposed(
    pullback: Callable[..., Any], output: Any, directions: Sequence[Any], *, loops: bool
) -> Any:
    """A pullback's transpose along the directions; the transpose of that is the pullback itself.

    `output`, an array or a pytree of arrays, is what the pullback is of; `loops` says whether the
    pullback has a loop.
    """
    leaves, tree = jax.tree.flatten(pullback)
    outputs, results = jax.tree.flatten(output)
    types = tuple(jax.typeof(array) for array in outputs)
    # JAX 0.7 transposes loops only after it has linearized them, at some outputs of the right type.
    # Any would do: what is linear has one derivative everywhere.
    points = [jnp.zeros_like(array) for array in outputs] if loops else []

    def backward(residuals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        # Constants are NumPy's to JAX, and would be so to the pullback.
        stored = residuals[len(points) :]
        arrays = [x if isinstance(x, Array) else jnp.asarray(x) for x in stored]
        of_outputs = jax.tree.unflatten(results, cotangents)
        return tuple(jax.tree.unflatten(tree, arrays)(of_outputs))

    def forward(residuals: Sequence[Any], directions: Sequence[Any]) -> tuple[Any, ...]:
        def pulled_back(cotangents: list[Any]) -> tuple[Any, ...]:
            return backward(residuals, cotangents)

        if loops:
            _, transpose = jax.vjp(pulled_back, list(residuals[: len(points)]))
        else:
            transpose = jax.linear_transpose(pulled_back, list(types))
        return tuple(transpose(tuple(directions))[0])

    back = _Map(backward, tuple(jax.typeof(direction) for direction in directions))
    along = _apply([*points, *leaves], directions, _Map(forward, types), back)
    return jax.tree.unflatten(results, along)


def _apply(
    residuals: Sequence[Any], inputs: Sequence[Any], forward: _Map, backward: _Map
) -> list[Any]:
    maps = {"forward": forward, "backward": backward, "stored": len(residuals)}
    return list(_linear_map.bind(*residuals, *inputs, **maps))


def _evaluate(*args: Any, forward: _Map, backward: _Map, stored: int) -> Sequence[Any]:
    return forward.function(args[:stored], args[stored:])


def _type(*types: Any, **maps: Any) -> Sequence[Any]:
    known: Sequence[Any] | None = maps["forward"].results
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
    [size] = {arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None}
    # Each input has the axis, that its cotangent may have it too.
    inputs = [
        batching.bdim_at_front(x, axis, size)
        for x, axis in zip(args[stored:], axes[stored:], strict=True)
    ]
    over = (list(axes[:stored]), 0)

    def mapped(one: _Map) -> _Map:
        return _Map(
            lambda residuals, inputs: jax.vmap(one.function, over)(list(residuals), list(inputs))
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
