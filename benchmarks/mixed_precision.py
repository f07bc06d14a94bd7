# SPDX-License-Identifier: Apache-2.0
"""Word lengths of weights chosen within a budget of bytes, against equal word lengths of the same size.

Yolo-Fastest-1.1, activations in 8 bits, 48 calibration images of which `MEASURED` give the damages, AP on 128 images of
COCO val2017.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.networks import real_case
from benchmarks.record import save_result
from yolo_hw.evaluate import FloatRunner, IntRunner
from yolo_hw.quant import QuantConfig, calibrate, fold_model, lower_graph
from yolo_hw.quant.mixed import choose_bits, layer_bytes, layer_works, uniform_cost
from yolo_hw.quant.output_error import output_damage
from yolo_hw.quant.sensitivity import SensitivityConfig, scan_sensitivity

MEASURED = 8
EQUAL_BITS = (8, 7, 6, 5, 4)


def main(results: Path) -> None:
    """Measure both at every size; write mixed_precision.json to the folder `results`."""
    case = real_case("yolo-fastest", "yolo-fastest-1.1", "coco.names")
    graph, batches, config = fold_model(case.model), list(case.calibration), QuantConfig()
    rows: list[dict[str, object]] = []

    def add(what: str, options: QuantConfig, size: float, predicted: float | None) -> None:
        done = calibrate(graph, batches, options)
        lowered = lower_graph(done.graph, done.plan)
        error = output_damage(done.reference, lowered, [batches[0][:MEASURED]])
        found = case.measure(IntRunner(lowered))
        rows.append({"weights": what, "bytes": size, "predicted": predicted, "error": error, "ap50": found.ap50})
        rows[-1]["ap"] = found.ap
        print(rows[-1], flush=True)

    reference = case.measure(FloatRunner(case.model))
    rows.append({"weights": "float", "ap50": reference.ap50, "ap": reference.ap})
    calibrated = calibrate(graph, batches, config)
    scan = SensitivityConfig(a_bits=(config.a_bits,), images=MEASURED)
    sensitivity, works = scan_sensitivity(calibrated, batches, scan), layer_works(calibrated.reference)
    for bits in EQUAL_BITS:
        size = uniform_cost(works, layer_bytes, bits, config.a_bits)
        add(f"all {bits} bits", replace(config, w_bits=bits), size, None)
        choice = choose_bits(sensitivity, works, layer_bytes, size, time_limit=60)
        lengths = [unit_bits for unit, unit_bits in choice.bits.items() if unit.kind == "w"]
        what = f"{min(lengths)} to {max(lengths)} bits"
        add(what, replace(config, overrides=choice.overrides), choice.cost, choice.damage)
    save_result("mixed_precision", "python -m benchmarks mixed_precision", rows, results)
