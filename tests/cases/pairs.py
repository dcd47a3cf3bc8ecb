"""Losses of distributions, of pairs and triplets of vectors, of batches of them, and of masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss
from tests.cases.case import Case, normalized, signs


def distributions(shape=(8, 5), axis=-1, logs=False):
    def sample(rng):
        log_probs, targets = np.log(normalized(rng.normal(size=(2, *shape)), axis % len(shape) + 1))
        return log_probs, targets if logs else np.exp(targets)

    return sample


def relative_entropy(t, p):
    return t * (jnp.log(t) - jnp.log(p))


def kl_divergence(log_probs, targets, log_targets=False, axis=-1):
    targets = jnp.exp(targets) if log_targets else targets
    return jnp.sum(relative_entropy(targets, jnp.exp(log_probs)), axis)


def generalized_kl_divergence(log_probs, targets, log_targets=False, axis=-1):
    targets = jnp.exp(targets) if log_targets else targets
    return kl_divergence(log_probs, targets, False, axis) + jnp.sum(
        jnp.exp(log_probs) - targets, axis
    )


def js_divergence(log_probs, targets, log_targets=False, axis=-1):
    p, t = jnp.exp(log_probs), jnp.exp(targets) if log_targets else targets
    middle = (p + t) / 2
    return jnp.sum(relative_entropy(p, middle) + relative_entropy(t, middle), axis) / 2


def vectors(count, shape=(8, 5), scale=1.0):
    return lambda rng: tuple(scale * rng.normal(size=(count, *shape)))


def vectors_and_signs(rng):
    return *vectors(2)(rng), signs(rng, 8)


def cosine(a, b, axis=-1):
    lengths = jnp.sqrt(jnp.sum(a**2, axis) * jnp.sum(b**2, axis))
    return jnp.sum(a * b, axis) / lengths


def cosine_gradient(a, b, axis=-1):
    length_a, length_b = (np.linalg.norm(x, axis=axis, keepdims=True) for x in (a, b))
    along = np.sum(a * b, axis, keepdims=True) / length_a**2
    return (b - along * a) / (length_a * length_b)


def cosine_embedding(a, b, y, margin=0.0):
    similarity = cosine(a, b)
    return jnp.where(y == 1, 1 - similarity, jnp.maximum(similarity - margin, 0))


def triplet_margin(a, p, n, margin=1.0, degree=2.0, swap=False, axis=-1):
    def between(x, y):
        return jnp.sum(jnp.abs(x - y) ** degree, axis) ** (1 / degree)

    to_negative = jnp.minimum(between(a, n), between(p, n)) if swap else between(a, n)
    return jnp.maximum(between(a, p) - to_negative + margin, 0)


def renamed_degree(anchors, positives, negatives, degree, **options):
    del options  # Its name, p, is that of the positives in the formula.
    return triplet_margin(anchors, positives, negatives, degree=degree)


def manhattan(x, y):
    return jnp.sum(jnp.abs(x - y), -1)


def similarities(a, b, temperature):
    a, b = (x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)) for x in (a, b))
    return a @ b.T / temperature


def info_nce(queries, keys, temperature=0.07):
    scores = similarities(queries, keys, temperature)
    return jax.nn.logsumexp(scores, -1) - jnp.diagonal(scores)


def sigmoid_contrastive(queries, keys, temperature=0.1, bias=-10.0):
    together = 2 * jnp.eye(len(queries)) - 1
    scores = similarities(queries, keys, temperature) + bias
    return jnp.sum(jnp.log1p(jnp.exp(-together * scores)), -1)


def embeddings_and_labels(rng):
    # Two groups, and one alone, who has no positive.
    return vectors(1)(rng)[0], np.array([3, 0, 3, 0, 7, 0, 0, 3], np.int32)


def nt_xent(embeddings, labels, temperature=0.07):
    odds = jnp.exp(similarities(embeddings, embeddings, temperature))
    same = labels[:, None] == labels
    of_negatives = jnp.sum(odds * ~same, -1, keepdims=True)
    return mean_over_positives(jnp.log(1 + of_negatives / odds), same)


def supervised_contrastive(embeddings, labels, temperature=0.07):
    odds = jnp.exp(similarities(embeddings, embeddings, temperature))
    of_others = jnp.sum(odds * (1 - jnp.eye(len(labels))), -1, keepdims=True)
    return mean_over_positives(jnp.log(of_others / odds), labels[:, None] == labels)


def mean_over_positives(losses, same):
    positive = same & ~np.eye(len(same), dtype=bool)
    return jnp.sum(losses * positive, -1) / np.maximum(positive.sum(-1), 1)


def masks(shape):
    return lambda rng: (rng.uniform(0.02, 0.98, shape), rng.uniform(0.02, 0.98, shape))


def tversky(predictions, targets, axes, alpha=0.3, beta=0.7, smooth=1.0):
    overlap = jnp.sum(predictions * targets, axes)
    of_predictions, of_targets = jnp.sum(predictions, axes), jnp.sum(targets, axes)
    whole = overlap + alpha * (of_predictions - overlap) + beta * (of_targets - overlap)
    return 1 - (overlap + smooth) / (whole + smooth)


PAIRS = (
    Case(
        "kl_divergence",
        jaxloss.kl_divergence,
        distributions(),
        kl_divergence,
        lambda log_probs, t: -t,
        linear=True,
        kinks=(
            (([0.0, -np.inf], [1.0, 0.0]), 0.0, [-1.0, 0.0]),
            (([-np.inf, 0.0], [0.5, 0.5]), np.inf, [-0.5, -0.5]),
            (([-1.0, -2.0], [0.0, 0.0]), 0.0, [0.0, 0.0]),
        ),
    ),
    Case(
        "kl_divergence-logs-axis",
        jaxloss.kl_divergence,
        distributions((8, 3, 2), 1, logs=True),
        kl_divergence,
        lambda log_probs, t, log_targets, axis: -np.exp(t),
        {"log_targets": True, "axis": 1},
        linear=True,
        kinks=(),
    ),
    Case(
        "generalized_kl_divergence",
        jaxloss.generalized_kl_divergence,
        distributions(),
        generalized_kl_divergence,
        lambda log_probs, t: np.exp(log_probs) - t,
        kinks=(
            (([0.0, -np.inf], [1.0, 0.0]), 0.0, [0.0, 0.0]),
            (([0.0, -np.inf], [0.0, 0.0]), 1.0, [1.0, 0.0]),
            (([-np.inf], [0.5]), np.inf, [-0.5]),
        ),
    ),
    Case(
        "generalized_kl_divergence-logs-axis",
        jaxloss.generalized_kl_divergence,
        distributions((8, 3, 2), 1, logs=True),
        generalized_kl_divergence,
        lambda log_probs, t, log_targets, axis: np.exp(log_probs) - np.exp(t),
        {"log_targets": True, "axis": 1},
    ),
    Case(
        "js_divergence",
        jaxloss.js_divergence,
        distributions(),
        js_divergence,
        lambda log_probs, t: np.exp(log_probs) * np.log(2 / (1 + t / np.exp(log_probs))) / 2,
        kinks=(
            (([0.0, -np.inf], [0.0, 1.0]), np.log(2), [np.log(2) / 2, 0.0]),
            (([0.0, -np.inf], [1.0, 0.0]), 0.0, [0.0, 0.0]),
        ),
    ),
    Case(
        "js_divergence-logs-axis",
        jaxloss.js_divergence,
        distributions((8, 3, 2), 1, logs=True),
        js_divergence,
        options={"log_targets": True, "axis": 1},
    ),
    Case(
        "cosine_similarity",
        jaxloss.cosine_similarity,
        vectors(2),
        cosine,
        cosine_gradient,
        kinks=(
            (([0.0, 0.0], [1.0, 2.0]), 0.0, [0.0, 0.0]),
            (([1.0, 2.0], [0.0, 0.0]), 0.0, [0.0, 0.0]),
            (([1.0, 2.0], [2.0, 4.0]), 1.0, [0.0, 0.0]),
            (([2.0, 0.0], [0.0, 3.0]), 0.0, [0.0, 0.5]),
        ),
    ),
    Case(
        "cosine_distance",
        jaxloss.cosine_distance,
        vectors(2),
        lambda a, b: 1 - cosine(a, b),
        lambda a, b: -cosine_gradient(a, b),
        kinks=(
            (([0.0, 0.0], [1.0, 2.0]), 1.0, [0.0, 0.0]),
            (([1.0, 2.0], [2.0, 4.0]), 0.0, [0.0, 0.0]),
            (([1.0, 2.0], [-2.0, -4.0]), 2.0, [0.0, 0.0]),
        ),
    ),
    Case(
        "cosine_distance-axis",
        jaxloss.cosine_distance,
        vectors(2, (8, 3, 2)),
        lambda a, b, axis: 1 - cosine(a, b, axis),
        lambda a, b, axis: -cosine_gradient(a, b, axis),
        {"axis": 1},
    ),
    Case(
        "cosine_embedding",
        jaxloss.cosine_embedding,
        vectors_and_signs,
        cosine_embedding,
        kinks=(
            (([2.0, 0.0], [0.0, 3.0], -1), 0.0, [0.0, 0.0]),
            (([0.0, 0.0], [1.0, 0.0], 1), 1.0, [0.0, 0.0]),
            (([1.0, 0.0], [1.0, 0.0], 1), 0.0, [0.0, 0.0]),
        ),
    ),
    Case(
        "cosine_embedding-margin",
        jaxloss.cosine_embedding,
        vectors_and_signs,
        cosine_embedding,
        options={"margin": 0.05},
    ),
    Case(
        "triplet_margin",
        jaxloss.triplet_margin,
        vectors(3),
        triplet_margin,
        kinks=(
            (([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]), 1.0, [0.0, 0.0]),
            (([0.0, 0.0], [0.0, 1.0], [2.0, 0.0]), 0.0, [0.0, 0.0]),
            (([0.0, 0.0], [0.0, 3.0], [2.0, 0.0]), 2.0, [1.0, -1.0]),
        ),
    ),
    Case(
        "triplet_margin-swap-margin-axis",
        jaxloss.triplet_margin,
        vectors(3, (8, 3, 2)),
        triplet_margin,
        options={"swap": True, "margin": 2.0, "axis": 1},
    ),
    *(
        Case(
            f"triplet_margin-p{p}",
            jaxloss.triplet_margin,
            vectors(3),
            functools.partial(renamed_degree, degree=p),
            options={"p": p},
        )
        for p in (1, 3)
    ),
    Case(
        "triplet_margin-distance",
        jaxloss.triplet_margin,
        vectors(3),
        lambda a, p, n, distance: triplet_margin(a, p, n, degree=1),
        options={"distance": manhattan},
    ),
    Case("info_nce", jaxloss.info_nce, vectors(2), info_nce),
    Case(
        "info_nce-temperature",
        jaxloss.info_nce,
        vectors(2, scale=100.0),
        info_nce,
        options={"temperature": 0.5},
    ),
    Case("nt_xent", jaxloss.nt_xent, embeddings_and_labels, nt_xent),
    Case(
        "nt_xent-temperature",
        jaxloss.nt_xent,
        embeddings_and_labels,
        nt_xent,
        options={"temperature": 0.5},
    ),
    Case(
        "supervised_contrastive",
        jaxloss.supervised_contrastive,
        embeddings_and_labels,
        supervised_contrastive,
    ),
    Case(
        "supervised_contrastive-temperature",
        jaxloss.supervised_contrastive,
        embeddings_and_labels,
        supervised_contrastive,
        options={"temperature": 0.5},
    ),
    Case(
        "sigmoid_contrastive",
        jaxloss.sigmoid_contrastive,
        vectors(2),
        sigmoid_contrastive,
    ),
    Case(
        "sigmoid_contrastive-options",
        jaxloss.sigmoid_contrastive,
        vectors(2),
        sigmoid_contrastive,
        options={"temperature": 0.5, "bias": 1.5},
    ),
    Case(
        "dice",
        jaxloss.dice,
        masks((8, 3, 2, 2)),
        functools.partial(tversky, alpha=0.5, beta=0.5),
        options={"axes": (1, 2)},
    ),
    Case(
        "dice-binary",
        jaxloss.dice,
        masks((8, 3, 2)),
        functools.partial(tversky, alpha=0.5, beta=0.5),
        options={"axes": (-2, -1), "smooth": 0.25},
    ),
    Case(
        "tversky",
        jaxloss.tversky,
        masks((8, 3, 2, 2)),
        tversky,
        options={"axes": (1, 2), "alpha": 0.6, "beta": 1.5, "smooth": 0.1},
    ),
)
