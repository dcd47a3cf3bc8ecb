"""Buffers of classes beside NumPy's: examples stored and drawn in a second.

Examples are vectors whose classes are as unequal as 1, 1/2, 1/3, ... A call stores, or draws, all
of them in batches of one size; medians are of interleaved rounds. The third section is of the step
within a push that has a choice of algorithms: each example's position among those of its class.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.timing import interleaved
from jaxloss import ClassBuffers
from jaxloss._class_buffers import positions

Batches = Sequence[tuple[np.ndarray, np.ndarray]]


def batches_of(options: argparse.Namespace, classes: int, size: int) -> Batches:
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, classes + 1)
    count = -(-options.examples // size)
    labels = rng.choice(classes, (count, size), p=shares / shares.sum()).astype(np.int32)
    examples = rng.normal(size=(count, size, options.features)).astype(np.float32)
    return list(zip(examples, labels, strict=True))


class Ours:
    """The library's, a program for each batch, or one that scans all of them."""

    def __init__(self, options: argparse.Namespace, classes: int, batches: Batches) -> None:
        self.buffers = ClassBuffers.init(jnp.zeros(options.features), classes, options.capacity)
        self.batches = jax.device_put(batches)
        self.all = jax.tree.map(lambda *parts: jnp.stack(parts), *self.batches)
        self.keys = jax.random.split(jax.random.key(0), len(batches))
        self.push_one = jax.jit(ClassBuffers.push, donate_argnums=0)
        self.sample_one = jax.jit(functools.partial(ClassBuffers.sample, n=len(batches[0][1])))

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def scan(self, buffers: ClassBuffers, batches: Any) -> ClassBuffers:
        return jax.lax.scan(lambda held, batch: (held.push(*batch), None), buffers, batches)[0]

    def push(self) -> None:
        for batch in self.batches:
            self.buffers = self.push_one(self.buffers, *batch)
        jax.block_until_ready(self.buffers)

    def push_in_a_scan(self) -> None:
        self.buffers = jax.block_until_ready(self.scan(self.buffers, self.all))

    def sample(self) -> None:
        jax.block_until_ready([self.sample_one(self.buffers, key) for key in self.keys])


class Deques:
    """Python's own ring buffers, of rows of the batches, which are not copied."""

    def __init__(self, options: argparse.Namespace, classes: int, batches: Batches) -> None:
        self.rows = [collections.deque(maxlen=options.capacity) for _ in range(classes)]
        self.batches, self.rng = batches, np.random.default_rng(0)

    def push(self) -> None:
        for examples, labels in self.batches:
            for example, label in zip(examples, labels.tolist(), strict=True):
                self.rows[label].append(example)

    def sample(self) -> None:
        present = [row for row in self.rows if row]
        for _, labels in self.batches:
            rows = [present[i % len(present)] for i in range(len(labels))]
            np.stack([row[self.rng.integers(len(row))] for row in rows])


class Arrays:
    """The library's algorithm in NumPy, one array for all buffers."""

    def __init__(self, options: argparse.Namespace, classes: int, batches: Batches) -> None:
        self.examples = np.zeros((classes, options.capacity, options.features), np.float32)
        self.ends, self.sizes = np.zeros((2, classes), np.int64)
        self.batches, self.rng = batches, np.random.default_rng(0)

    def push(self) -> None:
        classes, capacity, _ = self.examples.shape
        for examples, labels in self.batches:
            order = np.argsort(labels, kind="stable")
            groups = labels[order]
            counts = np.bincount(groups, minlength=classes)
            ranks = np.arange(len(groups)) - (np.cumsum(counts) - counts)[groups]
            kept = ranks >= counts[groups] - capacity
            order, groups, ranks = order[kept], groups[kept], ranks[kept]
            self.examples[groups, (self.ends[groups] + ranks) % capacity] = examples[order]
            self.ends = (self.ends + counts) % capacity
            self.sizes = np.minimum(self.sizes + counts, capacity)

    def sample(self) -> None:
        for _, labels in self.batches:
            present = self.rng.permutation(np.flatnonzero(self.sizes))
            drawn = present[np.arange(len(labels)) % len(present)]
            self.examples[drawn, self.rng.integers(self.sizes[drawn])]


def by_one_hot(groups: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """A cumulative sum over the batch for each class."""
    one_hot = (groups[:, None] == jnp.arange(number, dtype=jnp.int32)[None]).astype(jnp.int32)
    sums = jnp.cumsum(one_hot, 0, dtype=jnp.int32)
    return jnp.take_along_axis(sums, groups[:, None], 1)[:, 0] - 1, sums[-1]


def by_sorting_pairs(groups: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """A stable sort of groups that takes the rows with it."""
    rows = jnp.arange(len(groups), dtype=jnp.int32)
    counts = jnp.zeros(number, jnp.int32).at[groups].add(1)
    group, row = jax.lax.sort((groups, rows), num_keys=1)
    starts = jnp.cumsum(counts) - counts
    return jnp.zeros_like(rows).at[row].set(rows - starts[group], unique_indices=True), counts


ALGORITHMS = {
    "sorted numbers (ours)": positions,
    "sorted pairs": by_sorting_pairs,
    "one-hot cumulative sum": by_one_hot,
}


def pushing(
    options: argparse.Namespace, classes: int, batches: Batches
) -> dict[str, Callable[[], Any]]:
    ours, deques, arrays = (kind(options, classes, batches) for kind in (Ours, Deques, Arrays))
    return {
        "jaxloss": ours.push,
        "jaxloss, in a scan": ours.push_in_a_scan,
        "NumPy, deques": deques.push,
        "NumPy, arrays": arrays.push,
    }


def sampling(
    options: argparse.Namespace, classes: int, batches: Batches
) -> dict[str, Callable[[], Any]]:
    kinds = {"jaxloss": Ours, "NumPy, deques": Deques, "NumPy, arrays": Arrays}
    calls = {}
    for name, kind in kinds.items():
        buffers = kind(options, classes, batches)
        buffers.push()
        calls[name] = buffers.sample
    return calls


def positioning(
    options: argparse.Namespace, classes: int, batches: Batches
) -> dict[str, Callable[[], Any]]:
    labels = [jnp.asarray(labels) for _, labels in batches]

    def call(algorithm: Callable[..., Any]) -> Callable[[], Any]:
        program = jax.jit(functools.partial(algorithm, number=classes))
        return lambda: jax.block_until_ready([program(part) for part in labels])

    return {name: call(algorithm) for name, algorithm in ALGORITHMS.items()}


WORKS = {"push": pushing, "sample": sampling, "positions": positioning}


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for work in options.works:
        for classes in options.classes:
            for size in options.batches:
                batches = batches_of(options, classes, size)
                calls = WORKS[work](options, classes, batches)
                title = f"{work}, {classes} classes, batches of {size}"
                times = interleaved(calls, options.rounds, title)
                first = next(iter(times.values()))
                for name, samples in times.items():
                    ratios = [theirs / ours for theirs, ours in zip(samples, first, strict=True)]
                    row = {"work": work, "classes": classes, "batch": size, "by": name}
                    seconds = statistics.median(samples) / 1e3
                    row["million a second"] = len(batches) * size / seconds / 1e6
                    rows.append(row | {"time of ours": statistics.median(ratios)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.buffers", description=__doc__)
    parser.add_argument("works", nargs="*", default=list(WORKS), help=", ".join(WORKS))
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--capacity", type=int, default=100)
    parser.add_argument("--features", type=int, default=64, help="float32 numbers of an example")
    parser.add_argument("--examples", type=int, default=16384, help="of a call, about")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    unknown = set(options.works) - WORKS.keys()
    if unknown:
        parser.error(f"no such work: {', '.join(unknown)}; there are {', '.join(WORKS)}")
    rows = measured(options)
    device = jax.devices()[0].device_kind
    sizes = f"{options.features} numbers an example, {options.capacity} kept of each class"
    table = Table(*rows[0], title=f"Class buffers on {device}: {sizes}")
    for row in rows:
        table.add_row(*(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row.values()))
    Console().print(table)
    if options.json:
        report = {"device": device, "options": vars(options), "rows": rows}
        options.json.write_text(json.dumps(report, default=str, indent=1))


if __name__ == "__main__":
    main()
