# SPDX-License-Identifier: Apache-2.0
"""The result of calibration: everything lowering and the float64 simulation need to know."""

from __future__ import annotations

from dataclasses import dataclass, field

from yolo_hw.fixedpoint import FixedPoint, IntArray
from yolo_hw.quant.config import QuantConfig


@dataclass(frozen=True, eq=False)
class ConvCodes:
    """Integer parameters of one convolution.

    Attributes:
        weight: [K, C / groups, R, S] codes.
        w_frac: [K] fraction bits.
        bias: [K] codes with ``x_frac + w_frac`` fraction bits.
        w_bits: Word length of the weights.
    """

    weight: IntArray
    w_frac: IntArray
    bias: IntArray
    w_bits: int


@dataclass(frozen=True, eq=False)
class Table:
    """Activation by table.

    Attributes:
        fmt: Format of the argument.
        codes: [2**fmt.bits] output codes, lowest argument first.
    """

    fmt: FixedPoint
    codes: IntArray


@dataclass(frozen=True, eq=False)
class QuantPlan:
    """Formats and codes of a network.

    Attributes:
        config: The options they were made with.
        formats: Format of every tensor, the image included.
        convs: Codes of every convolution by node name.
        tables: Table of every node whose activation needs one.
        notes: Repairs that were necessary, one sentence each.
    """

    config: QuantConfig
    formats: dict[str, FixedPoint]
    convs: dict[str, ConvCodes]
    tables: dict[str, Table]
    notes: list[str] = field(default_factory=list)
