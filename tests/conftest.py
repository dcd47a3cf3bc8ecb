"""Strictness for the whole suite: types checked at run time, no promotion, eight devices."""

import gc
import os
import pathlib

# Before JAX is imported: shard_map is tested on eight virtual devices.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes most of the suite's time, and processes compile much alike, as does the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parent.parent / ".pytest_cache" / "programs"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import jaxtyping
import numpy as np
import pytest

from tests.helpers import x64_enabled

# Tracing makes objects by the million that live no longer than a test: collect less often.
gc.set_threshold(200_000, 50, 50)

# Every annotation of a shape or dtype is checked at every call of the suite.
jaxtyping.install_import_hook("jaxloss", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Float64 for one test."""
    with x64_enabled():
        yield


@pytest.fixture
def rng(request):
    """A generator seeded by the test's own name."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture
def without_annotations():
    """The library's own checks speak, not the annotations that the rest of the suite runs with."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def lenient_promotion():
    """Flax and Optax promote dtypes and ranks; the losses do not."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def in_one_reading(monkeypatch):
    """Losses that read their inputs once on the CPU too, as accelerators do."""
    choose = lambda *arrays, cpu, default: default(*arrays)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    jax.clear_caches()
    yield
    jax.clear_caches()
