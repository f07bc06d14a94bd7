# SPDX-License-Identifier: Apache-2.0
"""The picture of a pre-flight: histogram of the scales, and how much of their squares goes with which ratio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from yolo_hw.atomic import atomic_file
from yolo_hw.prune.preflight import ENERGY, Preflight

BINS = 60
SMALLEST = 1e-6
"""Smaller scales, by the largest, and smaller shares are drawn as that."""


def preflight_figure(found: Preflight) -> Figure:
    """Draw the scales over a logarithmic axis; lines mark what is safe and where a layer would vanish."""
    scales = np.maximum(found.scales, found.scales[-1] * SMALLEST)
    figure = Figure((11, 4.4), dpi=120, layout="constrained")
    histogram, cumulative = figure.subplots(1, 2)
    histogram.hist(scales, np.geomspace(scales[0] * 0.99, scales[-1] * 1.01, BINS + 1), color="0.6")
    histogram.axvline(max(found.threshold, scales[0]), color="tab:green", label=f"{found.safe:.1%} are smaller: safe")
    histogram.set_xscale("log")
    histogram.set_xlabel("|gamma|")
    histogram.set_ylabel("units")
    histogram.legend(fontsize=8, frameon=False)
    shares = np.arange(1, len(scales) + 1) / len(scales)
    squares = np.cumsum(np.square(found.scales)) / np.square(found.scales).sum()
    cumulative.plot(shares, np.maximum(squares, SMALLEST), color="black", label="share of the sum of squares that goes")
    cumulative.axhline(ENERGY, color="0.7", linewidth=1, linestyle="--", label=f"limit {ENERGY:.1%}")
    cumulative.axvline(found.safe, color="tab:green", label=f"safe up to {found.safe:.1%}")
    vanish = f"{found.first_to_vanish} would vanish beyond {found.ceiling:.1%}"
    cumulative.axvline(found.ceiling, color="tab:red", linestyle="-.", label=vanish)
    if found.knee is not None:
        cumulative.axvline(found.knee, color="tab:blue", linestyle=":", label=f"widest gap at {found.knee:.1%}")
    cumulative.set_yscale("log")
    cumulative.set_xlim(0, 1)
    cumulative.set_xlabel("share of units removed, smallest scales first")
    cumulative.grid(alpha=0.3)
    cumulative.legend(fontsize=8, frameon=False)
    figure.suptitle(found.verdict(), fontsize=8)
    return figure


def plot_preflight(path: str | Path, found: Preflight) -> None:
    """Write `preflight_figure` as PNG."""
    with atomic_file(path) as temporary:
        preflight_figure(found).savefig(temporary, format="png")
