# SPDX-License-Identifier: Apache-2.0
"""Where a form that computes in float32 cannot give the integer graph's codes, and in what share of them.

A form that rounds real numbers (QDQ, QONNX) is compared node by node: what differs is stated for a node whose inputs
are equal; differing codes then spread to the nodes behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from yolo_hw.errors import ExportError
from yolo_hw.fixedpoint import IntArray, Overflow, Rounding
from yolo_hw.intgraph.bounds import AccumulatorBound, accumulator_bound
from yolo_hw.intgraph.graph import IntGraph
from yolo_hw.intgraph.nodes import AvgPool, Node
from yolo_hw.intgraph.requant import Requant

EXACT_FLOAT32 = 1 << 24
"""Integers up to this, and so sums and products that stay below it in any order, are exact in float32."""

ShiftRounding = Callable[[Requant], Rounding]
"""The rounding a form gives a node."""


class Reason(str, Enum):
    """Why codes of a node may differ."""

    ROUNDING = "rounding"
    """The form has no such rounding; ties, or with floor half of all values, go the other way."""
    OVERFLOW = "overflow"
    """The form saturates where the graph wraps."""
    FLOAT32 = "float32"
    """Sums or products may pass 2**24, above which float32 rounds before the form does."""
    AVERAGE = "average"
    """The form divides by the number of pixels, the graph multiplies with a 15-bit reciprocal."""


@dataclass(frozen=True)
class Mismatch:
    """What may differ at one node.

    Attributes:
        node: Its name.
        reason: Why.
        share: Expected share of differing codes if accumulators are spread evenly over both signs and all values; None
            where it depends on more than that.
    """

    node: str
    reason: Reason
    share: float | None


@dataclass(frozen=True)
class ExportReport:
    """What a form guarantees for one graph.

    Attributes:
        name: Of the graph.
        form: ``qdq`` or ``qonnx``.
        nodes: Number of nodes.
        mismatches: In the order of the nodes, at most one per node and reason.
    """

    name: str
    form: str
    nodes: int
    mismatches: tuple[Mismatch, ...]

    @property
    def exact(self) -> bool:
        """Whether every code is equal on every input."""
        return not self.mismatches

    def by_reason(self) -> dict[Reason, tuple[Mismatch, ...]]:
        """Return the mismatches of every reason that occurs."""
        reasons = sorted({found.reason for found in self.mismatches}, key=list(Reason).index)
        return {reason: tuple(found for found in self.mismatches if found.reason is reason) for reason in reasons}

    def require_exact(self) -> None:
        """Refuse a graph whose codes may differ.

        Raises:
            ExportError: Names the first node of every reason.
        """
        if self.exact:
            return
        found = [f"{reason.value} in {len(m)} nodes, first {m[0].node}" for reason, m in self.by_reason().items()]
        raise ExportError(
            f"{self.name}: strict {self.form} must give equal codes, but these may differ: {'; '.join(found)}; "
            "leave strict out, or export the integer form"
        )


def expected_mismatches(graph: IntGraph, form: str, rounding: ShiftRounding) -> ExportReport:
    """Work out where a form that rounds float32 values differs from the graph.

    Args:
        graph: The graph.
        form: Name of the form.
        rounding: What the form does at a node; it saturates as the graph does, but never wraps.

    Returns:
        The report.
    """
    found: list[Mismatch] = []
    for node in graph.nodes:
        inputs, out = graph.inputs_of(node), graph.output_of(node)
        requant, bound = node.requant(inputs, out), accumulator_bound(node, inputs)
        if requant is None or bound is None:
            continue
        share = node_share(requant, bound, graph.contract.rounding, rounding(requant))
        if share > 0:
            found.append(Mismatch(node.name, Reason.ROUNDING, share))
        if graph.contract.overflow is Overflow.WRAP:
            found.append(Mismatch(node.name, Reason.OVERFLOW, None))
        if isinstance(node, AvgPool) and node.mul * inputs[0].shape.h * inputs[0].shape.w != 1 << node.mul_shift:
            found.append(Mismatch(node.name, Reason.AVERAGE, None))
        if _largest(node, requant, bound) > EXACT_FLOAT32:
            found.append(Mismatch(node.name, Reason.FLOAT32, None))
    return ExportReport(graph.name, form, len(graph.nodes), tuple(found))


def _largest(node: Node, requant: Requant, bound: AccumulatorBound) -> int:
    """Return the largest integer of the node's sums and products; an average's form has no factor."""
    if isinstance(node, AvgPool):
        return max(bound.hi, -bound.lo)
    return max(bound.hi * requant.mul_pos, -bound.lo * requant.mul_neg, bound.hi, -bound.lo)


def node_share(requant: Requant, bound: AccumulatorBound, ours: Rounding, theirs: Rounding) -> float:
    """Return the expected share of codes of a node that two roundings make different."""
    negative = requant.table is None and requant.clamp_lo >= 0  # all of them become 0 in both
    sides = {
        1: rounding_share(ours, theirs, requant.shift, requant.mul_pos, sign=1),
        -1: rounding_share(ours, theirs, requant.shift + requant.shift_neg, requant.mul_neg, sign=-1) * (not negative),
    }
    occur = [share for sign, share in sides.items() if (bound.hi >= 0 if sign > 0 else bound.lo < 0)]
    return float(np.mean(occur))


def rounding_share(
    ours: Rounding, theirs: Rounding, shift: IntArray, mul: int = 1, *, sign: int
) -> npt.NDArray[np.float64]:
    """Return the share of values that two roundings shift to different integers.

    The share ``2**-s`` of all values is a tie, with a factor `mul` as many times more as its power of two. A tie goes
    up with probability 1 (half_up), 1/2 (half_even, whose floors are odd half of the time), 1 or 0 by the sign
    (half_away), or 0 (floor). All that lie above a tie go up as well, except with floor.

    Args:
        ours: One rounding.
        theirs: The other.
        shift: [K] shifts.
        mul: Factor of the accumulators.
        sign: Of the values, 1 or -1.

    Returns:
        [K] shares in [0, 1]; 0 where nothing is shifted out.
    """
    removed = np.maximum(shift - ((mul & -mul).bit_length() - 1), 0)
    ties = np.ldexp(1.0, -removed)
    up = {Rounding.HALF_UP: 1.0, Rounding.HALF_EVEN: 0.5, Rounding.HALF_AWAY: float(sign > 0), Rounding.FLOOR: 0.0}
    share = ties * abs(up[ours] - up[theirs])
    if (ours is Rounding.FLOOR) != (theirs is Rounding.FLOOR):
        share = share + 0.5 - ties
    return np.where(removed > 0, share, 0.0)
