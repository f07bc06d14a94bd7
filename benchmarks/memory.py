# SPDX-License-Identifier: Apache-2.0
"""Activation memory of planned networks: ``python benchmarks/memory.py``.

The plan depends on shapes and formats only, so the weights are random and one grey image calibrates.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from record import save_result

from hls_export.config import AcceleratorConfig
from hls_export.plan import make_plan
from yolo_hw import assets
from yolo_hw.intgraph.cost import graph_cost
from yolo_hw.nn import load_darknet
from yolo_hw.quant import Observer, QuantConfig, quantise_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.networks import yolov3, yolov3_tiny, yolov4, yolov4_tiny

QUICK = QuantConfig(a_observer=Observer.MAX, w_observer=Observer.MAX, equalise=None, bias_correction=False)


def main() -> None:
    """Plan every network."""
    texts = {
        "yolov3-tiny": yolov3_tiny(),
        "yolov3": yolov3(),
        "yolov4-tiny": yolov4_tiny(),
        "yolov4": yolov4(416),
        "parts": assets.PARTS_CFG.read_text("utf-8"),
    }
    save_result("memory", "python benchmarks/memory.py", [plan_row(name, text) for name, text in texts.items()])


def plan_row(name: str, text: str) -> dict[str, object]:
    """Return one row."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.cfg"
        path.write_text(text, "utf-8")
        model = load_darknet(path)
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


if __name__ == "__main__":
    main()
