"""Connectionist temporal classification."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from jaxloss import _check, _checked
from jaxloss._autodiff import custom_vjp
from jaxloss._bits import exponents_of, power_of_two
from jaxloss.primitives import log_softmax

_HIDDEN = -1  # The symbol of a label beyond the length.
_INVALID = -1  # The length of a bad example.
_NEVER = -1e30  # The exponent of a probability of 0.
_BLOCK = 16  # Frames from one normalisation of mantissas to the next.


@_check.known_keywords
def ctc(
    logits: Real[ArrayLike, "*batch frames classes"],
    labels: Integer[ArrayLike, "*batch length"],
    *,
    frame_lengths: Integer[ArrayLike, "*batch"] | None = None,
    label_lengths: Integer[ArrayLike, "*batch"] | None = None,
    blank: int = 0,
) -> Float[Array, "*batch"]:
    r"""Connectionist temporal classification: a label sequence without its alignment to frames.

    $$\ell = -\log \sum_{\pi \in \mathcal{B}^{-1}(y)} \prod_{t} p_{t, \pi_t}, \qquad
      p_{t,k} = e^{z_{t,k}} \big/ \sum_j e^{z_{t,j}}$$

    over all alignments $\pi$, one class per frame, that become the labels $y$ when repetitions are
    merged and then blanks removed. Gradient: $p_{t,k}$ less the probability, given $y$, that the
    alignment has class $k$ at frame $t$. Log-probabilities in the place of logits give the same
    loss. It is never negative, and accurate for likely labels too: 1e-15 is not rounded to 0.

    A logit of -inf excludes a class from a frame. If no alignment is left, or there are fewer
    frames than labels and blanks between equal neighbours, the loss is inf and its gradient 0. NaN,
    +inf or nothing but -inf in a frame, a label that is out of range, negative or the blank, and a
    length out of range make loss and gradient of their example NaN. Frames and labels beyond the
    lengths are never looked at.

    Args:
        logits: real scores of every class, the blank included, in every frame.
        labels: class indices from 0 to the number of classes less 1, without blanks; any integer
            dtype. Padding comes last and may be anything.
        frame_lengths: how many frames each example has; by default all.
        label_lengths: how many labels each example has; by default all.
        blank: the class that stands for no label.

    Returns:
        One loss per example, in nats; float32, or float64 for float64 logits.

    Raises:
        TypeError: `logits` are not real, or labels, lengths or `blank` not integers.
        ValueError: the shapes do not agree, there is no class, or `blank` is not one.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss
        >>> jaxloss.ctc(jnp.zeros((1, 2, 3)), jnp.array([[1, 2]]), label_lengths=jnp.array([1]))
        Array([1.0986], dtype=float32)

    Source: Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification"
    (2006), section 4.1.
    """
    [logits] = _check.real_arrays("ctc", logits=logits)
    if logits.ndim < 2 or logits.shape[-1] == 0:
        raise ValueError(
            f"ctc: logits must have the shape (*batch, frames, classes), with at least one class, "
            f"got {logits.shape}."
        )
    *batch, frames, classes = logits.shape
    labels = _check.class_indices("ctc", labels)
    if labels.ndim == 0 or labels.shape[:-1] != tuple(batch):
        raise ValueError(
            f"ctc: labels must have the batch {tuple(batch)} of logits {logits.shape} and an axis "
            f"of labels, got {labels.shape}; pad them to one length and pass label_lengths."
        )
    if not isinstance(blank, numbers.Integral) or not 0 <= blank < classes:
        error = ValueError if isinstance(blank, numbers.Integral) else TypeError
        raise error(
            f"ctc: blank must be an integer, one of the {classes} classes of logits from 0 to "
            f"{classes - 1}, got {_check.describe(blank)}."
        )
    count, length = math.prod(batch), labels.shape[-1]
    frame_counts, frames_valid = _lengths("frame_lengths", frame_lengths, batch, frames)
    label_counts, labels_valid = _lengths("label_lengths", label_lengths, batch, length)
    logits = logits.reshape(count, frames, classes)
    if frame_lengths is not None:
        real = _positions(frames) < frame_counts[:, None]
        # Before the softmax, so that no derivative of a frame beyond the end is taken.
        logits = jnp.where(real[:, :, None], logits, jnp.zeros_like(logits))
    log_probs = log_softmax(logits)
    index, known = _check.valid_index(labels.reshape(count, length), classes)
    shown = _positions(length) < label_counts[:, None]
    _checked.classes("ctc", labels.reshape(count, length), classes, shown, but=blank)
    valid = frames_valid & labels_valid & jnp.all(~shown | (known & (index != blank)), -1)
    # One NaN makes a row of log-probabilities NaN.
    valid &= ~jnp.any(jnp.isnan(log_probs[:, :, blank]), -1)
    loss = _log_loss(
        log_probs,
        jax.lax.stop_gradient(logits),
        jnp.where(shown, index, _HIDDEN),
        jnp.where(valid, frame_counts, _INVALID),
        blank,
        classes,
    )
    return loss.reshape(batch)


def _lengths(
    name: str, lengths: ArrayLike | None, batch: list[int], longest: int
) -> tuple[Array, Array]:
    """Lengths of the flat batch, the longest where out of range, and whether they were in range."""
    given = np.full(batch, longest) if lengths is None else lengths
    if not jnp.issubdtype(jnp.asarray(given).dtype, jnp.integer):
        raise TypeError(
            f"ctc: {name} must be integers, got {_check.describe(lengths)}; convert them with "
            f".astype(jnp.int32)."
        )
    counts = _check.class_indices("ctc", given)
    if counts.shape != tuple(batch):
        raise ValueError(
            f"ctc: {name} must have the shape of the batch, {tuple(batch)}, got {counts.shape}; "
            f"pass one length for each example."
        )
    _checked.lengths("ctc", longest, **{name: counts})
    counts, valid = _check.valid_index(counts.reshape(-1), longest + 1)
    return jnp.where(valid, counts, longest), valid


@functools.partial(custom_vjp, static=2)
def _log_loss(
    log_probs: Array, scores: Array, labels: Array, lengths: Array, blank: int, classes: int
) -> Array:
    """The loss of log-probabilities; the logits that they come from, `scores`, have no gradient."""
    total, _ = _forward(_lattice(log_probs, labels, lengths, blank))
    return _loss(total, scores, labels, lengths, blank)


# An alignment walks through the S = 2 L + 1 states "blank, y_1, blank, ..., y_L, blank" (section
# 4.1): in each frame it stays, moves on by one or, into a label that differs from the one before,
# by two. With p_t(s) the probability at frame t of the symbol of state s, the walks to s have
#
#     alpha_t(s) = p_t(s) a_t(s),
#     a_t(s) = alpha_{t-1}(s) + alpha_{t-1}(s-1) + skip(s) alpha_{t-1}(s-2)              (6), (7)
#
# from alpha_0 = 1 at the first blank, and all of them P = alpha_T(S) + alpha_T(S-1) (8). Let gamma
# be the share of P that goes through a state at a frame, alpha beta / (p P) in (14). Of the walks
# to s' at t, the share alpha_{t-1}(s) / a_t(s') comes from s; so, in place of beta,
#
#     gamma_{t-1}(s) = alpha_{t-1}(s) [g(s) + g(s+1) + skip(s+2) g(s+2)],  g = gamma_t / a_t,
#
# and d(-log P) / d log p_{t,k} is minus the sum of gamma_t over the states with symbol k (15). The
# rule of log_softmax makes of it p_{t,k} less that sum, with care where p rounds to 1.
#
# Beyond its last frame an example emits blanks with probability 1 and nothing else: a walk that has
# come to y_L moves to the last blank and all stay, so P is alpha of that blank, and gamma is 1.
#
# A probability is m 2^e, with an integer e (a float for its range) and m near 1 (normalised every
# few frames), through which derivatives flow. Sums of these are exact to a rounding, where those of
# logarithms near -1000 lose three digits of float32; they take no transcendental function; and 0,
# which is 2^-1e30, is no infinity to guard derivatives from.


def _log_loss_fwd(
    log_probs: Array, scores: Array, labels: Array, lengths: Array, blank: int, classes: int
) -> tuple[Array, tuple[Array, Array]]:
    lattice = _lattice(log_probs, labels, lengths, blank)
    total, starts = _forward(lattice)
    possible = (total[1] > _NEVER / 2).astype(log_probs.dtype)
    gamma = jnp.where(lengths == _INVALID, jnp.nan, possible)
    shares = _shares(lattice, starts, gamma)
    loss = _loss(total, scores, labels, lengths, blank)
    return loss, (shares[: log_probs.shape[1]], jnp.flip(labels, 1))


def _log_loss_bwd(
    blank: int, classes: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array | None, ...]:
    shares, labels = residuals
    of_labels = shares[:, :, 1::2] * -cotangent[None, :, None]
    of_blank = jnp.sum(shares[:, :, ::2], -1) * -cotangent[None]
    # A product and not a scatter, which on a GPU adds in no fixed order.
    one_hot = jax.nn.one_hot(labels, classes, dtype=shares.dtype)
    gradient = jnp.einsum("tnl,nlc->ntc", of_labels, one_hot, precision="highest")
    is_blank = (_positions(classes) == blank).astype(gradient.dtype)
    return gradient + of_blank.T[:, :, None] * is_blank[None], None, None, None


_log_loss.defvjp(_log_loss_fwd, _log_loss_bwd)

_Numbers = tuple[Array, Array]  # Mantissas and exponents.


class _Lattice(NamedTuple):
    real: Array  # blocks, frames, batch: whether the example has the frame
    emissions: Array  # blocks, frames, batch, states: log2 of the probability of its symbol
    symbols: Array  # batch, states
    penalties: Array  # batch, states: what skipping into a state adds to an exponent
    last: Array  # batch: the state of the last blank


def _lattice(log_probs: Array, labels: Array, lengths: Array, blank: int) -> _Lattice:
    count, length = labels.shape
    pairs = jnp.stack([jnp.full_like(labels, blank), labels], -1).reshape(count, 2 * length)
    symbols = jnp.pad(pairs, ((0, 0), (0, 1)), constant_values=blank)
    _, _, before = _sources(_pad(symbols, _HIDDEN))
    picked = _blocks(jnp.take_along_axis(log_probs, jnp.maximum(symbols, 0)[:, None], 2))
    real = _blocks(_positions(log_probs.shape[1]) < lengths[:, None])
    elsewhere = jnp.where(_positions(2 * length + 1) % 2 == 0, 0, _NEVER)[None, None]
    shown = real[:, :, :, None] & (symbols != _HIDDEN)[None, None]
    emissions = jnp.where(shown, jnp.maximum(picked / math.log(2), _NEVER), elsewhere)
    penalties = jnp.where(symbols != before, 0, _NEVER).astype(picked.dtype)
    return _Lattice(
        real, emissions, symbols, penalties, 2 * jnp.sum(labels != _HIDDEN, 1, dtype=jnp.int32)
    )


def _positions(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.int32)[None]


def _blocks(array: Array) -> Array:
    """Frames of a batch as blocks, frames, batch; with a frame beyond the last at least."""
    count, frames, *rest = array.shape
    blocks = frames // _BLOCK + 1
    padding = [(0, 0), (0, blocks * _BLOCK - frames), *[(0, 0)] * len(rest)]
    return jnp.moveaxis(jnp.pad(array, padding), 1, 0).reshape(blocks, _BLOCK, count, *rest)


def _over_blocks(
    block: Callable[..., Any], carry: Any, inputs: Any, *, reverse: bool = False
) -> tuple[Any, Any]:
    def scan(carry: Any, inputs: Any, *, unroll: int) -> Any:
        return jax.lax.scan(functools.partial(block, unroll=unroll), carry, inputs, reverse=reverse)

    # Unrolled, XLA fuses frames: few kernels on a GPU, but on a CPU the same sums again and again.
    cpu, default = (functools.partial(scan, unroll=unroll) for unroll in (1, _BLOCK))
    return jax.lax.platform_dependent(carry, inputs, cpu=cpu, default=default)


def _forward(lattice: _Lattice) -> tuple[_Numbers, _Numbers]:
    """P, and the walks at the start of each block."""
    last = lattice.last[:, None]

    def block(walks: _Numbers, emissions: Array, *, unroll: int) -> tuple[_Numbers, _Numbers]:
        step = functools.partial(_step, lattice.penalties)
        end, _ = jax.lax.scan(step, walks, emissions, unroll=unroll)
        return _normalized(end), walks

    # Of the examples' own type, for shard_map.
    is_first = _positions(lattice.symbols.shape[1]) == 0 * last
    exponents = _pad(jnp.where(is_first, 0, _NEVER).astype(lattice.emissions.dtype), _NEVER)
    walks, starts = _over_blocks(block, (jnp.ones_like(exponents), exponents), lattice.emissions)
    mantissa, exponent = (jnp.take_along_axis(array, last + 2, 1)[:, 0] for array in walks)
    return _normalized((mantissa, exponent)), starts


def _shares(lattice: _Lattice, starts: _Numbers, gamma: Array) -> Array:
    """gamma of every frame, its states in reverse, from that of the last blank at the end.

    Block by block alpha is computed again from the start, so that it is never stored as a whole.
    """
    # In reverse, because on a CPU XLA vectorises padding before a first state, not after a last.
    onward_penalties = jnp.flip(jnp.roll(lattice.penalties, -2, 1), 1)

    def frame(shares: Array, inputs: tuple[_Numbers, _Numbers]) -> tuple[Array, Array]:
        (mantissas, exponents), (sums, tops) = jax.tree.map(lambda x: jnp.flip(x, 1), inputs)
        stay, move, skip = (exponents - top for top in _sources(_pad(tops, 0)))
        powers = stay, move, skip + onward_penalties
        ratios = _sources(shares / _pad(sums, 1))
        # With 2^64 2^-64 no power of 2 is 0 before the share is: in a block mantissas reach 2^34.
        onward = (x * power_of_two(power + 64) for x, power in zip(ratios, powers, strict=True))
        return _pad(functools.reduce(jnp.add, onward) * (mantissas * 2.0**-64), 0), shares[:, 2:]

    def block(shares: Array, inputs: tuple[Array, _Numbers], *, unroll: int) -> Any:
        emissions, start = inputs
        step = functools.partial(_step, lattice.penalties)
        _, walks = jax.lax.scan(step, start, emissions, unroll=unroll)
        return jax.lax.scan(frame, shares, walks, unroll=unroll, reverse=True)

    states = lattice.symbols.shape[1]
    at_end = _positions(states) == (states - 1 - lattice.last)[:, None]
    shares = _pad(at_end.astype(gamma.dtype) * gamma[:, None], 0)
    _, shares = _over_blocks(block, shares, (lattice.emissions, starts), reverse=True)
    blocks, frames, *rest = shares.shape  # Not -1, which a batch of none would leave undefined.
    return shares.reshape(blocks * frames, *rest)


def _step(penalties: Array, walks: _Numbers, emission: Array) -> Any:
    """alpha of the next frame, padded; and alpha before, and a."""
    mantissas, exponents = walks
    stay, move, skip = _sources(exponents)
    sources = stay, move, skip + penalties
    top = functools.reduce(jnp.maximum, sources)
    terms = (m * power_of_two(e - top) for m, e in zip(_sources(mantissas), sources, strict=True))
    total = functools.reduce(jnp.add, terms)
    whole = jnp.round(emission)
    after = _pad(total * jnp.exp2(emission - whole), 1), _pad(top + whole, _NEVER)
    return after, ((mantissas[:, 2:], exponents[:, 2:]), (total, top))


def _pad(array: Array, value: float | int) -> Array:
    """With two states before the first."""
    return jnp.pad(array, ((0, 0), (2, 0)), constant_values=value)


def _sources(padded: Array) -> tuple[Array, Array, Array]:
    """What each state has itself, the one before it, and the one before that."""
    return padded[:, 2:], padded[:, 1:-1], padded[:, :-2]


def _normalized(numbers: _Numbers) -> _Numbers:
    """The same numbers with mantissas in [1, 2)."""
    mantissas, exponents = numbers
    powers = exponents_of(mantissas)
    return mantissas * power_of_two(-powers), exponents + powers


def _loss(total: _Numbers, scores: Array, labels: Array, lengths: Array, blank: int) -> Array:
    """-log P."""
    mantissa, exponent = total
    loss = -(jnp.log(mantissa) + exponent * math.log(2))
    # Where P > 1/2 its rounding is not small beside -log P, and may take it below 0. Derivatives
    # have no such trouble.
    likely = exponent >= -1
    lost = jax.lax.cond(
        jnp.any(likely),
        lambda: _complement(scores, labels, lengths, blank),
        lambda: jnp.zeros_like(exponent),
    )
    accurate = -jnp.log1p(-jnp.where(likely, lost, 0)) + (loss - jax.lax.stop_gradient(loss))
    loss = jnp.where(exponent < _NEVER / 2, jnp.inf, jnp.where(likely, accurate, loss))
    return jnp.where(lengths == _INVALID, jnp.nan, loss)


# 1 - P is what leaves the lattice: at each frame the walks in state s, times the probability of the
# classes that are not of s, s + 1 or, if it can be skipped to, s + 2; and the walks that do not end
# at the last blank. All terms are positive, so the loss is never negative. The sum over classes is
# rest (all but the three largest), plus those of the three that are not allowed, less the allowed
# that are not of the three: each that is subtracted has a larger one added, so nothing cancels.


def _complement(scores: Array, labels: Array, lengths: Array, blank: int) -> Array:
    # From the inputs: what two parts of a program share XLA writes to memory, at every call.
    log_probs = log_softmax(scores)
    real, emissions, symbols, penalties, last = _lattice(log_probs, labels, lengths, blank)
    states, classes = symbols.shape[1], log_probs.shape[2]
    top, top_classes = jax.lax.top_k(log_probs, min(3, classes))
    in_top = jnp.any(top_classes[:, :, :, None] == _positions(classes)[None, None], 2)
    rest = jnp.sum(jnp.where(in_top, 0, jnp.exp(log_probs)), -1)
    rest, top, top_classes = map(_blocks, (rest, jnp.exp(top), top_classes))
    tops = [(top[..., n : n + 1], top_classes[..., n : n + 1]) for n in range(top.shape[-1])]
    probs = jnp.pad(jnp.exp2(emissions), ((0, 0), (0, 0), (0, 0), (0, 2)))
    further = jnp.pad(symbols, ((0, 0), (0, 2)), constant_values=_HIDDEN)
    move, skip = further[:, 1:-1], further[:, 2:]
    onward = [x[None, None] for x in (symbols, move, jnp.where(skip == symbols, _HIDDEN, skip))]
    leaving = rest[..., None]
    for prob, label in tops:
        allowed = functools.reduce(jnp.logical_or, [symbol == label for symbol in onward])
        leaving = leaving + jnp.where(allowed, 0, prob)
    for n, symbol in enumerate(onward):
        apart = functools.reduce(jnp.logical_or, [symbol == label for _, label in tops])
        apart |= symbol == _HIDDEN
        leaving -= jnp.where(apart, 0, probs[..., n : n + states])
    leaving = jnp.where(real[..., None], leaving, 0)

    def frame(carry: tuple[Array, Array], inputs: tuple[Array, Array]) -> Any:
        walks, lost = carry
        probs, leaving = inputs
        stay, move, skip = _sources(_pad(walks, 0))
        moved = stay + move + jnp.where(penalties == 0, skip, 0)
        return (moved * probs, lost + walks * leaving), None

    start = (_positions(states) == 0 * last[:, None]).astype(emissions.dtype)
    (walks, lost), _ = _over_blocks(
        functools.partial(jax.lax.scan, frame), (start, 0 * start), (probs[..., :states], leaving)
    )
    return jnp.sum(lost + jnp.where(_positions(states) == last[:, None], 0, walks), -1)
