# SPDX-License-Identifier: Apache-2.0
"""What every target profile costs: heads against the float network, and average precision.

Yolo-Fastest-1.1, default options of each profile, 48 calibration images, heads on 16 and AP on 128 images of COCO
val2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.networks import Case, real_case
from benchmarks.record import Row, save_result
from yolo_hw.data import load_batches
from yolo_hw.evaluate import IntRunner
from yolo_hw.fixedpoint import dequantise
from yolo_hw.intgraph import image_codes
from yolo_hw.intgraph.engine import Engine
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.target_profiles import TARGETS
from yolo_hw.quant import QuantConfig, calibrate, fold_model, lower_graph
from yolo_hw.quant.execute import float_parameters, run_folded
from yolo_hw.quant.folded import FoldedGraph
from yolo_hw.quant.legal.errors import decibels

HEAD_IMAGES = 16


def main(results: Path) -> None:
    """Measure every profile; write targets.json to the folder `results`, anew after every row."""
    case = real_case("yolo-fastest", "yolo-fastest-1.1", "coco.names")
    paths = case.dataset.items[0].path.parent
    images = np.concatenate(load_batches(paths, case.model.network.input, limit=HEAD_IMAGES))
    rows = []
    for name in TARGETS:
        rows.append(target_row(case, name, images))
        print(rows[-1], flush=True)
        save_result("targets", "python -m benchmarks targets", rows, results)


def target_row(case: Case, name: str, images: np.ndarray) -> Row:
    """Return one row: what was moved, the predicted and the measured cost."""
    config = QuantConfig(target=name)
    folded = fold_model(case.model)
    calibrated = calibrate(folded, case.calibration, config)
    graph = lower_graph(calibrated.graph, calibrated.plan)
    assert calibrated.legal is not None
    found = case.measure(IntRunner(graph, threads=1))
    return {
        "target": name,
        "w_bits": config.w_bits,
        "a_bits": config.a_bits,
        "rounding": config.rounding.value,
        "leaky": str(config.leaky),
        "per_channel": config.per_channel,
        "tensors_moved": sum(change.what != "weights" for change in calibrated.legal.changes),
        "weights_moved": sum(change.what == "weights" for change in calibrated.legal.changes),
        "added_noise_db": calibrated.legal.to_json()["sqnr"],
        "gap": calibrated.legal.gap,
        "heads_db": heads_sqnr(folded, graph, images),
        "ap50": found.ap50,
        "ap": found.ap,
    }


def heads_sqnr(folded: FoldedGraph, graph: IntGraph, images: np.ndarray) -> list[float]:
    """Return the signal-to-noise ratio in dB of every head's raw map against the float network."""
    engine = Engine(graph, threads=1)
    names = [output.tensor for output in graph.outputs]
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    parameters = float_parameters(folded)
    for image in images:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 256
        with torch.inference_mode():
            maps = {r.node.name: r.out[0].double().numpy() for r in run_folded(folded, x, parameters)}
        for name, codes in zip(names, engine.run(image_codes(image)), strict=True):
            error = dequantise(codes, graph.tensors[name].fmt.frac) - maps[name]
            signal[name] += float((maps[name] ** 2).sum())
            noise[name] += float((error**2).sum())
    return [decibels(signal[name], noise[name]) for name in names]
