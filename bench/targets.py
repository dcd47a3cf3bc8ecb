"""Machines that need not be there, and what programs compiled for them exchange."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

import jax
from jax.experimental import topologies

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Bytes per second between a chip and its main memory, as its maker says.
BANDWIDTHS = {"h100": 3.35e12, "v5e": 0.819e12}

# A TPU's compiler asks no machine what it is part of, and leaves others their TPU.
TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}

COMPILERS = {
    "cuda": "pip install --no-deps jax-cuda12-plugin=={0} jax-cuda12-pjrt=={0} "
    "nvidia-cuda-nvcc-cu12",
    "tpu": "pip install 'jax[tpu]=={0}'",
}


def platform_of(target: str) -> str:
    return "cuda" if target == "h100" else "tpu"


def how_to_compile(target: str) -> str:
    return COMPILERS[platform_of(target)].format(jax.__version__)


def devices_of(target: str) -> list[Any]:
    """Devices that need not be there."""
    for name, value in TPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    asked: dict[str, Any] = {"topology": "1x1x1", "target_config": H100} if target == "h100" else {}
    try:
        return topologies.get_topology_desc(
            platform=platform_of(target), topology_name=target, **asked
        ).devices
    # JAX raises the one without a plugin, and the other where the plugin finds no compiler.
    except (NotImplementedError, RuntimeError) as error:
        raise SystemExit(
            f"JAX has no compiler for {target} here ({error}). Install it, no "
            f"accelerator needed:\n  {how_to_compile(target)}"
        ) from None


COLLECTIVES = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"


def exchanges(text: str, side: int) -> list[str]:
    """Collectives of a compiled program: how many, kind, shapes and the axis of the mesh."""
    found: Counter[str] = Counter()
    where = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            where = "" if line.startswith("ENTRY") else " in a loop"
        exchange = re.search(rf"= (.*?) ({COLLECTIVES})(-start)?\(", line)
        if exchange:
            shapes = " ".join(re.findall(r"\w+\[[\d,]*\]", exchange[1]))
            groups = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
            members = [int(member) for member in groups[1].split(",")] if groups else []
            # Devices are numbered along the vocabulary first.
            axes = {side - 1: "vocabulary", side * (side - 1): "data"}
            axis = axes.get(members[-1] - members[0]) if len(members) == side else None
            over = axis or "other groups"
            found[f"{exchange[2]} {shapes} over {over}{where}"] += 1
    return [f"{count} {name}" for name, count in found.items()]
