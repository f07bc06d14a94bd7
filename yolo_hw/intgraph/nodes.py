# SPDX-License-Identifier: Apache-2.0
"""The nodes of an integer graph.

A node produces one tensor that has the node's name. Computing nodes (`Conv2d`, `Add`, `Mul`, `AvgPool`)
end in the requantisation formula; moving nodes (`MaxPool`, `Concat`, `Slice`, `Upsample`, `Reorg`) hand
codes on, so their inputs and output share one format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from yolo_hw.darknet.layers import Shape
from yolo_hw.fixedpoint import FixedPoint, IntArray
from yolo_hw.geometry import Window
from yolo_hw.intgraph.requant import Requant

AVG_MUL_BITS = 15
"""Precision of the reciprocal of an average's element count."""


@dataclass(frozen=True)
class TensorInfo:
    """Shape and format of one tensor."""

    shape: Shape
    fmt: FixedPoint


@dataclass(frozen=True, eq=False)
class Activation:
    """Activation fused into a computing node.

    Attributes:
        function: Darknet's name of the function.
        cap: relu, relu6: largest output code.
        slope_mul: leaky: integer factor of negative accumulators.
        slope_shift: leaky: the slope is ``slope_mul * 2**-slope_shift``.
        table: All other functions: [2**table_fmt.bits] output code per code of `table_fmt`, lowest code first.
        table_fmt: Format of the table's argument.
    """

    function: str = "linear"
    cap: int = 0
    slope_mul: int = 1
    slope_shift: int = 0
    table: IntArray | None = None
    table_fmt: FixedPoint | None = None

    def requant(self, acc_frac: IntArray, out: FixedPoint) -> Requant:
        """Return the requantisation of accumulators with `acc_frac` fraction bits (per channel) to the format `out`."""
        if self.table is not None:
            assert self.table_fmt is not None
            fmt = self.table_fmt
            return Requant(acc_frac - fmt.frac, fmt, fmt.lo, fmt.hi, table=self.table)
        shift = acc_frac - out.frac
        if self.function in ("relu", "relu6"):
            return Requant(shift, out, 0, self.cap)
        return Requant(shift, out, out.lo, out.hi, mul_neg=self.slope_mul, shift_neg=self.slope_shift)


LINEAR = Activation()


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """What all nodes have in common.

    Attributes:
        name: Name of the node and of the tensor it produces.
        inputs: Names of the tensors it reads.
    """

    op: ClassVar[str] = "node"

    name: str
    inputs: tuple[str, ...]

    def requant(self, inputs: list[TensorInfo], out: TensorInfo) -> Requant | None:
        """Return the node's requantisation, or None for a moving node."""
        return None

    def macs(self, inputs: list[TensorInfo], out: TensorInfo) -> int:
        """Multiply-accumulates of one image."""
        return 0

    @property
    def arrays(self) -> dict[str, IntArray]:
        """Parameter arrays by role."""
        return {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Node):
    """Convolution: ``acc[k] = sum(weight[k] * x) + bias[k]`` with padding code 0.

    Attributes:
        weight: [K, C / groups, R, S] codes of `w_bits` signed bits.
        w_frac: [K] fraction bits of the weights, per output channel (all equal for per-tensor quantisation).
        bias: [K] int32 codes with ``x_frac + w_frac`` fraction bits.
        w_bits: Word length of the weights.
        window: Geometry.
        groups: Channel groups.
        act: Fused activation.
    """

    op: ClassVar[str] = "conv2d"

    weight: IntArray
    w_frac: IntArray
    bias: IntArray
    w_bits: int
    window: Window
    groups: int = 1
    act: Activation = LINEAR

    def requant(self, inputs: list[TensorInfo], out: TensorInfo) -> Requant:
        """See `Node.requant`."""
        return self.act.requant(self.w_frac + inputs[0].fmt.frac, out.fmt)

    def macs(self, inputs: list[TensorInfo], out: TensorInfo) -> int:
        """K * C/groups * R * S * Hout * Wout."""
        return int(self.weight.size) * out.shape.h * out.shape.w

    @property
    def depthwise(self) -> bool:
        """Whether output channel k reads exactly input channel k."""
        return bool(self.groups == self.weight.shape[0] and self.weight.shape[1] == 1)

    @property
    def arrays(self) -> dict[str, IntArray]:
        """Weight, w_frac, bias and the table, if any."""
        return {"weight": self.weight, "w_frac": self.w_frac, "bias": self.bias, **_table(self.act)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """Sum of one or more tensors: ``acc = sum(x_i << (F - frac_i))`` with F the largest input frac.

    With one input it changes the format or applies an activation.
    """

    op: ClassVar[str] = "add"

    act: Activation = LINEAR

    def alignment(self, inputs: list[TensorInfo]) -> list[int]:
        """Return the left shift of every input."""
        top = max(info.fmt.frac for info in inputs)
        return [top - info.fmt.frac for info in inputs]

    def requant(self, inputs: list[TensorInfo], out: TensorInfo) -> Requant:
        """See `Node.requant`."""
        return self.act.requant(np.array([max(info.fmt.frac for info in inputs)], np.int64), out.fmt)

    @property
    def arrays(self) -> dict[str, IntArray]:
        """The table, if any."""
        return _table(self.act)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mul(Node):
    """Product ``acc = x * s`` of a map (first input) and factors of shape [C,1,1], [1,H,W] or the map's own."""

    op: ClassVar[str] = "mul"

    act: Activation = LINEAR

    def requant(self, inputs: list[TensorInfo], out: TensorInfo) -> Requant:
        """See `Node.requant`."""
        return self.act.requant(np.array([inputs[0].fmt.frac + inputs[1].fmt.frac], np.int64), out.fmt)

    @property
    def arrays(self) -> dict[str, IntArray]:
        """The table, if any."""
        return _table(self.act)


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool(Node):
    """Average over the whole map: ``acc = sum(x)``, then times an integer reciprocal of the element count.

    Attributes:
        mul: ``round(2**mul_shift / (H * W))``.
        mul_shift: Chosen so that `mul` has `AVG_MUL_BITS` bits.
    """

    op: ClassVar[str] = "avgpool"

    mul: int
    mul_shift: int

    def requant(self, inputs: list[TensorInfo], out: TensorInfo) -> Requant:
        """See `Node.requant`."""
        shift = np.array([inputs[0].fmt.frac + self.mul_shift - out.fmt.frac], np.int64)
        return Requant(shift, out.fmt, out.fmt.lo, out.fmt.hi, mul_pos=self.mul, mul_neg=self.mul)

    @classmethod
    def reciprocal(cls, count: int) -> tuple[int, int]:
        """Return (mul, mul_shift) for an average over `count` elements: ``mul * 2**-mul_shift ~ 1 / count``."""
        mul_shift = AVG_MUL_BITS - 1 + (count - 1).bit_length()
        return ((1 << (mul_shift + 1)) // count + 1) // 2, mul_shift


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Node):
    """Largest code of every window; positions outside the map never win."""

    op: ClassVar[str] = "maxpool"

    window: Window


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Node):
    """Inputs one after the other along the channels."""

    op: ClassVar[str] = "concat"


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Node):
    """Channels [start, stop) of the input."""

    op: ClassVar[str] = "slice"

    start: int
    stop: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Upsample(Node):
    """Every pixel repeated `stride` times in both directions."""

    op: ClassVar[str] = "upsample"

    stride: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Reorg(Node):
    """Pixels to channels or back; see `yolo_hw.darknet.layers.Reorg` for the two index maps."""

    op: ClassVar[str] = "reorg"

    stride: int
    reverse: bool = False
    mode: str = field(default="darknet")


NODE_TYPES: dict[str, type[Node]] = {
    cls.op: cls for cls in (Conv2d, Add, Mul, AvgPool, MaxPool, Concat, Slice, Upsample, Reorg)
}


def _table(act: Activation) -> dict[str, IntArray]:
    return {} if act.table is None else {"table": act.table}
