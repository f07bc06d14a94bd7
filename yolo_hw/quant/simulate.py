# SPDX-License-Identifier: Apache-2.0
"""The quantised network in float64: what training sees, and the first rung of the verification ladder.

Every value is a multiple of a power of two small enough for float64, so the result times ``2**frac`` must
equal the integer graph's codes exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from yolo_hw.fixedpoint import FixedPoint, IntArray, Rounding, quantise
from yolo_hw.intgraph.graph import INPUT
from yolo_hw.intgraph.nodes import AvgPool
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2, quantise_codes
from yolo_hw.quant import folded as G
from yolo_hw.quant.execute import ConvParameters, run_folded
from yolo_hw.quant.folded import FoldedGraph, FoldedNode
from yolo_hw.quant.plan import QuantPlan
from yolo_hw.quant.weights import dequantised


class Simulation:
    """A folded graph with a plan's rounding, in torch float64."""

    def __init__(self, graph: FoldedGraph, plan: QuantPlan) -> None:
        """Dequantise the plan's weights."""
        self.graph = graph
        self.plan = plan
        self.parameters: dict[str, ConvParameters] = {}
        for node in graph.nodes:
            if isinstance(node, G.FoldedConv):
                x_frac = plan.formats[node.inputs[0]].frac
                weight, bias = dequantised(plan.convs[node.name], x_frac)
                self.parameters[node.name] = ConvParameters(torch.from_numpy(weight), torch.from_numpy(bias))

    def run(self, codes: IntArray) -> Iterator[tuple[str, Tensor]]:
        """Run one image.

        Args:
            codes: [C, H, W] input codes.

        Yields:
            (node name, real values [C, H, W] float64) in execution order.
        """
        fmt = self.plan.formats[INPUT]
        x = torch.from_numpy(np.asarray(codes, np.float64))[None] * fmt.step
        with torch.inference_mode():
            for result in run_folded(self.graph, x, self.parameters, self.finish):
                yield result.node.name, result.out[0]

    def codes(self, codes: IntArray) -> Iterator[tuple[str, IntArray]]:
        """Run one image; yield (node name, codes [C, H, W]) as integers."""
        for name, values in self.run(codes):
            scaled = torch.ldexp(values, torch.tensor(self.plan.formats[name].frac)).numpy()
            yield name, scaled.astype(np.int64)

    def finish(self, node: FoldedNode, pre: Tensor) -> Tensor:
        """Turn accumulators (real values, any floating dtype) into the node's rounded output."""
        config = self.plan.config
        fmt = self.plan.formats[node.name]
        if isinstance(node, G.FoldedAvgPool):
            mul, mul_shift = AvgPool.reciprocal(node.count)
            pre = pre * (mul * 2.0**-mul_shift)
        table = self.plan.tables.get(node.name)
        if table is not None:
            argument = quantise_codes(pre, table.fmt, config.rounding, config.overflow).long() - table.fmt.lo
            return torch.from_numpy(table.codes).to(pre.dtype)[argument] * fmt.step
        if node.activation == "leaky":
            pre = torch.where(pre < 0, pre * (config.leaky.mul * 2.0**-config.leaky.shift), pre)
        out = fake_quant_pow2(pre, fmt, config.rounding, config.overflow)
        if node.activation == "relu":
            out = out.clamp_min(0)
        elif node.activation == "relu6":
            out = out.clamp(0, relu6_cap(fmt, config.rounding) * fmt.step)
        return out


def relu6_cap(fmt: FixedPoint, rounding: Rounding) -> int:
    """Return the code of 6.0, at most the largest of the format."""
    return int(quantise(6.0, fmt, rounding))
