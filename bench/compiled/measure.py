"""What the compiled value and gradient of a loss's mean would move, launch and hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from bench.losses import Loss
from bench.programs import Program, least
from bench.targets import devices_of

Cell = dict[str, Any]

# The smallest whole machine of the kind; programs are compiled for one device of it.
MACHINES = {"h100": "h100", "v5e": "v5e:2x2"}
SIDES = ("ours", "optax")
SUM = "a + b"


def measured(
    loss: Loss, target: str, dtype: str, sides: tuple[str, ...], texts: Path | None
) -> Cell:
    """Of ours, and of Optax's where it has the loss, at the largest of the loss's sizes."""
    shapes = loss.shapes(*loss.sizes[-1], jnp.dtype(dtype))
    cell: Cell = {"loss": loss.name, "target": target, "dtype": dtype, "inputs": _bytes(shapes)}
    means = {"ours": loss.mean, "optax": _mean(loss.optax)}
    for side in sides:
        if getattr(loss, side) is None:
            continue
        file = texts and texts / f"{target}, {dtype}, {loss.name}, {side}.txt"
        try:
            cell[side] = _figures(jax.value_and_grad(means[side]), shapes, target, file)
        # Beyond the device's memory, or, of Optax's dice loss, not for compiled programs.
        except (jax.errors.JaxRuntimeError, jax.errors.TracerBoolConversionError) as error:
            cell[side] = {"refused": str(error).splitlines()[0]}
    return cell


def of_sum(target: str, dtype: str) -> Cell:
    """Of the sum of two arrays: an elementwise loss moves no less."""
    shapes = (jax.ShapeDtypeStruct((2**24,), jnp.dtype(dtype)),) * 2
    cell: Cell = {"loss": SUM, "target": target, "dtype": dtype, "inputs": _bytes(shapes)}
    return cell | {"ours": _figures(jnp.add, shapes, target, None)}


def _mean(loss: Callable[..., jax.Array] | None) -> Callable[..., jax.Array]:
    return lambda *arrays: jnp.mean(loss(*arrays))


def _bytes(shapes: Any) -> int:
    return sum(shape.size * shape.dtype.itemsize for shape in jax.tree.leaves(shapes))


def _figures(
    function: Callable[..., Any], shapes: Any, target: str, file: Path | None
) -> dict[str, int]:
    sharding = SingleDeviceSharding(devices_of(MACHINES[target])[0])
    placed = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes
    )
    compiled = jax.jit(function).trace(*placed).lower().compile()
    text = compiled.as_text()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    program = Program(text)
    # What a batch without examples of a kind that is rare does, `bench.ctc` has both; and one turn
    # of what turns as often as the data want.
    work = program.work(least, turns=1)
    figures = {"bytes": work.bytes, "kernels": work.kernels}
    figures["temporaries"] = compiled.memory_analysis().temp_size_in_bytes
    return figures | {"open loops": program.open_loops}
