"""What a loss costs before it computes: import, tracing, compiling, and a call on small arrays.

Imports and the time to a first value are of new processes, the libraries taking turns; JAX itself
is imported before the clock starts. Tracing and compiling are of value and gradient of the mean of
small arrays, of the losses that Optax has too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.losses import LOSSES, Loss
from bench.speed import OPTAX, OURS
from bench.timing import interleaved, ratios

Row = dict[str, Any]

# What each process runs after `import jax`: the library, then the first value of a loss of it.
IMPORTS = {OURS: "import jaxloss", OPTAX: "import optax"}
FIRST_VALUES = {
    OURS: "jax.jit(jaxloss.mean(jaxloss.cross_entropy))(logits, labels)",
    OPTAX: "jax.jit(lambda z, y: "
    "optax.losses.softmax_cross_entropy_with_integer_labels(z, y).mean())(logits, labels)",
}
PROCESS = """
import time
import jax, jax.numpy as jnp
logits, labels = jnp.zeros((8, 10)), jnp.zeros(8, jnp.int32)
(logits + 1).block_until_ready()
start = time.perf_counter()
{library}
imported = time.perf_counter()
{value}.block_until_ready()
print(imported - start, time.perf_counter() - start)
"""


def processes(rounds: int) -> list[Row]:
    """Milliseconds to import a library, and to its first value."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in IMPORTS}
    # As installed: nothing is compiled anew, after the first round at the latest.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    for _ in track(range(rounds), "new processes", transient=True):
        for name, library in IMPORTS.items():
            program = PROCESS.format(library=library, value=FIRST_VALUES[name])
            command = [sys.executable, "-c", program]
            output = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout
            imported, first = map(float, output.split())
            times[name].append((1e3 * imported, 1e3 * first))
    return [
        {"of": what, "library": name, "ms": statistics.median(pair[n] for pair in pairs)}
        for n, what in enumerate(("import", "first value"))
        for name, pairs in times.items()
    ]


def _mean(loss: Loss, library: str) -> Callable[..., Any]:
    """A new function, which JAX has not traced before."""
    if library == OURS:
        return lambda *arrays: loss.mean(*arrays)
    return lambda *arrays: jnp.mean(loss.optax(*arrays))


def small(loss: Loss, rounds: int) -> Row:
    """Our share of Optax's time to trace, to compile, and to be called on small arrays."""
    arrays = loss.arrays(*loss.sizes[0], jnp.float32)
    names = (OURS, OPTAX)
    traced: dict[str, list[float]] = {name: [] for name in names}
    compiled: dict[str, list[float]] = {name: [] for name in names}
    # The first of each finds nothing that JAX itself keeps from trace to trace.
    for _ in range(rounds + 1):
        for name in names:
            jitted = jax.jit(jax.value_and_grad(_mean(loss, name)))
            start = time.perf_counter()
            lowered = jitted.trace(*arrays).lower()
            middle = time.perf_counter()
            lowered.compile()
            traced[name].append(1e3 * (middle - start))
            compiled[name].append(1e3 * (time.perf_counter() - middle))
    programs = {name: jax.jit(jax.value_and_grad(_mean(loss, name))) for name in names}
    calls = {
        name: lambda run=run: jax.block_until_ready(run(*arrays)) for name, run in programs.items()
    }
    called = interleaved(calls, 3 * rounds, shortest=3.0)
    row: Row = {"loss": loss.name, "size": loss.sizes[0]}
    for what, times in (("trace", traced), ("compile", compiled), ("call", called)):
        kept = {name: of[1:] if what != "call" else of for name, of in times.items()}
        row[f"ms to {what}"] = statistics.median(kept[OURS])
        row[f"{what} of Optax"] = ratios(kept[OURS], kept[OPTAX])[0]
    return row


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("losses", nargs="*", help="parts of names; all that Optax has, by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    wanted = [
        loss
        for loss in LOSSES
        if loss.optax is not None
        and (not options.losses or any(part in loss.name for part in options.losses))
    ]
    if not wanted:
        parser.error(f"no loss that Optax has is named like {options.losses}")
    console = Console()
    first = processes(options.rounds)
    table = Table("of", "library", "ms", title="new processes, after JAX is imported; medians")
    for row in first:
        table.add_row(row["of"], row["library"], f"{row['ms']:.0f}")
    console.print(table)
    rows = [small(loss, options.rounds) for loss in track(wanted, "losses", transient=True)]
    columns = ("ms to trace", "trace of Optax", "ms to compile", "compile of Optax")
    columns += ("ms to call", "call of Optax")
    table = Table("loss", "size", *columns, title="value and gradient of the mean; medians")
    for row in rows:
        size = " x ".join(map(str, row["size"]))
        table.add_row(row["loss"], size, *(f"{row[column]:.2g}" for column in columns))
    console.print(table)
    if options.json:
        Path(options.json).write_text(json.dumps({"processes": first, "losses": rows}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
