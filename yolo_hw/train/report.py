# SPDX-License-Identifier: Apache-2.0
"""The report of a run: what was trained, how long, and how good it became."""

from __future__ import annotations

import math
from pathlib import Path

from yolo_hw.atomic import atomic_file
from yolo_hw.evaluate import DetectionMetrics
from yolo_hw.nn.darknet import Darknet
from yolo_hw.train.run_options import ARGS, DetectorRun
from yolo_hw.train.state import TrainState

PICTURES = {
    "results.png": "Losses and average precision over the epochs",
    "PR_curve.png": "Precision over recall",
    "F1_curve.png": "F1 over confidence",
    "confusion_matrix.png": "Confusion matrix",
    "val_labels.jpg": "Objects",
    "val_detections.jpg": "Detections",
    "train_batch0.jpg": "A training batch",
}


def write_report(folder: Path, run: DetectorRun, state: TrainState, metrics: DetectionMetrics, seconds: float) -> None:
    """Write ``report.md``."""
    with atomic_file(folder / "report.md") as temporary:
        temporary.write_text(report_text(run, state, metrics, seconds), "utf-8")


def report_text(run: DetectorRun, state: TrainState, metrics: DetectionMetrics, seconds: float) -> str:
    """Return the report as Markdown; pictures are named relative to the folder."""
    best = state.best
    assert best is not None
    lines = [
        f"# {run.cfg.stem}",
        "",
        f"{_model(state)}, trained on {state.images} images for {state.epoch} epochs of {state.steps_per_epoch} steps "
        f"({_duration(seconds)} in the last session, {state.world.size} process(es)). "
        f"The fittest model is that of epoch {best.epoch}, measured on {metrics.images} images. "
        f"All options: [{ARGS}]({ARGS}).",
        "",
        "| class | objects | AP50 | AP50:95 | VOC 2012 | precision | recall | F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(c.name, c.objects, (c.ap50, c.ap, c.voc12, c.precision, c.recall, c.f1)) for c in metrics.classes),
        _row(
            "all",
            sum(c.objects for c in metrics.classes),
            (metrics.ap50, metrics.ap, metrics.voc12, metrics.precision, metrics.recall, metrics.f1),
        ),
        "",
        f"Precision, recall and F1 at confidence {metrics.confidence:.3f}, where the mean F1 is highest. "
        f"Fitness (0.1 AP50 + 0.9 AP50:95): {metrics.fitness:.4f}.",
        "",
    ]
    for name, title in PICTURES.items():
        lines += [f"![{title}]({name})", ""]
    return "\n".join(lines)


def _model(state: TrainState) -> str:
    model = state.best_model
    parameters = sum(p.numel() for p in model.parameters())
    if not isinstance(model, Darknet):
        return f"{parameters:,} parameters"
    return f"{parameters:,} parameters, {model.network.macs / 1e6:.1f} M multiply-adds at {model.network.input}"


def _row(name: str, objects: int, values: tuple[float, ...]) -> str:
    shown = " | ".join("-" if math.isnan(value) else f"{value:.4f}" for value in values)
    return f"| {name} | {objects} | {shown} |"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
