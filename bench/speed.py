"""Times of every loss: ours, the peers and the floor taking turns, one cell at a time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.floors import FLOORS
from bench.inputs import Loss
from bench.timing import interleaved, ratios

Row = dict[str, Any]
Call = Callable[[], Any]

OURS, OPTAX, TORCH, COMPILED, FLOOR = "jaxloss", "Optax", "PyTorch", "torch.compile", "floor"
PEERS = (OPTAX, TORCH, COMPILED, FLOOR)
WORKS = ("value", "value and gradient")
# A turn of less is mostly the clock's.
SHORTEST = 1.0


@dataclass(frozen=True)
class Cell:
    """A loss of arrays of one size and dtype, reduced to its mean, with its gradient or without."""

    loss: Loss
    size: tuple[int, int]
    dtype: str
    work: str

    @property
    def key(self) -> Row:
        rows, classes = self.size
        return {
            "loss": self.loss.name,
            "size": f"2^{(rows - 1).bit_length()}" if classes == 1 else f"{rows} x {classes}",
            "elements": rows * classes,
            "dtype": self.dtype,
            "work": self.work,
        }


def cells(
    losses: Sequence[Loss], dtypes: Sequence[str], works: Sequence[str], elements: range
) -> Iterator[Cell]:
    """Those with as many elements as are wanted."""
    for loss in losses:
        for size in loss.sizes:
            if size[0] * size[1] in elements:
                for dtype in dtypes:
                    for work in works:
                        yield Cell(loss, size, dtype, work)


def last_of_each(cells: Sequence[Cell]) -> list[Cell]:
    """Of each loss, dtype and work the one of the most elements; the last one of as many."""
    found: dict[tuple[str, str, str], Cell] = {}
    for cell in cells:
        kind = cell.loss.name, cell.dtype, cell.work
        if kind not in found or cell.key["elements"] >= found[kind].key["elements"]:
            found[kind] = cell
    return list(found.values())


def _programs(cell: Cell, peers: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Those of JAX."""
    loss = cell.loss
    means = {OURS: loss.mean}
    if loss.optax is not None and OPTAX in peers:
        means[OPTAX] = lambda *arrays: jnp.mean(loss.optax(*arrays))
    gradient = cell.work != "value"
    programs = {name: jax.value_and_grad(f) if gradient else f for name, f in means.items()}
    if FLOOR in peers:
        programs[FLOOR] = FLOORS[loss.floor][gradient]
    return programs


def _call_of_jax(program: Callable[..., Any], arrays: tuple[Any, ...]) -> tuple[Call, Row]:
    """The compiled program, and what it takes to compile and holds beside inputs and outputs."""
    jitted = jax.jit(program)
    start = time.perf_counter()
    lowered = jitted.trace(*arrays).lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    known = {
        "ms to trace": 1e3 * (traced - start),
        "ms to compile": 1e3 * (time.perf_counter() - traced),
        "temporary bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
    return lambda: jax.block_until_ready(jitted(*arrays)), known


def _on_torch(array: jax.Array) -> Any:
    import torch

    # PyTorch reads no bfloat16 of NumPy's.
    narrow = array.dtype == jnp.bfloat16
    tensor = torch.tensor(np.asarray(array.astype(jnp.float32) if narrow else array))
    if torch.cuda.is_available() and jax.default_backend() == "gpu":
        tensor = tensor.cuda()
    return tensor.bfloat16() if narrow else tensor


def _call_of_torch(cell: Cell, arrays: tuple[Any, ...], compiled: bool) -> Call:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    loss = cell.loss.torch
    if compiled:
        # A function that it has compiled eight times it runs as it stands, and to it most of ours
        # are one, of different arguments.
        torch.compiler.reset()
        loss = torch.compile(loss)
    tensors = jax.tree.map(_on_torch, arrays)
    wanted = cell.work != "value"
    leaves = jax.tree.leaves(tensors[0])
    for leaf in leaves:
        leaf.requires_grad_(wanted)

    def call() -> None:
        for leaf in leaves:
            leaf.grad = None
        value = loss(*tensors)
        if wanted:
            value.backward()
        if value.is_cuda:
            torch.cuda.synchronize()

    return call


def measured(cell: Cell, peers: Sequence[str], rounds: int) -> list[Row]:
    """A row for each library. One that fails, out of memory or otherwise, has the error instead."""
    arrays = cell.loss.arrays(*cell.size, cell.dtype)
    calls: dict[str, Call] = {}
    rows: dict[str, Row] = {}

    def prepare(name: str, make: Callable[[], tuple[Call, Row]]) -> None:
        try:
            call, known = make()
            call()
        # Whatever a library raises, it is a cell of the table and not the end of the run.
        except Exception as error:
            rows[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        else:
            calls[name], rows[name] = call, known

    for name, program in _programs(cell, peers).items():
        prepare(name, lambda program=program: _call_of_jax(program, arrays))
    if cell.loss.torch is not None:
        for name in (TORCH, COMPILED):
            if name in peers:
                of_inductor = name == COMPILED
                prepare(name, lambda c=of_inductor: (_call_of_torch(cell, arrays, c), {}))
    times = interleaved(calls, rounds, shortest=SHORTEST)
    for name, row in rows.items():
        row |= cell.key | {"library": name}
        if name in times:
            row["ms"] = statistics.median(times[name])
            if OURS in times:
                row["ours of it"], row["low"], row["high"] = ratios(times[OURS], times[name])
    return list(rows.values())


def bandwidth(rounds: int = 9) -> float:
    """Gigabytes each second that the device moves to add two arrays of 2^24 numbers."""
    arrays = tuple(jnp.full(2**24, float(n)) for n in range(2))
    call, _ = _call_of_jax(FLOORS["elements"][1], arrays)
    milliseconds = statistics.median(interleaved({FLOOR: call}, rounds)[FLOOR])
    return 3 * arrays[0].nbytes / milliseconds / 1e6
