# SPDX-License-Identifier: Apache-2.0
"""An integer graph as float operators between QuantizeLinear and DequantizeLinear.

The form from which onnxruntime, OpenVINO and TensorRT build integer kernels. Scales are ``2**-frac`` and zero points 0,
weights have a scale per output channel, biases are int32 with the accumulator's scale. QuantizeLinear divides, rounds
half to even and saturates, so the codes equal the graph's exactly where the contract does the same in numbers float32
holds; `yolo_hw.interop.mismatch` says where that is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from yolo_hw.fixedpoint import FixedPoint, IntArray, Rounding
from yolo_hw.interop.mismatch import ExportReport, expected_mismatches
from yolo_hw.interop.onnx_graph import OPSET, OPSET_INT16, OnnxBuilder, save_model
from yolo_hw.interop.onnx_real import real_model, step_of, steps_of
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT, IntGraph

FORM = "qdq"


def export_qdq_onnx(graph: IntGraph, path: str | Path, *, strict: bool = False, batch: int | None = 1) -> ExportReport:
    """Write an integer graph in the quantise-dequantise form (opset 13, or 21 with words of more than 8 bits).

    The input ``input`` is [N, C, H, W] codes in their storage type, for an image its uint8 bytes. Outputs are [N, K, h,
    w] float32 real numbers ``code * 2**-frac``, the raw maps of the heads. Activations by table gather from the table.

    Args:
        graph: A checked graph.
        path: The file.
        strict: Refuse a graph whose codes may differ.
        batch: Images per run; None leaves the number free.

    Returns:
        Where codes may differ from the graph's, why, and in what share.

    Raises:
        ExportError: With `strict`, codes may differ; or the graph does not fit the form.
    """
    report = qdq_report(graph)
    if strict:
        report.require_exact()
    save_model(qdq_model(graph, batch), path)
    return report


def qdq_report(graph: IntGraph) -> ExportReport:
    """Return what the form guarantees: it rounds half to even."""
    return expected_mismatches(graph, FORM, lambda requant: Rounding.HALF_EVEN)


def qdq_model(graph: IntGraph, batch: int | None = 1) -> onnx.ModelProto:
    """Return the model that `export_qdq_onnx` writes."""
    return real_model(graph, _QdqRounder(_needs_int16(graph)), batch)


def _needs_int16(graph: IntGraph) -> bool:
    formats = [info.fmt for info in graph.tensors.values()]
    for node in graph.nodes:
        requant = node.requant(graph.inputs_of(node), graph.output_of(node))
        formats += [requant.code] if requant is not None else []
        formats += [FixedPoint(node.w_bits, 0)] if isinstance(node, N.Conv2d) else []
    return any(fmt.storage_bytes > 1 for fmt in formats)


class _QdqRounder:
    """Rounds by QuantizeLinear; the codes of a tensor are called ``<tensor>/codes``."""

    form = FORM

    def __init__(self, int16: bool) -> None:
        self.opset = OPSET_INT16 if int16 else OPSET
        self.domains: dict[str, int] = {}

    def image(self, b: OnnxBuilder, fmt: FixedPoint) -> tuple[np.dtype[Any], str]:
        """The input holds codes."""
        real = b.emit("DequantizeLinear", [INPUT, *self._grid(b, fmt, INPUT)], f"{INPUT}/real")
        return fmt.storage_dtype, real

    def limits(self, fmt: FixedPoint) -> tuple[int, int]:
        """QuantizeLinear saturates at the ends of the storage type."""
        kind = np.iinfo(fmt.storage_dtype.str)
        return int(kind.min), int(kind.max)

    def rounded(self, b: OnnxBuilder, x: str, fmt: FixedPoint, out: str) -> None:
        """Quantise and dequantise."""
        self.moved(b, x, fmt, out)

    def moved(self, b: OnnxBuilder, x: str, fmt: FixedPoint, out: str) -> None:
        """Quantise and dequantise, too, so that a runtime can move codes."""
        grid = self._grid(b, fmt, out)
        b.emit("DequantizeLinear", [b.emit("QuantizeLinear", [x, *grid], f"{out}/codes"), *grid], out)

    def parameter(self, b: OnnxBuilder, codes: IntArray, frac: IntArray, bits: int, out: str) -> str:
        """Dequantise a constant per output channel."""
        dtype = np.dtype(np.int32) if bits > 16 else FixedPoint(bits, 0).storage_dtype
        scale = b.constant(steps_of(frac, out), np.float32)
        return b.emit("DequantizeLinear", [b.constant(codes, dtype, f"{out}/codes"), scale], out, axis=0)

    def _grid(self, b: OnnxBuilder, fmt: FixedPoint, name: str) -> list[str]:
        return [b.constant(step_of(fmt.frac, name), np.float32), b.constant(0, fmt.storage_dtype)]
