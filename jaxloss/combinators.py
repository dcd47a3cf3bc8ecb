"""Losses in, losses out: weights, masks and reductions as one small algebra.

A loss gives one value per example and never reduces. A combinator takes a loss and gives a loss;
a reduction ends the chain:

    mean(masked(class_weighted(cross_entropy, class_weights)))(logits, labels, where=...)

Any loss will do: one of the library, or any function of arrays that begin with the axes of its
values. A combinator only says what each example weighs, so the order does not matter, and a mean
divides once: that of shards or microbatches is the mean of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss import _check, _options
from jaxloss._call import evaluate
from jaxloss._combined import (
    Call,
    Combined,
    Loss,
    Reduced,
    Reduction,
    compares,
    labels_of,
    name_of,
    refuse_no_loss,
    takes,
)
from jaxloss._weighted import (
    Axis,
    AxisName,
    Components as Components,
    Pair,
    Weighted as Weighted,
)


def weighted(loss: Loss) -> Loss:
    r"""A loss that takes `weights=`, one for each of its values.

    $$w_n \ell_n \quad\text{beside}\quad w_n$$

    `mean(weighted(loss))` divides by the sum of the weights, whatever PyTorch's loss divides by. An
    example of weight 0 is as if it were `masked`: its NaN goes nowhere. Gradient: with respect to
    the weights too, 0 at a weight of exactly 0. To learn weights from 0 up, multiply inside the
    loss: `mean(lambda p, t, w: w * loss(p, t))`.

    Args:
        loss: a loss, combined or not, whose inputs begin with the axes of its values, as for
            `masked`. One that compares examples still compares with those of weight 0.

    Returns:
        A loss that gives a `Weighted`; `weights` are real, of the shape of the losses.

    Raises:
        TypeError: `weights` are missing or not real. Raised by the call.
        ValueError: their shape is not that of the losses. Raised by the call.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.mean(jaxloss.weighted(jaxloss.squared_error))
        >>> loss(jnp.array([1.0, 3.0]), jnp.zeros(2), weights=jnp.array([3.0, 1.0]))
        Array(3., dtype=float32)
    """

    def weigh(call: Call) -> Pair:
        weights, call = call.taking("weights")
        return evaluate(loss, call._replace(weights=(*call.weights, ("weights", weights))))

    return Combined("weighted", weigh, loss, keyword="weights")


def masked(loss: Loss) -> Loss:
    r"""A loss that takes `where=`, and is as if the examples where it is False were not there.

    What is masked reaches neither value, gradient nor tangent, NaN and infinities included: inputs
    are replaced by harmless numbers before the loss sees them, and its losses by 0 after. So a loss
    may close over a model, too. Gradient with respect to a masked input: 0.

    Args:
        loss: a loss, combined or not. Its positional arguments are arrays, or pytrees of arrays,
            with the axes of the losses first, or with more where the loss's parameter `axis` or
            `axes` says. What is passed by keyword is an option, which no mask reaches. A loss with
            a parameter `axis_name` compares the examples of a batch with each other and cannot be
            masked.

    Returns:
        A loss that gives a `Weighted`; `where` is boolean, of the shape of the losses.

    Raises:
        TypeError: the loss compares examples. `where` is missing or not boolean; raised by the
            call.
        ValueError: its shape is not that of the losses. Raised by the call.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.mean(jaxloss.masked(jaxloss.squared_error))
        >>> loss(jnp.array([1.0, jnp.nan]), jnp.zeros(2), where=jnp.array([True, False]))
        Array(1., dtype=float32)
    """

    def mask(call: Call) -> Pair:
        where, call = call.taking("where")
        return evaluate(loss, call.masking("where", _check.mask(call.function, where=where)))

    return Combined("masked", mask, _separable("masked", loss), keyword="where")


def ignoring(loss: Loss, index: int) -> Loss:
    """A loss that leaves out the examples of one label, such as -100: PyTorch's `ignore_index`.

    As `masked` where the labels are not `index`: their mean counts the others alone.

    Args:
        loss: a loss as for `masked`, of integer labels as its second argument
            (`linear_cross_entropy` and `adaptive_softmax` take them third).
        index: the label to leave out; it need be no class.

    Returns:
        A loss that gives a `Weighted`.

    Raises:
        TypeError: the loss compares examples, or `index` is not an integer. The labels are not
            integers; raised by the call.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.mean(jaxloss.ignoring(jaxloss.cross_entropy, -100))
        >>> loss(jnp.array([[0.0, 0.0], [jnp.nan, 0.0]]), jnp.array([1, -100]))
        Array(0.6931472, dtype=float32)
    """
    index = _check.integer("ignoring", "index", index)

    def ignore(call: Call) -> Pair:
        labels = _check.class_indices(call.function, labels_of(loss, call))
        # Of a type that cannot hold it, no label is ignored.
        limits = jnp.iinfo(labels.dtype)
        holds = limits.min <= index <= limits.max
        kept = labels != index if holds else jnp.ones(labels.shape, bool)
        return evaluate(loss, call.masking("labels", kept))

    return Combined("ignoring", ignore, _separable("ignoring", loss))


def class_weighted(loss: Loss, class_weights: ArrayLike) -> Loss:
    r"""A loss in which each example weighs what its label's class does.

    $$w_{y_n} \ell_n \quad\text{beside}\quad w_{y_n}$$

    so that its mean is PyTorch's with `weight=`, divided by the summed weights of the examples'
    labels. Where the loss has a parameter `class_weights` of its own, as `cross_entropy` has, it
    weighs smoothed labels and probabilities class by class, again as PyTorch does; of
    probabilities the mean divides by the number of examples.

    Args:
        loss: a loss, combined or not, of labels as its second argument, or third as for `ignoring`.
        class_weights: a weight of at least 0 for each class.

    Returns:
        A loss that gives a `Weighted`.

    Raises:
        TypeError: the weights are not real. The targets are neither labels nor probabilities that
            the loss weighs by itself; raised by the call.
        ValueError: the weights are not finite, of at least 0, and in one dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> loss = jaxloss.mean(jaxloss.class_weighted(jaxloss.nll, jnp.array([1.0, 3.0])))
        >>> loss(-jnp.array([[4.0, 1.0], [1.0, 2.0]]), jnp.array([0, 1]))
        Array(2.5, dtype=float32)
    """
    weights = _options.bounded("class_weighted", "class_weights", class_weights, minimum=0.0)
    if weights.ndim != 1:
        raise ValueError(
            f"class_weighted: class_weights must have the shape (classes,), got {weights.shape}."
        )

    def weigh(call: Call) -> Pair:
        others = 1.0 if call.class_weights is None else call.class_weights
        return evaluate(loss, call._replace(class_weights=others * weights))

    return Combined("class_weighted", weigh, loss)


def scaled(loss: Loss, factor: ArrayLike) -> Loss:
    r"""A loss times a number: $c\, \ell_n$ beside $w_n$, so that the mean is $c$ times the mean.

    Args:
        loss: a loss, combined or not.
        factor: a number; it may be traced, annealed or learned.

    Returns:
        A loss that gives a `Weighted`.

    Raises:
        TypeError: `factor` is not real.
        ValueError: it is not finite, or not a scalar. (A traced one that is not finite gives NaN.)

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.mean(jaxloss.scaled(jaxloss.squared_error, 0.5))(jnp.ones(2), jnp.zeros(2))
        Array(0.5, dtype=float32)
    """
    number = _options.number("scaled", "factor", factor)

    def scale(call: Call) -> Pair:
        others = 1.0 if call.factor is None else call.factor
        return evaluate(loss, call._replace(factor=others * number))

    return Combined("scaled", scale, loss)


def weighted_sum(losses: Mapping[str, Loss], factors: Mapping[str, ArrayLike]) -> Loss:
    r"""Several losses of the same arguments as one objective, $\sum_k c_k L_k$.

    Each is reduced with weights of its own, and a reduction gives the total beside a dictionary of
    the components $L_k$, before their factors, for logging: `jax.value_and_grad` takes that as
    `has_aux=True`.

    Args:
        losses: by name, losses, combined or not. All are given the same positional arguments, and
            each those of the keywords that it takes; a loss that needs other inputs is written
            `lambda outputs, batch: jaxloss.huber(outputs["value"], batch["return"])`.
        factors: a number for each name; it may be traced, annealed or learned. One of 0 does not
            hide a component that is infinite or NaN.

    Returns:
        A loss that gives `Components`; reduced, a pair (total, components).

    Raises:
        TypeError: an argument is no mapping, or a factor not real. No loss takes a keyword; raised
            by the call.
        ValueError: the names differ, there are none, or a factor is not a finite scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> parts = {"l1": jaxloss.absolute_error, "l2": jaxloss.squared_error}
        >>> objective = jaxloss.mean(jaxloss.weighted_sum(parts, {"l1": 1.0, "l2": 0.5}))
        >>> total, components = objective(jnp.array([2.0]), jnp.array([0.0]))
        >>> total, components["l1"], components["l2"]
        (Array(4., dtype=float32), Array(2., dtype=float32), Array(4., dtype=float32))
    """
    _check.same_names("weighted_sum", losses=losses, factors=factors)
    for loss in losses.values():
        refuse_no_loss("weighted_sum", loss)
    numbers = {name: _options.number("weighted_sum", name, factors[name]) for name in losses}

    def evaluate_all(call: Call) -> Pair:
        for keyword in call.options:
            if not any(takes(loss, keyword) for loss in losses.values()):
                raise TypeError(f"{call.function}: none of the losses takes {keyword}=.")
        parts = {}
        for name, loss in losses.items():
            options = {k: value for k, value in call.options.items() if takes(loss, k)}
            parts[name] = evaluate(loss, call._replace(options=options))
        return Components(parts, numbers)

    return Combined("weighted_sum", evaluate_all, *losses.values())


def pooled(loss: Loss, *, axis: Axis = None, axis_name: AxisName = None) -> Callable[..., Any]:
    """The sums of a batch's losses and weights, a `Weighted`, for who finishes the mean later.

    Args:
        loss: a loss, combined or not.
        axis: the axes of the losses to sum; all by default.
        axis_name: mesh or `vmap` axes to sum over too, inside `shard_map`, `pmap` or `vmap`.

    Returns:
        A function of the loss's arguments. Its results pool by `+`, and `.mean()` finishes them;
        so do the `Components` of a `weighted_sum`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.pooled(jaxloss.squared_error)(jnp.array([1.0, 3.0]), jnp.zeros(2))
        Weighted(losses=Array(10., dtype=float32), weights=Array(2., dtype=float32))
    """
    return Reduced("pooled", loss, evaluate, Reduction("total", axis, axis_name))


def mean(loss: Loss, *, axis: Axis = None, axis_name: AxisName = None) -> Callable[..., Any]:
    r"""The mean of a batch's losses: the sum of the weighed losses over the sum of the weights.

    $$\sum_n w_n \ell_n \Big/ \sum_n w_n$$

    Weights are 1 unless the loss is combined with some. Of an empty batch, or when nothing was
    weighed, the mean is 0 with gradient 0.

    Args:
        loss: a loss, combined or not.
        axis: the axes of the losses to average; all by default.
        axis_name: mesh or `vmap` axes to average over too, inside `shard_map`, `pmap` or `vmap`:
            shards may be of unequal weight, their mean is that of the whole. Of a gradient taken
            inside `vmap` or `pmap`, JAX adds up what all members give; take it around them.

    Returns:
        A function of the loss's arguments. Of a `weighted_sum` it gives the total and the means of
        its components.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.mean(jaxloss.squared_error)(jnp.array([1.0, 3.0]), jnp.zeros(2))
        Array(5., dtype=float32)
    """
    return Reduced("mean", loss, evaluate, Reduction("mean", axis, axis_name))


def sum(loss: Loss, *, axis: Axis = None, axis_name: AxisName = None) -> Callable[..., Any]:
    """The sum of a batch's losses, each times its weight.

    Args:
        loss: a loss, combined or not.
        axis: the axes of the losses to sum; all by default.
        axis_name: mesh or `vmap` axes to sum over too, inside `shard_map`, `pmap` or `vmap`.

    Returns:
        A function of the loss's arguments. Of a `weighted_sum` it gives the total and the sums of
        its components.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.sum(jaxloss.squared_error)(jnp.array([1.0, 3.0]), jnp.zeros(2))
        Array(10., dtype=float32)
    """
    return Reduced("sum", loss, evaluate, Reduction("sum", axis, axis_name))


def _separable(name: str, loss: Loss) -> Loss:
    """The loss, of which examples can be left out."""
    if compares(loss):
        raise TypeError(
            f"{name}: {name_of(loss)} compares the examples of a batch with each other, and one "
            f"that is left out would still be compared with; leave it out of the batch."
        )
    return loss
