"""The picture: what the programs move, on a logarithmic axis, and how many kernels they are."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.compiled.goals import GOALS, Figures, figures
from bench.compiled.measure import SIDES, Cell

NAMES = {"ours": "jaxloss", "optax": "Optax"}
TITLES = {"h100": "H100", "v5e": "TPU v5e"}
# Told apart by people who confuse red and green, and in grey.
STYLES = {"optax": ("#e69f00", "s", 7), "ours": ("#0b5394", "o", 5)}


def draw(cells: list[Cell], file: str) -> None:
    """Traffic of each loss on each target, in float32."""
    shown = [cell for cell in cells if cell["dtype"] == "float32"]
    targets = list(dict.fromkeys(cell["target"] for cell in shown))
    losses = list(dict.fromkeys(cell["loss"] for cell in shown))
    figure, panels = plt.subplots(
        1,
        len(targets),
        figsize=(3 + 4.5 * len(targets), 0.23 * len(losses) + 1.7),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for panel, target in zip(panels[0], targets, strict=True):
        for cell in shown:
            if cell["target"] == target:
                _draw_loss(panel, losses.index(cell["loss"]), cell)
        panel.axvline(1.5, color="0.7", linewidth=0.8, zorder=0, label="a + b")
        panel.set(xscale="log", title=TITLES[target], xlabel="traffic, in units of the inputs")
        panel.set_xticks([1.5, 3, 10, 30, 100, 300], ["1.5", "3", "10", "30", "100", "300"])
        panel.set_xlim(0.8, 500)
        panel.minorticks_off()
        panel.text(
            1.02, 1, "kernels", fontsize=7, va="bottom", transform=panel.transAxes, color="0.3"
        )
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_yticks(range(len(losses)), losses, fontsize=8)
    panels[0][0].set_ylim(len(losses) - 0.4, -0.6)
    handles = dict(zip(*panels[0][0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_loss(panel: Axes, place: int, cell: Cell) -> None:
    found = {side: figures(cell, side) for side in SIDES}
    known = {side: of_side for side, of_side in found.items() if of_side is not None}
    moved = [of_side.traffic for of_side in known.values()]
    panel.axhline(place + 0.5, color="0.93", linewidth=0.6, zorder=0)
    if not moved:
        panel.text(1.5, place, "does not compile", fontsize=7, va="center", color="#a00000")
        return
    panel.plot([min(moved), max(moved)], [place, place], color="0.75", linewidth=1.2, zorder=1)
    # Ours last, so that both are seen where they are equal.
    for side, (colour, marker, size) in STYLES.items():
        if side in known:
            style = {"color": colour, "markersize": size, "label": NAMES[side]}
            panel.plot(known[side].traffic, place, marker, zorder=2, **style)
    goal = GOALS.get(cell["loss"], Figures()).traffic
    if goal is not None:
        panel.plot(goal, place, "|", color="black", markersize=9, label="to reach", zorder=3)
    counts = " / ".join(str(of_side.kernels) for of_side in known.values())
    panel.text(1.02, place, counts, fontsize=7, va="center", transform=panel.get_yaxis_transform())
