"""Large vocabularies: cross-entropy of a linear layer beside its logits, Optax and PyTorch.

Times are medians of interleaved rounds on the present device; temporaries are those of the compiled
programs. A small language model of Python's own standard library is trained with each loss. With
`--target h100`, `v5e:2x2` or `v5e:16x16` nothing runs: the programs are compiled for machines that
need not be there, also with the vocabulary spread over devices.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P, SingleDeviceSharding
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jaxloss
from bench import corpus
from bench.peers import calls_of_torch
from bench.targets import devices_of, exchanges, how_to_compile
from bench.timing import interleaved

Row = dict[str, Any]
Loss = Callable[..., jax.Array]

CUTOFFS = (2000, 10000)


def plain(hidden: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
    logits = hidden @ kernel
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def plain_float32(hidden: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
    """As precise as ours: the logits of bfloat16 are not rounded to it."""
    logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def per_token(hidden: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jaxloss.linear_cross_entropy(hidden, kernel, labels))


linear = jaxloss.mean(jaxloss.linear_cross_entropy)
LOSSES: dict[str, Loss] = {"plain": plain, "linear": linear, "linear, per token": per_token}


def adaptive_per_token(hidden: jax.Array, parameters: Any, labels: jax.Array) -> jax.Array:
    return jnp.mean(jaxloss.adaptive_softmax(hidden, parameters, labels))


adaptive = jaxloss.mean(jaxloss.adaptive_softmax)


def dense_and_masked(hidden: jax.Array, parameters: Any, labels: jax.Array) -> jax.Array:
    """The same by computing all tails for all tokens, and leaving out what is not wanted."""
    starts, shortlist = (*parameters.cutoffs, parameters.classes), parameters.cutoffs[0]
    cluster = sum((labels >= start).astype(jnp.int32) for start in starts[:-1])
    own = jnp.where(cluster == 0, labels, shortlist + cluster - 1)
    losses = jaxloss.cross_entropy(hidden @ parameters.head, own)
    for n, (projection, kernel) in enumerate(parameters.tails):
        inside = cluster == n + 1
        index = jnp.where(inside, labels - starts[n], 0)
        of_tail = jaxloss.cross_entropy(hidden @ projection @ kernel, index)
        losses = losses + jnp.where(inside, of_tail, 0)
    return jnp.mean(losses)


def value_and_grad(loss: Loss) -> Callable[..., Any]:
    return jax.value_and_grad(loss, argnums=(0, 1))


def three_products(hidden: jax.Array, kernel: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
    """The matrix products of value and gradient, and nothing else: the least that is possible."""
    to_logits = (hidden @ kernel) * 1e-3
    to_hidden = jax.lax.dot_general(to_logits, kernel, (((1,), (1,)), ((), ())))
    to_kernel = jax.lax.dot_general(hidden, to_logits, (((0,), (0,)), ((), ())))
    return to_hidden, to_kernel


def megabytes(program: Callable[..., Any], *shapes: Any) -> float:
    """What the compiled program holds beside its inputs and outputs."""
    compiled = jax.jit(program).trace(*shapes).lower().compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def shapes_of(
    tokens: int, features: int, classes: int, dtype: Any = jnp.float32, sharding: Any = None
) -> tuple[jax.ShapeDtypeStruct, ...]:
    return (
        jax.ShapeDtypeStruct((tokens, features), dtype, sharding=sharding),
        jax.ShapeDtypeStruct((features, classes), dtype, sharding=sharding),
        jax.ShapeDtypeStruct((tokens,), jnp.int32, sharding=sharding),
    )


def speed(options: argparse.Namespace) -> list[Row]:
    """Milliseconds of value and gradient, 2048 tokens, 512 features, 32000 classes by Zipf's law.

    All take turns in every round, in an order of its own; ratios are taken in each round.
    """
    tokens, features, classes = 2048, 512, 32000
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(tokens, features)).astype(np.float32)
    kernel = (rng.normal(size=(features, classes)) / math.sqrt(features)).astype(np.float32)
    shares = 1 / np.arange(1, classes + 1)
    labels = rng.choice(classes, tokens, p=shares / shares.sum()).astype(np.int32)
    best = jaxloss.optimal_cutoffs(shares, features, costs=jaxloss.measure_costs())
    arrays = jax.device_put((hidden, kernel, labels))
    programs = {name: (value_and_grad(loss), arrays) for name, loss in LOSSES.items()}
    programs["three products"] = (three_products, arrays)
    for name, loss, chosen in (
        ("adaptive", adaptive, CUTOFFS),
        ("adaptive, per token", adaptive_per_token, CUTOFFS),
        ("adaptive, best cutoffs", adaptive, best),
    ):
        parameters = jaxloss.AdaptiveSoftmax.init(jax.random.key(0), features, classes, chosen)
        programs[name] = (value_and_grad(loss), (arrays[0], parameters, arrays[2]))

    def call(program: Callable[..., Any], inputs: tuple[Any, ...]) -> Callable[[], Any]:
        compiled = jax.jit(program)
        return lambda: jax.block_until_ready(compiled(*inputs))

    held = {name: megabytes(program, *inputs) for name, (program, inputs) in programs.items()}
    of_torch = calls_of_torch(hidden, kernel, labels, CUTOFFS)
    calls = {name: call(*program) for name, program in programs.items()} | {
        name: run for name, run in of_torch.items() if run is not None
    }
    times = interleaved(calls, options.rounds, "rounds")

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))

    rows = [
        {
            "of": name,
            "ms": statistics.median(times[name]),
            "of plain": ratio(name, "plain"),
            "of three products": ratio(name, "three products"),
            "MB temporary": held.get(name, ""),
        }
        for name in calls
    ]
    rows[-1]["note"] = f"best cutoffs, of costs measured here: {best}"
    absent = set(of_torch) - set(calls)
    return rows + [dict.fromkeys(rows[0], "") | {"of": name} for name in absent]


def blocks(options: argparse.Namespace) -> list[Row]:
    """Milliseconds of value and gradient by tokens of a block; 8192 in bfloat16, on an accelerator.

    The default first, beside the plain form with logits of bfloat16 and of float32.
    """
    large = jax.default_backend() != "cpu"
    tokens, features, classes = (8192, 4096, 131072) if large else (2048, 512, 32000)
    dtype = jnp.bfloat16 if large else jnp.float32
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(keys[1], (features, classes)) / math.sqrt(features)
    labels = jax.random.randint(keys[2], (tokens,), 0, classes)
    inputs = jax.random.normal(keys[0], (tokens, features), dtype), kernel.astype(dtype), labels
    losses: dict[str, Loss] = {"plain": plain, "plain, float32": plain_float32}
    for size in (None, 256, 512, 1024, 2048, 4096):
        losses[f"linear, {size or 'default'}"] = functools.partial(linear, block_size=size)

    def call(loss: Loss) -> Callable[[], Any]:
        compiled = jax.jit(value_and_grad(loss))
        return lambda: jax.block_until_ready(compiled(*inputs))

    calls = {name: call(loss) for name, loss in losses.items()}
    times = interleaved(calls, options.rounds, "blocks")
    return [
        {
            "of": name,
            "ms": statistics.median(times[name]),
            "MB temporary": megabytes(value_and_grad(loss), *inputs),
        }
        for name, loss in losses.items()
    ]


def temporaries(options: argparse.Namespace) -> list[Row]:
    """Megabytes beside inputs and gradients, of value and gradient in float32; nothing runs."""
    sizes = [(1024 * 2**n, 512, 32000) for n in range(5)] + [(8192, 256, 131072)]
    rows = []
    for size in track(sizes, "compiling", transient=True):
        row: Row = dict(zip(("tokens", "features", "classes"), size, strict=True))
        programs = {name: value_and_grad(loss) for name, loss in LOSSES.items()}
        shapes = shapes_of(*size)
        held = {name: megabytes(run, *shapes) for name, run in programs.items()}
        hidden, _, labels = shapes
        parameters = jax.eval_shape(
            lambda size=size: jaxloss.AdaptiveSoftmax.init(jax.random.key(0), *size[1:], CUTOFFS)
        )
        for loss in (adaptive, dense_and_masked):
            name = loss.__name__.replace("_loss", "").replace("_", " ")
            held[name] = megabytes(value_and_grad(loss), hidden, parameters, labels)
        rows.append(row | held)
    return rows


def training(options: argparse.Namespace) -> list[Row]:
    """A language model of Python's standard library, the losses taking turns at every update."""
    features = 256
    indices, counts = corpus.tokens()
    classes = len(counts)
    kernel = jax.nn.initializers.lecun_normal()(jax.random.key(1), (features, classes))

    def full(hidden: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
        return jaxloss.mean(jaxloss.cross_entropy)(hidden @ kernel, labels)

    ways: dict[str, tuple[Loss, Any]] = {"full": (full, kernel), "linear": (linear, kernel)}
    note = f"{len(indices)} tokens, {classes} distinct; {options.batch} in a batch"
    cutoffs = jaxloss.optimal_cutoffs(counts, features)
    first = jaxloss.AdaptiveSoftmax.init(jax.random.key(1), features, classes, cutoffs)
    ways["adaptive"] = (adaptive, first)
    note += f"; cutoffs {cutoffs}"
    runs = corpus.train(ways, features, options.updates, options.batch)
    differences = [
        abs(a / b - 1) for a, b in zip(runs["linear"].curve, runs["full"].curve, strict=True)
    ]
    early = max(differences[: -(-options.updates // 4)])
    note += (
        f"\nlinear is from full at most {max(differences):.1e}, {early:.1e} in the first quarter"
    )
    rows: list[Row] = []
    for way, run in runs.items():
        row: Row = {"loss with": way}
        for part in range(5):
            number = round(part * (options.updates - 1) / 4)
            row[f"at {number}"] = f"{run.curve[number]:.3f}"
        row["tokens/s"] = round(options.batch / statistics.median(run.seconds))
        rows.append(row | {"MB held": run.megabytes, "curve": run.curve})
    rows[0]["note"] = note
    return rows


def compiled(options: argparse.Namespace) -> list[Row]:
    """Megabytes of value and gradient compiled for the target: bfloat16, 8192 x 4096 x 131072."""
    if not options.target:
        raise SystemExit(
            "bench.vocabulary: compiled needs a --target and its compiler, but no accelerator:\n"
            + "".join(f"  {target}: {how_to_compile(target)}\n" for target in TARGETS)
        )
    tokens, features, classes = 8192, 4096, 131072
    sharding = SingleDeviceSharding(devices_of(options.target)[0])
    shapes = shapes_of(tokens, features, classes, jnp.bfloat16, sharding)
    programs: dict[str, tuple[Loss, Any]] = {name: (loss, shapes) for name, loss in LOSSES.items()}
    programs["plain, float32 logits"] = (plain_float32, shapes)
    parameters = jax.eval_shape(
        lambda: jaxloss.AdaptiveSoftmax.init(
            jax.random.key(0), features, classes, CUTOFFS, dtype=jnp.bfloat16
        )
    )
    placed = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), parameters
    )
    programs["adaptive"] = (adaptive, (shapes[0], placed, shapes[2]))
    kernel_gradient = 4 * features * classes / 1e6
    rows = []
    for name, (loss, inputs) in track(programs.items(), "compiling", transient=True):
        held = megabytes(value_and_grad(loss), *inputs)
        beyond = held - kernel_gradient if name.startswith("linear") else ""
        rows.append({"of": name, "MB temporary": held, "beyond the kernel's gradient": beyond})
    return rows


def sharded(options: argparse.Namespace) -> list[Row]:
    """The same with tokens and vocabulary spread over devices: megabytes of each, and exchanges."""
    tokens, features, classes = 8192, 4096, 131072
    largest = int(options.target.partition("x")[2])
    sides = [side for side in (2, 4, 8, 16) if side <= largest]
    rows = []
    for side in track(sides, "compiling", transient=True):
        devices = np.array(devices_of(f"v5e:{side}x{side}"))
        mesh = Mesh(devices.reshape(side, side), ("data", "vocabulary"))
        specs = P("data"), P(None, "vocabulary"), P("data")

        def loss(hidden: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
            reduced = jaxloss.mean(jaxloss.linear_cross_entropy, axis_name="data")
            return reduced(hidden, kernel, labels, axis_name="vocabulary")

        spread = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P())
        shapes = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, spec))
            for a, spec in zip(
                shapes_of(tokens, features, classes, jnp.bfloat16), specs, strict=True
            )
        ]
        program = jax.jit(value_and_grad(spread)).lower(*shapes).compile()
        memory = program.memory_analysis()
        row: Row = {"mesh": f"{side} x {side}"}
        row["MB of arguments"] = memory.argument_size_in_bytes / 1e6
        row["MB temporary"] = memory.temp_size_in_bytes / 1e6
        row["MB in all"] = row["MB of arguments"] + row["MB temporary"]
        found = exchanges(program.as_text(), side)
        rows.append(row | {"note": f"{side} x {side}: {', '.join(found)}"})
    return rows


SECTIONS = {
    "speed": speed,
    "blocks": blocks,
    "temporaries": temporaries,
    "training": training,
    "compiled": compiled,
}
TARGETS = ("h100", "v5e:2x2", "v5e:16x16")
HIDDEN = {"curve", "note"}


def shown(cell: Any) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vocabulary", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--target", choices=TARGETS, help="compile for it")
    parser.add_argument("--rounds", type=int, default=9, help="of the times")
    parser.add_argument("--updates", type=int, default=200, help="of the parameters, in training")
    parser.add_argument("--batch", type=int, default=512, help="tokens of an update")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    if options.target:
        jax.config.update("jax_platforms", "cpu")
    unknown = set(options.sections) - SECTIONS.keys()
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    running = [name for name in SECTIONS if name != "compiled"]
    names = options.sections or (["compiled"] if options.target else running)
    sections = [(name, SECTIONS[name]) for name in names]
    if "compiled" in names and (options.target or "").startswith("v5e"):
        sections.append(("sharded", sharded))
    device = jax.devices()[0].device_kind
    packages = ("jax", "jaxlib", "optax", "torch")
    installed = {package.metadata["Name"] for package in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in packages if name in installed}
    console, figures = Console(), {}
    for name, section in sections:
        figures[name] = rows = section(options)
        columns = [column for column in rows[0] if column not in HIDDEN]
        place = options.target if name in ("compiled", "sharded") else device
        title = f"{name} on {place}: {(section.__doc__ or '').splitlines()[0]}"
        table = Table(*columns, title=title)
        for row in rows:
            cells = (row[column] for column in columns)
            table.add_row(*(shown(cell) for cell in cells))
        console.print(table)
        for row in rows:
            if "note" in row:
                console.print(row["note"], soft_wrap=True, highlight=False, markup=False)
    console.print(versions)
    if options.json:
        report = {"device": device, "target": options.target, "versions": versions}
        with open(options.json, "w") as file:
            json.dump(report | {"rows": figures}, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
