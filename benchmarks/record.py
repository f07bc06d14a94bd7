# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: where real files are, the machine's description, writing a result."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from yolo_hw import __version__
from yolo_hw.atomic import atomic_file

RESULTS = Path(__file__).resolve().parent / "results"
DATA = Path(os.environ.get("YOLO_HW_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Real networks and images; see docs/results.md."""


def require_data() -> Path:
    """Return the folder of real files, or stop with an explanation."""
    if not DATA.is_dir():
        raise SystemExit(f"{DATA}: no such folder; set YOLO_HW_DATA to the folder with weights/ and coco_val128/")
    return DATA


def machine() -> dict[str, Any]:
    """Describe processor and versions."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "yolo_hw": __version__,
    }


def save_result(name: str, command: str, rows: list[dict[str, Any]]) -> None:
    """Write ``results/<name>.json``."""
    document = {"command": command, "machine": machine(), "rows": rows}
    with atomic_file(RESULTS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"{RESULTS / name}.json: {len(rows)} rows")


def interleaved_medians(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each function; the rounds alternate between them, one warm-up each."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = perf_counter()
            function()
            times[name].append(perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
