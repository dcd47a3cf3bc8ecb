"""Every loss compiled for an H100 and a TPU v5e, neither of which need be there, beside Optax.

Of the value and gradient of the mean, at the largest of a loss's sizes, the compiled program tells
its memory traffic, in units of the inputs; its kernels; the temporaries that it holds beside inputs
and outputs, in percent of the inputs; and so the time that the traffic takes at the chip's
bandwidth, beside that of a sum of two arrays that are together as large. Nothing runs, so a loop
whose length is the data's is counted for one turn: its figures are marked, "from 2.50" on.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.compiled import chart
from bench.compiled.goals import GOALS, Figures, figures, misses, worse
from bench.compiled.measure import MACHINES, SIDES, SUM, Cell, measured, of_sum
from bench.losses import LOSSES
from bench.targets import BANDWIDTHS

REACHED = Path(__file__).parent / "reached.json"
PACKAGES = ("jax", "jaxlib", "jax-cuda12-pjrt", "libtpu", "optax")
DTYPES = ("float32", "bfloat16")
# Of what a sum of two arrays reads, it writes half.
SUM_TRAFFIC = 1.5


def table(cells: list[Cell], target: str, dtype: str) -> Table:
    bandwidth = BANDWIDTHS[target]
    title = f"{target}, {dtype}, at {bandwidth / 1e12:.3g} TB/s"
    shown = Table(title=title, title_justify="left")
    shown.add_column("loss", no_wrap=True)
    shown.add_column("inputs\nMB", justify="right")
    for name in ("traffic", "kernels", "temporaries", "µs"):
        for side in SIDES:
            shown.add_column(f"{name}\n{side}", justify="right")
    for name in (f"µs\n{SUM}", "to reach", "met"):
        shown.add_column(name, justify="right")
    for cell in cells:
        if (cell["target"], cell["dtype"]) != (target, dtype):
            continue
        megabytes, of_inputs = cell["inputs"] / 1e6, 1e6 * cell["inputs"] / bandwidth
        texts = [
            *_of_sides(cell, lambda found: f"{found.traffic:.2f}", "from "),
            *_of_sides(cell, lambda found: str(found.kernels), "from "),
            *_of_sides(cell, lambda found: f"{100 * found.temporaries:.1f}%"),
            *_of_sides(cell, lambda found, of_inputs=of_inputs: f"{found.traffic * of_inputs:.0f}"),
            f"{SUM_TRAFFIC * of_inputs:.0f}",
        ]
        shown.add_row(cell["loss"], f"{megabytes:.3g}", *texts, _goal(cell), _verdict(cell))
    return shown


def _of_sides(cell: Cell, text: Callable[[Figures], str], open_loop: str = "") -> list[str]:
    shown = []
    for side in SIDES:
        found = figures(cell, side)
        if found is None:
            shown.append("refused" if side in cell else "")
        else:
            mark = open_loop if cell[side]["open loops"] else ""
            shown.append(mark + text(found))
    return shown


def _goal(cell: Cell) -> str:
    goal = GOALS.get(cell["loss"], Figures())
    traffic = "" if goal.traffic is None else f"{goal.traffic:g}"
    kernels = "" if goal.kernels is None else f"{goal.kernels} kernels"
    return ", ".join(filter(None, (traffic, kernels))) or ("Optax" if "optax" in cell else "")


def _verdict(cell: Cell) -> str:
    if misses(cell):
        return "[red]no[/]"
    return "yes" if _goal(cell) else ""


def compiled(options: argparse.Namespace, console: Console) -> list[Cell]:
    losses = [
        loss
        for loss in LOSSES
        if not options.losses or any(part in loss.name for part in options.losses)
    ]
    sides = SIDES[:1] if options.ours else SIDES
    pairs = [(target, dtype) for target in options.target for dtype in options.dtypes]
    programs: list[Callable[[], Cell]] = []
    for pair in pairs:
        programs.append(functools.partial(of_sum, *pair))
        programs += [
            functools.partial(measured, loss, *pair, sides, options.text) for loss in losses
        ]
    return [program() for program in track(programs, "compiling", console=console, transient=True)]


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("losses", nargs="*", help="parts of names; all, by default")
    parser.add_argument("--target", nargs="+", default=list(MACHINES), choices=MACHINES)
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES)
    parser.add_argument("--ours", action="store_true", help="without Optax")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument("--picture", metavar="FILE", help="draw float32's traffic there")
    parser.add_argument(
        "--text", metavar="FOLDER", type=Path, help="write the compiled programs there"
    )
    parser.add_argument(
        "--read", metavar="FILE", type=Path, help="compile nothing, show what is there"
    )
    parser.add_argument(
        "--check",
        metavar="FILE",
        nargs="?",
        type=Path,
        const=REACHED,
        help=f"fail where ours does more than there, by default in {REACHED.name}",
    )
    options = parser.parse_args()
    for part in options.losses:
        if not any(part in loss.name for loss in LOSSES):
            parser.error(f"no loss is named like {part}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    if options.read:
        cells = json.loads(options.read.read_text())["cells"]
    else:
        jax.config.update("jax_platforms", "cpu")
        cells = compiled(options, console)
    for target, dtype in dict.fromkeys((cell["target"], cell["dtype"]) for cell in cells):
        console.print(table(cells, target, dtype))
    found = [
        f"{cell['target']}, {cell['dtype']}, {cell['loss']}: {text}"
        for cell in cells
        for text in misses(cell)
    ]
    console.print(f"{len(cells)} cells; {len(found)} misses:", *found, sep="\n", highlight=False)
    if options.json:
        _write(cells, options.json)
    if options.picture:
        chart.draw(cells, options.picture)
    if options.check:
        found = worse(cells, json.loads(options.check.read_text())["cells"])
        console.print(f"{len(found)} worse than before:", *found, sep="\n", highlight=False)
        return 1 if found else 0
    return 0


def _write(cells: list[Cell], file: Path) -> None:
    installed = {package.metadata["Name"] for package in importlib.metadata.distributions()}
    about = {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
    text = ",\n".join(json.dumps(cell) for cell in cells)
    file.write_text(f'{{"about": {json.dumps(about)}, "cells": [\n{text}\n]}}\n')


if __name__ == "__main__":
    sys.exit(main())
