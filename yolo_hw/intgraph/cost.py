# SPDX-License-Identifier: Apache-2.0
"""Accounting: multiply-accumulates, parameters and bytes of an integer graph."""

from __future__ import annotations

from dataclasses import dataclass

from yolo_hw.darknet.layers import Shape
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.bounds import accumulator_bound
from yolo_hw.intgraph.graph import IntGraph


@dataclass(frozen=True)
class NodeCost:
    """What one node costs per image.

    Attributes:
        name: The node.
        op: Its operator.
        shape: Its output.
        macs: Multiply-accumulates of convolutions.
        params: Weights and biases.
        param_bytes: Bytes of weights (at their storage width), int32 biases and tables.
        activation_bytes: Bytes of the output without padding.
        acc_bits: Proven accumulator width, 0 for moving nodes.
    """

    name: str
    op: str
    shape: Shape
    macs: int
    params: int
    param_bytes: int
    activation_bytes: int
    acc_bits: int


def graph_cost(graph: IntGraph) -> list[NodeCost]:
    """Return the cost of every node in execution order."""
    costs = []
    for node in graph.nodes:
        inputs, out = graph.inputs_of(node), graph.output_of(node)
        bound = accumulator_bound(node, inputs)
        params, param_bytes = 0, 0
        if isinstance(node, N.Conv2d):
            params = int(node.weight.size + node.bias.size)
            param_bytes = int(node.weight.size) * (1 if node.w_bits <= 8 else 2) + 4 * int(node.bias.size)
        if "table" in node.arrays:
            param_bytes += int(node.arrays["table"].size) * out.fmt.storage_bytes
        costs.append(
            NodeCost(
                name=node.name,
                op=node.op,
                shape=out.shape,
                macs=node.macs(inputs, out),
                params=params,
                param_bytes=param_bytes,
                activation_bytes=out.shape.numel * out.fmt.storage_bytes,
                acc_bits=0 if bound is None else bound.bits,
            )
        )
    return costs
