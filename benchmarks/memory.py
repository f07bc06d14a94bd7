# SPDX-License-Identifier: Apache-2.0
"""Activation memory of planned networks.

The plan depends on shapes and formats only, so the weights are random and one grey image calibrates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.networks import cfg_texts, model_of
from benchmarks.record import save_result
from hls_export.config import AcceleratorConfig
from hls_export.plan import make_plan
from yolo_hw import assets
from yolo_hw.intgraph.cost import graph_cost
from yolo_hw.quant import Observer, QuantConfig, quantise_model

QUICK = QuantConfig(a_observer=Observer.MAX, w_observer=Observer.MAX, equalise=None, bias_correction=False)


def main(results: Path) -> None:
    """Plan every network; write memory.json to the folder `results`."""
    texts = {
        "yolov3-tiny": cfg_texts.yolov3_tiny(),
        "yolov3": cfg_texts.yolov3(),
        "yolov4-tiny": cfg_texts.yolov4_tiny(),
        "yolov4": cfg_texts.yolov4(416),
        "parts": assets.PARTS_CFG.read_text("utf-8"),
    }
    rows = [plan_row(name, text) for name, text in texts.items()]
    save_result("memory", "python -m benchmarks memory", rows, results)


def plan_row(name: str, text: str) -> dict[str, object]:
    """Return one row."""
    model = model_of(text, name)
    shape = model.network.input
    image = np.full((1, shape.h, shape.w, shape.c), 128, np.uint8)
    plan = make_plan(quantise_model(model, [image], QUICK), AcceleratorConfig())
    row = {
        "network": name,
        "width": shape.w,
        "height": shape.h,
        "params": sum(cost.params for cost in graph_cost(plan.graph)),
        "unshared_bytes": plan.memory.unshared_bytes,
        "arena_bytes": plan.memory.arena_bytes,
        "arena_bound_bytes": plan.memory.arena_bound,
        "io_bytes": plan.memory.io_bytes,
    }
    print(row)
    return row
