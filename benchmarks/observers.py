# SPDX-License-Identifier: Apache-2.0
"""Every observer, per-channel against per-tensor weights, with and without corrections.

8 bits, Yolo-Fastest-1.1, 48 calibration images, AP on 128 images of COCO val2017.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from benchmarks.networks import real_case
from benchmarks.record import save_result
from yolo_hw.evaluate import FloatRunner, IntRunner
from yolo_hw.quant import Observer, QuantConfig, quantise_model


def main(results: Path) -> None:
    """Measure all combinations; write observers.json to the folder `results`."""
    case = real_case("yolo-fastest", "yolo-fastest-1.1", "coco.names")
    reference = case.measure(FloatRunner(case.model))
    rows: list[dict[str, object]] = [{"observer": "float", "ap50": reference.ap50, "ap": reference.ap}]
    for corrected, per_channel, observer in product((True, False), (True, False), Observer):
        config = QuantConfig(
            a_observer=observer,
            per_channel=per_channel,
            equalise=QuantConfig().equalise if corrected else None,
            bias_correction=corrected,
        )
        found = case.measure(IntRunner(quantise_model(case.model, case.calibration, config)))
        rows.append(
            {
                "observer": observer.value,
                "per_channel": per_channel,
                "corrected": corrected,
                "ap50": found.ap50,
                "ap": found.ap,
            }
        )
        print(rows[-1])
    save_result("observers", "python -m benchmarks observers", rows, results)
