"""Every row of the README's migration tables: both sides agree, in value and gradient."""

import inspect
import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxloss
from jaxloss import primitives
from tests.helpers import x64_enabled
from tests.parity.agreement import peers_precision

pytestmark = pytest.mark.parity

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
NAMES = {name: getattr(jaxloss, name) for name in dir(jaxloss) if not name.startswith("_")}
NAMES |= {"jax": jax, "jnp": jnp, "optax": optax, "primitives": primitives}
TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-10, "atol": 1e-12}}


def rows(heading):
    table = README.split(f"## From {heading}")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\S.*)` \| `(.*)` \|$", table, re.MULTILINE)


def squared_distance(first, second):
    return ((first - second) ** 2).sum(-1)


def used(expression, values, dtype):
    """The arrays that an expression names, in its order, in the dtype."""
    found = {name: values[name] for name in re.findall(r"\w+", expression) if name in values}
    return {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in found.items()}


def of_jax(expression, by, values, dtype):
    """The value, and the gradient by the array of that name."""

    @jax.jit
    def run(arrays):
        def function(first):
            names = {"squared_distance": squared_distance, **NAMES, **arrays, by: first}
            return eval(expression, names)

        value, pullback = jax.vjp(function, arrays[by])
        return value, pullback(jnp.ones_like(value))[0]

    return run(used(expression, values, dtype))


def of_optax(expression, by, values, dtype):
    with peers_precision(dtype), warnings.catch_warnings():
        # A name that Optax has deprecated and still has.
        warnings.filterwarnings("ignore", ".*convex_kl_divergence", DeprecationWarning)
        return of_jax(expression, by, values, dtype)


def of_torch(expression, by, values, dtype):
    arrays = {name: torch.tensor(a) for name, a in used(expression, values, dtype).items()}
    arrays[by].requires_grad_()
    names = {"F": torch.nn.functional, "torch": torch, "squared_distance": squared_distance}
    value = eval(expression, names | arrays)
    [gradient] = torch.autograd.grad(value.sum(), arrays[by])
    return value.detach().numpy(), gradient.numpy()


def agree(heading, theirs, ours, values, dtype):
    by, *_ = (name for name, a in used(theirs, values, dtype).items() if a.dtype.kind == "f")
    peer = {"PyTorch": of_torch, "Optax": of_optax}[heading]
    with x64_enabled():
        actual = of_jax(ours, by, values, dtype)
    for mine, its in zip(actual, peer(theirs, by, values, dtype), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, its, **TOLERANCE[dtype])


# PyTorch warns that this mean divides by the number of classes too.
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("theirs", "ours"), rows("PyTorch"))
def test_pytorch(theirs, ours, dtype, values):
    agree("PyTorch", theirs, ours, values, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("theirs", "ours"), rows("Optax"))
def test_optax(theirs, ours, dtype, values):
    agree("Optax", theirs, ours, values, dtype)


def test_every_loss_of_pytorch_has_a_row():
    modules = torch.nn.modules.loss
    losses = [getattr(modules, name) for name in modules.__all__ if name.endswith("Loss")]
    assert len(losses) >= 22
    # A module's forward method calls the function of its name.
    called = [re.findall(r"F\.(\w+)\(", inspect.getsource(loss.forward)) for loss in losses]
    table = " ".join(theirs for theirs, _ in rows("PyTorch"))
    assert not {name for names in called for name in names if f"F.{name}(" not in table}
    assert all(called)


def test_every_loss_of_optax_has_a_row():
    table = " ".join(theirs for theirs, _ in rows("Optax"))
    names = [name for name, _ in inspect.getmembers(optax.losses, callable) if name[0] != "_"]
    assert len(names) >= 32
    assert [name for name in names if f".{name}(" not in table] == []
