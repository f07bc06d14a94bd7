# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation: curves and the confusion matrix, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yolo_hw.atomic import atomic_file
from yolo_hw.data.dataset import DetectionDataset
from yolo_hw.evaluate.confusion import CONFIDENCE, Counts, confusion_matrix
from yolo_hw.evaluate.curves import Curves, make_curves
from yolo_hw.evaluate.matching import Floats, evaluated_classes, match_detections
from yolo_hw.nn.nms import Detections

NAMED_CLASSES = 20
"""Up to so many classes have a curve in the legend, further ones are grey."""
NUMBERED_CELLS = 30
"""Up to so many classes the confusion matrix shows numbers."""


def plot_evaluation(
    folder: str | Path,
    dataset: DetectionDataset,
    detections: Sequence[Detections | None],
    class_map: Sequence[int],
) -> list[Path]:
    """Write ``PR_curve``, ``P_curve``, ``R_curve``, ``F1_curve`` and ``confusion_matrix`` as PNG.

    Args:
        folder: Where to; made if it is missing, older pictures are replaced.
        dataset: Ground truth.
        detections: One entry per item, boxes in image pixels; None counts as no detection.
        class_map: Model class -> data set class or -1.

    Returns:
        The files.
    """
    curves = make_curves(match_detections(dataset, detections, class_map))
    figures = {
        "PR_curve": precision_recall_figure(curves, dataset.names),
        "P_curve": confidence_figure(curves, dataset.names, "precision"),
        "R_curve": confidence_figure(curves, dataset.names, "recall"),
        "F1_curve": confidence_figure(curves, dataset.names, "f1"),
        "confusion_matrix": confusion_figure(
            confusion_matrix(dataset, detections, class_map),
            [dataset.names[label] for label in evaluated_classes(class_map)],
        ),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(Path(folder) / f"{name}.png")
        with atomic_file(paths[-1]) as temporary:
            figure.savefig(temporary, format="png")
    return paths


def precision_recall_figure(curves: Curves, names: Sequence[str]) -> Figure:
    """Draw precision over recall at IoU 0.5, one curve per class and their mean."""
    figure, axes = _frame("recall", "precision")
    labels = [f"{names[label]} {area:.3f}" for label, area in zip(curves.labels, curves.areas, strict=True)]
    mean = f"all classes {curves.areas.mean():.3f}" if curves.labels else ""
    _draw(axes, curves, curves.envelope, labels, mean)
    axes.set_title("precision over recall at IoU 0.5; area under the curve")
    return figure


def confidence_figure(curves: Curves, names: Sequence[str], quantity: str) -> Figure:
    """Draw ``precision``, ``recall`` or ``f1`` over the confidence threshold, one curve per class and their mean."""
    values: Floats = getattr(curves, quantity)
    word = "F1" if quantity == "f1" else quantity
    figure, axes = _frame("confidence threshold", word)
    mean = ""
    if curves.labels:
        mean = f"all classes: {values.mean(0)[curves.best]:.3f} at {curves.best_confidence:.3f}"
        axes.axvline(curves.best_confidence, color="0.6", linewidth=1, linestyle="--")
    _draw(axes, curves, values, [names[label] for label in curves.labels], mean)
    axes.set_title(f"{word} over confidence at IoU 0.5; dashed: highest mean F1")
    return figure


def confusion_figure(matrix: Counts, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix; the colour is the share of the true class (of its column)."""
    labels = [*names, "background"]
    share = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
    side = min(max(3.5 + 0.45 * len(labels), 5.0), 24.0)
    figure = Figure((side + 1, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    size = 9 if len(labels) <= NUMBERED_CELLS else 5
    axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 6 else 0, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    axes.set_title(f"objects at IoU 0.5 and confidence {CONFIDENCE}")
    if len(labels) <= NUMBERED_CELLS:
        for row, column in np.argwhere(matrix):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = str(matrix[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    return figure


def _frame(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure((9, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    return figure, axes


def _draw(axes: Axes, curves: Curves, values: Floats, labels: Sequence[str], mean: str) -> None:
    """Draw one line per class and the thick mean; an empty plot says that there is nothing to draw."""
    if not curves.labels:
        axes.text(0.5, 0.5, "no objects", ha="center", va="center")
        return
    named = len(labels) <= NAMED_CLASSES
    for k, (row, text) in enumerate(zip(values, labels, strict=True)):
        colour = colormaps["tab20"](k) if named else "0.75"
        axes.plot(curves.axis, row, linewidth=1, color=colour, label=text if named else None)
    axes.plot(curves.axis, values.mean(0), linewidth=2.5, color="black", label=mean)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
