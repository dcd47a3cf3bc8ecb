"""The pages: slices of the README, the public names by family, and the notebooks as committed."""

from __future__ import annotations

import inspect
import logging
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from docstrings import PUBLIC, linked
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

import jaxloss
from bench.gallery import chart
from bench.gallery.table import CURVES

log = logging.getLogger("mkdocs.hooks.pages")
ROOT = Path(__file__).parent.parent
# Sections of the README that have a page of their own, or that begin one.
SLICES = {
    "losses.md": ("Losses", ["Losses"]),
    "combinators.md": ("Combinators", ["Averages"]),
    "large-vocabularies.md": ("Large vocabularies", ["Large vocabularies"]),
    "imbalanced-classes.md": ("Imbalanced classes", ["Imbalanced classes"]),
    "migration.md": ("From PyTorch and Optax", ["From PyTorch", "From Optax"]),
    "accuracy.md": ("Accuracy", ["Accuracy"]),
    "speed.md": ("Speed and memory", ["Speed and memory"]),
}
# Pages of losses, and the modules whose public names each shows.
FAMILIES = {
    "real-predictions.md": ("Real predictions", ["_regression", "_robust", "_likelihood"]),
    "two-classes.md": ("Two classes", ["_binary", "_margin"]),
    "several-classes.md": (
        "Several classes",
        ["_classification", "_sparsemax", "_multiclass_margin"],
    ),
    "distributions.md": ("Distributions", ["_divergence"]),
    "embeddings.md": ("Embeddings", ["_embedding", "_contrastive"]),
    "masks-and-sequences.md": ("Masks and sequences", ["_overlap", "_ctc"]),
    "large-vocabularies.md": (
        "Large vocabularies",
        ["_linear_cross_entropy", "_adaptive_softmax", "_clusters", "_cutoffs"],
    ),
    "imbalanced-classes.md": ("Imbalanced classes", ["_class_buffers", "_class_counts"]),
}
TOOLS = {
    "combinators.md": ("Combinators", ["combinators", "_weighted", "_microbatches", "_checked"]),
    "primitives.md": ("Primitives", ["primitives"]),
}
LOADED = re.compile(r'<(script|link|img|iframe)\b[^>]* (src|href)="?(https?:)?//[^>]*>')
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = [
        {"Home": "index.md"},
        {"Losses": [{"Overview": "losses.md"}, *FAMILIES]},
        *TOOLS,
        "migration.md",
        {"Notebooks": [f"notebooks/{file.stem}.md" for file in NOTEBOOKS]},
        "accuracy.md",
        "speed.md",
        {"Contributing": "CONTRIBUTING.md"},
        {"Changelog": "CHANGELOG.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    references = FAMILIES | TOOLS
    shown = {module for _, modules in references.values() for module in modules}
    for name in PUBLIC:
        if home(name) not in shown:
            log.warning("%s is on no page: add jaxloss.%s to FAMILIES", name, home(name))
    contents: dict[str, str | bytes] = {**slices(), **dict(notebooks())}
    for page, (title, modules) in references.items():
        begun = contents.get(page, f"# {title}\n")
        contents[page] = f"{begun}\n{reference(modules)}"
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        contents[name] = (ROOT / name).read_text()
    for curve in CURVES.values():
        contents[f"curves/{curve.name}-light.svg"] = chart.svg(curve, chart.LIGHT)
        contents[f"curves/{curve.name}-dark.svg"] = chart.svg(curve, chart.DARK)
    for uri, content in contents.items():
        files.append(File.generated(config, uri, content=content))
    for uri in pictures():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri)))
    return files


def on_post_page(output: str, page: Page, **_: Any) -> str:
    if elsewhere := LOADED.search(output):
        log.warning("%s loads what is not in the site: %s", page.file.src_uri, elsewhere[0])
    return output


def readme() -> dict[str, str]:
    """The README's sections by their headings; what comes before the first has the heading ''."""
    parts = re.split(r"^## (.*)\n", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def pictures() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"!\[[^\]]*\]\(([^)#]+)\)", text)


def slices() -> dict[str, str]:
    """Pages of the README's sections; what has no page of its own is on the first."""
    sections = readme()
    pages = {}
    for page, (title, headings) in SLICES.items():
        texts = [sections.pop(heading) for heading in headings]
        if len(texts) > 1:
            texts = [f"## {h}\n{text}" for h, text in zip(headings, texts, strict=True)]
        pages[page] = f"# {title}\n" + "\n".join(texts)
    rest = (f"## {heading}\n{text}" if heading else text for heading, text in sections.items())
    pages["index.md"] = "".join(rest)
    return {page: within(text) for page, text in pages.items()}


def within(text: str) -> str:
    """The text with links to pages of this site: of names, and of notebooks, which are pages."""
    return linked(text).replace(".ipynb)", ".md)")


def home(name: str) -> str:
    """The module whose page shows a public name."""
    if name.startswith("primitives."):
        return "primitives"
    return operator.attrgetter(name)(jaxloss).__module__.removeprefix("jaxloss.")


def reference(modules: list[str]) -> str:
    """Directives for the public names of modules, in the order of the source."""
    found = []
    for name, identifier in PUBLIC.items():
        if home(name) in modules:
            value = operator.attrgetter(name)(jaxloss)
            place = modules.index(home(name)), value.__module__, inspect.getsourcelines(value)[1]
            found.append((place, identifier))
    return "\n".join(f"::: {identifier}\n" for _, identifier in sorted(found))


def notebooks() -> Iterator[tuple[str, str | bytes]]:
    """Each notebook as Markdown, and its pictures, with the outputs that are committed."""
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        prefix = {"output_files_dir": f"{file.stem}_files", "unique_key": file.stem}
        text, resources = MarkdownExporter().from_notebook_node(notebook, prefix)
        # Each picture is a link to itself, to see it in full.
        text = re.sub(r"!\[png\]\((.*?)\)", r"[![Output of the cell above](\1)](\1)", text)
        yield f"notebooks/{file.stem}.md", within(text)
        for name, content in resources["outputs"].items():
            yield f"notebooks/{name}", content
