# SPDX-License-Identifier: Apache-2.0
"""An integer graph as QONNX: float operators and ``Quant`` nodes with scale, zero point and word length.

The format of FINN, hls4ml and Brevitas (Pappalardo et al., "QONNX: Representing Arbitrary-Precision Quantized Neural
Networks", 2022). Scales are ``2**-frac``, zero points 0, word lengths the graph's own. Of the graph's roundings
half_even is QONNX's ``ROUND``, floor ``FLOOR`` and half_away ``HALF_UP``, which despite its name rounds away from zero.
half_up has no name there: it becomes ``HALF_UP``, which differs for negative ties only and so never where a result
cannot be negative, or ``ROUND``, which hls4ml reads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import FixedPoint, IntArray, Overflow, Rounding
from yolo_hw.interop.mismatch import ExportReport, expected_mismatches
from yolo_hw.interop.onnx_graph import OPSET, OnnxBuilder, save_model
from yolo_hw.interop.onnx_real import real_model, step_of, steps_of
from yolo_hw.intgraph.graph import INPUT, IntGraph
from yolo_hw.intgraph.requant import NumericContract

FORM = "qonnx"
DOMAIN = "qonnx.custom_op.general"
ROUNDING_MODES = {Rounding.HALF_EVEN: "ROUND", Rounding.FLOOR: "FLOOR", Rounding.HALF_AWAY: "HALF_UP"}
"""The graph's roundings that QONNX has a name for."""
HALF_UP_AS = (Rounding.HALF_AWAY, Rounding.HALF_EVEN)
"""What can stand for half_up."""


def export_qonnx(
    graph: IntGraph,
    path: str | Path,
    *,
    strict: bool = False,
    half_up_as: Rounding = Rounding.HALF_AWAY,
    batch: int | None = 1,
) -> ExportReport:
    """Write an integer graph as QONNX (opset 13).

    The input ``input`` is [N, C, H, W] float32 ``code * 2**-frac``, for an image pixels / 256. Outputs are [N, K, h, w]
    float32 real numbers, the raw maps of the heads. Activations by table gather from the table.

    Args:
        graph: A checked graph.
        path: The file.
        strict: Refuse a graph whose codes may differ.
        half_up_as: The rounding that stands for half_up, half_away or half_even.
        batch: Images per run; None leaves the number free.

    Returns:
        Where codes may differ from the graph's, why, and in what share.

    Raises:
        ExportError: With `strict`, codes may differ; or the graph or an option does not fit the form.
    """
    report = qonnx_report(graph, half_up_as)
    if strict:
        report.require_exact()
    save_model(qonnx_model(graph, half_up_as, batch), path)
    return report


def qonnx_report(graph: IntGraph, half_up_as: Rounding = Rounding.HALF_AWAY) -> ExportReport:
    """Return what the form guarantees with a choice for half_up."""
    rounding = _expressible(graph.contract, half_up_as)
    return expected_mismatches(graph, FORM, lambda requant: rounding)


def qonnx_model(graph: IntGraph, half_up_as: Rounding = Rounding.HALF_AWAY, batch: int | None = 1) -> onnx.ModelProto:
    """Return the model that `export_qonnx` writes."""
    mode = ROUNDING_MODES[_expressible(graph.contract, half_up_as)]
    return real_model(graph, _QuantNodes(mode, graph.contract.overflow), batch)


def _expressible(contract: NumericContract, half_up_as: Rounding) -> Rounding:
    if half_up_as not in HALF_UP_AS:
        names = " or ".join(mode.value for mode in HALF_UP_AS)
        raise ExportError(f"half_up_as must be {names}, got {half_up_as.value}")
    return half_up_as if contract.rounding is Rounding.HALF_UP else contract.rounding


class _QuantNodes:
    """Rounds by ``Quant``."""

    form = FORM
    opset = OPSET

    def __init__(self, mode: str, overflow: Overflow) -> None:
        self.mode = mode
        self.symmetric = overflow is Overflow.SATURATE_SYMMETRIC
        self.domains = {DOMAIN: 1}

    def image(self, b: OnnxBuilder, fmt: FixedPoint) -> tuple[type[np.float32], str]:
        """The input holds real numbers; a Quant states their format."""
        self.moved(b, INPUT, fmt, f"{INPUT}/real")
        return np.float32, f"{INPUT}/real"

    def limits(self, fmt: FixedPoint) -> tuple[int, int]:
        """``narrow`` leaves the lowest signed code out."""
        return (-fmt.hi if self._narrow(fmt) else fmt.lo), fmt.hi

    def rounded(self, b: OnnxBuilder, x: str, fmt: FixedPoint, out: str) -> None:
        """Round with the graph's mode."""
        self._quant(b, x, b.constant(step_of(fmt.frac, out), np.float32), fmt, out, narrow=self._narrow(fmt))

    def moved(self, b: OnnxBuilder, x: str, fmt: FixedPoint, out: str) -> None:
        """Numbers that have the format keep it, the lowest code included."""
        self._quant(b, x, b.constant(step_of(fmt.frac, out), np.float32), fmt, out, narrow=False)

    def parameter(self, b: OnnxBuilder, codes: IntArray, frac: IntArray, bits: int, out: str) -> str:
        """Add a float constant and its Quant, with a scale per output channel."""
        steps = np.array(steps_of(frac, out)).reshape(-1, *[1] * (codes.ndim - 1))
        values = b.constant(codes * steps, np.float32, f"{out}/values")
        return self._quant(b, values, b.constant(steps, np.float32), bits, out, narrow=False)

    def _quant(self, b: OnnxBuilder, x: str, scale: str, fmt: FixedPoint | int, out: str, *, narrow: bool) -> str:
        bits, signed = (fmt.bits, fmt.signed) if isinstance(fmt, FixedPoint) else (fmt, True)
        zero, length = b.constant(0.0, np.float32), b.constant(float(bits), np.float32)
        attributes = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": self.mode}
        return b.emit("Quant", [x, scale, zero, length], out, domain=DOMAIN, **attributes)

    def _narrow(self, fmt: FixedPoint) -> bool:
        return self.symmetric and fmt.signed
