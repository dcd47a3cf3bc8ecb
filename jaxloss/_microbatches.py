"""Batches in steps: the mean, and its gradient, of a batch that does not fit at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss import _check
from jaxloss._call import evaluate
from jaxloss._combined import (
    Call,
    Combined,
    Loss,
    Reduction,
    compares,
    keywords,
    name_of,
    shared_positions,
)
from jaxloss._weighted import Pair, Weighted, quotient


def microbatched(loss: Loss, steps: int) -> Loss:
    """A loss that goes through its batch in steps, one after the other.

    The sums of the steps are pooled, so that a mean of it is the mean of the whole batch, whatever
    each step weighs. Every step is computed again for its gradient: what is kept at a time are the
    intermediates of one, beside a copy of the batch, and the work grows by a forward pass
    (`accumulated_value_and_grad` does without). Step k takes every `steps`-th example from k on,
    so that a batch that is sharded over its first axis stays where it is.

    Args:
        loss: a loss, combined or not, which may contain the model:
            `lambda inputs, labels: jaxloss.cross_entropy(model(inputs), labels)`.
        steps: how many, at least 1; it must divide the length of the batch.

    Returns:
        A loss whose values are the sums of the batch, a `Weighted`. The positional arguments, and
        the keywords that combinators take, have the batch as their first axis; options are given
        to each step as they are. (Lengths for `ctc` go by position, into a function of yours.)

    Raises:
        TypeError: `steps` is not an integer, or the loss compares the examples of a batch.
        ValueError: `steps` is less than 1. It does not divide the batch, the inputs differ in
            length, or the loss does not keep a value for each example; raised by the call.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.mean(jaxloss.microbatched(jaxloss.masked(jaxloss.squared_error), 2))
        >>> where = jnp.array([True, False, True, True])
        >>> loss(jnp.array([1.0, 9.0, 1.0, 4.0]), jnp.zeros(4), where=where)
        Array(6., dtype=float32)
    """
    steps = _steps("microbatched", steps)
    if compares(loss):
        raise TypeError(
            f"microbatched: {name_of(loss)} compares the examples of a batch with each other, and "
            f"would compare those of a step only."
        )
    of_examples, shared = keywords(loss), shared_positions(loss)

    def pool(call: Call) -> Pair:
        whole = {name: value for name, value in call.options.items() if name not in of_examples}
        split = {name: value for name, value in call.options.items() if name in of_examples}
        masks, weights = ([keyword for keyword, _ in pairs] for pairs in (call.masks, call.weights))
        places = [place for place in range(len(call.arrays)) if place not in shared]
        batch = (
            [call.arrays[place] for place in places],
            split,
            [array for _, array in call.masks],
            [array for _, array in call.weights],
        )
        batch = _in_steps(call.function, steps, batch)
        examples = jax.tree.leaves(batch)[0].shape[1]

        def total(batch: Any) -> Pair:
            parts, options, wheres, factors = batch
            arrays = dict(enumerate(call.arrays)) | dict(zip(places, parts, strict=True))
            step = call._replace(
                arrays=tuple(arrays.values()),
                options=whole | options,
                masks=tuple(zip(masks, wheres, strict=True)),
                weights=tuple(zip(weights, factors, strict=True)),
                examples=examples,
                reduction=Reduction("total"),
            )
            return evaluate(loss, step).total()

        # Inside a loop XLA cannot merge the second computation with the first: no barrier is due.
        return jax.lax.map(jax.checkpoint(total, prevent_cse=False), batch).over_steps()

    return Combined("microbatched", pool, loss)


def accumulated_value_and_grad(
    function: Callable[..., Weighted], steps: int
) -> Callable[..., tuple[Array, Any]]:
    r"""The mean of a batch and its gradient with respect to the parameters, step by step.

    With $L = \sum_n w_n \ell_n$ and $W = \sum_n w_n$, and $G_L, G_W$ their gradients, each summed
    over the steps in float32 or wider,

    $$\frac{L}{W}, \qquad \frac{1}{W}\Big(G_L - \frac{L}{W}\, G_W\Big)$$

    are exactly those of the whole batch, whatever each step weighs and whether the weights are
    learned. No step is computed twice, but for the gradient of learned weights; the intermediates
    of one, and the gradients, are what is kept. When nothing was weighed both are 0.

    Args:
        function: `function(parameters, *batch)`, which gives a `Weighted`, as `pooled` does.
        steps: how many, at least 1; it must divide the length of the batch.

    Returns:
        A function of the same arguments: the parameters, a pytree of floating arrays, and any
        others, by position or keyword, each an array or a pytree of arrays with the batch as its
        first axis. It gives the mean and, in the parameters' dtypes, its gradient.

    Raises:
        TypeError: `steps` is not an integer. `function` does not give a `Weighted`; raised by the
            call.
        ValueError: `steps` is less than 1. It does not divide the batch, or the inputs differ in
            length; raised by the call.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> def losses(slope, x, y):
        ...     return jaxloss.pooled(jaxloss.squared_error)(slope * x, y)
        >>> step = jaxloss.accumulated_value_and_grad(losses, steps=2)
        >>> step(jnp.array(1.0), jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
        (Array(4., dtype=float32), Array(-6., dtype=float32))
    """
    name = "accumulated_value_and_grad"
    steps = _steps(name, steps)

    def value_and_grad(parameters: Any, *arrays: Any, **named: Any) -> tuple[Array, Any]:
        def total(parameters: Any, batch: Any) -> Weighted:
            arrays, named = batch
            pair = function(parameters, *arrays, **named)
            if not isinstance(pair, Weighted):
                came = _check.describe(pair) if hasattr(pair, "dtype") else type(pair).__name__
                raise TypeError(
                    f"{name}: {name_of(function)} must give the Weighted of one loss, got {came}; "
                    f"return jaxloss.pooled(loss)(...), not its mean, and "
                    f"of a weighted_sum differentiate the mean of it microbatched."
                )
            return pair.total()

        # Sums over the batch may not be had in half precision: each step adds to their quotient by
        # its number of examples.
        def losses(parameters: Any, batch: Any) -> tuple[Array, Weighted]:
            pair = total(parameters, batch)
            return pair.losses / length, pair

        def weights(parameters: Any, batch: Any) -> Array:
            # By itself: where weights are not learned, what leads to the losses falls away.
            return total(parameters, batch).weights / length

        def step(sums: Any, batch: Any) -> tuple[Any, Weighted]:
            of_losses, pair = jax.grad(losses, has_aux=True)(parameters, batch)
            gradients = of_losses, jax.grad(weights)(parameters, batch)
            return jax.tree.map(lambda s, g: s + g.astype(s.dtype), sums, gradients), pair

        parameters = jax.tree.map(jnp.asarray, parameters)
        batch = _in_steps(name, steps, (arrays, named))
        length = max(jax.tree.leaves(batch)[0].shape[1] * steps, 1)
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, _check.wide(p)), parameters)
        (of_losses, of_weights), pairs = jax.lax.scan(step, (zeros, zeros), batch)
        pair = pairs.total()
        mean = pair.mean()

        def finish(parameter: Array, of_losses: Array, of_weights: Array) -> Array:
            rest = of_losses - mean.astype(of_weights.dtype) * of_weights
            return quotient(rest, (pair.weights / length).astype(rest.dtype)).astype(
                parameter.dtype
            )

        return mean, jax.tree.map(finish, parameters, of_losses, of_weights)

    return value_and_grad


def _steps(function: str, steps: int) -> int:
    steps = _check.integer(function, "steps", steps)
    if steps < 1:
        raise ValueError(f"{function}: steps must be at least 1, got {steps}.")
    return steps


def _in_steps(function: str, steps: int, batch: Any) -> Any:
    """Every array of (batch, ...) as one of (steps, batch / steps, ...)."""
    batch = jax.tree.map(lambda array: _check.exact_array(function, array), batch)
    shapes = [array.shape for array in jax.tree.leaves(batch)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            f"{function}: all inputs must have the batch as their first axis, got the shapes "
            f"{', '.join(map(str, shapes)) or 'of no array'}; let the function close over what is "
            f"not of the batch."
        )
    [length] = lengths
    if length % steps:
        raise ValueError(
            f"{function}: steps must divide the batch, got {steps} steps for {length} examples; "
            f"pad the batch to {math.ceil(length / steps) * steps} and mask what was added."
        )
    # Adjacent examples go to different steps: a device that holds some has a part in every step.
    return jax.tree.map(
        lambda array: array.reshape(length // steps, steps, *array.shape[1:]).swapaxes(0, 1), batch
    )
