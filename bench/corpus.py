"""Words and marks of Python's own standard library, and a small language model of them."""

from __future__ import annotations

import functools
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.progress import track

PRECEDING = 8  # tokens that the next one is told from

# What other packages installed, and tests, which many installations leave out.
OMITTED = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
TOKEN = re.compile(r"\w+|[^\w\s]")


@functools.cache
def tokens() -> tuple[np.ndarray, np.ndarray]:
    """All tokens in order as classes, the most frequent string first, and how often each occurs."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [
        file
        for file in sorted(library.rglob("*.py"))
        if OMITTED.isdisjoint(file.relative_to(library).parts)
    ]
    strings: list[str] = []
    for file in track(files, "reading", transient=True):
        strings += TOKEN.findall(file.read_text("utf-8", errors="replace"))
    counts = Counter(strings).most_common()
    classes = {string: number for number, (string, _) in enumerate(counts)}
    indices = np.array([classes[string] for string in strings], np.int32)
    return indices, np.array([count for _, count in counts])


def batch(size: int, seed: int) -> tuple[jax.Array, jax.Array]:
    """Tokens from random places, (size, PRECEDING), and the one that follows each."""
    indices, _ = tokens()
    rng = np.random.default_rng(seed)
    places = rng.integers(0, len(indices) - PRECEDING, size)
    rows = indices[places[:, None] + np.arange(PRECEDING + 1)]
    return jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, -1])


class Model(nnx.Module):
    """The hidden state before the next token, from the few before it."""

    def __init__(self, classes: int, features: int, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(classes, 64, rngs=rngs)
        self.hidden = nnx.Linear(64 * PRECEDING, features, rngs=rngs)

    def __call__(self, preceding: jax.Array) -> jax.Array:
        seen = self.embedding(preceding)
        return nnx.relu(self.hidden(seen.reshape(len(preceding), -1)))


@dataclass
class Run:
    """What became of the model: loss and seconds of each update, and what an update holds."""

    megabytes: float
    curve: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train(
    ways: dict[str, tuple[Callable[..., jax.Array], Any]], features: int, updates: int, size: int
) -> dict[str, Run]:
    """Trains the model with each loss of hidden states, its own parameters and labels.

    All begin alike, see the same batches and take turns at every update.
    """
    classes = len(tokens()[1])
    graph, body = nnx.split(Model(classes, features, nnx.Rngs(0)))
    optimizer = optax.adam(3e-3)

    def compiled(loss: Callable[..., jax.Array], *inputs: Any) -> Any:
        def objective(parameters: Any, preceding: jax.Array, labels: jax.Array) -> jax.Array:
            body, output = parameters
            return loss(nnx.merge(graph, body)(preceding), output, labels)

        def update(parameters: Any, state: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
            value, gradient = jax.value_and_grad(objective)(parameters, *batch)
            changes, state = optimizer.update(gradient, state, parameters)
            return optax.apply_updates(parameters, changes), state, value

        return jax.jit(update, donate_argnums=(0, 1)).trace(*inputs).lower().compile()

    runs, programs, states = {}, {}, {}
    for way, (loss, output) in ways.items():
        # Given away at every update, so each way has its own.
        parameters = jax.tree.map(jnp.copy, (body, output))
        states[way] = parameters, optimizer.init(parameters)
        programs[way] = compiled(loss, *states[way], batch(size, 0))
        runs[way] = Run(programs[way].memory_analysis().temp_size_in_bytes / 1e6)
    for number in track(range(updates), "training", transient=True):
        examples = batch(size, number)
        for way, program in programs.items():
            start = time.perf_counter()
            *state, value = jax.block_until_ready(program(*states[way], examples))
            runs[way].seconds.append(time.perf_counter() - start)
            runs[way].curve.append(float(value))
            states[way] = tuple(state)
    return runs
