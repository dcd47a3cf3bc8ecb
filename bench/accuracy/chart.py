"""The picture of the certificate: how far from the truth, on a logarithmic axis."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

NAMES = {"ours": "jaxloss", "optax": "Optax", "torch": "PyTorch"}
# Told apart by people who confuse red and green, and in grey.
STYLES = {"ours": ("#0b5394", "o"), "optax": ("#e69f00", "s"), "torch": ("#9e9e9e", "^")}
LEAST, LOST = 0.1, 2e7


def draw(cells: list[dict[str, Any]], file: str) -> None:
    """The largest error of each loss that a peer has, in its worst regime, in float32."""
    peers = ("optax", "torch")
    shown = [c for c in cells if c["dtype"] == "float32" and any(c.get(p) for p in peers)]
    losses = list(dict.fromkeys(cell["loss"] for cell in shown if "primitives" not in cell["loss"]))
    figure, panels = plt.subplots(
        1, 2, figsize=(11, 0.27 * len(losses) + 1.6), sharey=True, layout="constrained"
    )
    for panel, part in zip(panels, ("value", "gradient"), strict=True):
        for place, loss in enumerate(losses):
            of_loss = [cell for cell in shown if cell["loss"] == loss]
            for side, (colour, marker) in STYLES.items():
                found = [c[side][part]["largest"] for c in of_loss if c.get(side, {}).get(part)]
                if not found:
                    continue
                panel.plot(
                    np.clip(found, LEAST, LOST),
                    np.full(len(found), place) + {"ours": 0.0, "optax": 0.22, "torch": -0.22}[side],
                    marker,
                    color=colour,
                    markersize=4.5,
                    alpha=0.8,
                    label=NAMES[side] if place == 0 else None,
                )
            panel.axhline(place + 0.5, color="0.92", linewidth=0.6, zorder=0)
        panel.axvspan(2**23, LOST * 3, color="0.95", zorder=0)
        panel.set(
            xscale="log",
            xlim=(LEAST / 1.5, LOST * 3),
            xlabel="largest error of a regime, in units in the last place",
            title=part,
        )
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(losses)), losses)
    panels[0].set_ylim(len(losses) - 0.4, -1.3)
    panels[1].text(2**24, -0.8, "no digit left", fontsize=8, ha="center")
    handles = {}
    for panel in panels:
        handles |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
