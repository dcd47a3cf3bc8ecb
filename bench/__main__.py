"""Times of every loss beside Optax, PyTorch and the floor, on the device that is here.

Value, and value and gradient of the mean, at sizes from 2^10 to 2^24 elements; ours and the others
take turns in every round, and what is shown are medians of the ratios of the rounds. The floor is
the cheapest program that reads the same inputs and writes the same outputs, or computes the same
matrix products. torch.compile, which takes seconds for each program, is timed at the largest size
of each loss. Temporaries are those of the compiled programs. An interrupt ends the measuring,
and what has been measured is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import pictures, report, speed
from bench.losses import LOSSES

QUICK = {"smallest": 10, "largest": 20, "dtypes": ["float32"], "works": ["value and gradient"]}
QUICK |= {"peers": [speed.OPTAX, speed.TORCH, speed.FLOOR]}


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("losses", nargs="*", help="parts of names; all, by default")
    parser.add_argument(
        "--quick", action="store_true", help="one size of each loss, under 2 minutes"
    )
    parser.add_argument(
        "--smallest", type=int, default=10, metavar="N", help="2^N elements or more"
    )
    parser.add_argument("--largest", type=int, default=26, metavar="N", help="at most 2^N elements")
    parser.add_argument("--dtypes", nargs="+", default=list(report.BYTES), choices=report.BYTES)
    parser.add_argument("--works", nargs="+", default=list(speed.WORKS), choices=speed.WORKS)
    parser.add_argument("--peers", nargs="*", default=list(speed.PEERS), choices=speed.PEERS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the times there too")
    parser.add_argument("--against", metavar="FILE", help="compare with the times written there")
    parser.add_argument("--pictures", metavar="FOLDER", help="draw ratios, sizes and temporaries")
    parser.add_argument("--read", metavar="FILE", help="time nothing, show what is there")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    known = [loss.name for loss in LOSSES]
    for part in options.losses:
        if not any(part in name for name in known):
            parser.error(f"no loss is named like {part!r}; there are {', '.join(known)}")
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, to have quartiles, got {options.rounds}")
    return options


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    losses = [
        loss
        for loss in LOSSES
        if not options.losses or any(part in loss.name for part in options.losses)
    ]
    elements = range(2**options.smallest, 2**options.largest + 1)
    cells = list(speed.cells(losses, options.dtypes, options.works, elements))
    if options.quick:
        cells = speed.last_of_each(cells)
    if not cells:
        raise SystemExit(
            f"bench: none of these losses is timed at 2^{options.smallest} to "
            f"2^{options.largest} elements; widen --smallest and --largest."
        )
    device = jax.devices()[0].device_kind
    about = {"device": device, "cores": os.cpu_count(), "python": platform.python_version()}
    packages = ("jax", "jaxlib", "optax", "torch")
    installed = {package.metadata["Name"] for package in importlib.metadata.distributions()}
    about |= {name: importlib.metadata.version(name) for name in packages if name in installed}
    about["GB/s to add two arrays"] = round(speed.bandwidth(), 1)
    console.print(about)
    rows = []
    last = speed.last_of_each(cells)
    peers = [peer for peer in options.peers if peer != speed.COMPILED]
    start = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cells))
        # Who has waited long enough sees what there is.
        with contextlib.suppress(KeyboardInterrupt):
            for cell in cells:
                key = cell.key
                progress.update(task, description=f"{key['loss']} {key['size']} {key['dtype']}")
                rows += speed.measured(
                    cell, options.peers if cell in last else peers, options.rounds
                )
                progress.advance(task)
    about["seconds"] = round(time.monotonic() - start)
    return {"about": about, "rows": rows}


def show(found: dict[str, Any], options: argparse.Namespace, console: Console) -> None:
    cells = report.by_cell(found["rows"])
    last = report.largest(cells)
    kinds = dict.fromkeys((dtype, work) for _, _, dtype, work in cells)
    for dtype, work in kinds:
        console.print(report.times(last, dtype, work))
    for dtype in dict.fromkeys(dtype for dtype, work in kinds if work == report.GRADIENT):
        console.print(report.growth(cells, dtype))
    console.print(report.missed(report.reached(last)))
    for row in found["rows"]:
        if "error" in row:
            place = ", ".join(str(row[part]) for part in report.KEY)
            console.print(f"{row['library']}, {place}: {row['error']}", highlight=False)
    if options.against:
        before = json.loads(Path(options.against).read_text())
        console.print(report.compared(cells, report.by_cell(before["rows"])))
    if options.pictures:
        device = found["about"]["device"]
        for file in pictures.draw(cells, Path(options.pictures), device):
            console.print(f"drawn: {file}")


def main(arguments: list[str]) -> None:
    options = options_of(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    found = (
        json.loads(Path(options.read).read_text()) if options.read else measure(options, console)
    )
    if options.json:
        lines = ",\n".join(json.dumps(row) for row in found["rows"])
        about = json.dumps(found["about"])
        Path(options.json).write_text(f'{{"about": {about}, "rows": [\n{lines}\n]}}\n')
    show(found, options, console)


if __name__ == "__main__":
    main(sys.argv[1:])
