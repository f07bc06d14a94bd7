# SPDX-License-Identifier: Apache-2.0
"""YOLOv3 and YOLOv4 at 416: export is a matter of seconds and of little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
MAX_RATIO = 60
"""Export, golden vectors aside, against hashing and writing the same bytes; measured: 5 to 20."""

SCRIPT = """
import hashlib, json, resource, sys, time
from pathlib import Path
import hls_export.bundle.write as writing
from support import networks
from support.bundle import write_bundle
from support.cfg_graph import cfg_graph

golden_seconds = 0.0
write_golden = writing.write_golden

def timed(graph, inputs, *rest):
    # One image instead of four: the numpy reference takes most of the time, and the same memory for each.
    global golden_seconds
    start = time.perf_counter()
    index = write_golden(graph, {"image0": inputs["image0"]}, *rest)
    golden_seconds += time.perf_counter() - start
    return index

writing.write_golden = timed
graph = cfg_graph(getattr(networks, sys.argv[1])(416))
start = time.perf_counter()
plan = write_bundle(graph, Path("bundle"))
export_seconds = time.perf_counter() - start - golden_seconds
start = time.perf_counter()
total = 0
for i, path in enumerate(sorted(p for p in Path("bundle").rglob("*") if p.is_file())):
    data = path.read_bytes()
    total += len(data)
    hashlib.sha256(data).hexdigest()
    Path(f"copy{i}").write_bytes(data)
copy_seconds = time.perf_counter() - start
print(json.dumps({
    "weights": sum(int(node.arrays["weight"].size) for node in graph.nodes if "weight" in node.arrays),
    "ratio": export_seconds / copy_seconds,
    "bytes": total,
    "arena": [plan.memory.arena_bytes, plan.memory.arena_bound],
    "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("network", "millions"), [("yolov3", 61.9), ("yolov4", 64.3)])
def test_export_of_a_large_network(network: str, millions: float, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, network]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["weights"] == pytest.approx(millions * 1e6, rel=0.01)
    assert measured["bytes"] > measured["weights"]
    assert measured["ratio"] < MAX_RATIO
    assert measured["rss"] < 8 * GIB
    assert measured["arena"][0] == measured["arena"][1]
