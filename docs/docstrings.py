"""What a page needs of a docstring beyond what is written there: curve, links, sections."""

from __future__ import annotations

import ast
import inspect
import re
from types import ModuleType
from typing import Any

import griffe

import jaxloss
from bench.gallery.table import CURVES


def public(module: ModuleType, prefix: str = "") -> dict[str, str]:
    """What a module offers, as a user writes it, and where it is found."""
    return {
        prefix + name: f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not (name.startswith("_") or inspect.ismodule(value))
    }


PUBLIC = {**public(jaxloss), **public(jaxloss.primitives, "primitives.")}
LINKS = {**public(jaxloss.primitives), **PUBLIC}
# A name, or a call of it with names.
NAME = re.compile(r"(?<!\[)`(?:jaxloss\.)?((?:primitives\.)?\w+)(\([\w, ]*\))?`")


def linked(text: str, own: str = "") -> str:
    """Markdown whose public names are links."""

    def link(found: re.Match[str]) -> str:
        name = found[1]
        return f"[{found[0]}][{LINKS[name]}]" if name in LINKS and name != own else found[0]

    return NAME.sub(link, text)


def figure(name: str) -> str:
    alternative = f"{name} and its derivative"
    schemes = (f"![{alternative}](curves/{name}-{s}.svg#only-{s})" for s in ("light", "dark"))
    return "\n".join(schemes)


class Docstrings(griffe.Extension):
    """Edits docstrings as they are read from the source."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text, example, rest = obj.docstring.value.partition("\nExample:\n")
        text = linked(text, obj.name)
        if obj.is_function and obj.name in CURVES and obj.parent.is_module:
            text = text.replace("\n\nArgs:\n", f"\n\n{figure(obj.name)}\n\nArgs:\n", 1)
        text = re.sub(r"\bGradient(?=[:,]| with respect)", "**Gradient**", text)
        rest = re.sub(r"^Source:", "**Source**:", rest, flags=re.MULTILINE)
        obj.docstring.value = text + example.replace("Example", "Examples") + rest

    def on_function_instance(
        self, *, node: ast.AST | griffe.ObjectNode, func: griffe.Function, **_: Any
    ) -> None:
        # Shapes are strings in the annotations, which would be taken for names.
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                if argument.annotation is not None:
                    annotation = ast.unparse(argument.annotation)
                    func.parameters[argument.arg].annotation = annotation
            if node.returns is not None:
                func.returns = ast.unparse(node.returns)
