# SPDX-License-Identifier: Apache-2.0
"""Golden vectors: input, accumulators and output of every node, from the numpy reference.

Besides real images there are three adversarial ones, which drive sums and saturation to their ends: every
pixel 255, every pixel 0, and a checkerboard of both.

Files, per case a folder: ``input.bin`` (uint8), ``<node>.out.bin`` (int8, uint8 or int16) and for computing nodes
``<node>.acc.bin`` (int32, or int64 where the contract has more than 32 bits). All little-endian, [C][H][W].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_hw.darknet.layers import Shape
from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import IntArray, round_shift
from yolo_hw.intgraph.check import PLAIN_NAME
from yolo_hw.intgraph.execute import execute
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.kernels import Result

ADVERSARIAL = ("all_max", "all_min", "checkerboard")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GoldenOptions:
    """What golden data a bundle holds."""

    max_bytes: int = 256 << 20
    """Files are written in full up to this many bytes in all; beyond it the index holds only digests."""


def adversarial_input(name: str, shape: Shape) -> IntArray:
    """Return the codes [C, H, W] of an adversarial image."""
    if name == "all_max":
        return np.full(shape, 255, np.int64)
    if name == "all_min":
        return np.zeros(shape, np.int64)
    c, h, w = np.indices(shape)
    return np.asarray((c + h + w) % 2 * 255, np.int64)


def golden_inputs(graph: IntGraph, images: Mapping[str, IntArray]) -> dict[str, IntArray]:
    """Return the named images and the adversarial ones."""
    return {**images, **{name: adversarial_input(name, graph.input_shape) for name in ADVERSARIAL}}


def golden_bytes(graph: IntGraph, cases: int) -> int:
    """Return the size of all golden files of `cases` cases."""
    total = graph.input_shape.numel
    for node in graph.nodes:
        info = graph.output_of(node)
        acc = 0 if node.requant(graph.inputs_of(node), info) is None else acc_dtype(graph).itemsize
        total += info.shape.numel * (info.fmt.storage_bytes + acc)
    return total * cases


def acc_dtype(graph: IntGraph) -> np.dtype[Any]:
    """Return the type accumulators are stored with."""
    return np.dtype("<i4" if graph.contract.acc_bits <= 32 else "<i8")


def write_golden(
    graph: IntGraph,
    inputs: Mapping[str, IntArray],
    folder: Path,
    options: GoldenOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the reference on every input and write the golden files.

    Args:
        graph: The network.
        inputs: Codes [C, H, W] by case name.
        folder: The bundle's ``golden`` folder.
        options: Size limit of the files.
        progress: Called with cases done and in all.

    Returns:
        The index: for every case and tensor sha256, range, saturated and tied codes; and whether files are in full.
    """
    for name in inputs:
        if not PLAIN_NAME.fullmatch(name):
            raise ExportError(f"golden case '{name[:80]}': a name must match {PLAIN_NAME.pattern}")
    full = golden_bytes(graph, len(inputs)) <= options.max_bytes
    cases = []
    for i, (name, codes) in enumerate(inputs.items()):
        target = folder / name
        target.mkdir(parents=True)
        data = codes.astype(graph.tensors[INPUT].fmt.storage_dtype).tobytes()
        (target / "input.bin").write_bytes(data)
        tensors = [{"tensor": INPUT, "sha256": hashlib.sha256(data).hexdigest()}]
        for tensor, entry, files in golden_tensors(graph, codes):
            tensors.append(entry)
            if full:
                for suffix, content in files.items():
                    (target / f"{tensor}.{suffix}.bin").write_bytes(content)
        cases.append({"case": name, "tensors": tensors})
        if progress:
            progress(i + 1, len(inputs))
    return {"full": full, "acc_dtype": acc_dtype(graph).str, "cases": cases}


def golden_tensors(graph: IntGraph, codes: IntArray) -> Iterator[tuple[str, dict[str, Any], dict[str, bytes]]]:
    """Run the reference on one image; yield for every node (name, index entry, file contents by suffix)."""
    for name, result in execute(graph, codes):
        info = graph.tensors[name]
        files = {"out": result.codes.astype(info.fmt.storage_dtype).tobytes()}
        entry: dict[str, Any] = {
            "tensor": name,
            "sha256": hashlib.sha256(files["out"]).hexdigest(),
            "min": int(result.codes.min()),
            "max": int(result.codes.max()),
        }
        if result.acc is not None:
            files["acc"] = result.acc.astype(acc_dtype(graph)).tobytes()
            entry |= {"acc_sha256": hashlib.sha256(files["acc"]).hexdigest(), **_statistics(graph, name, result)}
        yield name, entry, files


def _statistics(graph: IntGraph, name: str, result: Result) -> dict[str, int]:
    """Count the codes that were saturated and those whose rounding was a tie."""
    assert result.acc is not None
    node = graph.node(name)
    requant = node.requant(graph.inputs_of(node), graph.output_of(node))
    assert requant is not None
    negative = result.acc < 0
    product = result.acc * np.where(negative, requant.mul_neg, requant.mul_pos)
    shift = requant.shift.reshape(-1, 1, 1) + np.where(negative, requant.shift_neg, 0)
    rounded = round_shift(product, shift, graph.contract.rounding)
    right = np.clip(shift, 0, 62)
    rest = product - ((product >> right) << right)
    tie = (shift > 0) & (2 * rest == np.int64(1) << right)
    outside = (rounded < requant.code.lo) | (rounded > requant.code.hi)
    return {"saturated": int(outside.sum()), "ties": int(tie.sum())}
