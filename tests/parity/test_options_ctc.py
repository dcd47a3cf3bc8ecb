"""Every option of connectionist temporal classification, live: value and gradients."""

import jax.numpy as jnp
import optax
import torch.nn.functional as F  # noqa: N812

import jaxloss
from tests.parity.agreement import Case, agree, in_a_row, over


def spoken(rng, shape):
    """Logits, labels without class 0, labels without class 2, lengths of frames and labels."""
    batch, frames, classes, length = shape
    labels = rng.integers(0, classes - 1, (batch, length))
    without_0, without_2 = labels + 1, labels + (labels >= 2)
    # As many frames as the longest sequence of equal labels needs, at least.
    frame_lengths = rng.integers(2 * length - 1, frames + 1, batch)
    label_lengths = rng.integers(0, length + 1, batch)
    logits = rng.normal(size=(batch, frames, classes)) * 2
    return logits, without_0, without_2, frame_lengths, label_lengths


def ours(blank, logits, without_0, without_2, frames, lengths):
    labels = without_2 if blank else without_0
    return jaxloss.ctc(logits, labels, frame_lengths=frames, label_lengths=lengths, blank=blank)


def of_torch(logits, labels, frames, lengths, **options):
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, labels, frames, lengths, **options)


def of_optax(logits, labels, frames, lengths, **options):
    frame_paddings = jnp.arange(logits.shape[1]) >= frames[:, None]
    label_paddings = jnp.arange(labels.shape[1]) >= lengths[:, None]
    return optax.ctc_loss(logits, frame_paddings * 1.0, labels, label_paddings * 1.0, **options)


def per_label(*arrays):
    """PyTorch's mean divides each loss by the number of its labels first, which is 1 at least."""
    return ours(0, *arrays) / jnp.maximum(arrays[-1], 1)


def finite(logits, without_0, without_2, frames, lengths):
    """Every other example is too short for its labels."""
    frames = jnp.where(jnp.arange(len(frames)) % 2, frames, jnp.minimum(lengths, 1))
    losses = ours(0, logits, without_0, without_2, frames, lengths)
    return jnp.where(jnp.isinf(losses), 0, losses)


def zero_infinity(logits, without_0, without_2, frames, lengths):
    frames = frames.clone()
    frames[::2] = lengths[::2].clamp(max=1)
    options = {"reduction": "none", "zero_infinity": True}
    return of_torch(logits, without_0, frames, lengths, **options)


SHAPES = [(4, 8, 4, 3), (2, 3, 3, 1)]

CASES = {
    "torch": Case(
        {
            "reductions": (
                in_a_row(
                    [
                        lambda *a: ours(0, *a),
                        lambda *a: jaxloss.sum(ours)(0, *a),
                        lambda *a: jaxloss.mean(per_label)(*a),
                    ]
                ),
                in_a_row(
                    lambda z, y, _, n, m, reduction=reduction: of_torch(
                        z, y, n, m, reduction=reduction
                    )
                    for reduction in ("none", "sum", "mean")
                ),
            ),
            "blank": (
                lambda *a: ours(2, *a),
                lambda z, _, y, n, m: of_torch(z, y, n, m, blank=2, reduction="none"),
            ),
            "zero_infinity": (finite, zero_infinity),
        },
        spoken,
        SHAPES,
    ),
    "optax": Case(
        {
            "": (lambda *a: ours(0, *a), lambda z, y, _, n, m: of_optax(z, y, n, m)),
            "blank": (
                lambda *a: ours(2, *a),
                lambda z, _, y, n, m: of_optax(z, y, n, m, blank_id=2),
            ),
        },
        spoken,
        SHAPES,
        peer="optax",
    ),
}


@over(CASES)
def test_ctc(case, dtype, seed):
    agree(case, dtype, seed)
