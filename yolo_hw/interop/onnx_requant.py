# SPDX-License-Identifier: Apache-2.0
"""The requantisation of docs/numerics.md section 3 in ONNX operators on int64, equal for every int64 accumulator.

A right shift by s is a division by ``d = 2**s``. ONNX leaves open how a division of negative integers rounds, so the
remainder, which ``Mod`` gives the sign of the divisor, is taken away first: ``floor(v / d) = (v - Mod(v, d)) / d`` is
exact whatever the division does. The four roundings are that floor of a larger v:

=========== ==================================================
half_up     ``v + d/2``
half_even   ``v + d/2 - 1 + Mod(floor(v / d), 2)``
half_away   ``v + d/2 - (1 if v < 0 else 0)``
floor       ``v``
=========== ==================================================

with nothing added where ``d = 1``. Left shifts are part of the factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_hw.fixedpoint import IntArray, Overflow, Rounding
from yolo_hw.interop.onnx_graph import OnnxBuilder
from yolo_hw.intgraph.requant import NumericContract, Requant


@dataclass(frozen=True, eq=False)
class _Side:
    """What accumulators of one sign are multiplied with, divided by, and raised by before the floor; [K] or [1] each.

    `odd` is 1 where the floor's last bit is added, too.
    """

    factor: IntArray
    divisor: IntArray
    raised: IntArray
    odd: IntArray


def _side(mul: int, shift: IntArray, rounding: Rounding, *, negative: bool) -> _Side:
    one = np.int64(1)
    right = shift > 0
    divisor = one << np.maximum(shift, 0)
    half = np.where(right, divisor // 2, 0)
    below = half - right  # half, without the tie
    raised = {
        Rounding.HALF_UP: half,
        Rounding.HALF_EVEN: below,
        Rounding.HALF_AWAY: below if negative else half,
        Rounding.FLOOR: np.zeros_like(half),
    }[rounding]
    odd = right & (rounding is Rounding.HALF_EVEN)
    return _Side(mul << np.maximum(-shift, 0), divisor, raised, odd.astype(np.int64))


def emit_requant(b: OnnxBuilder, name: str, acc: str, requant: Requant, contract: NumericContract) -> str:
    """Add the requantisation of accumulators.

    Args:
        b: The model.
        name: The node it belongs to, prefix of all new names.
        acc: [N, K, H, W] int64 accumulators.
        requant: Its parameters.
        contract: Rounding and overflow.

    Returns:
        Name of the output codes [N, K, H, W] int64.
    """
    positive = _side(requant.mul_pos, requant.shift, contract.rounding, negative=False)
    negative = _side(requant.mul_neg, requant.shift + requant.shift_neg, contract.rounding, negative=True)
    chosen = _Choice(b, name, acc, positive, negative)
    value = chosen.apply("Mul", acc, "factor", neutral=1)
    if not chosen.constant("divisor", 1):
        divisor = chosen.tensor("divisor")
        raised = chosen.apply("Add", value, "raised", neutral=0)
        if not chosen.constant("odd", 0):
            last = b.emit("Mod", [_floor(b, value, divisor, f"{name}/quotient"), _number(b, 2)], f"{name}/last_bit")
            raised = b.emit("Add", [raised, chosen.apply("Mul", last, "odd", neutral=1)], f"{name}/raised_to_even")
        value = _floor(b, raised, divisor, f"{name}/shifted")
    return _finish(b, name, value, requant, contract)


class _Choice:
    """Constants per channel that may depend on the accumulator's sign."""

    def __init__(self, b: OnnxBuilder, name: str, acc: str, positive: _Side, negative: _Side) -> None:
        self.b, self.name, self.acc = b, name, acc
        self.sides = (positive, negative)
        self._negative: str | None = None

    def constant(self, role: str, value: int) -> bool:
        """Whether a role has one value throughout."""
        return all((getattr(side, role) == value).all() for side in self.sides)

    def tensor(self, role: str) -> str:
        """Return the values of a role, chosen by sign where the signs differ."""
        positive, negative = (getattr(side, role) for side in self.sides)
        names = [self.b.constant(values.reshape(-1, 1, 1), np.int64) for values in (positive, negative)]
        if names[0] == names[1]:
            return names[0]
        if self._negative is None:
            self._negative = self.b.emit("Less", [self.acc, _number(self.b, 0)], f"{self.name}/negative")
        return self.b.emit("Where", [self._negative, names[1], names[0]], f"{self.name}/{role}")

    def apply(self, op: str, x: str, role: str, *, neutral: int) -> str:
        """Combine x with a role's values, unless they would change nothing."""
        if self.constant(role, neutral):
            return x
        return self.b.emit(op, [x, self.tensor(role)], f"{self.name}/with_{role}")


def _number(b: OnnxBuilder, value: int) -> str:
    return b.constant(value, np.int64)


def _floor(b: OnnxBuilder, x: str, divisor: str, out: str) -> str:
    """Divide by a positive number and round down."""
    rest = b.emit("Mod", [x, divisor], f"{out}/rest")
    return b.emit("Div", [b.emit("Sub", [x, rest], f"{out}/multiple"), divisor], out)


def _clamp(b: OnnxBuilder, x: str, limits: tuple[int, int], out: str) -> str:
    """Limit by comparisons: Clip, Min and Max of int64 are wrong beyond 32 bits in onnxruntime built for SSE2."""
    lo, hi = (_number(b, limit) for limit in limits)
    x = b.emit("Where", [b.emit("Less", [x, lo], f"{out}/below"), lo, x], f"{out}/least")
    return b.emit("Where", [b.emit("Greater", [x, hi], f"{out}/above"), hi, x], out)


def _finish(b: OnnxBuilder, name: str, value: str, requant: Requant, contract: NumericContract) -> str:
    """Add overflow, then table or clamp."""
    fmt = requant.code
    lo, hi = fmt.lo, fmt.hi
    if contract.overflow is Overflow.WRAP:
        above = b.emit("Sub", [value, _number(b, lo)], f"{name}/above_lowest")
        low_bits = b.emit("Mod", [above, _number(b, 1 << fmt.bits)], f"{name}/low_bits")
        value = b.emit("Add", [low_bits, _number(b, lo)], f"{name}/wrapped")
    elif contract.overflow is Overflow.SATURATE_SYMMETRIC and fmt.signed:
        lo = -hi
    if requant.table is None:
        lo, hi = max(lo, requant.clamp_lo), min(hi, requant.clamp_hi)
    value = _clamp(b, value, (lo, hi), f"{name}/code")
    if requant.table is None:
        return value
    index = b.emit("Sub", [value, _number(b, fmt.lo)], f"{name}/index")
    return b.emit("Gather", [b.constant(requant.table, np.int64), index], f"{name}/looked_up")
