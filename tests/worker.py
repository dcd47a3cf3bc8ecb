"""A process of a training run: `python -m tests.worker PORT PROCESSES NUMBER`.

Each process holds a part of one batch, of another length than the others', padded to the longest
and masked. It prints its parameters as JSON.
"""

import json
import socket
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import jaxloss

STEPS, RATE, PADDED = 20, 0.5, 16
PARTS = (slice(0, 3), slice(3, 16))
LOSS = jaxloss.mean(jaxloss.masked(jaxloss.cross_entropy))


def batch():
    """Points and the class of each, the last of which are far from the first."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(16, 2)).astype(np.float32) + np.linspace(-2, 2, 16)[:, None]
    return points.astype(np.float32), (points.sum(-1) > 0.5).astype(np.int32)


def padded(array):
    return np.pad(array, [(0, PADDED - len(array))] + [(0, 0)] * (array.ndim - 1))


def objective(kernel, points, labels, where):
    return LOSS(points @ kernel, labels, where=where)


def trained(step):
    kernel, losses = jnp.zeros((2, 2)), []
    for _ in range(STEPS):
        loss, gradient = step(kernel)
        kernel -= RATE * gradient
        losses.append(float(loss))
    return np.asarray(kernel).tolist(), losses


def of_means():
    """What the mean of the parts' means would lead to."""
    points, labels = batch()

    def step(kernel):
        parts = [
            jax.value_and_grad(objective)(
                kernel, points[part], labels[part], np.ones(len(labels[part]), bool)
            )
            for part in PARTS
        ]
        return jax.tree.map(lambda a, b: (a + b) / 2, *parts)

    return trained(step)[0]


def main(port, processes, number):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    if processes > 1:
        if number == 0:
            refuse_if_taken(port)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}", processes, number, initialization_timeout=60
        )
    points, labels = batch()
    part = PARTS[number] if processes > 1 else slice(None)
    mine = [padded(a) for a in (points[part], labels[part], np.ones(len(labels[part]), bool))]
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    arrays = [jax.make_array_from_process_local_data(sharding, array) for array in mine]
    step = jax.jit(jax.value_and_grad(objective))
    parameters, losses = trained(lambda kernel: step(kernel, *arrays))
    examples = int(mine[2].sum())
    print(json.dumps({"examples": examples, "parameters": parameters, "losses": losses}))


def refuse_if_taken(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            sys.exit(f"port {port} of this machine is taken: {error}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
