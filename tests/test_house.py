"""The house keeps its order: imports go one way, and every loss is everywhere it must be."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import jaxloss
from jaxloss import primitives
from tests.cases import CASES, PRIMITIVES

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted((ROOT / "jaxloss").glob("*.py"))
FLOORS = {
    "_bits": 0,
    "_checked": 0,
    "_lanes": 0,
    "_linear_map": 0,
    "_weighted": 0,
    "_autodiff": 1,
    "_check": 1,
    "_exact": 2,
    "_options": 2,
    "_products": 2,
    "_row_blocks": 2,
    "_elementary": 3,
    "_parts": 3,
    "_row_sums": 3,
    "_vectors": 3,
    "_combined": 3,
    "_call": 4,
    "_softmax": 4,
    "_cosine": 4,
    "_relative_entropy": 4,
    "_logit_blocks": 4,
    "combinators": 5,
    "_microbatches": 5,
    "_linear": 5,
    "_clusters": 5,
    "_cutoffs": 5,
    "primitives": 6,
    "__init__": 8,
}
FAMILY = 7
# The demonstration is a user of the package.
RESIDENTS = [path for path in MODULES if path.stem != "__main__"]

EXPORTS = {name: getattr(jaxloss, name) for name in dir(jaxloss) if not name.startswith("_")}
FUNCTIONS = {name: value for name, value in EXPORTS.items() if inspect.isfunction(value)}
COMBINING = {"jaxloss.combinators", "jaxloss._microbatches", "jaxloss._checked"}
COMBINATORS = {name: f for name, f in FUNCTIONS.items() if f.__module__ in COMBINING}
# What helps to choose a loss's parameters or to make its arguments, and computes no loss.
AIDING = {"jaxloss._cutoffs", "jaxloss._class_counts"}
AIDS = {
    name: f
    for name, f in FUNCTIONS.items()
    if f.__module__ in AIDING or f is jaxloss.true_and_hardest
}
LOSSES = {name: f for name, f in FUNCTIONS.items() if name not in COMBINATORS | AIDS}


def floor(module):
    return FLOORS.get(module, FAMILY)


def imported(path):
    """The modules of the package that a file imports, and the packages beyond it."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            outside |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            package, _, module = node.module.partition(".")
            if package != "jaxloss":
                outside.add(package)
            elif module:
                inside.add(module)
            else:
                inside |= {name.name for name in node.names}
    return inside, outside - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", RESIDENTS, ids=lambda path: path.stem)
def test_a_floor_imports_only_floors_below(path):
    inside, outside = imported(path)
    assert [module for module in inside if floor(module) >= floor(path.stem)] == []
    assert outside <= {"jax", "jaxtyping", "numpy"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_file_is_not_two(path):
    assert len(path.read_text().splitlines()) <= 400


def names_in_table(heading):
    """What stands in the first column of a table of the README."""
    table = (ROOT / "README.md").read_text().split(f"## {heading}")[1].split("\n## ")[0]
    return re.findall(r"`(\w+)", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))


def test_bits_are_looked_at_in_one_place():
    """Which knows where float64 has none."""
    looking = [p.stem for p in MODULES if re.search("reduce_precision|bitcast", p.read_text())]
    assert looking == ["_bits"]


def test_exports_are_cases_are_rows_of_the_readme():
    assert sorted(names_in_table("Losses")) == sorted(LOSSES)
    assert {case.name for case in CASES} == set(LOSSES)
    assert sorted(names_in_table("Averages")) == sorted(COMBINATORS)
    assert set(names_in_table("Imbalanced classes")) <= set(EXPORTS)


def test_primitives_are_cases():
    public = {name for name, value in vars(primitives).items() if inspect.isroutine(value)}
    assert public == {case.name for case in PRIMITIVES}


@pytest.mark.parametrize(
    "function",
    [*LOSSES.values(), *COMBINATORS.values(), *AIDS.values()],
    ids=lambda f: f.__name__,
)
def test_a_docstring_tells_all(function):
    sections = inspect.getdoc(function)
    for heading in ("Args:", "Returns:", "Example:", ">>> "):
        assert heading in sections, heading
    if function in LOSSES.values():
        for heading in ("$$", "Gradient", "Raises:", "Source:"):
            assert heading in sections, heading


def test_importing_pulls_in_no_framework():
    script = (
        "import sys, jaxloss; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'flax', 'optax', 'torch', 'matplotlib', 'sklearn', 'chex'}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
