"""Every row of the README's migration tables: both sides agree, in value and gradient."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxloss
from jaxloss import primitives
from tests.helpers import x64_enabled

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
NAMES = {name: getattr(jaxloss, name) for name in dir(jaxloss) if not name.startswith("_")}


def rows(heading):
    table = README.split(f"## From {heading}")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\S.*)` \| `(.*)` \|$", table, re.MULTILINE)


def first_argument(expression):
    """The name of what the expression is differentiated by: mean(loss)(this, ...), F.loss(this)."""
    call = re.search(r"\)\((\w+)", expression) or re.search(r"\((\w+)", expression)
    return call.group(1)


def of_jax(expression, values, dtype):
    values = {name: jnp.asarray(cast(value, dtype)) for name, value in values.items()}
    name = first_argument(expression)

    def function(first):
        names = {"optax": optax, "primitives": primitives, **NAMES, **values, name: first}
        return eval(expression, names)

    value, pullback = jax.vjp(function, values[name])
    return np.asarray(value), np.asarray(pullback(jnp.ones_like(value))[0])


def of_torch(expression, values, dtype):
    values = {name: torch.tensor(cast(value, dtype)) for name, value in values.items()}
    first = values[first_argument(expression)].requires_grad_()
    names = {"F": torch.nn.functional, "torch": torch, **values}
    value = eval(expression, names)
    [gradient] = torch.autograd.grad(value.sum(), first)
    return value.detach().numpy(), gradient.numpy()


def cast(value, dtype):
    return value.astype(dtype) if value.dtype.kind == "f" else value


TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-10, "atol": 1e-12}}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("theirs", "ours"), rows("PyTorch"))
def test_pytorch(theirs, ours, dtype, values):
    with x64_enabled():
        actual = of_jax(ours, values, dtype)
    for mine, its in zip(actual, of_torch(theirs, values, dtype), strict=True):
        np.testing.assert_allclose(mine, its, **TOLERANCE[dtype])


@pytest.mark.parity
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("theirs", "ours"), rows("Optax"))
def test_optax(theirs, ours, dtype, values):
    with x64_enabled():
        actual, expected = (of_jax(side, values, dtype) for side in (ours, theirs))
    for mine, its in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, its, **TOLERANCE[dtype])


def test_the_tables_are_read():
    assert len(rows("PyTorch")) >= 20
    assert len(rows("Optax")) >= 9
