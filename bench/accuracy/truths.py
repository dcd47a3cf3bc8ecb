"""Values and derivatives of the formulas to more digits than any float has, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from mpmath import mp, mpf

from bench.accuracy import formulas

CACHE = joblib.Memory(Path(__file__).parent / ".cache", verbose=0)

# Derivatives are difference quotients: with a step of 10^-STEP_DIGITS, far below the spacing of
# whatever the inputs hold, they are as exact as the digits that are left.
STEP_DIGITS = 50
# What such a quotient may leave of a derivative that is 0.
NOTHING = 1e-40
TAIL_DIGITS = {True: 310, False: 50}  # Of the smallest numbers: of float64, and of the others.


class Truth(NamedTuple):
    """Of each example, as a sum of two float64 numbers (..., 2)."""

    value: np.ndarray
    gradient: np.ndarray  # NaN at a kink, whose slope is a convention.
    # The derivative of the gradient along `direction`, where asked for.
    second: np.ndarray | None


def direction(shape: tuple[int, ...]) -> np.ndarray:
    """In which second derivatives are taken: exact in every float, and no symmetry's."""
    steps = np.arange(np.prod(shape, dtype=int)) % 5
    return (0.5 + 0.25 * steps).reshape(shape)


def truth(
    formula: Callable[..., Any], arrays: tuple[np.ndarray, ...], itemsize: int, second: bool
) -> Truth:
    """Of a formula of the first array's rows, beside rows of the others; floats of so many bytes.

    Computed once: what is kept is found by the arrays and by the source of the formulas.
    """
    source = Path(__file__).read_bytes() + Path(formulas.__file__).read_bytes()
    source = hashlib.sha256(source).hexdigest()
    largest = max(float(np.max(np.abs(array), initial=1)) for array in arrays)
    # Squares of the largest, and the smallest less two steps.
    digits = int(2 * np.log10(largest)) + 2 * STEP_DIGITS + TAIL_DIGITS[itemsize == 8] + 30
    # In pieces, so that all cores take part.
    count = min(joblib.cpu_count(), len(arrays[0]))
    pieces = np.array_split(np.arange(len(arrays[0])), count)
    results = joblib.Parallel(n_jobs=-1)(
        joblib.delayed(_kept)(
            _name(formula),
            formula,
            source,
            tuple(a[piece] for a in arrays),
            digits,
            second,
            itemsize == 2,
        )
        for piece in pieces
    )
    parts = [np.concatenate(part) for part in zip(*results, strict=True)]
    return Truth(*parts, *([] if second else [None]))


def _name(formula: Callable[..., Any]) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """A formula and its options, as something that names them on disk."""
    options = tuple(sorted(getattr(formula, "keywords", {}).items()))
    return getattr(formula, "func", formula).__name__, options


def _piece(
    name: Any,
    formula: Callable[..., Any],
    source: str,
    arrays: tuple[np.ndarray, ...],
    digits: int,
    second: bool,
    kinks: bool,
) -> tuple[np.ndarray, ...]:
    del name, source  # They tell results apart.
    with mp.workdps(digits):
        rows = [_of_example(formula, second, kinks, *row) for row in zip(*arrays, strict=True)]
        return tuple(
            np.array([_parts(entry) for entry in column]) for column in zip(*rows, strict=True)
        )


# Under a name of its own: other processes find the function that it wraps by its name.
_kept = CACHE.cache(_piece, ignore=["formula"])


def _of_example(
    formula: Callable[..., Any], with_second: bool, kinks: bool, first: Any, *others: Any
) -> tuple[Any, ...]:
    shape = np.shape(first)
    flat, along = _exact(np.ravel(first)), _exact(direction(shape).ravel())
    others = tuple(_exact(other) for other in others)
    step = mpf(10) ** -STEP_DIGITS

    def moved(entry: int | None, ahead: bool, step: Any = step) -> Any:
        numbers = [
            x + step * (ahead * v + (n == entry))
            for n, (x, v) in enumerate(zip(flat, along, strict=True))
        ]
        return formula(numbers if shape else numbers[0], *others)

    value = moved(None, False)
    beside = [moved(entry, False) - value for entry in range(len(flat))]
    gradient = [difference / step for difference in beside]
    for entry, slope in enumerate(gradient):
        if abs(slope) <= NOTHING:
            # A slope that is there does not change with the step.
            shorter = step / 1000
            again = (moved(entry, False, shorter) - value) / shorter
            gradient[entry] = slope if abs(again - slope) <= abs(slope) / 1000 else mpf(0)
        # Numbers that have few digits often meet at one.
        elif kinks and abs((value - moved(entry, False, -step)) / step - slope) > abs(slope) / 1000:
            gradient[entry] = mp.nan
    if not with_second:
        return value, gradient if shape else gradient[0]
    ahead = moved(None, True)
    second = [
        ((moved(entry, True) - ahead) - difference) / step**2
        for entry, difference in enumerate(beside)
    ]
    second = [mpf(0) if abs(number) <= NOTHING else number for number in second]
    return value, gradient if shape else gradient[0], second if shape else second[0]


def _exact(values: Any) -> Any:
    if np.ndim(values):
        return [_exact(value) for value in values]
    return int(values) if np.asarray(values).dtype.kind in "iu" else mpf(float(values))


def _parts(entry: Any) -> Any:
    """An entry as the nearest float64, and what that leaves."""
    if isinstance(entry, list):
        return [_parts(number) for number in entry]
    high = float(entry)
    return [high, float(entry - high) if np.isfinite(high) else 0.0]
