"""What each loss is, in mpmath: of one example, without care, to be computed with many digits.

The first argument is a number, or a list of them; so are the others. Options are those of the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from mpmath import mp, mpf

Vector = Sequence[Any]


def exp_sum(scores: Vector) -> Any:
    return mp.fsum(map(mp.exp, scores))


def logsumexp(scores: Vector) -> Any:
    return mp.log(exp_sum(scores))


def softplus(value: Any) -> Any:
    return mp.log1p(mp.exp(value))


def sigmoid(value: Any) -> Any:
    return 1 / (1 + mp.exp(-value))


def xlogy(x: Any, y: Any) -> Any:
    return mpf(0) if x == 0 else x * mp.log(y)


def positive(value: Any) -> Any:
    return value if value > 0 else mpf(0)


def dot(a: Vector, b: Vector) -> Any:
    return mp.fsum(x * y for x, y in zip(a, b, strict=True))


def norm(vector: Vector, p: Any = 2) -> Any:
    if p == 2:
        return mp.sqrt(dot(vector, vector))
    return mp.fsum(abs(x) ** mpf(p) for x in vector) ** (1 / mpf(p))


def minus(a: Vector, b: Vector) -> list[Any]:
    return [x - y for x, y in zip(a, b, strict=True)]


def squared_error(p: Any, t: Any) -> Any:
    return (p - t) ** 2


def absolute_error(p: Any, t: Any) -> Any:
    return abs(p - t)


def huber(p: Any, t: Any) -> Any:
    error = abs(p - t)
    return error**2 / 2 if error < 1 else error - mpf(1) / 2


def smooth_l1(p: Any, t: Any) -> Any:
    beta, error = mpf(0.25), abs(p - t)
    return error**2 / (2 * beta) if error < beta else error - beta / 2


def log_cosh(p: Any, t: Any = 0) -> Any:
    error = abs(p - t)
    return error - mp.log(2) + mp.log1p(mp.exp(-2 * error))


def quantile(p: Any, t: Any) -> Any:
    return (t - p) * mpf(0.25) if t > p else (p - t) * mpf(0.75)


def epsilon_insensitive(p: Any, t: Any) -> Any:
    return positive(abs(p - t) - mpf(0.125))


def squared_log_error(p: Any, t: Any) -> Any:
    return (mp.log1p(p) - mp.log1p(t)) ** 2


def absolute_percentage_error(p: Any, t: Any) -> Any:
    return abs(p - t) / abs(t)


def poisson_nll(p: Any, t: Any) -> Any:
    return mp.exp(p) - t * p


def gaussian_nll(p: Any, t: Any, variance: Any) -> Any:
    return (mp.log(variance) + (p - t) ** 2 / variance) / 2


def binary_cross_entropy(p: Any, y: Any) -> Any:
    return -xlogy(y, p) - xlogy(1 - y, 1 - p)


def binary_cross_entropy_with_logits(z: Any, y: Any) -> Any:
    return y * softplus(-z) + (1 - y) * softplus(z)


def sigmoid_focal(z: Any, y: Any, gamma: Any = 2) -> Any:
    z = z if y == 1 else -z
    return sigmoid(-z) ** mpf(gamma) * softplus(-z)


def multilabel_soft_margin(z: Vector, y: Vector) -> Any:
    terms = itertools.starmap(binary_cross_entropy_with_logits, zip(z, y, strict=True))
    return mp.fsum(terms) / len(z)


def hinge(z: Any, y: Any) -> Any:
    return positive(1 - y * z)


def squared_hinge(z: Any, y: Any) -> Any:
    return positive(1 - y * z) ** 2


def perceptron(z: Any, y: Any) -> Any:
    return positive(-y * z)


def soft_margin(z: Any, y: Any) -> Any:
    return softplus(-y * z)


def hinge_embedding(d: Any, y: Any) -> Any:
    return d if y == 1 else positive(1 - d)


def margin_ranking(a: Any, b: Any, y: Any) -> Any:
    return positive(-y * (a - b) + mpf(0.5))


def nll(log_probs: Vector, label: int) -> Any:
    return -log_probs[label]


def cross_entropy(z: Vector, label: int) -> Any:
    # As one of the others over one, so that no digit is lost however far ahead the label is.
    return mp.log1p(mp.fsum(mp.exp(s - z[label]) for j, s in enumerate(z) if j != label))


def soft_cross_entropy(z: Vector, y: Vector) -> Any:
    total = logsumexp(z)
    return mp.fsum(q * (total - s) for q, s in zip(y, z, strict=True))


def log_softmax_at(z: Vector, label: int) -> Any:
    return -cross_entropy(z, label)


def log_softmax_of_first(z: Vector) -> Any:
    return -cross_entropy(z, 0)


def expected_log_softmax(z: Vector, probabilities: Vector) -> Any:
    return -soft_cross_entropy(z, probabilities)


def times(vector: Vector, matrix: Any) -> list[Any]:
    return [dot(vector, [mpf(x) for x in column]) for column in zip(*matrix, strict=True)]


def linear_cross_entropy(hidden: Vector, label: int, kernel: Any) -> Any:
    return cross_entropy(times(hidden, kernel), label)


def linear_entropy(hidden: Vector, label: int, kernel: Any) -> Any:
    log_probs = [-cross_entropy(times(hidden, kernel), n) for n in range(len(kernel[0]))]
    return -mp.fsum(mp.exp(q) * q for q in log_probs)


def adaptive_softmax(hidden: Vector, label: int, head: Any, tails: Any) -> Any:
    start = shortlist = len(head[0]) - len(tails)
    if label < shortlist:
        return cross_entropy(times(hidden, head), label)
    for cluster, (projection, kernel) in enumerate(tails):
        if label < start + len(kernel[0]):
            of_cluster = cross_entropy(times(hidden, head), shortlist + cluster)
            scores = times(times(hidden, projection), kernel)
            return of_cluster + cross_entropy(scores, label - start)
        start += len(kernel[0])
    raise ValueError(f"label {label} is no class")


def softmax_focal(z: Vector, label: int, gamma: Any = 2) -> Any:
    loss = cross_entropy(z, label)
    return (-mp.expm1(-loss)) ** mpf(gamma) * loss


def poly_cross_entropy(z: Vector, label: int) -> Any:
    loss = cross_entropy(z, label)
    return loss - 2 * mp.expm1(-loss)


def sparsemax(z: Vector, label: int) -> Any:
    ordered = sorted(z, reverse=True)
    sums = list(itertools.accumulate(ordered))
    kept = max(k for k in range(1, len(z) + 1) if 1 + k * ordered[k - 1] > sums[k - 1])
    threshold = (sums[kept - 1] - 1) / kept
    projected = [positive(s - threshold) for s in z]
    return dot(z, projected) - dot(projected, projected) / 2 + mpf(1) / 2 - z[label]


def multi_margin(z: Vector, label: int) -> Any:
    terms = (positive(1 - z[label] + s) for j, s in enumerate(z) if j != label)
    return mp.fsum(terms) / len(z)


def multiclass_hinge(z: Vector, label: int) -> Any:
    return positive(1 - z[label] + max(s for j, s in enumerate(z) if j != label))


def multiclass_perceptron(z: Vector, label: int) -> Any:
    return positive(max(s for j, s in enumerate(z) if j != label) - z[label])


def multilabel_margin(z: Vector, labels: Vector) -> Any:
    own = {int(label) for label in labels if label >= 0}
    terms = (positive(1 - z[i] + z[j]) for i in own for j in range(len(z)) if j not in own)
    return mp.fsum(terms) / len(z)


def kl_divergence(log_probs: Vector, targets: Vector) -> Any:
    return mp.fsum(
        xlogy(t, t) - t * q if t else mpf(0) for q, t in zip(log_probs, targets, strict=True)
    )


def kl_divergence_of_logs(log_probs: Vector, log_targets: Vector) -> Any:
    return mp.fsum(mp.exp(t) * (t - q) for q, t in zip(log_probs, log_targets, strict=True))


def generalized_kl_divergence(log_probs: Vector, targets: Vector) -> Any:
    return kl_divergence(log_probs, targets) + exp_sum(log_probs) - mp.fsum(targets)


def generalized_kl_divergence_of_logs(log_probs: Vector, log_targets: Vector) -> Any:
    both = kl_divergence_of_logs(log_probs, log_targets)
    return both + exp_sum(log_probs) - exp_sum(log_targets)


def js_divergence_of_logs(log_probs: Vector, log_targets: Vector) -> Any:
    terms = []
    for q, t in zip(log_probs, log_targets, strict=True):
        middle = mp.log((mp.exp(q) + mp.exp(t)) / 2)
        terms.append(mp.exp(q) * (q - middle) + mp.exp(t) * (t - middle))
    return mp.fsum(terms) / 2


def cosine_similarity(a: Vector, b: Vector) -> Any:
    return dot(a, b) / (norm(a) * norm(b))


def cosine_distance(a: Vector, b: Vector) -> Any:
    return 1 - cosine_similarity(a, b)


def cosine_embedding(a: Vector, b: Vector, y: Any) -> Any:
    return cosine_distance(a, b) if y == 1 else positive(cosine_similarity(a, b))


def triplet_margin(a: Vector, p: Vector, n: Vector) -> Any:
    return positive(norm(minus(a, p)) - norm(minus(a, n)) + 1)


def rows_of(flat: Vector, width: int) -> list[Vector]:
    return [flat[n : n + width] for n in range(0, len(flat), width)]


def info_nce(queries: Vector, keys: Vector, width: int = 3) -> Any:
    q, k = rows_of(queries, width), rows_of(keys, width)
    scores = [[cosine_similarity(a, b) / mpf(0.25) for b in k] for a in q]
    return mp.fsum(cross_entropy(row, n) for n, row in enumerate(scores))


def sigmoid_contrastive(queries: Vector, keys: Vector, width: int = 3) -> Any:
    q, k = rows_of(queries, width), rows_of(keys, width)
    return mp.fsum(
        softplus((1 if n != m else -1) * (cosine_similarity(a, b) / mpf(0.25) - 1))
        for n, a in enumerate(q)
        for m, b in enumerate(k)
    )


def supervised_contrastive(embeddings: Vector, labels: Vector, width: int = 3) -> Any:
    rows, total = rows_of(embeddings, width), mpf(0)
    for n, a in enumerate(rows):
        others = [m for m in range(len(rows)) if m != n]
        scores = [cosine_similarity(a, rows[m]) / mpf(0.25) for m in others]
        own = [s for s, m in zip(scores, others, strict=True) if labels[m] == labels[n]]
        total += mp.fsum(logsumexp(scores) - s for s in own) / len(own)
    return total


def nt_xent(embeddings: Vector, labels: Vector, width: int = 3) -> Any:
    rows, total = rows_of(embeddings, width), mpf(0)
    for n, a in enumerate(rows):
        others = [m for m in range(len(rows)) if m != n]
        scores = {m: cosine_similarity(a, rows[m]) / mpf(0.25) for m in others}
        own = [m for m in others if labels[m] == labels[n]]
        against = [scores[m] for m in others if labels[m] != labels[n]]
        total += mp.fsum(cross_entropy([scores[m], *against], 0) for m in own) / len(own)
    return total


def dice(p: Vector, t: Vector) -> Any:
    return 1 - (dot(p, t) + 1) / ((mp.fsum(p) + mp.fsum(t)) / 2 + 1)


def tversky(p: Vector, t: Vector) -> Any:
    both = dot(p, t)
    wrong = mpf(0.25) * (mp.fsum(p) - both) + mpf(0.75) * (mp.fsum(t) - both)
    return 1 - (both + 1) / (both + wrong + 1)


def ctc(flat: Vector, labels: Vector, classes: int = 4) -> Any:
    frames = [[mp.exp(z) for z in frame] for frame in rows_of(flat, classes)]
    path = [0]
    for label in labels:
        path += [int(label), 0]
    # Two more places, for the steps from before the path; it begins there.
    alpha = [mpf(0), mpf(1)] + [mpf(0)] * len(path)
    for time, frame in enumerate(frames):
        total, before = mp.fsum(frame), alpha
        alpha = [mpf(0), mpf(0)]
        for n, label in enumerate(path):
            if time == 0:
                reached = before[1] if n < 2 else mpf(0)
            else:
                reached = before[n + 2] + before[n + 1]
                if n >= 2 and label != 0 and label != path[n - 2]:
                    reached += before[n]
            alpha.append(reached * frame[label] / total)
    return -mp.log(alpha[-1] + alpha[-2])
