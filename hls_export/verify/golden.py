# SPDX-License-Identifier: Apache-2.0
"""Comparing golden vectors, the numpy reference and the engine, code by code."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from hls_export.bundle.golden import ADVERSARIAL, acc_dtype, adversarial_input, golden_tensors
from hls_export.verify.files import OpenBundle
from hls_export.verify.report import first_difference
from yolo_hw.errors import BundleError
from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph.engine import Engine, engine_paths
from yolo_hw.intgraph.execute import execute
from yolo_hw.intgraph.graph import INPUT


def check_golden(bundle: OpenBundle) -> str:
    """Recompute every golden case with the numpy reference and compare codes and accumulators."""
    graph, golden = bundle.plan.graph, bundle.document["golden"]
    codes = 0
    for case in golden["cases"]:
        image = case_input(bundle, case["case"])
        stated = {entry["tensor"]: entry for entry in case["tensors"]}
        if set(stated) != set(graph.tensors):
            raise BundleError(f"golden: case {case['case']} must cover every tensor of the graph")
        _check_digest(stated[INPUT], "sha256", _input_bytes(bundle, image), f"golden/{case['case']}/input")
        for name, entry, files in golden_tensors(graph, image):
            codes += graph.tensors[name].shape.numel
            for suffix, content in files.items():
                path = f"golden/{case['case']}/{name}.{suffix}.bin"
                if golden["full"]:
                    _compare_file(bundle, path, name, suffix, content)
                key = "sha256" if suffix == "out" else "acc_sha256"
                _check_digest(stated[name], key, content, path)
            if stated[name] != entry:
                raise BundleError(f"golden: case {case['case']}: the statistics of {name} are not those of its codes")
    return f"{len(golden['cases'])} cases, {codes} codes"


def check_engine(bundle: OpenBundle, path: str) -> str:
    """Run every golden case on the engine and compare every code of every node with the numpy reference."""
    graph = bundle.plan.graph
    engine = Engine(graph, path=path)
    codes = 0
    for case in bundle.document["golden"]["cases"]:
        image = case_input(bundle, case["case"])
        found = engine.run_all(image)
        for name, result in execute(graph, image):
            node = graph.node(name)
            requant = node.requant(graph.inputs_of(node), graph.output_of(node))
            shift = None if requant is None else requant.shift
            difference = first_difference(name, result.codes, found[name], result.acc, shift)
            if difference is not None:
                raise BundleError(f"engine ({path}): case {case['case']}: {difference}")
            codes += result.codes.size
    return f"{codes} codes equal"


def all_engine_paths() -> list[str]:
    """Return the engine's paths on this machine."""
    return engine_paths()


def case_input(bundle: OpenBundle, case: str) -> IntArray:
    """Return the input codes [C, H, W] of a golden case."""
    shape = bundle.plan.graph.input_shape
    if case in ADVERSARIAL:
        return adversarial_input(case, shape)
    path = bundle.folder / "golden" / case / "input.bin"
    if not path.is_file():
        raise BundleError(f"golden/{case}/input.bin: is missing")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if data.size != shape.numel:
        raise BundleError(f"golden/{case}/input.bin: must have {shape.numel} bytes, got {data.size}")
    return data.reshape(shape).astype(np.int64)


def _input_bytes(bundle: OpenBundle, image: IntArray) -> bytes:
    return image.astype(bundle.plan.graph.tensors[INPUT].fmt.storage_dtype).tobytes()


def _check_digest(stated: dict[str, Any], key: str, content: bytes, where: str) -> None:
    if stated.get(key) != hashlib.sha256(content).hexdigest():
        raise BundleError(f"{where}: the {key} in network.json is not that of the recomputed values")


def _compare_file(bundle: OpenBundle, path: str, name: str, suffix: str, content: bytes) -> None:
    file = bundle.folder / path
    found = file.read_bytes() if file.is_file() else b""
    if found == content:
        return
    info = bundle.plan.graph.tensors[name]
    dtype = info.fmt.storage_dtype if suffix == "out" else acc_dtype(bundle.plan.graph)
    if len(found) != len(content):
        raise BundleError(f"{path}: must have {len(content)} bytes, got {len(found)}")
    expected, got = (np.frombuffer(data, dtype).reshape(info.shape) for data in (content, found))
    raise BundleError(f"{path}: {first_difference(name, expected, got)}")
