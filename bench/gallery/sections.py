"""One-dimensional sections of losses: each gives a loss its inputs, made of one number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

import jaxloss

Loss = Callable[..., Array]


def vector(*parts: Any) -> Array:
    return jnp.stack([jnp.asarray(part, jnp.float32) for part in parts])


def at_angle(angle: Any) -> Array:
    return vector(jnp.cos(angle), jnp.sin(angle))


def of_error(loss: Loss, x: Array, **options: float) -> Array:
    return loss(x, jnp.zeros_like(x), **options)


def of_target(loss: Loss, x: Array, target: float, **options: float) -> Array:
    return loss(x, jnp.full_like(x, target), **options)


def of_variance(loss: Loss, x: Array, error: float) -> Array:
    return loss(jnp.full_like(x, error), jnp.zeros_like(x), x)


def of_sign(loss: Loss, x: Array, sign: int) -> Array:
    return loss(x, jnp.asarray(sign))


def of_two_scores(loss: Loss, x: Array, sign: int, margin: float) -> Array:
    return loss(x, jnp.zeros_like(x), jnp.asarray(sign), margin=margin)


def of_two_labels(loss: Loss, x: Array, target: float) -> Array:
    """Of the logit of one of two classes that are both targets or not."""
    return loss(vector(x, 0), vector(target, 0))


def of_label(loss: Loss, x: Array, **options: float) -> Array:
    """Of the label's score among three, the others being 0."""
    return loss(vector(x, 0, 0), jnp.array(0), **options)


def of_label_below_one(loss: Loss, x: Array, **options: float) -> Array:
    """Of the label's score among three, the others being 0 and 1."""
    return loss(vector(x, 0, 1), jnp.array(0), **options)


def of_target_below_one(loss: Loss, x: Array) -> Array:
    """The same, for a list of labels."""
    return loss(vector(x, 0, 1), jnp.array([0]))


def of_hidden(loss: Loss, x: Array, **options: float) -> Array:
    """Of a hidden number, which is the label's logit; those of two others are 0."""
    return loss(vector(x), jnp.eye(1, 3), jnp.array(0), **options)


def of_cluster(loss: Loss, x: Array, label: int) -> Array:
    """Of a hidden number, which adds to the scores of classes 0, in the head, and 2, in a tail."""
    head, tail = jnp.array([[1.0, 0.0, -1.0]]), (jnp.ones((1, 1)), jnp.array([[1.0, 0.0]]))
    parameters = jaxloss.AdaptiveSoftmax(head, (tail,))
    return loss(vector(x)[None], parameters, jnp.array([label]))[0]


def of_two_classes(loss: Loss, x: Array, target: float) -> Array:
    """Of the predicted probability of the first of two classes."""
    return loss(jnp.log(vector(x, 1 - x)), vector(target, 1 - target))


def of_mass(loss: Loss, x: Array, target: float) -> Array:
    return loss(jnp.log(vector(x)), vector(target))


def of_angle(loss: Loss, x: Array) -> Array:
    return loss(at_angle(x), at_angle(0.0))


def of_angle_and_sign(loss: Loss, x: Array, sign: int, margin: float) -> Array:
    return loss(at_angle(x), at_angle(0.0), jnp.asarray(sign), margin=margin)


def of_negative(loss: Loss, x: Array, margin: float) -> Array:
    """Of the distance to the negative; that to the positive is 1."""
    return loss(vector(0), vector(1), vector(x), margin=margin)


def of_query(loss: Loss, x: Array, **options: float) -> Array:
    """Of the angle between a query and its key; the other key is at a right angle to that one."""
    keys = jnp.eye(2)
    return loss(jnp.stack([at_angle(x), keys[1]]), keys, **options)[0]


def of_example(loss: Loss, x: Array, **options: float) -> Array:
    """Of the angle of an example to another of its label.

    A third of that label is half a radian further, and one of another label is opposite.
    """
    embeddings = jnp.stack([at_angle(angle) for angle in (x, 0.0, 0.5, math.pi)])
    return loss(embeddings, jnp.array([0, 0, 0, 1]), **options)[0]


def of_mask(loss: Loss, x: Array, **options: float) -> Array:
    """Of the probability given to an object's two pixels; two others have one of 0.2."""
    return loss(vector(x, x, 0.2, 0.2), vector(1, 1, 0, 0), axes=(0,), **options)


def of_frames(loss: Loss, x: Array, labels: int) -> Array:
    """Of the logit in four frames of a label that comes once or more; the blank's logit is 0."""
    frames = jnp.stack([jnp.zeros(4), jnp.broadcast_to(x, 4)], axis=-1)
    return loss(frames, jnp.ones(labels, jnp.int32))
