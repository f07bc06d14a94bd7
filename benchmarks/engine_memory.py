# SPDX-License-Identifier: Apache-2.0
"""Memory of the integer engine: what running a network takes, against its weights and its arena.

Every network runs in a process of its own that loads the graph, then counts what the kernel says it has resident:
the graph, whose integers are wide, is not the engine's and is counted out.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.record import DATA, Row, save_result
from yolo_hw.intgraph import INPUT, IntGraph, load_graph, save_graph
from yolo_hw.intgraph.cost import graph_cost
from yolo_hw.intgraph.liveness import last_reads

RUNS = 3


def main(results: Path) -> None:
    """Measure every network of the engine benchmark; write engine_memory.json to the folder `results`."""
    from benchmarks.engine import SUBJECTS  # noqa: PLC0415 - the measured process must not load torch

    rows = []
    for subject in SUBJECTS:
        if subject.real and not DATA.is_dir():
            print(f"missing: {subject.name}: no folder {DATA}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_row(subject.name, subject.graph, Path(folder)))
        print(rows[-1])
    save_result("engine_memory", "python -m benchmarks engine_memory", rows, results)


def _row(name: str, graph: IntGraph, folder: Path) -> Row:
    save_graph(graph, folder / "graph")
    command = [sys.executable, "-m", "benchmarks.engine_memory", str(folder / "graph")]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"engine_memory: {name}: the measuring process failed:\n{done.stderr}")
    weights = sum(cost.param_bytes for cost in graph_cost(graph))
    return {
        "network": name,
        "weight_bytes": weights,
        "arena_bytes": largest_live_bytes(graph),
        **json.loads(done.stdout),
    }


def largest_live_bytes(graph: IntGraph) -> int:
    """Return the largest sum of maps alive at once, the image not among them: no arena can be smaller."""
    sizes = {name: info.shape.numel * info.fmt.storage_bytes for name, info in graph.tensors.items()} | {INPUT: 0}
    alive, largest = 0, 0
    outputs = {output.tensor for output in graph.outputs}
    for node, dying in zip(graph.nodes, last_reads(graph.nodes), strict=True):
        alive += sizes[node.name]
        largest = max(largest, alive)
        alive -= sum(sizes[name] for name in dying - outputs)
    return largest


def measure(folder: Path) -> dict[str, int | str]:
    """Build and run the engine in this process.

    Args:
        folder: A saved graph.

    Returns:
        Bytes resident beyond those of the loaded graph: at most while building, and at most while running.
    """
    from yolo_hw.intgraph.engine import Engine  # noqa: PLC0415 - its memory is not the graph's

    graph = load_graph(folder)
    codes = np.zeros(graph.input_shape, np.uint8)
    before = _settled()
    engine = Engine(graph, threads=1)
    build = _status("VmHWM") - before
    _settled()
    for _ in range(RUNS):
        engine.run(codes)
    planned = getattr(engine, "memory", {})  # what the engine says it packed and planned, where it says so
    sizes = {f"{key.rstrip('s')}_bytes": planned[key] for key in ("weights", "arena") if key in planned}
    return {"path": engine.path, **sizes, "build_peak_bytes": build, "run_peak_bytes": _status("VmHWM") - before}


def _settled() -> int:
    """Give free memory back, restart the peak, return the bytes resident now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
