"""What each hand-written gradient buys over plain autodiff of the very same formula.

For each rule of `jaxloss`, a loss that uses it is differentiated with the rule and without: the
function under the rule then goes to JAX as it stands. Time and temporaries are those of value and
gradient of the mean, residuals what reverse mode keeps of inputs and intermediates, and errors the
gradient's largest, in units in the last place of float32, against the same loss in float64: of each
entry or, of matrix products, of the largest; of inputs as the bench draws them, and of some 32
times as large. Edges are the inputs on which the gradient without the rule is another, or NaN: all
of the first array 0, equal to the second, 1e-30 or 1e30 times as large, or infinite where positive.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jaxloss
from bench.inputs import LABEL, LOGITS, VECTORS, Loss
from bench.losses import LOSSES
from bench.timing import interleaved, ratios
from jaxloss import primitives
from jaxloss._autodiff import custom_vjp

Row = dict[str, Any]

# Primitives whose rules no loss of the bench's own reaches.
OTHERS = (
    Loss("primitives.logsumexp", primitives.logsumexp, (LOGITS,), VECTORS, "softmax"),
    Loss("primitives.log_softmax", primitives.log_softmax, (LOGITS,), VECTORS, "softmax"),
    Loss("primitives.log_cosh", primitives.log_cosh, (LOGITS,), VECTORS, "elements"),
    Loss("primitives.norm", primitives.norm, (LOGITS,), VECTORS, "elements"),
    Loss(
        "primitives.log_softmax_at", primitives.log_softmax_at, (LOGITS, LABEL), VECTORS, "softmax"
    ),
)
OF_PRODUCTS = {"products", "linear", "head"}
AT_MOST = 2**20
LARGER = 32.0
EDGES: dict[str, Any] = {
    "0": jnp.zeros_like,
    "tiny": lambda first: first * 1e-30,
    "huge": lambda first: first * 1e30,
    "inf": lambda first: jnp.where(first > 0, jnp.inf, first),
}


def rules() -> dict[str, custom_vjp]:
    """Every rule of the package, by module and name."""
    found = {}
    for module in pkgutil.iter_modules(jaxloss.__path__):
        if module.name != "__main__":
            for name, value in vars(importlib.import_module(f"jaxloss.{module.name}")).items():
                if isinstance(value, custom_vjp) and value.__module__.endswith(module.name):
                    found[f"{module.name}.{name}"] = value
    return found


@contextlib.contextmanager
def watched(used: set[custom_vjp]) -> Iterator[None]:
    """Notes which rules are called."""
    call = custom_vjp.__call__

    def noting(self: custom_vjp, *args: Any) -> Any:
        used.add(self)
        return call(self, *args)

    with mock.patch.object(custom_vjp, "__call__", noting):
        yield


@contextlib.contextmanager
def without(rule: custom_vjp) -> Iterator[None]:
    """Gives the function under a rule to JAX as it stands."""
    call = custom_vjp.__call__

    def plain(self: custom_vjp, *args: Any) -> Any:
        return self.__wrapped__(*args) if self is rule else call(self, *args)

    with mock.patch.object(custom_vjp, "__call__", plain):
        yield


def users() -> dict[custom_vjp, Loss]:
    """A loss for each rule: the one that uses the fewest others."""
    fewest: dict[custom_vjp, tuple[int, Loss]] = {}
    apart = [
        dataclasses.replace(loss, name=f"{loss.name}, per token", reduced=None)
        for loss in LOSSES
        if loss.reduced is not None
    ]
    for loss in (*LOSSES, *OTHERS, *apart):
        used: set[custom_vjp] = set()
        with watched(used):
            jax.eval_shape(jax.grad(loss.mean), *loss.shapes(*loss.sizes[0], jnp.float32))
        for rule in used:
            if rule not in fewest or len(used) < fewest[rule][0]:
                fewest[rule] = (len(used), loss)
    return {rule: loss for rule, (_, loss) in fewest.items()}


def _residual_bytes(function: Any, first: Any, others: tuple[Any, ...]) -> int:
    def pullback(first: Any) -> list[jax.Array]:
        return jax.tree.leaves(jax.vjp(lambda x: function(x, *others), first)[1])

    held = jax.make_jaxpr(pullback)(first).jaxpr.outvars
    avals = {id(variable): variable.aval for variable in held}
    return sum(aval.size * aval.dtype.itemsize for aval in avals.values())


def _largest_error(gradient: Any, exact: Any, *, normwise: bool) -> float:
    """In float32's units in the last place; infinite where there is a NaN."""
    worst = 0.0
    for single, double in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True):
        truth = np.asarray(double)
        sizes = np.broadcast_to(np.abs(truth).max(), truth.shape) if normwise else np.abs(truth)
        unit = np.spacing(sizes.astype(np.float32)).astype(np.float64)
        errors = np.abs(np.asarray(single, np.float64) - truth) / unit
        # Below, XLA gives 0.
        errors = errors[(np.abs(truth) > 1e-36) | (np.abs(np.asarray(single)) > 1e-36)]
        worst = max(worst, float(np.max(np.nan_to_num(errors, nan=np.inf), initial=0.0)))
    return worst


def _exact(loss: Loss, arrays: tuple[Any, ...]) -> Any:
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, arrays
        )
        return jax.device_get(jax.jit(jax.grad(lambda *a: jnp.sum(loss.ours(*a))))(*wide))


def edges_of(arrays: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """Inputs of which the first array is on an edge, by its name."""
    first, *others = arrays
    found = {edge: (jax.tree.map(moved, first), *others) for edge, moved in EDGES.items()}
    # A head's parameters are several arrays.
    if isinstance(first, jax.Array) and others:
        second = others[0]
        if (first.shape, first.dtype) == (second.shape, second.dtype):
            found["equal"] = (second, *others)
    return found


def differ(some: Any, others: Any) -> bool:
    return not all(
        np.allclose(a, b, rtol=1e-3, atol=1e-36, equal_nan=True)
        for a, b in zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    )


def bought(name: str, rule: custom_vjp, loss: Loss, rounds: int) -> Row:
    """Of one rule, the figures with it and without."""
    size = [size for size in loss.sizes if size[0] * size[1] <= AT_MOST][-1]
    arrays = loss.arrays(*size, jnp.float32)
    scaled = (jax.tree.map(lambda a: LARGER * a, arrays[0]), *arrays[1:])
    exact = _exact(loss, arrays), _exact(loss, scaled)
    edges = edges_of(loss.arrays(*loss.sizes[0], jnp.float32))
    on_edges: dict[str, dict[str, Any]] = {}
    row: Row = {"rule": name, "loss": loss.name, "size": size}
    calls = {}
    for way, setting in (("rule", contextlib.nullcontext()), ("plain", without(rule))):
        # New functions: what JAX has traced with the rule it would not trace again.
        mean = functools.partial(loss.mean)
        summed = jax.grad(lambda *a: jnp.sum(loss.ours(*a)))
        with setting:
            run = jax.jit(jax.value_and_grad(mean))
            compiled = run.lower(*arrays).compile()
            row[f"residual bytes, {way}"] = _residual_bytes(mean, arrays[0], arrays[1:])
            errors = [
                _largest_error(jax.jit(summed)(*inputs), truth, normwise=loss.floor in OF_PRODUCTS)
                for inputs, truth in zip((arrays, scaled), exact, strict=True)
            ]
            row[f"error, {way}"], row[f"error of larger, {way}"] = errors
            on_edges[way] = {edge: jax.jit(summed)(*inputs) for edge, inputs in edges.items()}
            jax.block_until_ready(run(*arrays))
        row[f"temporary bytes, {way}"] = compiled.memory_analysis().temp_size_in_bytes
        calls[way] = functools.partial(_wait, run, arrays)
    row["edges"] = [
        edge for edge in edges if differ(on_edges["rule"][edge], on_edges["plain"][edge])
    ]
    times = interleaved(calls, rounds, shortest=1.0)
    row["time of plain"], row["low"], row["high"] = ratios(times["rule"], times["plain"])
    return row


def _wait(run: Any, arrays: tuple[Any, ...]) -> None:
    jax.block_until_ready(run(*arrays))


def _number(value: float) -> str:
    return "lost" if value > 1e6 else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def table(rows: list[Row]) -> Table:
    shown = Table(title="with the rule / without it")
    for name in ("rule", "loss", "size"):
        shown.add_column(name, no_wrap=True)
    for name in ("time of plain", "MB held", "MB kept", "error, ULP", "of larger inputs"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("edges", no_wrap=True)
    for row in rows:
        pairs = [
            [_number(row[f"{name}, {way}"] / scale) for way in ("rule", "plain")]
            for name, scale in (
                ("temporary bytes", 1e6),
                ("residual bytes", 1e6),
                ("error", 1),
                ("error of larger", 1),
            )
        ]
        time = f"{row['time of plain']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
        size = " x ".join(map(str, row["size"]))
        cells = (" / ".join(pair) for pair in pairs)
        shown.add_row(row["rule"], row["loss"], size, time, *cells, ", ".join(row["edges"]))
    return shown


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.rules",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rules", nargs="*", help="parts of names; all, by default")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    losses = users()
    wanted = {
        name: rule
        for name, rule in rules().items()
        if not options.rules or any(part in name for part in options.rules)
    }
    if not wanted:
        parser.error(f"no rule is named like {options.rules}; there are {', '.join(rules())}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    rows = []
    for name, rule in track(wanted.items(), "rules", transient=True, console=console):
        if rule in losses:
            rows.append(bought(name, rule, losses[rule], options.rounds))
        else:
            console.print(f"{name}: no loss of the table uses it")
    console.print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
