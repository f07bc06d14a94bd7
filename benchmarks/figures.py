# SPDX-License-Identifier: Apache-2.0
"""Draw the measured speeds into docs/figures: ``python -m benchmarks.figures``.

`roofline.png`: what the candidates reach of the machine's ceilings, by operations per byte. `sparsity.png`: speed-up
over the fastest dense candidate, by sparsity.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.record import RESULTS, load_speeds
from benchmarks.speed_tables import Document, by_case, fastest, rows_of, sparsity_speedups

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

FIGURES = RESULTS.parents[1] / "docs" / "figures"
OURS, GREY = "#c2410c", "#64748b"
OUR_COLOURS = (OURS, "#f59e0b", "#9f1239", "#65a30d")
PEER_COLOURS = ("#1d4ed8", "#0f766e", "#7c3aed", "#a16207", "#64748b")
SIZE = (8.0, 5.0)
DPI = 130
SPARSITY = 0.9
"""Of the pruned layers under the ceilings; their operations are those of the kept weights."""


def main(results: Path = RESULTS, folder: Path = FIGURES) -> list[Path]:
    """Draw what the first machine's results hold; return the files written."""
    documents = load_speeds(results)
    if not documents:
        raise SystemExit(f"{results}: no measured speeds; run python -m benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (("roofline", draw_roofline), ("sparsity", draw_sparsity)):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        if draw(axes, documents[0]):
            figure.savefig(folder / f"{name}.png", dpi=DPI)
            written.append(folder / f"{name}.png")
        plt.close(figure)
    return written


def draw_roofline(axes: Axes, document: Document) -> bool:
    """Draw layers and networks on one thread under the ceilings of their run; whether there is anything to draw."""
    points, copy = _roofline_points(document), _ceiling(document, "memory copy", "bytes")
    if not points or not copy:
        return False
    intensity = np.geomspace(0.8, 4000, 200)
    for case, label in (("int8 peak", "int8"), ("float peak", "float32")):
        peak = _ceiling(document, case, "operations")
        if peak:
            axes.plot(intensity, np.minimum(intensity * copy, peak), color=GREY, linewidth=1.5)
            axes.annotate(
                f"{label} peak, {peak:.0f} GOP/s", (3900, peak), (0, 4), textcoords="offset points", ha="right"
            )
    axes.annotate(f"memory copy, {copy:.0f} GB/s", (5, 5 * copy), (-6, 2), textcoords="offset points", ha="right")
    marks = "osD^vPX"
    for i, (label, (xs, ys, ours)) in enumerate(points.items()):
        colour = OURS if ours else PEER_COLOURS[i % len(PEER_COLOURS)]
        axes.scatter(xs, ys, s=46, marker=marks[i % len(marks)], color=colour, alpha=0.85, label=label, linewidths=0)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte that must be read or written", ylabel="GOP/s")
    axes.set_title("One thread: layers and networks under the machine's ceilings")
    axes.grid(which="major", alpha=0.25)
    axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    return True


def _ceiling(document: Document, case: str, what: str) -> float:
    """Return the best sample of all runs on one thread, in 1e9 `what` a second; 0 where it was not measured."""
    runs = (rows_of(document, name, threads=1, case=case) for name in document["benchmarks"])
    return max((row[what] / row["min_s"] / 1e9 for rows in runs for row in rows), default=0.0)


def _roofline_points(document: Document) -> dict[str, tuple[list[float], list[float], bool]]:
    """Return label -> intensities, speeds and whether it is ours, for the fastest of ours and the main peers."""
    points: dict[str, tuple[list[float], list[float], bool]] = {}
    layers = by_case(rows_of(document, "sparse_conv", threads=1))
    networks = by_case(rows_of(document, "engine", threads=1))
    for where, cases in (("layer", layers), ("network", networks)):
        for rows in cases.values():
            wanted = {
                row["candidate"]: row for row in rows if row["candidate"] in ("onnxruntime fp32", "onnxruntime int8")
            }
            mine = [row for row in rows if row.get("ours") and row.get("dtype") == "int8"]
            ours = fastest(row for row in mine if row.get("sparsity", SPARSITY) == SPARSITY)
            if ours is not None:
                wanted["yolo_hw int8" + f" at {SPARSITY:.0%} zeros" * ("sparsity" in ours)] = ours
            for label, row in wanted.items():
                xs, ys, _ = points.setdefault(f"{label}, {where}s", ([], [], "ours" in row))
                xs.append(row["operations"] / max(row["bytes"], 1))
                ys.append(row["gop_per_s"])
    return points


def draw_sparsity(axes: Axes, document: Document) -> bool:
    """Draw the median speed-up over all layers with the middle half as a band; whether there is anything to draw."""
    found = sparsity_speedups(document)
    if not found:
        return False
    axes.axhline(1, color=GREY, linewidth=1)
    place = {"textcoords": "offset points", "ha": "right", "va": "top"}
    axes.annotate("fastest dense", (0.95, 1), (0, -4), color=GREY, fontsize=9, **place)
    ours = 0
    for i, ((library, pattern), values) in enumerate(found.items()):
        sparsities = sorted(values)
        low, middle, high = (
            [float(np.percentile(values[sparsity], share)) for sparsity in sparsities] for share in (25, 50, 75)
        )
        mine = library == "yolo_hw"
        colour = PEER_COLOURS[i % len(PEER_COLOURS)] if not mine else OUR_COLOURS[ours % len(OUR_COLOURS)]
        ours += mine
        label = f"{library} {pattern}"
        axes.plot(sparsities, middle, color=colour, marker="o" if mine else "s", linewidth=2, label=label)
        axes.fill_between(sparsities, low, high, color=colour, alpha=0.13, linewidth=0)
    ticks = sorted({sparsity for values in found.values() for sparsity in values})
    axes.set(yscale="log", xlabel="weights that are zero", ylabel="speed-up over the fastest dense candidate")
    axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
    top = max(statistics.median(speeds) for values in found.values() for speeds in values.values())
    steps = [step for step in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if step <= 2 * max(top, 2)]
    axes.set_yticks(steps, [f"{step:g}x" for step in steps], minor=False)
    axes.minorticks_off()
    axes.set_title(f"Pruned convolutions, one thread: median and middle half of {_layers(document)} layers")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, loc="upper left")
    return True


def _layers(document: Document) -> int:
    return len({row["case"] for row in rows_of(document, "sparse_conv", threads=1) if "layer" in row})


if __name__ == "__main__":
    for path in main():
        print(path)
