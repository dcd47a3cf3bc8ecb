"""Losses of label sequences without an alignment."""

import jax.numpy as jnp
import numpy as np

import jaxloss
from tests.cases.case import Case


def logits_and_sequences(blank):
    def sample(rng):
        labels = np.array([k for k in range(4) if k != blank])[rng.integers(0, 3, (8, 2))]
        return rng.normal(size=(8, 5, 4)), labels.astype(np.int32)

    return sample


def ctc(logits, labels, frame_lengths=None, label_lengths=None, blank=0):
    """Probabilities of the walks through the lattice of blanks and labels, frame by frame."""
    count, frames, _ = logits.shape
    length = labels.shape[1]
    stops = np.full(count, frames) if frame_lengths is None else frame_lengths
    ends = 2 * (np.full(count, length) if label_lengths is None else label_lengths)
    symbols = np.full((count, 2 * length + 1), blank)
    symbols[:, 1::2] = labels
    skips = (
        (symbols != blank) & (symbols != np.roll(symbols, 2, 1)) & (np.arange(2 * length + 1) > 1)
    )
    odds = jnp.exp(logits)
    probabilities = odds / jnp.sum(odds, -1, keepdims=True)
    emissions = jnp.take_along_axis(probabilities, symbols[:, None], 2)
    walks = jnp.zeros(symbols.shape, logits.dtype).at[:, 0].set(1.0)
    for frame in range(frames):
        moved = jnp.pad(walks, ((0, 0), (2, 0)))
        arrived = walks + moved[:, 1:-1] + skips * moved[:, :-2]
        walks = jnp.where(frame < stops[:, None], emissions[:, frame] * arrived, walks)
    states = np.arange(2 * length + 1)
    final = (states == ends[:, None]) | (states == ends[:, None] - 1)
    return -jnp.log(jnp.sum(walks * final, -1))


SEQUENCES = (
    Case("ctc", jaxloss.ctc, logits_and_sequences(0), ctc),
    Case(
        "ctc-lengths-blank",
        jaxloss.ctc,
        logits_and_sequences(3),
        ctc,
        options={
            "blank": 3,
            "frame_lengths": np.array([5, 4, 3, 5, 4, 5, 3, 5]),
            "label_lengths": np.array([2, 1, 1, 0, 2, 1, 0, 2]),
        },
    ),
)
