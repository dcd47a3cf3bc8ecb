"""How a loss is compared with a peer's: value and gradients, over every option and reduction."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings, strategies as st

import jaxloss
from tests.helpers import x64_enabled

REDUCTIONS = {"none": lambda loss: loss, "sum": jaxloss.sum, "mean": jaxloss.mean}
DTYPES = {"float32": (1e-5, 2e-6), "float64": (1e-10, 1e-12)}
EXAMPLES = 8


@dataclass(frozen=True, repr=False)
class Case:
    """Functions of the same arrays, ours and a peer's, in pairs that should agree.

    `sample` makes the arrays from a generator and one of the shapes; the floating ones among them
    are cast to the dtype. Gradients are taken with respect to those whose numbers are in `wrt`.
    """

    pairs: dict[str, tuple[Callable, Callable]]
    sample: Callable
    shapes: Sequence[tuple[int, ...]]
    wrt: tuple[int, ...] = (0,)
    peer: str = "torch"

    @functools.cached_property
    def ours(self):
        return of_jax({name: ours for name, (ours, _) in self.pairs.items()}, self.wrt)

    @functools.cached_property
    def theirs(self):
        functions = {name: theirs for name, (_, theirs) in self.pairs.items()}
        return {"torch": of_torch, "optax": of_jax}[self.peer](functions, self.wrt)


def every(**choices):
    """Each combination of options, as keywords."""
    return [dict(zip(choices, c, strict=True)) for c in itertools.product(*choices.values())]


def plain(ours, theirs, options=({},)):
    """A pair for every choice of options that go by the same names."""
    return {
        str(chosen): (functools.partial(ours, **chosen), functools.partial(theirs, **chosen))
        for chosen in options
    }


def reduced(ours, theirs, options=({},)):
    """A pair for every choice of options, each of which gives what every reduction gives."""
    return {
        str(chosen): (
            in_a_row(reduce(functools.partial(ours, **chosen)) for reduce in REDUCTIONS.values()),
            in_a_row(functools.partial(theirs, **chosen, reduction=name) for name in REDUCTIONS),
        )
        for chosen in options
    }


def in_a_row(functions):
    """One function that gives all values of several: one program to compile, one gradient."""
    functions = list(functions)

    def run(*arrays):
        values = [function(*arrays).reshape(-1) for function in functions]
        return torch.cat(values) if torch.is_tensor(values[0]) else jnp.concatenate(values)

    return run


def of_jax(functions, wrt):
    """The values and gradients of all functions, as one compiled program."""

    @jax.jit
    def run(*arrays):
        answers = {}
        for name, function in functions.items():

            def of_chosen(*chosen, function=function):
                places = dict(zip(wrt, chosen, strict=True))
                return function(*(places.get(n, array) for n, array in enumerate(arrays)))

            value, pullback = jax.vjp(of_chosen, *(arrays[n] for n in wrt))
            answers[name] = value, *pullback(cotangent(value.shape).astype(value.dtype))
        return answers

    return run


def of_torch(functions, wrt):
    def run(*arrays):
        tensors = [torch.tensor(array) for array in arrays]
        chosen = [tensors[n].requires_grad_() for n in wrt]
        answers = {}
        for name, function in functions.items():
            value = function(*tensors)
            along = torch.tensor(cotangent(value.shape), dtype=value.dtype)
            gradients = torch.autograd.grad(value, chosen, along, materialize_grads=True)
            answers[name] = [array.detach().numpy() for array in (value, *gradients)]
        return answers

    return run


def cotangent(shape):
    """Another number for each value, lest gradients that are mixed up have the same sum."""
    return np.linspace(1, 2, int(np.prod(shape))).reshape(shape)


def peers_precision(dtype):
    """Where float64 is allowed, Optax's sparsemax fails on float32; ours must not."""
    return x64_enabled() if dtype == "float64" else contextlib.nullcontext()


def agree(case, dtype, seed):
    rng = np.random.default_rng(seed)
    for shape in case.shapes:
        arrays = [np.asarray(array) for array in case.sample(rng, shape)]
        arrays = [array.astype(dtype) if array.dtype.kind == "f" else array for array in arrays]
        with x64_enabled():
            ours = case.ours(*arrays)
        with peers_precision(dtype):
            theirs = case.theirs(*arrays)
        rtol, atol = DTYPES[dtype]
        for name in case.pairs:
            for n, (mine, its) in enumerate(zip(ours[name], theirs[name], strict=True)):
                what = f"{name}, {shape}, {f'gradient {n - 1}' if n else 'value'}"
                assert mine.dtype == dtype, what
                np.testing.assert_allclose(mine, its, rtol=rtol, atol=atol, err_msg=what)


def over(cases):
    """The decorator of a test of each case in each dtype, of the same seeds on every machine."""

    def decorate(test):
        test = given(seed=st.integers(0, 2**32 - 1))(test)
        test = settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # There is nothing to shrink in a seed.
        )(test)
        test = pytest.mark.parametrize("dtype", DTYPES)(test)
        ids, rows = zip(*cases.items(), strict=True)
        return pytest.mark.parity(pytest.mark.parametrize("case", rows, ids=ids)(test))

    return decorate
