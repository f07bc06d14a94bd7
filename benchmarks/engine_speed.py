# SPDX-License-Identifier: Apache-2.0
"""Seconds per image of the integer engine and of torch's float32 model: ``python benchmarks/engine_speed.py``.

Both run one image at a time on the same threads; the medians alternate between them in one run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from networks import Case, embedded_case, real_case
from record import interleaved_medians, save_result

from yolo_hw.evaluate import FloatRunner, IntRunner
from yolo_hw.intgraph.cost import graph_cost
from yolo_hw.quant import quantise_model

ROUNDS = 21


def main() -> None:
    """Measure two networks on one and two threads."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [real_case("yolo-fastest", "yolo-fastest-1.1", "coco.names"), embedded_case(Path(folder), 1)]
        rows = [measure(case, threads) for case in cases for threads in (1, 2)]
    save_result("engine_speed", "python benchmarks/engine_speed.py", rows)


def measure(case: Case, threads: int) -> dict[str, object]:
    """Return one row."""
    graph = quantise_model(case.model, case.calibration[:1])
    torch.set_num_threads(threads)
    image = case.calibration[0][:1]
    runners = {
        "torch_float32": FloatRunner(case.model),
        "engine_avx2": IntRunner(graph, path="avx2", threads=threads),
        "engine_scalar": IntRunner(graph, path="scalar", threads=threads),
    }
    seconds = interleaved_medians({name: (lambda r=r: r.run(image)) for name, r in runners.items()}, ROUNDS)
    macs = sum(cost.macs for cost in graph_cost(graph))
    row = {"network": case.name, "threads": threads, "macs": macs, **{f"{k}_s": v for k, v in seconds.items()}}
    print(row)
    return row


if __name__ == "__main__":
    main()
