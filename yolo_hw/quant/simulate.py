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
from yolo_hw.ops.fake_quant_pow2 import fake_quant_pow2, quantise_codes
from yolo_hw.quant import folded as G
from yolo_hw.quant.execute import ConvParameters, run_folded
from yolo_hw.quant.finish import RELU6_CAP, look_up, round_sum, scale_sum
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
        fmt, pre = self.plan.formats[node.name], scale_sum(node, pre)
        table = self.plan.tables.get(node.name)
        if table is not None:
            return look_up(table, quantise_codes(pre, table.fmt, config.rounding, config.overflow), fmt.step, pre.dtype)
        return round_sum(
            node.activation,
            pre,
            config.leaky,
            lambda x: fake_quant_pow2(x, fmt, config.rounding, config.overflow),
            lambda: pre.new_tensor(relu6_cap(fmt, config.rounding) * fmt.step),
        )


def relu6_cap(fmt: FixedPoint, rounding: Rounding) -> int:
    """Return the code of 6, at most the largest of the format."""
    return int(quantise(RELU6_CAP, fmt, rounding))
