"""Averages that are right: what the mean of means costs, what steps save, what shards exchange.

Trains one model three ways on lines of Python's own source, padded to one length and masked; reads
the temporaries of compiled gradients; and the collectives of a mean over many devices, which are
compiled for a TPU that need not be there with `--target v5e:16x16`.
"""

from __future__ import annotations

import argparse
import argparse as corpus  # Its source is the text: it is in every installation.
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

# Before JAX is imported: several devices on the CPU, and a TPU compiler that asks no machine.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxloss import (
    accumulated_value_and_grad,
    cross_entropy,
    masked,
    mean,
    microbatched,
    pooled,
    weighted,
)

LENGTH, CHARACTERS = 64, 128
Batch = tuple[jax.Array, jax.Array, jax.Array]


def lines(count: int, seed: int) -> Batch:
    """Lines of text: characters, those that follow them, and where there is one to follow."""
    text = [line for line in inspect.getsource(corpus).splitlines() if 1 < len(line) < LENGTH]
    chosen = np.random.default_rng(seed).choice(len(text), count, replace=False)
    codes = np.zeros((count, LENGTH), np.int32)
    for row, line in zip(codes, chosen, strict=True):
        characters = [min(ord(character), CHARACTERS - 1) for character in text[line]]
        row[: len(characters)] = characters
    following = np.pad(codes[:, 1:], [(0, 0), (0, 1)])
    return jnp.asarray(codes), jnp.asarray(following), jnp.asarray(following > 0)


class Model(nnx.Module):
    """Scores of the next character, from the present one and its place in the line."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.characters = nnx.Embed(CHARACTERS, 32, rngs=rngs)
        self.places = nnx.Embed(LENGTH, 32, rngs=rngs)
        self.hidden = nnx.Linear(32, 64, rngs=rngs)
        self.scores = nnx.Linear(64, CHARACTERS, rngs=rngs)

    def __call__(self, codes: jax.Array) -> jax.Array:
        seen = self.characters(codes) + self.places(jnp.arange(codes.shape[1]))
        return self.scores(nnx.relu(self.hidden(seen)))


def trained(way: str, updates: int, steps: int, rows: int = 32) -> tuple[Any, float]:
    """Parameters after some updates, each of one batch in so many steps, and the loss at the end.

    "one batch" takes the batch whole; "accumulated" adds its gradients and "microbatched" scans its
    loss, exactly; "MultiSteps" is what Optax makes of the mean of each step.
    """
    graph, parameters = nnx.split(Model(nnx.Rngs(0)))
    sgd = optax.sgd(0.3)
    optimizer = optax.MultiSteps(sgd, steps) if way == "MultiSteps" else sgd
    state = optimizer.init(parameters)

    def scores(parameters: Any, codes: jax.Array) -> jax.Array:
        return nnx.merge(graph, parameters)(codes)

    def objective(parameters: Any, codes: jax.Array, following: jax.Array, where: jax.Array) -> Any:
        return mean(masked(cross_entropy))(scores(parameters, codes), following, where=where)

    def sums(parameters: Any, codes: jax.Array, following: jax.Array, where: jax.Array) -> Any:
        return pooled(masked(cross_entropy))(scores(parameters, codes), following, where=where)

    def in_steps(parameters: Any, codes: jax.Array, following: jax.Array, where: jax.Array) -> Any:
        loss = masked(lambda codes, following: cross_entropy(scores(parameters, codes), following))
        return mean(microbatched(loss, steps))(codes, following, where=where)

    value_and_grad = {
        "accumulated": accumulated_value_and_grad(sums, steps),
        "microbatched": jax.value_and_grad(in_steps),
    }.get(way, jax.value_and_grad(objective))

    @jax.jit
    def update(parameters: Any, state: Any, batch: Batch) -> tuple[Any, Any]:
        _, gradient = value_and_grad(parameters, *batch)
        changes, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, changes), state

    for number in range(updates):
        batch = lines(rows, number)
        # In order of length, as batches are often made; the steps then differ in what they hold.
        order = np.argsort(np.asarray(batch[2].sum(-1)))
        batch = tuple(array[order] for array in batch)
        parts = [batch]
        if way == "MultiSteps":
            cuts = [np.split(np.asarray(array), steps) for array in batch]
            parts = list(zip(*cuts, strict=True))
        for part in parts:
            parameters, state = update(parameters, state, part)
    return parameters, float(jax.jit(objective)(parameters, *lines(512, updates)))


def distance(parameters: Any, others: Any) -> float:
    """The largest difference of two parameters."""
    both = zip(jax.tree.leaves(parameters), jax.tree.leaves(others), strict=True)
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in both)


def accumulation(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Training in steps beside training on one large batch: loss, and difference of parameters."""
    ways = ("one batch", "accumulated", "microbatched", "MultiSteps")
    runs = {
        way: trained(way, options.updates, options.steps)
        for way in track(ways, "training", transient=True)
    }
    whole, _ = runs["one batch"]
    return [
        {"way": way, "loss afterwards": loss, "from one batch": distance(parameters, whole)}
        for way, (parameters, loss) in runs.items()
    ]


def temporaries(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Megabytes beside inputs and outputs: value and gradient of a model with a wide output."""
    rows, width, classes = 4096, 256, 4096
    kernel = jax.ShapeDtypeStruct((width, classes), jnp.float32)
    batch = (
        jax.ShapeDtypeStruct((rows, width), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
        jax.ShapeDtypeStruct((rows,), jnp.bool_),
    )

    def megabytes(value_and_grad: Callable[..., Any]) -> float:
        program = jax.jit(value_and_grad).lower(kernel, *batch).compile()
        return program.memory_analysis().temp_size_in_bytes / 1e6

    def scanned(steps: int) -> Callable[..., Any]:
        def objective(kernel: Any, x: Any, labels: Any, where: Any) -> Any:
            loss = masked(lambda x, labels: cross_entropy(jnp.tanh(x) @ kernel, labels))
            return mean(microbatched(loss, steps))(x, labels, where=where)

        return jax.value_and_grad(objective)

    def sums(kernel: Any, x: Any, labels: Any, where: Any) -> Any:
        return pooled(masked(cross_entropy))(jnp.tanh(x) @ kernel, labels, where=where)

    return [
        {
            "steps": steps,
            "microbatched": megabytes(scanned(steps)),
            "accumulated": megabytes(accumulated_value_and_grad(sums, steps)),
        }
        for steps in (1, 2, 4, 8, 16, 32)
    ]


def collectives(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the compiled value and gradient of a mean over all devices exchanges."""
    if options.target:
        jax.config.update("jax_platforms", "cpu")
        platform, _, shape = options.target.partition(":")
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{platform}:{shape or '2x2'}"
        ).devices
    else:
        devices = jax.devices()
    mesh = Mesh(np.array(devices), ("data",))
    spread = NamedSharding(mesh, P("data"))
    rows = 16 * len(devices)
    inputs = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=spread)
        for shape, dtype in [
            ((rows, 1024), jnp.float32),
            ((rows,), jnp.int32),
            ((rows,), jnp.float32),
        ]
    ]

    def loss(axis_name: str | None) -> Callable[..., Any]:
        reduced = mean(weighted(cross_entropy), axis_name=axis_name)
        return lambda logits, labels, weights: reduced(logits, labels, weights=weights)

    named = jax.shard_map(loss("data"), mesh=mesh, in_specs=P("data"), out_specs=P())
    found = []
    for name, function in {"shard_map": named, "jit of sharded inputs": loss(None)}.items():
        program = jax.jit(jax.value_and_grad(function)).lower(*inputs).compile()
        for line in program.as_text().splitlines():
            exchange = re.search(
                r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute)(-start)?\(", line
            )
            if exchange:
                shapes = re.findall(r"\w+\[[\d,]*\]", exchange[1])
                row = {"mean by": name, "devices": len(devices), "collective": exchange[2]}
                found.append(row | {"of": " ".join(shapes), "program": line.strip()[:120]})
    return found


SECTIONS = {
    "accumulation": accumulation,
    "temporaries": temporaries,
    "collectives": collectives,
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.averages", description=__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--updates", type=int, default=50, help="of the parameters, in training")
    parser.add_argument("--steps", type=int, default=4, help="of each update")
    parser.add_argument("--target", help="compile the collectives for v5e:2x2, v5e:16x16, ...")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    unknown = set(options.sections) - SECTIONS.keys()
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    console, figures = Console(), {}
    for name in options.sections:
        figures[name] = rows = SECTIONS[name](options)
        columns = [column for column in rows[0] if column != "program"]
        table = Table(*columns, title=f"{name}: {SECTIONS[name].__doc__}")
        for row in rows:
            cells = (row[column] for column in columns)
            table.add_row(*(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells))
        console.print(table)
        for row in rows:
            if "program" in row:
                console.print(row["program"], soft_wrap=True, highlight=False, markup=False)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
