# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the float model and of its 8-bit integer form with default options."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.networks import Case, embedded_case, real_case
from benchmarks.record import save_result
from yolo_hw.evaluate import FloatRunner, IntRunner
from yolo_hw.quant import quantise_model

REAL = (
    ("yolo-fastest", "yolo-fastest-1.1", "coco.names"),
    ("yolo-lite", "coco-trial6", "coco.names"),
    ("mobilenet-yolo", "MobileNetV2-YOLO-Fastest-voc-v1", "voc.names"),
)


def main(results: Path) -> None:
    """Measure every network; write accuracy.json to the folder `results`."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [*(real_case(*arguments) for arguments in REAL), embedded_case(Path(folder))]
        rows = [measure(case) for case in cases]
    save_result("accuracy", "python -m benchmarks accuracy", rows, results)


def measure(case: Case) -> dict[str, object]:
    """Return one row."""
    float_metrics = case.measure(FloatRunner(case.model))
    int_metrics = case.measure(IntRunner(quantise_model(case.model, case.calibration)))
    row = {
        "network": case.name,
        "images": len(case.dataset),
        "float_ap50": float_metrics.ap50,
        "int8_ap50": int_metrics.ap50,
        "float_ap": float_metrics.ap,
        "int8_ap": int_metrics.ap,
    }
    print(row)
    return row
