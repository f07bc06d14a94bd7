# SPDX-License-Identifier: Apache-2.0
"""The picture of a sensitivity scan: a line for each unit, a column for each word length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from yolo_hw.atomic import atomic_file
from yolo_hw.quant.bit_choices import ACTIVATIONS, WEIGHTS
from yolo_hw.quant.folded import Float64Array
from yolo_hw.quant.sensitivity import Sensitivity

SENSITIVITY_PICTURE = "sensitivity.png"
LINE_HEIGHT = 0.17
"""Inches of a unit: names of 7 points stay apart however many units there are."""
DARK = 0.7
"""Place on the colour scale from which numbers are white."""
TITLES = {WEIGHTS: "weights of a layer", ACTIVATIONS: "activations of a format group"}


def sensitivity_figure(found: Sensitivity) -> Figure:
    """Draw the damage of every unit at every word length as colour (logarithmic) and number."""
    kinds = [kind for kind in TITLES if any(unit.kind == kind for unit in found.units)]
    tables = [_table(found, kind) for kind in kinds]
    values = np.concatenate([table.ravel() for _, _, table in tables])
    positive = values[values > 0]
    norm = LogNorm(float(positive.min()), float(positive.max())) if len(set(positive.tolist())) > 1 else None
    longest = max(len(names) for names, _, _ in tables)
    widths = [2.0 + 0.55 * len(bits) for _, bits, _ in tables]
    figure = Figure((sum(widths) + 1.2, 1.2 + LINE_HEIGHT * longest), dpi=110, layout="constrained")
    grid = figure.add_gridspec(1, len(tables), width_ratios=widths)
    for place, (kind, (names, bits, table)) in enumerate(zip(kinds, tables, strict=True)):
        axes = figure.add_subplot(grid[place])
        _draw(axes, table, norm)
        axes.set_xticks(range(len(bits)), [str(b) for b in bits], fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_ylim(longest - 0.5, -0.5)
        axes.set_xlabel("bits", fontsize=8)
        axes.set_title(TITLES[kind], fontsize=8)
    figure.suptitle(f"{found.metric.value} with one unit quantised, all else in float", fontsize=9)
    return figure


def plot_sensitivity(path: str | Path, found: Sensitivity) -> None:
    """Write `sensitivity_figure` as PNG."""
    with atomic_file(path) as temporary:
        sensitivity_figure(found).savefig(temporary, format="png", metadata={"Software": None})


def _table(found: Sensitivity, kind: str) -> tuple[list[str], list[int], Float64Array]:
    units = [unit for unit in found.units if unit.kind == kind]
    bits = sorted(found.damage[units[0].label])
    return [unit.name for unit in units], bits, np.array([[found.damage[u.label][b] for b in bits] for u in units])


def _draw(axes: Axes, table: Float64Array, norm: LogNorm | None) -> None:
    shown = np.where(table > 0, table, np.nan)  # no damage: white
    axes.imshow(shown, aspect="auto", cmap="YlOrRd", norm=norm, interpolation="nearest")
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if norm is not None and value > 0 and norm(value) > DARK else "black"
        axes.text(column, row, _short(value), ha="center", va="center", fontsize=5.5, color=colour)


def _short(value: float) -> str:
    """Format a damage in at most five characters."""
    if value == 0:
        return "0"
    if 0.01 <= value < 1000:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"
