"""Every option of the losses of vectors and of images' masks, live: value and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch.nn.functional as F  # noqa: N812

import jaxloss
from tests.parity.agreement import Case, agree, every, in_a_row, over, reduced

VECTORS = [(1, 3), (6, 5)]


def spread(rng, shape):
    """Coordinates of either sign, none of them near 0."""
    return rng.uniform(0.3, 2, shape) * rng.choice([-1, 1], shape)


def vectors(rng, shape):
    return spread(rng, (2, *shape))


def signed_vectors(rng, shape):
    return *spread(rng, (2, *shape)), rng.choice([-1.0, 1.0], shape[:-1])


def triplets(rng, shape):
    return rng.normal(size=(3, *shape))


def squared_distance(first, second):
    return ((first - second) ** 2).sum(-1)


TORCH = {
    "cosine_similarity": Case(
        {
            f"axis {axis}": (
                functools.partial(jaxloss.cosine_similarity, axis=axis),
                functools.partial(F.cosine_similarity, dim=axis),
            )
            for axis in (0, -1)
        },
        vectors,
        [(6, 5), (2, 3, 4)],
        wrt=(0, 1),
    ),
    "cosine_embedding": Case(
        reduced(jaxloss.cosine_embedding, F.cosine_embedding_loss, every(margin=[-0.5, 0.0, 0.5])),
        signed_vectors,
        VECTORS,
        wrt=(0, 1),
    ),
    # PyTorch adds eps to every difference, 1e-6 unless told.
    "triplet_margin": Case(
        reduced(
            jaxloss.triplet_margin,
            functools.partial(F.triplet_margin_loss, eps=0),
            every(p=[1.0, 2.0, 3.0, float("inf")], swap=[False, True], margin=[0.5]),
        )
        | reduced(
            jaxloss.triplet_margin,
            functools.partial(F.triplet_margin_loss, eps=0),
            every(margin=[2.0]),
        ),
        triplets,
        VECTORS,
        wrt=(0, 1, 2),
    ),
    "triplet_margin with a distance": Case(
        reduced(
            functools.partial(jaxloss.triplet_margin, distance=squared_distance),
            functools.partial(
                F.triplet_margin_with_distance_loss, distance_function=squared_distance
            ),
            every(margin=[0.5, 2.0], swap=[False, True]),
        ),
        triplets,
        VECTORS,
        wrt=(0, 1, 2),
    ),
}


def masked_vectors(rng, shape):
    """Two vectors, and which of their coordinates count."""
    where = rng.uniform(size=shape) < 0.6
    where[..., 0] = where[0] = True
    return *vectors(rng, shape), where


def cosines(ours, theirs):
    """Any axis, and coordinates left out."""
    pairs = {
        f"{theirs.__name__}, axis {axis}": (
            lambda a, b, where, axis=axis: ours(a, b, axis=axis),
            lambda a, b, where, axis=axis: theirs(a, b, axis=axis),
        )
        for axis in (0, -1)
    }
    pairs[f"{theirs.__name__}, where"] = (
        lambda a, b, where: ours(jnp.where(where, a, 0), jnp.where(where, b, 0)),
        lambda a, b, where: theirs(a, b, where=where),
    )
    return pairs


def embedded(rng, shape):
    """Embeddings in groups of several sizes, one of them alone, and temperatures."""
    labels = rng.permutation(np.array([0, 0, 1, 1, 1, 2, 7, 7])[: shape[0]])
    return spread(rng, shape), labels, np.array([0.2, 0.5, 1.0])


def mean_over_pairs(embeddings, labels, temperature):
    """Optax's mean: examples weighted by the number of their positives."""
    positives = jnp.sum(labels[:, None] == labels, 1) - 1
    return jaxloss.mean(jaxloss.weighted(jaxloss.nt_xent))(
        embeddings, labels, temperature=temperature, weights=positives
    )


def at_every_temperature(loss):
    return lambda embeddings, labels, temperatures: jax.vmap(
        lambda temperature: loss(embeddings, labels, temperature)
    )(temperatures)


def images(rng, shape):
    """Logits of classes, masks, class weights, and the three numbers alpha, beta and smooth."""
    masks = np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
    weights = rng.uniform(0.3, 2, shape[-1])
    return rng.normal(size=shape) * 2, masks, weights, rng.uniform(0.2, 1.5, 3)


def of_dice(axes, weighted, ignore_background):
    """Optax applies the softmax, weighs the classes and reduces them; at one half it is `dice`."""

    def ours(logits, masks, class_weights, options):
        alpha, beta, smooth = options
        losses = jaxloss.tversky(
            jax.nn.softmax(logits),
            masks,
            axes=axes or (1, 2),
            alpha=alpha,
            beta=beta,
            smooth=smooth,
        )
        losses = losses * class_weights if weighted else losses
        losses = losses[..., 1:] if ignore_background else losses
        return jnp.concatenate([losses.ravel(), losses.sum(-1).ravel(), losses.mean(-1).ravel()])

    def theirs(logits, masks, class_weights, options, reduction):
        alpha, beta, smooth = options
        return optax.losses.dice_loss(
            logits,
            masks,
            class_weights=class_weights if weighted else None,
            smooth=smooth,
            alpha=alpha,
            beta=beta,
            reduction=reduction,
            ignore_background=ignore_background,
            axis=axes,
        )

    reductions = ("none", "sum", "mean")
    return {
        f"axes {axes}, weighted {weighted}, ignore_background {ignore_background}": (
            ours,
            in_a_row(functools.partial(theirs, reduction=reduction) for reduction in reductions),
        )
    }


def generalized_dice(logits, masks, class_weights, options):
    """Classes weighted by the inverse square of their frequency."""
    frequencies = masks.sum((0, 1, 2))
    weights = jnp.broadcast_to(1 / (frequencies**2 + 1e-7), (len(masks), len(frequencies)))
    return jaxloss.mean(jaxloss.weighted(jaxloss.dice))(
        jax.nn.softmax(logits), masks, axes=(1, 2), smooth=options[2], weights=weights
    )


DICE = functools.reduce(
    dict.__or__,
    [
        of_dice(**choice)
        for choice in every(
            axes=[None, (0, 1, 2)], weighted=[False, True], ignore_background=[False, True]
        )
    ],
) | {
    "one half": (
        lambda z, t, w, options: jaxloss.dice(
            jax.nn.softmax(z), t, axes=(1, 2), smooth=options[2]
        ).mean(-1),
        lambda z, t, w, options: optax.losses.dice_loss(z, t, smooth=options[2]),
    ),
    "two classes": (
        lambda z, t, w, options: jaxloss.dice(
            jax.nn.sigmoid(z[..., 0]), t[..., 0], axes=(1, 2), smooth=options[2]
        ),
        lambda z, t, w, options: optax.losses.binary_dice_loss(
            z[..., 0], t[..., 0], smooth=options[2]
        ),
    ),
    "generalized": (
        generalized_dice,
        lambda z, t, w, options: optax.losses.multiclass_generalized_dice_loss(
            z, t, smooth=options[2]
        ),
    ),
}

OPTAX = {
    "cosine": Case(
        cosines(jaxloss.cosine_similarity, optax.cosine_similarity)
        | cosines(jaxloss.cosine_distance, optax.cosine_distance),
        masked_vectors,
        [(6, 5), (2, 3, 4)],
        wrt=(0, 1),
        peer="optax",
    ),
    # Even degrees: Optax's norm takes powers of signed differences.
    "triplet_margin": Case(
        {
            f"p {p}, margin {margin}, axis {axis}": (
                functools.partial(jaxloss.triplet_margin, p=p, margin=margin, axis=axis),
                functools.partial(
                    optax.losses.triplet_margin_loss,
                    norm_degree=p,
                    margin=margin,
                    axis=axis,
                    eps=0.0,
                ),
            )
            for p in (2, 4)
            for margin in (0.5, 2.0)
            for axis in (0, -1)
        },
        triplets,
        [(6, 5)],
        wrt=(0, 1, 2),
        peer="optax",
    ),
    "nt_xent": Case(
        {"": (at_every_temperature(mean_over_pairs), at_every_temperature(optax.ntxent))},
        embedded,
        [(8, 3), (3, 5)],
        wrt=(0, 2),
        peer="optax",
    ),
    "dice": Case(DICE, images, [(2, 3, 4, 3)], wrt=(0, 1, 2, 3), peer="optax"),
}


@over(TORCH)
def test_torch(case, dtype, seed):
    agree(case, dtype, seed)


@over(OPTAX)
def test_optax(case, dtype, seed):
    agree(case, dtype, seed)
