"""Figures of curves: all of them as small multiples, or one with all its variants."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.gallery.curve import Curve, Line, lines

# Told apart by people who confuse red and green.
BLUE, ORANGE, GREEN = "#0b5394", "#d55e00", "#009e73"


@dataclass(frozen=True)
class Scheme:
    """Colours of a figure, for a light or a dark background."""

    ink: str
    faint: str
    # One for each variant.
    colours: tuple[str, str, str]


LIGHT = Scheme("#333333", "#dddddd", (BLUE, ORANGE, GREEN))
DARK = Scheme("#d8d8d8", "#4a4a52", ("#6fb1f0", "#f5a15c", "#4fd1a5"))


def draw(axes: Axes, line: Line, part: str, **style: Any) -> None:
    """The losses or the derivatives of a line, with a dot for the derivative's value at a kink."""
    values = {"loss": line.losses, "derivative": line.derivatives}[part]
    axes.plot(line.abscissae, values, **style)
    if part == "derivative":
        axes.plot(line.kinks[:, 0], line.kinks[:, 2], "o", color=style["color"], markersize=3.5)


def ruled(axes: Axes, scheme: Scheme = LIGHT) -> None:
    """Few ticks, no box, and the line of 0."""
    axes.axhline(0, color=scheme.faint, linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=np.ptp(axes.get_xlim()) > 3))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0)


def titled(name: str, width: int = 22) -> str:
    """A name on as many lines as it needs, broken between words."""
    rows = [""]
    for word in name.split("_"):
        if rows[-1] and len(rows[-1]) + len(word) >= width:
            rows.append("")
        rows[-1] += "_" * (rows != [""]) + word
    return "\n".join(rows)


def small_multiples(curves: Sequence[Curve], columns: int = 6) -> Figure:
    """Loss and derivative of each curve's first variant, in a panel each."""
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(2.0 * columns, 1.75 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, curve in zip(panels, curves, strict=False):
        line = lines(curve)[0]
        draw(axes, line, "loss", color=BLUE, linewidth=2)
        draw(axes, line, "derivative", color=ORANGE, linewidth=1.5)
        axes.set_title(titled(curve.name), fontsize=9, family="monospace")
        axes.set_xlabel("\n".join(filter(None, (curve.abscissa, line.label))), fontsize=7.5)
        axes.tick_params(labelsize=7.5)
        ruled(axes)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    keys = {
        "loss": Line2D([], [], color=BLUE, linewidth=2),
        "its derivative": Line2D([], [], color=ORANGE, linewidth=1.5),
        "the derivative where it jumps": Line2D([], [], color=ORANGE, linewidth=0, marker="o"),
    }
    figure.legend(keys.values(), keys, loc="outside upper center", ncols=3, frameon=False)
    return figure


def one(curve: Curve, scheme: Scheme = LIGHT) -> Figure:
    """Loss and derivative side by side, with a line for each variant."""
    found = lines(curve)
    colours = {"text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"}
    # No wider than a phone shows in letters that can be read.
    sizes = {"font.size": 9, "axes.titlesize": 10, "xtick.labelsize": 8, "ytick.labelsize": 8}
    with mpl.rc_context(dict.fromkeys(colours, scheme.ink) | sizes):
        figure = Figure(figsize=(5.4, 2.3), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 2)
        for axes, part in zip(panels, ("loss", "derivative"), strict=True):
            # Raises if there are more variants than colours.
            for line, colour in zip(found, scheme.colours[: len(found)], strict=True):
                draw(axes, line, part, color=colour, label=line.label or None)
            axes.set(xlabel=curve.abscissa, title=part, facecolor="none")
            ruled(axes, scheme)
        if len(found) > 1:
            panels[0].legend(frameon=False, fontsize=8)
    return figure


def svg(curve: Curve, scheme: Scheme) -> str:
    """The figure of a curve as a file, the same at each call, on the page's own background."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": curve.name}):
        figure = one(curve, scheme)
        figure.savefig(file, format="svg", facecolor="none", metadata={"Date": None})
    return file.getvalue()
