# SPDX-License-Identifier: Apache-2.0
"""The picture of a sensitivity scan: a line for each group, a column for each ratio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from yolo_hw.atomic import atomic_file
from yolo_hw.prune.sensitivity import Sensitivity

LINE_HEIGHT = 0.19
"""Inches of a group: names of 7 points stay apart however many groups there are."""


def sensitivity_figure(result: Sensitivity) -> Figure:
    """Draw the figure of every group at every ratio as colour and number; the first column is the model as it is."""
    names = list(result.curves)
    values = np.array([(result.baseline, *result.curves[name]) for name in names])
    columns = ["as it is", *(f"{ratio:.0%}" for ratio in result.ratios)]
    units = {row["group"]: row["units"] for row in result.rows[1:]}
    figure = Figure((4.2 + 0.62 * len(columns), 1.4 + LINE_HEIGHT * len(names)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(names)), [f"{name} ({units[name]})" for name in names], fontsize=7)
    axes.set_xlabel("share of the group's units removed", fontsize=8)
    axes.set_title(f"{result.metric} with one group pruned (units)", fontsize=9)
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < middle else "black"
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(picture, ax=axes, label=result.metric, fraction=0.05)
    return figure


def plot_sensitivity(path: str | Path, result: Sensitivity) -> None:
    """Write `sensitivity_figure` as PNG."""
    with atomic_file(path) as temporary:
        sensitivity_figure(result).savefig(temporary, format="png")
