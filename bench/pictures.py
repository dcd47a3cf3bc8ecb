"""Pictures of the times: ratios, time against size, temporaries against size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from bench.report import BYTES, ELEMENTWISE, GRADIENT, Cells, largest
from bench.speed import COMPILED, FLOOR, OPTAX, OURS, TORCH

# Told apart by people who confuse red and green, and in grey.
COLOURS = {OURS: "#0b5394", OPTAX: "#e69f00", TORCH: "#9e9e9e", COMPILED: "#56b4e9", FLOOR: "0.2"}


def draw(cells: Cells, folder: Path, device: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"ratios": _ratios, "sizes": _sizes, "temporaries": _temporaries}
    files = []
    for name, picture in pictures.items():
        figure = picture(cells, device)
        if figure is not None:
            files.append(folder / f"{name}.png")
            figure.savefig(files[-1], dpi=110)
            plt.close(figure)
    return files


def _of_gradients(cells: Cells) -> Cells:
    return {key: of for key, of in cells.items() if key[2:] == ("float32", GRADIENT)}


def _ratios(cells: Cells, device: str) -> Any:
    """Bars of how many times as long as ours the others take, each loss at its largest size."""
    peers = (OPTAX, TORCH, COMPILED)
    shown = {
        key: {peer: of[peer]["ours of it"] for peer in peers if "ours of it" in of.get(peer, {})}
        for key, of in largest(_of_gradients(cells)).items()
    }
    shown = {key: ratios for key, ratios in shown.items() if ratios}
    if not shown:
        return None
    present = [peer for peer in peers if any(peer in ratios for ratios in shown.values())]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(shown) + 1.5), layout="constrained")
    height = 0.8 / len(present)
    for n, peer in enumerate(present):
        places = [place for place, ratios in enumerate(shown.values()) if peer in ratios]
        faster = [1 / ratios[peer] for ratios in shown.values() if peer in ratios]
        offset = (n - (len(present) - 1) / 2) * height
        axes.barh(
            np.array(places) + offset,
            np.array(faster) - 1,
            height,
            left=1,
            color=COLOURS[peer],
            label=peer,
        )
    axes.axvline(1, color="0.2", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="time of the peer, as a multiple of jaxloss's",
        title=f"value and gradient of the mean, float32, {device}",
    )
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if _within(t, axes.get_xlim())]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), [f"{loss}, {size}" for loss, size, *_ in shown])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _sizes(cells: Cells, device: str) -> Any:
    """Time against elements, a panel for each elementwise loss, with the floor."""
    lines = _lines(cells, lambda row: row.get("ms"))
    return _panels(lines, "milliseconds", f"value and gradient, float32, {device}", log=True)


def _temporaries(cells: Cells, device: str) -> Any:
    """What programs hold beside inputs and outputs, as a share of the first input."""

    def share(row: dict[str, Any]) -> float | None:
        held = row.get("temporary bytes")
        return None if held is None else held / (row["elements"] * BYTES[row["dtype"]])

    lines = _lines(cells, share)
    title = f"temporaries as a multiple of the first input, float32, {device}"
    return _panels(lines, "times the input", title, log=False)


def _lines(cells: Cells, value: Any) -> dict[str, dict[str, list[tuple[int, float]]]]:
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for (loss, *_), libraries in _of_gradients(cells).items():
        if loss not in ELEMENTWISE:
            continue
        for library, row in libraries.items():
            point = value(row)
            if point is not None:
                points = lines.setdefault(loss, {}).setdefault(library, [])
                points.append((row["elements"], point))
    return {loss: of for loss, of in lines.items() if len(of.get(OURS, ())) > 1}


def _panels(lines: dict[str, Any], label: str, title: str, *, log: bool) -> Any:
    if not lines:
        return None
    columns = 4
    rows = -(-len(lines) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(11, 2.1 * rows + 0.8),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    handles: dict[str, Any] = {}
    for axes in grid.flat[len(lines) :]:
        axes.set_visible(False)
    for axes, (loss, libraries) in zip(grid.flat, lines.items(), strict=False):
        for library, points in libraries.items():
            elements, values = zip(*sorted(points), strict=True)
            style = {"linestyle": "--", "linewidth": 1} if library == FLOOR else {"marker": "."}
            [line] = axes.plot(elements, values, color=COLOURS[library], label=library, **style)
            handles[library] = line
        axes.set_xscale("log", base=2)
        axes.set_title(loss, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if log:
            axes.set_yscale("log")
    # A label of all panels would lie under the legend.
    for axes in grid[-1]:
        axes.set_xlabel("elements")
    figure.supylabel(label)
    figure.suptitle(title)
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False
    )
    return figure
