"""Averages over devices and over processes are those of one device."""

import json
import os
import re
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import jaxloss
from jaxloss import (
    accumulated_value_and_grad,
    class_weighted,
    ignoring,
    masked,
    mean,
    microbatched,
    pooled,
    weighted,
    weighted_sum,
)
from tests import worker
from tests.cases import OF_EACH_KIND, each
from tests.helpers import quick_jit

CLOSE = {"rtol": 1e-11, "atol": 1e-14}


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:8]), ("data",))


def batch_of(case, rng):
    """Two rows for each of eight devices, and weights that are 0 on some devices whole."""
    pairs = [case.arrays(rng) for _ in range(2)]
    arrays = [jnp.asarray(np.concatenate(both)) for both in zip(*pairs, strict=True)]
    shape = jax.eval_shape(case.bound, *arrays).shape
    where = rng.integers(0, 2, shape).astype(bool)
    where[:4], where[4] = False, True
    return arrays, jnp.asarray(where), jnp.asarray(rng.uniform(0.5, 2, shape))


@each(OF_EACH_KIND, quick=[c for c in OF_EACH_KIND if c.id in {"cross_entropy-axis", "huber"}])
def test_unequal_shards_equal_one_device(case, rng, mesh, x64):
    """Value and gradient, of a named axis in shard_map and of sharded inputs under jit."""
    arrays, where, weights = batch_of(case, rng)
    loss = masked(weighted(case.bound))

    def objective(reduced):
        def run(first, others, where, weights):
            return reduced(first, *others, where=where, weights=weights)

        return run

    named = jax.shard_map(
        objective(mean(loss, axis_name="data")), mesh=mesh, in_specs=P("data"), out_specs=P()
    )
    one_device, in_shards = (
        quick_jit(jax.value_and_grad(f)) for f in (objective(mean(loss)), named)
    )
    inputs = arrays[0], arrays[1:], where, weights
    expected = one_device(*inputs)
    chex.assert_trees_all_close(in_shards(*inputs), expected, **CLOSE)
    spread = jax.device_put(inputs, NamedSharding(mesh, P("data")))
    value, gradient = one_device(*spread)
    assert len(gradient.sharding.device_set) == 8
    chex.assert_trees_all_close((value, gradient), expected, **CLOSE)


def classified(rng, rows=32):
    logits = jnp.asarray(rng.normal(size=(rows, 3)), jnp.float32)
    labels = jnp.asarray(rng.choice([0, 1, 2, -100], rows))
    return logits, labels


OBJECTIVES = {
    "labels": lambda axis_name: mean(
        ignoring(class_weighted(jaxloss.cross_entropy, np.array([1.0, 2.0, 0.5])), -100),
        axis_name=axis_name,
    ),
    "steps": lambda axis_name: mean(
        microbatched(ignoring(jaxloss.cross_entropy, -100), 2), axis_name=axis_name
    ),
    "sum": lambda axis_name: (
        lambda *arrays: mean(
            weighted_sum(
                {
                    "ce": ignoring(jaxloss.cross_entropy, -100),
                    "norm": lambda z, y: jnp.sum(z**2, -1),
                },
                {"ce": 1.0, "norm": 0.1},
            ),
            axis_name=axis_name,
        )(*arrays)[0]
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_combined_losses_of_shards_equal_one_device(name, rng, mesh):
    logits, labels = classified(rng)
    make = OBJECTIVES[name]
    sharded = jax.shard_map(make("data"), mesh=mesh, in_specs=P("data"), out_specs=P())
    expected = jax.jit(jax.value_and_grad(make(None)))(logits, labels)
    actual = jax.jit(jax.value_and_grad(sharded))(logits, labels)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_accumulated_gradients_of_shards_equal_one_device(rng, mesh):
    logits, labels = classified(rng)

    def losses(axis_name):
        def run(scale, logits, labels):
            loss = pooled(ignoring(jaxloss.cross_entropy, -100), axis_name=axis_name)
            return loss(scale * logits, labels)

        return accumulated_value_and_grad(run, 2)

    scale = jnp.array([0.5, 1.0, 2.0])
    sharded = jax.shard_map(
        lambda scale, *batch: losses("data")(scale, *batch),
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
    )
    with jax.numpy_rank_promotion("allow"):
        expected = losses(None)(scale, logits, labels)
        actual = jax.jit(sharded)(scale, logits, labels)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-7)


def exchanged(program):
    """The types of what the program's collectives exchange, but of the partitioner's own ones."""
    lines = re.findall(
        r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", program
    )
    return [shape for line in lines for shape in re.findall(r"\w+\[[\d,]*\]", line)]


@pytest.mark.optimized
def test_a_mean_exchanges_two_numbers(rng, mesh):
    """In value and gradient, by name and under jit, in steps too: sharded examples stay put."""
    arrays = jnp.ones(32), jnp.ones(32), jnp.ones(32)

    def objective(steps=1, **options):
        loss = weighted(jaxloss.huber)
        reduced = mean(microbatched(loss, steps) if steps > 1 else loss, **options)
        return lambda p, t, w: reduced(p, t, weights=w)

    named = jax.shard_map(objective(axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P())
    spread = jax.device_put(arrays, NamedSharding(mesh, P("data")))
    for function, inputs in ((named, arrays), (objective(), spread), (objective(2), spread)):
        for program in (function, jax.value_and_grad(function)):
            text = jax.jit(program).lower(*inputs).compile().as_text()
            assert exchanged(text) == ["f32[]", "f32[]"]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(*arguments):
    command = [sys.executable, "-m", "tests.worker", *map(str, arguments)]
    # One device each, not the suite's eight.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def results(processes, seconds=120):
    """What the workers print; all are stopped when one fails or time is up."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    except subprocess.TimeoutExpired:
        pytest.fail(f"the processes did not end within {seconds} seconds")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            pytest.fail(f"a process ended with {process.returncode}:\n{errors[-2000:]}")
    # The last line: the collectives' library says first who is connected.
    return [json.loads(printed.splitlines()[-1]) for printed, _ in outputs]


def test_two_processes_train_as_one():
    """On shards of 3 and 13 examples: the parameters are one process's, on either of the two."""
    port = free_port()
    first, second = results([start(port, 2, n) for n in range(2)])
    [alone] = results([start(port, 1, 0)])
    assert [run["examples"] for run in (first, second, alone)] == [3, 13, 16]
    np.testing.assert_array_equal(first["parameters"], second["parameters"])
    np.testing.assert_allclose(first["parameters"], alone["parameters"], rtol=1e-6)
    assert first["losses"][-1] < 0.5 * first["losses"][0]
    # The mean of the two means would lead elsewhere.
    assert not np.allclose(worker.of_means(), alone["parameters"], rtol=1e-2)


def test_a_port_that_is_taken_is_told():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        process = start(port, 2, 0)
        _, errors = process.communicate(timeout=60)
    assert process.returncode
    assert f"port {port} of this machine is taken" in errors
