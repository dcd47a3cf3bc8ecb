"""Connectionist temporal classification beside Optax and PyTorch.

Times are medians of interleaved rounds on the present device. With `--target h100` nothing runs:
the programs are compiled for a GPU that need not be there, and what they would launch and move is
counted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from bench.programs import Program, least, most
from bench.targets import devices_of
from bench.timing import interleaved
from jaxloss import ctc


def of_optax(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.ctc_loss(
        logits, jnp.zeros(logits.shape[:2]), labels, jnp.zeros(labels.shape, jnp.float32)
    )


LOSSES = {"jaxloss": ctc, "Optax": of_optax}


def programs(loss: Callable[..., jax.Array]) -> dict[str, Callable[..., Any]]:
    def mean(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(loss(logits, labels))

    return {"value": mean, "value and gradient": jax.value_and_grad(mean)}


def inputs(options: argparse.Namespace, frames: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(options.batch, frames, options.classes)).astype(np.float32)
    labels = rng.integers(1, options.classes, (options.batch, options.labels))
    return logits, labels.astype(np.int32)


def calls_of_jax(logits: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, Callable]]:
    arrays = jax.device_put((logits, labels))

    def call(program: Callable[..., Any]) -> Callable[[], Any]:
        compiled = jax.jit(program)
        return lambda: jax.block_until_ready(compiled(*arrays))

    return {
        name: {work: call(program) for work, program in programs(loss).items()}
        for name, loss in LOSSES.items()
    }


def calls_of_torch(logits: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, Callable]]:
    try:
        import torch
    except ImportError:
        return {}
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    scores = torch.tensor(logits, device=device, requires_grad=True)
    targets = torch.tensor(labels, device=device)
    batch, frames, _ = logits.shape
    lengths = torch.full((batch,), frames), torch.full((batch,), labels.shape[1])

    def run(gradient: bool) -> None:
        with torch.set_grad_enabled(gradient):
            log_probs = scores.log_softmax(-1).transpose(0, 1)
            losses = torch.nn.functional.ctc_loss(log_probs, targets, *lengths, reduction="none")
            if gradient:
                scores.grad = None
                losses.mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return {"PyTorch": {"value": lambda: run(False), "value and gradient": lambda: run(True)}}


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds, the libraries taking turns in every round.

    Each round has an order of its own, so that none always follows a library whose threads still
    spin.
    """
    rows = []
    for frames in options.frames:
        arrays = inputs(options, frames)
        libraries = calls_of_jax(*arrays) | calls_of_torch(*arrays)
        calls = {
            (work, library): call
            for library, works in libraries.items()
            for work, call in works.items()
        }
        times = interleaved(calls, options.rounds, f"{frames} frames")
        for (work, library), samples in times.items():
            ours = times[work, "jaxloss"]
            ratios = [theirs / mine for theirs, mine in zip(samples, ours, strict=True)]
            row = {"frames": frames, "work": work, "library": library}
            row["milliseconds"] = statistics.median(samples)
            rows.append(row | {"of ours": statistics.median(ratios)})
    return rows


def counted(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Kernels, megabytes moved and megabytes of temporaries of programs compiled for an H100."""
    jax.config.update("jax_platforms", "cpu")
    [device] = devices_of("h100")
    sharding = jax.sharding.SingleDeviceSharding(device)
    rows = []
    for frames in options.frames:
        shapes = [
            jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
            for array in inputs(options, frames)
        ]
        for library, loss in LOSSES.items():
            for work, program in programs(loss).items():
                compiled = jax.jit(program).trace(*shapes).lower().compile()
                text = Program(compiled.as_text())
                # The branch of ours with work is taken if an example has a loss below log 2.
                found = text.work(least)
                row = {"frames": frames, "work": work, "library": library}
                row |= {"kernels": found.kernels, "at most": text.work(most).kernels}
                row |= {"MB moved": found.bytes / 1e6}
                temporaries = compiled.memory_analysis().temp_size_in_bytes
                rows.append(row | {"MB temporary": temporaries / 1e6})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ctc", description=__doc__)
    parser.add_argument("--target", choices=["h100"], help="compile for it instead of running")
    parser.add_argument("--frames", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=64)
    parser.add_argument("--labels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = counted(options) if options.target else measured(options)
    device = options.target or jax.devices()[0].device_kind
    packages = ("jax", "jaxlib", "optax", "torch")
    installed = {package.metadata["Name"] for package in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in packages if name in installed}
    sizes = f"{options.batch} examples, {options.classes} classes, {options.labels} labels"
    table = Table(*rows[0], title=f"CTC on {device}: {sizes}", caption=str(versions))
    for row in rows:
        table.add_row(*(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row.values()))
    Console().print(table)
    if options.json:
        report = {"device": device, "versions": versions, "options": vars(options), "rows": rows}
        options.json.write_text(json.dumps(report, default=str, indent=1))


if __name__ == "__main__":
    main()
