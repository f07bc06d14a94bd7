# SPDX-License-Identifier: Apache-2.0
"""From accumulators to a node's output in floating point: what `yolo_hw.intgraph.requant` does with codes.

The simulation rounds by a plan's formats, quantised training by its live quantisers; the steps around are these.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from yolo_hw.intgraph.nodes import AvgPool
from yolo_hw.quant import folded as G
from yolo_hw.quant.config import LeakySlope
from yolo_hw.quant.folded import FoldedNode
from yolo_hw.quant.plan import Table

RELU6_CAP = 6.0


def scale_sum(node: FoldedNode, pre: Tensor) -> Tensor:
    """Multiply the sums of an average pool by the reciprocal that hardware has; other nodes' stay."""
    if not isinstance(node, G.FoldedAvgPool):
        return pre
    mul, shift = AvgPool.reciprocal(node.count)
    return pre * (mul * 2.0**-shift)


def round_sum(
    activation: str, pre: Tensor, leaky: LeakySlope, quantise: Callable[[Tensor], Tensor], cap: Callable[[], Tensor]
) -> Tensor:
    """Apply an activation that needs no table, and round.

    Args:
        activation: One of `yolo_hw.quant.tables.ARITHMETIC`.
        pre: Accumulators.
        leaky: Slope below zero.
        quantise: Rounds to the output's format.
        cap: Returns the value 6 has in that format.
    """
    if activation == "leaky":
        pre = torch.nn.functional.leaky_relu(pre, leaky.mul * 2.0**-leaky.shift)
    out = quantise(pre)
    if activation == "relu":
        return out.clamp_min(0)
    if activation == "relu6":
        return torch.minimum(out.clamp_min(0), cap())
    return out


def look_up(table: Table, codes: Tensor, step: float, dtype: torch.dtype) -> Tensor:
    """Return the values of a table's entries at argument codes, for a step of the output's format."""
    entries = torch.from_numpy(table.codes).to(codes.device)
    return entries[codes.long() - table.fmt.lo].to(dtype) * step
