# SPDX-License-Identifier: Apache-2.0
"""Comparing golden vectors, the numpy reference and the engine, code by code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hls_export.bundle.golden import ADVERSARIAL, acc_dtype, adversarial_input, golden_tensors
from hls_export.verify.files import OpenBundle
from hls_export.verify.report import first_difference
from yolo_hw.errors import BundleError
from yolo_hw.fixedpoint import FixedPoint, IntArray
from yolo_hw.intgraph.engine import Engine, engine_paths
from yolo_hw.intgraph.execute import execute
from yolo_hw.intgraph.graph import INPUT


def check_golden(bundle: OpenBundle) -> str:
    """Recompute every golden case with the numpy reference and compare codes and accumulators."""
    graph, golden = bundle.plan.graph, bundle.document["golden"]
    _check_index(bundle)
    codes = 0
    for case in golden["cases"]:
        image = case_input(bundle, case["case"])
        stated = {entry["tensor"]: entry for entry in case["tensors"]}
        _check_input(bundle, case["case"], stated[INPUT], image)
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
    """Run every golden case on the engine and compare every code of every node with the numpy reference.

    The index of the golden vectors, which `check_golden` compares with the reference, stands for its codes; the
    reference itself runs where a digest differs, to find the code.
    """
    graph = bundle.plan.graph
    engine = Engine(graph, path=path, keep_all=True)
    codes = 0
    for case in bundle.document["golden"]["cases"]:
        image = case_input(bundle, case["case"])
        found = engine.run_all(image)
        codes += sum(graph.output_of(node).shape.numel for node in graph.nodes)
        stated = {entry["tensor"]: entry["sha256"] for entry in case["tensors"]}
        if all(_has_digest(graph.output_of(n).fmt, found[n.name], stated.get(n.name)) for n in graph.nodes):
            continue
        for name, result in execute(graph, image):
            node = graph.node(name)
            requant = node.requant(graph.inputs_of(node), graph.output_of(node))
            shift = None if requant is None else requant.shift
            difference = first_difference(name, result.codes, found[name], result.acc, shift)
            if difference is not None:
                raise BundleError(f"engine ({path}): case {case['case']}: {difference}")
    return f"{codes} codes equal"


def all_engine_paths() -> list[str]:
    """Return the engine's paths on this machine."""
    return engine_paths()


def _has_digest(fmt: FixedPoint, codes: npt.NDArray[np.integer[Any]], digest: str | None) -> bool:
    stored = codes.astype(fmt.storage_dtype)
    return bool((stored == codes).all()) and hashlib.sha256(stored.tobytes()).hexdigest() == digest


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


def golden_files(bundle: OpenBundle) -> Iterator[str]:
    """Yield the paths of the golden files the index promises."""
    graph, golden = bundle.plan.graph, bundle.document["golden"]
    for case in golden["cases"]:
        yield f"golden/{case['case']}/input.bin"
        for node in graph.nodes if golden["full"] else ():
            yield f"golden/{case['case']}/{node.name}.out.bin"
            if node.requant(graph.inputs_of(node), graph.output_of(node)) is not None:
                yield f"golden/{case['case']}/{node.name}.acc.bin"


def _check_index(bundle: OpenBundle) -> None:
    """Check that the index has an image and every adversarial case once, and every tensor in each."""
    graph, golden = bundle.plan.graph, bundle.document["golden"]
    names = [case["case"] for case in golden["cases"]]
    if len(set(names)) != len(names) or not set(ADVERSARIAL) < set(names):
        raise BundleError(
            f"golden: there must be an image and each of {', '.join(ADVERSARIAL)} once, got {', '.join(names)}"
        )
    for case in golden["cases"]:
        if [entry["tensor"] for entry in case["tensors"]] != list(graph.tensors):
            raise BundleError(f"golden: case {case['case']} must cover every tensor of the graph in its order")
    if golden["acc_dtype"] != acc_dtype(graph).str:
        raise BundleError(f"golden: acc_dtype must be {acc_dtype(graph).str}, got {golden['acc_dtype']}")


def _check_input(bundle: OpenBundle, case: str, stated: dict[str, Any], image: IntArray) -> None:
    path = f"golden/{case}/input.bin"
    content = image.astype(bundle.plan.graph.tensors[INPUT].fmt.storage_dtype).tobytes()
    _compare_file(bundle, path, INPUT, "out", content)
    _check_digest(stated, "sha256", content, path)
    if set(stated) != {"tensor", "sha256"}:
        raise BundleError(f"golden: case {case}: the input has no statistics")


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
