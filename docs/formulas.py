"""Formulas as MathML, made when the site is built, and the characters of a font for them."""

from __future__ import annotations

import html
import logging
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from fontTools import subset
from math_core import LatexError, LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

# MkDocs counts warnings of its own loggers, and --strict makes errors of them.
log = logging.getLogger("mkdocs.hooks.formulas")
# What pymdownx.arithmatex makes of $...$ and $$...$$.
FORMULA = re.compile(r'(<(span|div) class="arithmatex">)\\[(\[](.*?)\\[)\]](</\2>)', re.DOTALL)
FONT = metadata.distribution("ziamath").locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf")
CONVERTER = LatexToMathML()
characters: set[str] = set()


def on_page_content(content: str, page: Page, **_: Any) -> str:
    def mathml(found: re.Match[str]) -> str:
        opening, element, latex, closing = found.groups()
        try:
            result = CONVERTER.convert_with_local_state(
                html.unescape(latex), displaystyle=element == "div"
            )
        except LatexError as error:
            log.warning("%s: a formula cannot be rendered: %s", page.file.src_uri, error)
            return found[0]
        characters.update(html.unescape(re.sub("<[^>]*>", "", result)))
        return opening + result + closing

    return FORMULA.sub(mathml, content)


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    options = subset.Options(flavor="woff", layout_features=["*"])
    font = subset.load_font(str(FONT), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(characters))
    subsetter.subset(font)
    subset.save_font(font, str(Path(config.site_dir) / "formulas.woff"), options)
