"""What is to be reached, and where a program does more than it should or did."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bench.compiled.measure import Cell
from bench.losses import LOSSES


@dataclass(frozen=True)
class Figures:
    """Traffic and temporaries in units of the inputs, and kernels; as a goal, the most of each."""

    traffic: float | None = None
    kernels: int | None = None
    temporaries: float | None = None


# Sums of blocks and of rows, which are stored, are less than this.
NOTHING = 0.01
ELEMENTWISE = Figures(1.5, 3, NOTHING)
COSINE = Figures(2.6, None, NOTHING)
GOALS = {loss.name: ELEMENTWISE for loss in LOSSES if loss.elementwise} | {
    "cross_entropy": Figures(3.1, None, NOTHING),
    "cross_entropy, probabilities": Figures(2.6, None, NOTHING),
    "cosine_similarity": COSINE,
    "cosine_distance": COSINE,
    "ctc": Figures(kernels=540),  # A tenth of Optax's on an H100.
}
# What XLA's versions and machines may differ by.
SLACK = Figures(0.005, 0, 0.001)


def figures(cell: Cell, side: str) -> Figures | None:
    """None where there is no such program, or it was refused."""
    found = cell.get(side, {})
    if "bytes" not in found:
        return None
    inputs = cell["inputs"]
    return Figures(found["bytes"] / inputs, found["kernels"], found["temporaries"] / inputs)


def over(ours: Figures, allowed: Figures, slack: Figures = SLACK) -> list[str]:
    """The figures of ours that are more than what is allowed."""
    found = []
    for field in dataclasses.fields(Figures):
        most, more = getattr(allowed, field.name), getattr(ours, field.name)
        if most is not None and more > most + getattr(slack, field.name):
            found.append(f"{field.name} {more:.4g} is over {most:.4g}")
    return found


def misses(cell: Cell) -> list[str]:
    """Where ours is over its goal, or moves more than Optax's does."""
    ours, theirs = figures(cell, "ours"), figures(cell, "optax")
    if ours is None:
        return [cell["ours"]["refused"]]
    found = over(ours, GOALS.get(cell["loss"], Figures()))
    if theirs is not None:
        found += [f"{text} of Optax" for text in over(ours, Figures(theirs.traffic))]
    return found


def worse(cells: list[Cell], reached: list[Cell]) -> list[str]:
    """Where ours moves, launches or holds more than it did."""
    before = {_key(cell): cell for cell in reached}
    found = []
    for cell in cells:
        was = before.get(_key(cell))
        ours, allowed = figures(cell, "ours"), was and figures(was, "ours")
        if was is None:
            texts = ["has not been compiled before"]
        elif ours is None:
            texts = [cell["ours"]["refused"]] if allowed else []
        else:
            texts = over(ours, allowed) if allowed else []
        found += [f"{', '.join(_key(cell))}: {text}" for text in texts]
    return found


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell["target"], cell["dtype"], cell["loss"]
