"""What the times say: tables of ratios, what was to be reached, growth, and two runs compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from bench.losses import LOSSES
from bench.speed import COMPILED, FLOOR, OPTAX, OURS, TORCH

Row = dict[str, Any]
Cells = dict[tuple[Any, ...], dict[str, Row]]

GRADIENT = "value and gradient"
KEY = ("loss", "size", "dtype", "work")

# At most these ratios of the time of value and gradient in float32 on two CPU cores; a loss that is
# not here is to be no slower than its peers.
LIMITS: dict[tuple[str, str], dict[str, float]] = {
    ("binary_cross_entropy_with_logits", "2^24"): {OPTAX: 0.36, TORCH: 0.36, FLOOR: 2.3},
    ("smooth_l1", "2^24"): {TORCH: 0.7, FLOOR: 1.6},
    ("huber", "2^24"): {OPTAX: 0.6, TORCH: 0.7, FLOOR: 1.6},
    ("squared_error", "2^24"): {OPTAX: 1.0, TORCH: 0.6, FLOOR: 1.4},
    ("absolute_error", "2^24"): {TORCH: 0.3, FLOOR: 1.4},
    ("cross_entropy", "2048 x 32000"): {OPTAX: 1.05, TORCH: 0.52, FLOOR: 1.15},
    ("cross_entropy, probabilities", "512 x 32000"): {OPTAX: 1.0, TORCH: 0.9},
}
DEFAULT = {OPTAX: 1.0, TORCH: 1.0}
# Of the first input's bytes.
TEMPORARIES = 0.01
BYTES = {"float32": 4, "bfloat16": 2}
ELEMENTWISE = {loss.name for loss in LOSSES if loss.elementwise}


def by_cell(rows: Sequence[Row]) -> Cells:
    """The libraries' rows of each loss, size, dtype and work."""
    cells: Cells = defaultdict(dict)
    for row in rows:
        cells[tuple(row[part] for part in KEY)][row["library"]] = row
    return cells


def largest(cells: Cells) -> Cells:
    """Of each loss, dtype and work the cell of the most elements; the last one of as many."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for key, libraries in cells.items():
        loss, _, *others = key
        elements = next(iter(libraries.values()))["elements"]
        before = found.get((loss, *others))
        if before is None or elements >= next(iter(cells[before].values()))["elements"]:
            found[loss, *others] = key
    return {key: cells[key] for key in found.values()}


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    if "error" in row:
        return row["error"].partition(":")[0]
    if "ours of it" not in row:
        return ""
    return f"{row['ours of it']:.2f} ({row['low']:.2f}-{row['high']:.2f})"


def times(cells: Cells, dtype: str, work: str) -> Table:
    table = Table(title=f"{work}, {dtype}: our time as a share of theirs, median (quartiles)")
    for name in ("loss", "size"):
        table.add_column(name, no_wrap=True)
    others = (OPTAX, TORCH, COMPILED, FLOOR)
    for name in ("ms", *(f"of {other}" for other in others), "MB held", "ms to compile"):
        table.add_column(name, justify="right", no_wrap=True)
    for (loss, size, *kind), libraries in cells.items():
        if kind != [dtype, work]:
            continue
        ours = libraries[OURS]
        if "error" in ours:
            table.add_row(loss, size, ours["error"][:60])
            continue
        compiling = ours["ms to trace"] + ours["ms to compile"]
        table.add_row(
            loss,
            size,
            number(ours["ms"]),
            *(_ratio(libraries.get(other)) for other in others),
            number(ours["temporary bytes"] / 1e6),
            number(compiling),
        )
    return table


def reached(cells: Cells) -> list[Row]:
    """Each figure that was to be reached at the largest size, in float32, and what was."""
    found = []
    for (loss, size, dtype, work), libraries in cells.items():
        if (dtype, work) != ("float32", GRADIENT):
            continue
        for other, limit in LIMITS.get((loss, size), DEFAULT).items():
            ratio = libraries.get(other, {}).get("ours of it")
            if ratio is not None:
                found.append({"loss": loss, "size": size, "of": other, "limit": limit, "is": ratio})
        ours = libraries[OURS]
        if loss in ELEMENTWISE and "temporary bytes" in ours:
            share = ours["temporary bytes"] / (ours["elements"] * BYTES[dtype])
            row = {"loss": loss, "size": size, "of": "the input's bytes", "limit": TEMPORARIES}
            found.append(row | {"is": share})
    return found


def missed(figures: Sequence[Row]) -> Table:
    over = [figure for figure in figures if not figure["is"] <= figure["limit"]]
    table = Table(title=f"{len(figures) - len(over)} of {len(figures)} figures reached; missed:")
    for name in ("loss", "size", "of", "limit", "is"):
        table.add_column(name, no_wrap=True)
    for figure in over:
        limit, ratio = (f"{figure[name]:.2f}" for name in ("limit", "is"))
        table.add_row(figure["loss"], figure["size"], figure["of"], limit, ratio)
    return table


def growth(cells: Cells, dtype: str) -> Table:
    """Nanoseconds of an element of value and gradient, and where more elements cost more each.

    A knee is the first size from 2^16 on whose element costs half as much again as at any before.
    Where an element of the floor costs as much more too, it is memory's; where not, it may be what
    is held in between.
    """
    lines: dict[str, dict[int, dict[str, Row]]] = defaultdict(dict)
    for (loss, _, *kind), libraries in cells.items():
        ours = libraries[OURS]
        if kind == [dtype, GRADIENT] and loss in ELEMENTWISE and "ms" in ours:
            lines[loss][ours["elements"]] = libraries
    sizes = sorted({size for line in lines.values() for size in line})
    table = Table(title=f"nanoseconds for an element, {GRADIENT}, {dtype}")
    table.add_column("loss", no_wrap=True)
    for size in sizes:
        table.add_column(f"2^{round(math.log2(size))}", justify="right", no_wrap=True)
    table.add_column("knee", no_wrap=True)
    for loss, line in lines.items():
        costs = _costs(line, OURS)
        table.add_row(loss, *(number(costs.get(size)) for size in sizes), _knee(line))
    return table


def _costs(line: dict[int, dict[str, Row]], library: str) -> dict[int, float]:
    """Nanoseconds of an element by the number of elements, from few to many."""
    rows = {size: line[size].get(library, {}) for size in sorted(line)}
    return {size: 1e6 * row["ms"] / size for size, row in rows.items() if "ms" in row}


def _knee(line: dict[int, dict[str, Row]]) -> str:
    found = _rise(_costs(line, OURS))
    if found is None:
        return ""
    of_floor = _rise({s: cost for s, cost in _costs(line, FLOOR).items() if s <= found})
    held = line[found][OURS].get("temporary bytes", 0)
    why = ""
    if of_floor is not None:
        why = ": memory, as for the floor"
    elif held > TEMPORARIES * found:
        why = f": {number(held / 1e6)} MB held"
    return f"2^{round(math.log2(found))}{why}"


def _rise(costs: dict[int, float]) -> int | None:
    """The first size from 2^16 on whose element costs half as much again as at any before."""
    least = math.inf
    for size, cost in costs.items():
        if size >= 2**16:
            if cost > 1.5 * least:
                return size
            least = min(least, cost)
    return None


def compared(cells: Cells, before: Cells) -> Table:
    """Where ours takes another share of a peer's time than it did: the machine cancels."""
    table = Table(title="our time as a share of theirs, then and now, where the quartiles part")
    for name in ("loss", "size", "dtype", "work", "of", "then", "now"):
        table.add_column(name, no_wrap=True)
    for key, libraries in cells.items():
        for other in (OPTAX, TORCH, COMPILED, FLOOR):
            now, then = libraries.get(other), before.get(key, {}).get(other)
            if not now or not then or "low" not in now or "low" not in then:
                continue
            if now["low"] > then["high"] or now["high"] < then["low"]:
                table.add_row(*key, other, _ratio(then), _ratio(now))
    return table
