# SPDX-License-Identifier: Apache-2.0
"""Pictures of a report: the ratio of signal to noise layer by layer, and histograms with the formats' clip ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yolo_hw.atomic import atomic_file
from yolo_hw.fixedpoint import FixedPoint
from yolo_hw.quant.layer_report import LayerReport, LayerRow, WeightRow
from yolo_hw.quant.layer_statistics import Histogram
from yolo_hw.quant.report_files import show_db, show_fracs

SQNR_PICTURE = "sqnr.png"
HISTOGRAMS = "histograms_{:02d}.png"
WEIGHT_HISTOGRAMS = "weights_{:02d}.png"

ACROSS, DOWN = 4, 5
"""Histograms on a page."""
LAYER_INCHES = 0.17
"""Width of a layer in the SQNR picture: names of 7 points stay apart."""
WIDE = 60
"""Layers from which the legend of the SQNR picture fits one line."""
MAX_STEP_MARKS = 64
"""With more codes in sight the step is only written."""
NO_METADATA = {"Software": None}
"""So that equal drawings are equal files."""
NET, ALONE, WEIGHTS, CLIP, BARS, STEPS = "#2171b5", "#41ab5d", "#969696", "#cb181d", "#6baed6", "#525252"


@dataclass(frozen=True)
class Panel:
    """One histogram: what was counted, the format it is rounded to, and its title."""

    histogram: Histogram
    fmt: FixedPoint
    title: str


def write_pictures(report: LayerReport, folder: str | Path) -> list[Path]:
    """Write ``sqnr.png`` and the pages of histograms of outputs and of weights; return the files."""
    drawings = {SQNR_PICTURE: sqnr_figure(report)}
    outputs = [output_panel(row) for row in report.rows]
    weights = [weight_panel(row.name, row.weights) for row in report.rows if row.weights]
    per_page = ACROSS * DOWN
    for panels, file, what in (
        (outputs, HISTOGRAMS, "float outputs"),
        (weights, WEIGHT_HISTOGRAMS, "float weights in steps of their channel"),
    ):
        for page, start in enumerate(range(0, len(panels), per_page), start=1):
            title = f"{report.name}: {what}"
            drawings[file.format(page)] = histogram_figure(panels[start : start + per_page], title)
    for name, drawing in drawings.items():
        with atomic_file(Path(folder) / name) as temporary:
            drawing.savefig(temporary, format="png", metadata=NO_METADATA)
    return [Path(folder) / name for name in drawings]


def sqnr_figure(report: LayerReport) -> Figure:
    """Draw SQNR over the layers: in the whole network, of each layer alone, of its weights."""
    count = len(report.rows)
    figure = Figure((max(count * LAYER_INCHES + 1.5, 6), 4.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for values, colour, marker, label in (
        ([row.weights.sqnr_db if row.weights else math.nan for row in report.rows], WEIGHTS, "v", "weights"),
        ([row.isolated.sqnr_db for row in report.rows], ALONE, "o", "output, this layer alone quantised"),
        ([row.accumulated.sqnr_db for row in report.rows], NET, "o", "output, whole network quantised"),
    ):
        finite = [value if math.isfinite(value) else math.nan for value in values]
        axes.plot(range(count), finite, marker, color=colour, label=label, linestyle="-", linewidth=0.9, markersize=3)
    hurt = report.first_hurt
    if hurt is not None:
        label = f"{report.hurt_db:g} dB; first layer alone below: {hurt.name}"
        axes.axhline(report.hurt_db, color=CLIP, linewidth=1, linestyle="--", label=label)
        axes.axvline(report.rows.index(hurt), color=CLIP, linewidth=1, linestyle="--")
    ends = [row.name in report.outputs for row in report.rows]
    axes.set_xticks(range(count), [row.name for row in report.rows], rotation=90, fontsize=7)
    for text, end in zip(axes.get_xticklabels(), ends, strict=True):
        text.set_fontweight("bold" if end else "normal")
    axes.set_xlim(-0.8, count - 0.2)
    axes.set_ylabel("signal / quantisation noise in dB")
    axes.grid(axis="y", linewidth=0.4)
    axes.set_title(f"{report.name}, {report.images} images; outputs in bold", fontsize=8)
    figure.legend(fontsize=7, loc="outside upper center", ncols=2 if count < WIDE else 4, frameon=False)
    return figure


def output_panel(row: LayerRow) -> Panel:
    """Return the histogram of a layer's output."""
    clipped = 100 * (row.clipping.low_share + row.clipping.high_share)
    title = (
        f"{row.name}  {row.fmt}, step {row.fmt.step:.3g}\nnet {show_db(row.accumulated.sqnr_db)} dB, alone "
        f"{show_db(row.isolated.sqnr_db)} dB, clipped {clipped:.2f} %"
    )
    return Panel(row.histogram, row.fmt, title)


def weight_panel(name: str, weights: WeightRow) -> Panel:
    """Return the histogram of a layer's weights."""
    title = f"{name}  {weights.bits} bits, frac {show_fracs(weights)}\n{show_db(weights.sqnr_db)} dB"
    return Panel(weights.histogram, weights.fmt, title)


def histogram_figure(panels: Sequence[Panel], title: str) -> Figure:
    """Draw up to a page of histograms, with the range and the steps of their formats."""
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure((3.5 * across + 0.3, 2.3 * down + 0.8), dpi=100, layout="constrained")
    for place, panel in enumerate(panels, start=1):
        _draw(figure.add_subplot(down, across, place), panel)
    figure.suptitle(
        f"{title}, logarithmic counts; red: ends of the format, shaded: clipped; grey: codes, where few", fontsize=9
    )
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    counts, edges, fmt = panel.histogram.counts, panel.histogram.edges, panel.fmt
    low, high = fmt.lo * fmt.step, fmt.hi * fmt.step
    used = np.flatnonzero(counts)
    left = min(float(edges[used[0]]) if used.size else 0.0, low)
    right = max(float(edges[used[-1] + 1]) if used.size else 0.0, high)
    margin = 0.03 * (right - left)
    left, right = left - margin, right + margin
    axes.bar(edges[:-1], np.maximum(counts, 0), width=np.diff(edges), align="edge", color=BARS)
    axes.set_yscale("log")
    axes.set_ylim(0.5, max(2.0 * float(counts.max()), 2.0))
    for end in (low, high):
        axes.axvline(end, color=CLIP, linewidth=1)
    axes.axvspan(left, low, color=CLIP, alpha=0.12, linewidth=0)
    axes.axvspan(high, right, color=CLIP, alpha=0.12, linewidth=0)
    if fmt.hi - fmt.lo < MAX_STEP_MARKS:
        codes = np.arange(fmt.lo, fmt.hi + 1) * fmt.step
        axes.plot(
            codes, np.full(len(codes), 0.03), "|", transform=axes.get_xaxis_transform(), color=STEPS, markersize=6
        )
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=6)
    axes.set_title(panel.title, fontsize=7)
