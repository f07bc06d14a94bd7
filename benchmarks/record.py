# SPDX-License-Identifier: Apache-2.0
"""Results: where they are, the machine's description, merging a run into them; and where real files are."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_hw import __version__
from yolo_hw.atomic import atomic_file

RESULTS = Path(__file__).resolve().parent / "results"
DATA = Path(os.environ.get("YOLO_HW_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Real networks and images; see docs/results.md."""

LIBRARIES = "torch numpy brevitas onnx onnxruntime openvino nncf deepsparse torch-pruning".split()

Row = dict[str, Any]


def require_data() -> Path:
    """Return the folder of real files, or stop with an explanation."""
    if not DATA.is_dir():
        raise SystemExit(f"{DATA}: no such folder; set YOLO_HW_DATA to the folder with weights/ and coco_val128/")
    return DATA


def machine() -> dict[str, Any]:
    """Describe the processor."""
    facts = _processor()
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "family": facts.get("cpu family", ""),
        "model": facts.get("model", ""),
        "cores": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this library and what it is compared with, where installed."""
    found = {"python": platform.python_version(), "yolo_hw": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine_slug(facts: Mapping[str, Any]) -> str:
    """Return a file name for a machine: processor, family and model, number of cores."""
    words = [str(facts[key]) for key in ("processor", "family", "model") if facts[key]]
    plain = re.sub(r"\((r|tm)\)|\bprocessor\b|\bcpu\b", " ", " ".join(words).lower())
    return re.sub("[^a-z0-9]+", "-", f"{plain} {facts['cores']}c").strip("-")


def result_file(folder: Path = RESULTS) -> Path:
    """Return the file of this machine's speeds."""
    return folder / f"{machine_slug(machine())}.json"


def merge_speeds(path: Path, name: str, section: Mapping[str, Any], *, replace: bool) -> None:
    """Merge one benchmark's run into a machine's file.

    Args:
        path: The file; it appears complete or not at all.
        name: The benchmark.
        section: ``command``, ``versions``, ``missing``, ``rows``; every row has ``case`` and ``threads``.
        replace: Whether all earlier rows of the same thread counts go, or only those of the same cases.
    """
    document = json.loads(path.read_text("utf-8")) if path.is_file() else {"machine": machine(), "benchmarks": {}}
    earlier = document["benchmarks"].get(name, {"rows": [], "missing": {}})
    measured = {(row["case"], row["threads"]) for row in section["rows"]}
    counts = {row["threads"] for row in section["rows"]}
    kept = [
        row
        for row in earlier["rows"]
        if (row["case"], row["threads"]) not in measured and not (replace and row["threads"] in counts)
    ]
    missing = (earlier["missing"] if kept else {}) | section["missing"]
    document["benchmarks"][name] = {**section, "missing": missing, "rows": kept + section["rows"]}
    with atomic_file(path) as temporary:
        temporary.write_text(_dump(document), "utf-8")


def load_speeds(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the files of all machines, by file name."""
    documents = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    return [document for document in documents if "benchmarks" in document]


def save_result(name: str, command: str, rows: list[Row], folder: Path = RESULTS) -> None:
    """Write ``<name>.json``, a result that depends on no machine's speed."""
    document = {"command": command, "machine": {**machine(), **versions()}, "rows": rows}
    with atomic_file(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _dump(document: Mapping[str, Any]) -> str:
    """JSON with a line per row, so that a difference between two runs reads well."""
    marks: list[str] = []

    def mark(rows: list[Row]) -> str:
        marks.append("[\n" + ",\n".join(f"    {json.dumps(_rounded(row))}" for row in rows) + "\n   ]")
        return f"@rows{len(marks) - 1}@"

    sections = {name: {**part, "rows": mark(part["rows"])} for name, part in sorted(document["benchmarks"].items())}
    text = json.dumps({**document, "benchmarks": sections}, indent=1)
    return re.sub(r'"@rows(\d+)@"', lambda match: marks[int(match[1])], text) + "\n"


def _rounded(row: Row) -> Row:
    """Six significant digits, far below any spread."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def _processor() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo, empty where there is none."""
    path = Path("/proc/cpuinfo")
    text = path.read_text().split("\n\n")[0] if path.is_file() else ""
    pairs = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    return {key.strip(): value.strip() for key, value in pairs}
