"""The accuracy certificate: every loss and primitive against mpmath, beside Optax and PyTorch.

Errors are in units in the last place (ULP) of the dtype, at the exact inputs: the largest of all
examples, and with --medians the median. Of half precision, results are held to the dtype of the
input, though they may come wider. Left out are truths within ln(4 C) nats of underflow, C being the
entries of an example, as XLA flushes subnormal numbers. Truths are computed once and kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.accuracy import chart
from bench.accuracy.measure import DTYPES, PARTS, errors, of_jax, of_torch
from bench.accuracy.regimes import Draw
from bench.accuracy.rows import ROWS, Row
from bench.accuracy.truths import truth

Cell = dict[str, Any]

SIDES = {"ours": of_jax, "optax": of_jax, "torch": of_torch}
REACHED = Path(__file__).parent / "reached.json"
# Half precision comes from float32, rounded once; that rounding can meet another.
HALF = 0.51
# XLA's functions differ a little between machines; what is left of second derivatives, by more.
SLACK = {"value": 0.5, "gradient": 0.5, "second": 5.0}
# Examples are drawn in chunks, so that fewer of them are the first of more: of single numbers, and
# of vectors, whose truths take longer.
NUMBERS, VECTORS = 256, 16


def measured(
    row: Row, regime: str, dtype_name: str, chunks: int, sides: tuple[str, ...]
) -> Cell | None:
    """Of one row in one regime and dtype; None where the dtype has no such numbers."""
    dtype = DTYPES[dtype_name]
    cell: Cell = {"loss": row.name, "regime": regime, "dtype": dtype_name}
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for chunk in range(chunks if row.exact is None else 1):
        seed = zlib.crc32(f"{row.name}, {regime}, {chunk}".encode())
        count = NUMBERS if row.elementwise else VECTORS
        drawn = row.regimes[regime](Draw(np.random.default_rng(seed), count, dtype))
        if drawn is None:
            return None
        arrays = tuple(
            array.astype(dtype if array.dtype.kind == "f" else np.int32) for array in drawn
        )
        exact = tuple(a if a.dtype.kind == "i" else a.astype(np.float64) for a in arrays)
        # Second derivatives take as long to know as all else, and are those of float32 in half.
        second = chunk < 2 and dtype.itemsize > 2
        if row.exact is not None:
            known = row.exact(*exact)
        else:
            known = truth(row.formula, exact, dtype.itemsize, second)
        for side in sides:
            run, loss = SIDES[side], getattr(row, side)
            if loss is None or (side == "torch" and not _has_torch()):
                continue
            try:
                results = run(loss, arrays)
            except (TypeError, ValueError, RuntimeError) as error:
                if side == "ours":
                    raise
                cell[f"{side} refuses"] = type(error).__name__
                continue
            for part, distances in errors(row, results, known, exact[1:], dtype).items():
                found.setdefault(side, {}).setdefault(part, []).append(distances)
    for side, parts in found.items():
        cell[side] = {
            part: {"largest": _rounded(np.max(all_)), "median": _rounded(np.median(all_))}
            for part, chunks_ in parts.items()
            if (all_ := np.concatenate([c.ravel() for c in chunks_])).size
        }
    return cell


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _packages() -> list[str]:
    return ["jax", "jaxlib", "optax", *(["torch"] if _has_torch() else [])]


def limit(row: Row, part: str, dtype_name: str) -> float | None:
    """What the largest error of ours may be, where a limit is set."""
    if part == "second":
        return None
    if DTYPES[dtype_name].itemsize == 2:
        return HALF
    return None if row.limits is None else row.limits[PARTS.index(part)]


def misses(cells: list[Cell]) -> list[str]:
    """What is over its limit, not a number, or farther from the truth than a peer."""
    rows, found = {row.name: row for row in ROWS}, []
    for cell in cells:
        for part, ours in cell["ours"].items():
            where = f"{cell['loss']}, {cell['regime']}, {cell['dtype']}: {part}"
            allowed = limit(rows[cell["loss"]], part, cell["dtype"])
            if math.isinf(ours["largest"]):
                found.append(f"{where} is not a number, or infinite, where the truth is finite")
            elif allowed is not None and ours["largest"] > allowed:
                found.append(f"{where} {ours['largest']:.3g} is over {allowed}")
            if part == "second":
                continue
            for peer in ("optax", "torch"):
                theirs = cell.get(peer, {}).get(part, {}).get("largest", math.inf)
                # A hundredth of a unit is no difference.
                if ours["largest"] > 1.01 * theirs + 0.01:
                    found.append(f"{where} {ours['largest']:.3g} is over {peer}'s {theirs:.3g}")
    return found


def worse(cells: list[Cell], reached: list[Cell]) -> list[str]:
    """Where ours is farther from the truth than it was."""
    before = {_key(cell): cell["ours"] for cell in reached}
    found = []
    for cell in cells:
        for part, ours in cell["ours"].items():
            was = before.get(_key(cell), {}).get(part)
            if was is None:
                found.append(f"{', '.join(_key(cell))}: {part} has not been measured before")
            elif not ours["largest"] <= 1.1 * was["largest"] + SLACK[part]:
                found.append(
                    f"{', '.join(_key(cell))}: {part} {ours['largest']:.3g}, was "
                    f"{was['largest']:.3g}"
                )
    return found


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell["loss"], cell["regime"], cell["dtype"]


def table(cells: list[Cell], dtype_name: str, statistic: str) -> Table:
    rows = {row.name: row for row in ROWS}
    shown = Table(title=f"{dtype_name}: {statistic} error in ULP", title_justify="left")
    shown.add_column("loss", no_wrap=True)
    shown.add_column("regime", no_wrap=True)
    for part in PARTS:
        for side in SIDES:
            shown.add_column(f"{part}\n{side}", justify="right", no_wrap=True)
    before = None
    for cell in cells:
        if cell["dtype"] != dtype_name:
            continue
        texts = []
        for part in PARTS:
            numbers = [cell.get(side, {}).get(part, {}).get(statistic) for side in SIDES]
            allowed = limit(rows[cell["loss"]], part, dtype_name)
            texts += [_text(number, numbers, allowed, n) for n, number in enumerate(numbers)]
        name = cell["loss"] if cell["loss"] != before else ""
        shown.add_row(name, cell["regime"], *texts)
        before = cell["loss"]
    return shown


def _text(number: float | None, numbers: list[float | None], allowed: float | None, n: int) -> str:
    if number is None:
        return ""
    text = "lost" if number > 1e5 else f"{number:.0f}" if number >= 100 else f"{number:.2f}"
    if n == 0:
        if allowed is not None and number > allowed:
            return f"[red]{text}[/]"
        others = [other for other in numbers[1:] if other is not None]
        if others and number > 1.01 * min(others) + 0.01:
            return f"[yellow]{text}[/]"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("losses", nargs="*", help="parts of names; all, by default")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument(
        "--chunks", type=int, default=2, help=f"of {NUMBERS} numbers or {VECTORS} vectors each"
    )
    parser.add_argument("--ours", action="store_true", help="without the peers")
    parser.add_argument("--medians", action="store_true", help="print those too")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--picture", metavar="FILE", help="draw float32's errors there")
    parser.add_argument("--read", metavar="FILE", help="measure nothing, show what is there")
    parser.add_argument(
        "--check", action="store_true", help=f"fail where ours is worse than in {REACHED.name}"
    )
    options = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    if options.read:
        cells = json.loads(Path(options.read).read_text())["cells"]
    else:
        cells = _measure(options, console)
    if not cells:
        parser.error(f"no loss is named like {options.losses}")
    for name in options.dtypes:
        for statistic in ("largest", "median") if options.medians else ("largest",):
            console.print(table(cells, name, statistic))
    found = misses(cells)
    console.print(f"{len(cells)} cells; {len(found)} misses:", *found, sep="\n", highlight=False)
    if options.json:
        about = {"device": jax.devices()[0].device_kind, "chunks": options.chunks}
        about |= {name: importlib.metadata.version(name) for name in _packages()}
        text = ",\n".join(json.dumps(cell) for cell in cells)
        Path(options.json).write_text(f'{{"about": {json.dumps(about)}, "cells": [\n{text}\n]}}\n')
    if options.picture:
        chart.draw(cells, options.picture)
    if options.check:
        found = worse(cells, json.loads(REACHED.read_text())["cells"])
        console.print(f"{len(found)} worse than before:", *found, sep="\n", highlight=False)
        return 1 if found else 0
    return 0


def _measure(options: argparse.Namespace, console: Console) -> list[Cell]:
    # To the processes that compute truths: a slow disk is no concern of the reader.
    os.environ["PYTHONWARNINGS"] = "ignore:Persisting input arguments"
    wanted = [
        (row, regime, name)
        for row in ROWS
        if not options.losses or any(part in row.name for part in options.losses)
        for regime in row.regimes
        for name in options.dtypes
    ]
    sides = ("ours",) if options.ours else tuple(SIDES)
    cells = [
        measured(*cell, options.chunks, sides)
        for cell in track(wanted, "measuring", console=console)
    ]
    return [cell for cell in cells if cell is not None]


if __name__ == "__main__":
    sys.exit(main())
