# SPDX-License-Identifier: Apache-2.0
"""The numbers of a computing node that a target limits: shifts, accumulator bits, fraction bits, biases.

They are worked out in one place for two users: `yolo_hw.intgraph.violations`, which checks a finished graph, and the
solver that chooses fraction bits, which asks for formats that do not exist yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from yolo_hw.fixedpoint import IntArray
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound, conv_sums
from yolo_hw.intgraph.nodes import Node, TensorInfo
from yolo_hw.intgraph.requant import WIDE_BITS, NumericContract
from yolo_hw.intgraph.target import Span


def _none() -> IntArray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantities:
    """Numbers of one node, per output channel [K] or [1]; empty where the node has none of the kind.

    Attributes:
        shift: Output shift, without leaky's extra shift and an average's reciprocal.
        shift_limit: Shifts with which the contract can form the node, those extra shifts considered.
        acc_bits: Bits the accumulator needs.
        acc_limit: Most bits with which the contract can form accumulator, product and left shift.
        align: [inputs] left shifts of an add's inputs.
        acc_frac: Fraction bits of a convolution's accumulator.
        w_frac: Fraction bits of its weights.
        bias: Its bias at `acc_frac`.
    """

    shift: IntArray
    shift_limit: Span
    acc_bits: IntArray
    acc_limit: IntArray
    align: IntArray = field(default_factory=_none)
    acc_frac: IntArray = field(default_factory=_none)
    w_frac: IntArray = field(default_factory=_none)
    bias: IntArray = field(default_factory=_none)


def node_quantities(
    node: Node, inputs: list[TensorInfo], out: TensorInfo, contract: NumericContract
) -> Quantities | None:
    """Return the quantities of a node of a graph, None for a moving node."""
    requant = node.requant(inputs, out)
    if requant is None:
        return None
    factor = max(abs(requant.mul_pos), abs(requant.mul_neg))
    if isinstance(node, N.Conv2d):
        fmt = inputs[0].fmt
        bottom, top = conv_sums(node.weight, node.bias, min(fmt.lo, 0), fmt.hi)
        return conv_quantities(
            ConvNumbers(requant.shift, node.w_frac, node.w_frac + fmt.frac, node.bias, bottom, top),
            (factor, requant.shift_neg),
            contract,
        )
    bound = accumulator_bound(node, inputs)
    assert bound is not None
    own = node.mul_shift if isinstance(node, N.AvgPool) else 0
    return Quantities(
        shift=requant.shift - own,
        shift_limit=Span(contract.min_shift - own, contract.max_shift - own - requant.shift_neg),
        acc_bits=np.array([bound.bits], np.int64),
        acc_limit=_acc_limit(requant.shift, factor, contract),
        align=np.array(node.alignment(inputs), np.int64) if isinstance(node, N.Add) else _none(),
    )


@dataclass(frozen=True, eq=False)
class ConvNumbers:
    """What `conv_quantities` needs of a convolution, each [K]: shift, fraction bits, bias, the ends of its sum."""

    shift: IntArray
    w_frac: IntArray
    acc_frac: IntArray
    bias: IntArray
    bottom: IntArray
    top: IntArray


def conv_quantities(numbers: ConvNumbers, slope: tuple[int, int], contract: NumericContract) -> Quantities:
    """Return the quantities of a convolution whose negative sums are multiplied by ``mul * 2**-shift = slope``."""
    mul, shift_neg = slope
    return Quantities(
        shift=numbers.shift,
        shift_limit=Span(contract.min_shift, contract.max_shift - shift_neg),
        acc_bits=range_bits(numbers.bottom, numbers.top),
        acc_limit=_acc_limit(numbers.shift, mul, contract),
        acc_frac=numbers.acc_frac,
        w_frac=numbers.w_frac,
        bias=numbers.bias,
    )


def _acc_limit(shift: IntArray, factor: int, contract: NumericContract) -> IntArray:
    """The contract's accumulator; ``acc * factor << left`` must fit 64 bits (`check.accumulators_fit`)."""
    left = max(int(-shift.min()), 0)
    return np.full(shift.shape, min(contract.acc_bits, WIDE_BITS - 1 - factor.bit_length() - left), np.int64)


def range_bits(bottom: IntArray, top: IntArray) -> IntArray:
    """Return the two's-complement bits of every range [bottom, top]; `fixedpoint.signed_bits` of arrays.

    Exact below 2**53; above, where no accumulator is legal, the result may be one too large.
    """
    widest = np.maximum(np.maximum(-bottom - 1, 0), np.maximum(top, 0))
    return np.asarray(np.frexp(widest.astype(np.float64))[1] + 1, np.int64)
