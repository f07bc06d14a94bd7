# SPDX-License-Identifier: Apache-2.0
"""Pictures of a pruning: channels of every layer, and what is left of size, work and time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from yolo_hw.atomic import atomic_file
from yolo_hw.prune.cost import LayerShape
from yolo_hw.prune.figures import Figure

LAYERS_PICTURE = "channels.png"
COSTS_PICTURE = "costs.png"

LAYERS_PER_COLUMN = 56
ROW_INCHES = 0.17
BEFORE, AFTER, GREW = "#c6dbef", "#2171b5", "#cb4b16"
NO_METADATA = {"Software": None}
"""So that equal drawings are equal files."""

Change = tuple[LayerShape, LayerShape]


def layers_figure(changes: Sequence[Change], title: str) -> Drawing:
    """Draw output channels before and after for every layer, in columns of at most `LAYERS_PER_COLUMN` rows.

    Lengths are shares of the widest layer under a square root, so that layers of 8 channels can be seen beside those of
    1024; the numbers are written at the bars.
    """
    columns = -(-len(changes) // LAYERS_PER_COLUMN)
    rows = -(-len(changes) // columns)
    figure = Drawing((7.5 * columns, max(rows * ROW_INCHES, 1) + 1), dpi=110, layout="constrained")
    widest = max(max(before.out_channels, after.out_channels) for before, after in changes)
    for column in range(columns):
        axes = figure.add_subplot(1, columns, column + 1)
        _draw_layers(axes, changes[column * rows : (column + 1) * rows], rows, widest)
    figure.suptitle(f"{title}: output channels before (light) and after (dark); length is the square root", fontsize=10)
    return figure


def costs_figure(figures: Sequence[Figure], title: str) -> Drawing:
    """Draw what is left of every figure that has numbers and is no share, with the numbers at the bars."""
    shown = [figure for figure in figures if figure.left is not None and figure.unit != "%"]
    drawing = Drawing((9, 0.5 * max(len(shown), 1) + 1.2), dpi=110, layout="constrained")
    axes = drawing.add_subplot()
    axes.barh(range(len(shown)), [1.0] * len(shown), color=BEFORE, height=0.7)
    left = [figure.left or 0.0 for figure in shown]
    axes.barh(range(len(shown)), left, color=[GREW if share > 1 else AFTER for share in left], height=0.7)
    for row, figure in enumerate(shown):
        before, after, share = figure.shown()
        axes.text(max(left[row], 1.0) + 0.01, row, f"{share}: {before} to {after}", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [figure.title for figure in shown], fontsize=8)
    axes.set_xlim(0, max([1.0, *left]) * 1.6)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{title}: what is left", fontsize=10)
    return drawing


def write_pictures(folder: str | Path, changes: Sequence[Change], figures: Sequence[Figure], title: str) -> None:
    """Write ``channels.png`` and ``costs.png``."""
    drawings = {LAYERS_PICTURE: layers_figure(changes, title), COSTS_PICTURE: costs_figure(figures, title)}
    for name, drawing in drawings.items():
        with atomic_file(Path(folder) / name) as temporary:
            drawing.savefig(temporary, format="png", metadata=NO_METADATA)


def _draw_layers(axes: Axes, changes: Sequence[Change], rows: int, widest: int) -> None:
    before = [(old.out_channels / widest) ** 0.5 for old, _ in changes]
    after = [(new.out_channels / widest) ** 0.5 for _, new in changes]
    grew = [new.out_channels > old.out_channels for old, new in changes]
    places = range(len(changes))
    axes.barh(places, before, color=BEFORE, height=0.85)
    axes.barh(places, after, color=[GREW if more else AFTER for more in grew], height=0.85)
    for place, (old, new) in enumerate(changes):
        share = f"{new.out_channels} of {old.out_channels}, {100 * new.out_channels / old.out_channels:.0f} %"
        axes.text(max(before[place], after[place]) + 0.01, place, share, va="center", fontsize=7)
    axes.set_yticks(places, [old.name for old, _ in changes], fontsize=7)
    axes.set_xticks([])
    axes.set_xlim(0, 1.35)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
